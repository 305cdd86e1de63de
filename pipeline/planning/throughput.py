"""How fast clips go through a stage: the slowest of decoding, the device and what hands them over.

Decoding has its own cores where the device is a GPU, or where nodes have roles. On a machine that
trains on its CPU both compute on the same cores, and their times add up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

# Of the process that all clips of a training worker, of a dataset of an embedding pass go through:
# docs/scale.md, "No process that every clip passes through", three slots a task.
FEED_S = {"learn": 0.060e-3, "embed": 0.068e-3}


@dataclass(frozen=True)
class Throughput:
    """Of one kind of work."""

    seconds: float  # a clip
    bound_by: str  # ``decoding``, ``the device`` or ``feeding``
    decode_s: float  # seconds of a core, a clip
    device_s: float  # seconds of one device, a clip
    decode_share: float  # of the seconds: all cores together decode for so long

    @classmethod
    def of(
        cls, decode_s: float, device_s: float, cores: float, devices: float, shared: bool
    ) -> Throughput:
        """Of work on so many decode cores and devices; `shared`: these compute on those cores."""
        decode, device = decode_s / max(cores, 1e-9), device_s / max(devices, 1e-9)
        slower = "decoding" if decode > device else "the device"
        seconds = decode + device if shared else max(decode, device)
        return cls(seconds, slower, decode_s, device_s, decode / max(seconds, 1e-12))

    def fed(self, stage: str, feeders: float) -> Throughput:
        """The same, where so many processes hand all clips over."""
        least = FEED_S[stage] / max(feeders, 1)
        if least <= self.seconds:
            return self
        share = self.decode_share * self.seconds / least
        return replace(self, seconds=least, bound_by="feeding", decode_share=share)

    @property
    def cores_a_device(self) -> float:
        """Decode cores that keep one device busy."""
        return self.decode_s / self.device_s
