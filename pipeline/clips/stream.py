"""Clips through Ray Data: an order of clip indices in, batches of decoded tensors out.

One row of the dataset is one whole batch, a *slot*: its clips, padding and shapes follow from the
slot's number alone. So batches do not depend on how many tasks decode, how fast, or in which order
they end, and a fixed shape crosses the object store as one tensor, without copying.
A clip that fails never raises: its place is filled with zeros and its reason travels along.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray
import ray.data

from pipeline.clips.decoding.byte_index import ByteRange, wanted_ranges
from pipeline.clips.decoding.decode import ClipRequest, DecodedClip
from pipeline.clips.decoding.decoder import MediaFile
from pipeline.clips.decoding.isolation import decode_clips_isolated
from pipeline.clips.fetching import fetch_for_decoding
from pipeline.clips.rejects import STORED, Reject, RejectedClip
from pipeline.clips.sampling import around, augmented, centred
from pipeline.clips.table import PublishedClips
from pipeline.config import ClipsConfig
from pipeline.runtime.failures import unwrapped
from pipeline.telemetry import metrics
from pipeline.telemetry.progress import Progress

NO_CLIP = -1  # index of the padding in a last batch that is not full
# Ray Data's driver keeps an object a task: at 65 million clips a task decodes several slots.
MAX_TASKS = 20_000


@dataclass(frozen=True)
class Augment:
    """Draw training samples instead of the centred clip; both are part of every draw's key."""

    seed: int
    round: int


@dataclass(frozen=True)
class Order:
    """Which clips, in which order: slot s holds the indices [s·B, (s+1)·B) of the order."""

    length: int  # number of indices
    batch_size: int  # B
    indices: list[ray.ObjectRef] | None = None  # boxed int64 [length]; None: 0..length-1
    held_out: list[ray.ObjectRef] | None = None  # boxed bool [slots]: not augmented; None: none

    @property
    def num_slots(self) -> int:
        return math.ceil(self.length / self.batch_size)

    def of(self, slot: int) -> np.ndarray:
        """int64 [B], padded with `NO_CLIP`."""
        start, stop = slot * self.batch_size, min((slot + 1) * self.batch_size, self.length)
        if self.indices is None:
            indices = np.arange(start, stop)
        else:
            indices = ray.get(self.indices[0])[start:stop]
        return np.pad(indices, (0, self.batch_size - len(indices)), constant_values=NO_CLIP)

    def is_held_out(self, slot: int) -> bool:
        return self.held_out is not None and bool(ray.get(self.held_out[0])[slot])


class _Wanted(NamedTuple):
    """A clip to decode, and the bytes of the file that this is known to read."""

    file: MediaFile
    request: ClipRequest
    ranges: tuple[ByteRange, ...]


@dataclass(frozen=True)
class DecodeSlot:
    """The decoding stage: slot numbers in, decoded batches out; a plain function of its input.

    Output columns, each with a leading axis of 1: ``slot``, ``held_out``, ``clip_index`` int64 [B],
    ``video`` uint8 [B, T, S, S, 3], ``audio`` float32 [B, samples], ``has_video``, ``has_audio``,
    ``mirror`` bool [B], ``label_<name>`` int32 [B] for each of `labels`, and ``rejects`` (see
    `RejectedClip`).
    """

    clips: PublishedClips
    order: Order
    config: ClipsConfig
    modalities: tuple[str, ...]
    augment: Augment | None = None
    labels: Mapping[str, Sequence[ray.ObjectRef]] = field(default_factory=dict)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        slot = int(batch["id"][0])
        indices = self.order.of(slot)
        held_out = self.order.is_held_out(slot)
        requests, mirror = self._requests(indices, slot, held_out)
        damaged: list[RejectedClip] = []
        decoded = self._decode(indices, requests, damaged)
        rejected = _rejected(decoded, indices) + damaged
        metrics.count("xdc_done", int((indices >= 0).sum()), stage="decode")
        metrics.rejects(row.reason for row in rejected)
        columns = self._assembled(decoded, len(indices))
        columns["rejects"] = RejectedClip.dumps(rejected)
        for name, boxed in self.labels.items():
            labels = ray.get(boxed[0])
            columns[f"label_{name}"] = np.where(indices >= 0, labels[indices], -1).astype(np.int32)
        columns["clip_index"] = indices
        columns["mirror"] = mirror
        columns["slot"] = np.int64(slot)
        columns["held_out"] = np.bool_(held_out)
        return {name: np.asarray(value)[None] for name, value in columns.items()}

    def _requests(
        self, indices: np.ndarray, slot: int, held_out: bool
    ) -> tuple[dict[int, _Wanted], np.ndarray]:
        """What to decode, by place in the batch; bool [B]: mirror it."""
        requests: dict[int, _Wanted] = {}
        mirror = np.zeros(len(indices), bool)
        before_s, after_s = around(self.config)
        places = np.flatnonzero(indices >= 0).tolist()
        for place, row in zip(places, self.clips.take(indices[places]).to_pylist()):
            video = row["has_video"] and "video" in self.modalities
            audio = row["has_audio"] and "audio" in self.modalities
            if not video and not audio:
                continue
            window = (row["start_s"], row["end_s"], self.config, video, audio)
            if self.augment is None or held_out:
                request = centred(*window)
            else:
                position = slot * self.order.batch_size + place
                key = (self.augment.seed, self.augment.round, position, int(indices[place]))
                draw = augmented(*window, key)
                request, mirror[place] = draw.request, draw.mirror
            stretch = request.centre_s - before_s, request.centre_s + after_s
            requests[place] = _Wanted(MediaFile.of(row), request, wanted_ranges(row, *stretch))
        return requests, mirror

    def _decode(
        self, indices: np.ndarray, requests: dict[int, _Wanted], damaged: list[RejectedClip]
    ) -> dict[int, DecodedClip | Reject]:
        """Decode what the clip store has from there, the rest from its media, opened once each."""
        decoded = self._decode_stored(indices, requests, damaged)
        by_file: dict[MediaFile, dict[int, _Wanted]] = defaultdict(dict)
        for place, wanted in requests.items():
            if place not in decoded:
                by_file[wanted.file][place] = wanted
        needed = [
            (file, [each for wanted in of_it.values() for each in wanted.ranges])
            for file, of_it in by_file.items()
        ]
        files = fetch_for_decoding(needed, self.config.timeout_s)
        for file, of_it in zip(files, by_file.values()):
            asked = [wanted.request for wanted in of_it.values()]
            decoded.update(zip(of_it, decode_clips_isolated(file, asked, self.config)))
        return decoded

    def _decode_stored(
        self, indices: np.ndarray, requests: dict[int, _Wanted], damaged: list[RejectedClip]
    ) -> dict[int, DecodedClip | Reject]:
        """Clips of which the store has all that is wanted; the media may have what it lost.

        Adds to `damaged` what the store had and has not kept.
        """
        decoded: dict[int, DecodedClip | Reject] = {}
        if self.clips.store is None:
            return decoded
        video = self.config.video.model_copy(update={"region": None})  # it is cut already
        # The CPU decodes small frames in a codec of ours.
        config = self.config.model_copy(update={"video": video, "decoder": "cpu"})
        for place, clip in zip(requests, self.clips.store.read(indices[[*requests]])):
            if isinstance(clip, Reject):
                damaged.append(_row(indices[place], STORED, clip))
            elif clip is not None:
                request = requests[place].request
                moved = replace(request, centre_s=request.centre_s - clip.origin_s)
                (found,) = decode_clips_isolated(clip.media, [moved], config)
                if isinstance(found, DecodedClip) and found.holds(request):
                    decoded[place] = found
        return decoded

    def _assembled(self, decoded: dict[int, DecodedClip | Reject], B: int) -> dict[str, Any]:
        """The columns of the modalities, zero where there is nothing."""
        columns: dict[str, Any] = {"has_video": np.zeros(B, bool), "has_audio": np.zeros(B, bool)}
        for modality in self.modalities:
            columns[modality] = np.zeros(B, _clip_types(self.config)[modality])
        for place, outcome in decoded.items():
            for modality in self.modalities:
                data = getattr(outcome, modality, None)
                if data is not None:
                    columns[modality][place] = data
                    columns[f"has_{modality}"][place] = True
        return columns


def _rejected(
    decoded: Mapping[int, DecodedClip | Reject], indices: np.ndarray
) -> list[RejectedClip]:
    """What was lost of a batch's clips, in the order of their places."""
    rows = []
    for place, outcome in sorted(decoded.items()):
        lost = {None: outcome} if isinstance(outcome, Reject) else outcome.lost
        for modality, why in lost.items():
            rows.append(_row(indices[place], modality, why))
    return rows


def _row(index: np.int64, modality: str | None, why: Reject) -> RejectedClip:
    return RejectedClip(int(index), modality, why.reason.value, why.detail[:300])


def stream(
    decode: DecodeSlot, *, cost: Mapping[str, Any], slots: np.ndarray | None = None
) -> ray.data.Dataset:
    """A dataset of decoded batches, one row a slot (of all or `slots`), by tasks of this `cost`.

    Ray Data keeps only as many decoded blocks in flight as the consumer's side can take.
    """
    order = decode.order
    tasks = np.array_split(np.arange(order.num_slots) if slots is None else slots, MAX_TASKS)
    # Not `ray.data.range`: its reading tasks would hold as many cores as the decoding.
    dataset = ray.data.from_blocks([pa.table({"id": ids}) for ids in tasks if len(ids)])
    # A task's slots leave it one by one, so that consumers in turn get slots in turn.
    types = _clip_types(decode.config)
    clip_bytes = sum(types[modality].itemsize for modality in decode.modalities)
    dataset.context.target_max_block_size = order.batch_size * clip_bytes
    return dataset.map_batches(decode, batch_size=1, **cost)


def run_numbered(
    work: Callable[[int], Mapping[str, int]],
    numbers: Sequence[int],
    cost: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Do numbered pieces of work in tasks of this `cost`; add their counts to `progress`.

    Raises:
        UserError: of a task, as it was raised there, or of a disk without room.
    """

    def counted(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.array([count]) for name, count in work(int(batch["number"][0])).items()}

    dataset = ray.data.from_arrow(pa.table({"number": pa.array(numbers, pa.int64())}))
    tasks = dataset.repartition(min(len(numbers), MAX_TASKS))
    done = tasks.map_batches(counted, batch_size=1, **cost)
    with unwrapped():
        for counts in done.iter_batches(batch_size=None):
            progress.meter.add(None, **{name: int(col.sum()) for name, col in counts.items()})


def _clip_types(config: ClipsConfig) -> dict[str, np.dtype]:
    """Type and shape of a decoded clip's array, by modality."""
    video, audio = config.video, config.audio
    return {
        "video": np.dtype((np.uint8, (video.frames, video.size, video.size, 3))),
        "audio": np.dtype((np.float32, (audio.samples,))),
    }
