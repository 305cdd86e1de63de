"""Whether a run of packets can be decoded in time, told as early as can be.

In a file with one keyframe in minutes, every clip far from it would cost its whole time limit, in
every pass. Decoding gives up where it is clear that most would be left, and remembers how fast it
was. Further clips of that file that are as far from their keyframe are rejected at once.
"""

from __future__ import annotations

import time
from collections import OrderedDict

from pipeline.clips.decoding.decoder import MediaFile
from pipeline.clips.decoding.media import Media
from pipeline.clips.rejects import Reason, Reject

_ENOUGH = 100  # packets that tell how fast decoding is; fewer may have met a moment's stall
_SHARE = 0.25  # of the time limit, after which decoding may give up
_HOPELESS = 2.0  # time limits that it would need then
_KEPT = 4096  # files whose pace is remembered

# Packets a second, of files in which decoding took too long in this process.
_slow: OrderedDict[str, float] = OrderedDict()


class PacketPace:
    """Counts the packets of a run on their way to the decoder.

    Raises:
        Reject: TIMEOUT: this run is longer than the file's pace allows.
    """

    def __init__(self, media: Media, packets: int, deadline: float) -> None:
        source = media.source.location if isinstance(media.source, MediaFile) else media.source
        self._name = None if isinstance(source, bytes) else source.uri
        self._packets, self._done = packets, -1
        self._start, self._deadline = time.monotonic(), deadline
        rate = _slow.get(self._name) if self._name is not None else None
        if rate is not None and packets / rate > deadline - self._start:
            raise self._reject(rate)

    def step(self) -> None:
        """To be called before each packet.

        Raises:
            Reject: TIMEOUT: the time is up, or will be long before the last packet.
        """
        self._done += 1
        now = time.monotonic()
        late = now > self._deadline
        if self._done < _ENOUGH:
            if late:
                raise Reject(Reason.TIMEOUT, "decoding frames")
            return
        elapsed, allowed = now - self._start, self._deadline - self._start
        hopeless = elapsed * self._packets > _HOPELESS * allowed * self._done
        if late or (hopeless and elapsed > _SHARE * allowed):
            rate = self._done / max(elapsed, 1e-6)
            if self._name is not None and self._packets / rate > allowed:
                _slow[self._name] = rate
                while len(_slow) > _KEPT:
                    _slow.popitem(last=False)
            raise self._reject(rate)

    def _reject(self, rate: float) -> Reject:
        what = f"{self._packets:,} frames from the keyframe on, at {rate:,.0f} frames a second"
        return Reject(Reason.TIMEOUT, what)


def forget() -> None:
    """Judge every file anew, as another process would."""
    _slow.clear()
