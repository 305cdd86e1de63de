"""Features of one clip: ``python examples/use_encoders.py RUN FILE [SECOND]``.

Takes the encoders of a run, decodes the clip around a second of a file, and prints the features.
No Ray is started.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

import pipeline
from pipeline.clips.decoding.decode import ClipRequest, decode_clips
from pipeline.clips.rejects import Reject
from pipeline.encoders.frontend import FramesToInput, LogMel
from pipeline.run import Run
from pipeline.storage import Location


def main(run: str, file: str, second: str = "1.0") -> dict[str, Tensor]:
    """Modality → features float32 [1, dim]."""
    settings = Run.existing(run).config.clips
    request = ClipRequest(centre_s=float(second), short_side=settings.video.short_side)
    (clip,) = decode_clips(Location.of(file), [request], settings)
    if isinstance(clip, Reject):
        sys.exit(f"{file}: {clip.reason}: {clip.detail}")

    inputs = {}  # what each encoder takes
    if clip.video is not None:  # uint8 [T, H, W, 3]
        inputs["video"] = FramesToInput()(torch.from_numpy(clip.video)[None])
    if clip.audio is not None:  # float32 [samples]
        inputs["audio"] = LogMel(settings.audio)(torch.from_numpy(clip.audio)[None])

    features = {}
    for modality, value in inputs.items():
        with torch.inference_mode():
            features[modality] = pipeline.load_encoder(run, modality)(value)
        print(f"{modality}: {list(value.shape)} → {list(features[modality].shape)}")
    return features


if __name__ == "__main__":
    main(*sys.argv[1:])
