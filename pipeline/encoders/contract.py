"""What an encoder is: a network with ``forward(x) → features float [B, dim]`` and two attributes.

``dim`` is the number of features. ``input``, which may be left out, is a dict of what it wants:

    kind       video: "frames", x float32 [B, 3, T, H, W]; audio: "spectrogram", x float32
               [B, 1, mels, frames], or "waveform", x float32 [B, samples]; the first is the default
    mean, std  of the colours of frames in [0, 1]; those of Kinetics by default
    unit       of a waveform: True brings every clip to mean 0 and variance 1
    settings   settings that it depends on, for example {"clips.video.frames": 16}

A network of your own, in a file ``mynets.py`` that every node can import:

    def make():
        network = MyNetwork()  # random weights, drawn from torch's generator
        network.dim = 256
        network.input = {"kind": "waveform", "settings": {"clips.audio.rate": 16_000}}
        return network

``encoders.audio.name=mynets:make`` takes it. Nothing in it needs to know this package.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from pipeline.errors import UserError

MEAN = (0.43216, 0.394666, 0.37645)  # Kinetics, RGB in [0, 1] (HumamAlwassel/XDC, issue 2)
STD = (0.22803, 0.22145, 0.216989)
KINDS = {"video": ("frames",), "audio": ("spectrogram", "waveform")}


@dataclass(frozen=True)
class Input:
    """What an encoder wants, as its attribute ``input`` says."""

    kind: str
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    unit: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, network: object, modality: str) -> Input:
        """Raises UserError if the attribute is not as described above."""
        said, kinds = dict(getattr(network, "input", {})), KINDS[modality]
        unknown = sorted(said.keys() - {each.name for each in fields(cls)})
        if unknown or said.setdefault("kind", kinds[0]) not in kinds:
            wrong = ", ".join(unknown) or f"kind {said['kind']!r}"
            raise UserError(
                f"the {modality} encoder's attribute input has {wrong}: see "
                f"pipeline/encoders/contract.py; kinds are {', '.join(kinds)}"
            )
        return cls(**said)
