"""Clips through Ray Data: an order of clip indices in, batches of decoded tensors out.

    numbers of slots → `JoinSlots` (where the tables lie) → `DecodeSlots` (anywhere)

A batch is a *slot* (slots.py): it does not depend on how many tasks decode, how fast, or in which
order they end. One row of the dataset is one slot or a few, which a task decodes together, for what
Ray does for a row costs milliseconds. Fixed shapes cross the object store as tensors, without
copying. A clip that fails never raises: its place is filled with zeros and its reason travels
along.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from pipeline.clips.slots import LABEL, NO_CLIP, JoinSlots, Order
from pipeline.clips.store import read_stored
from pipeline.clips.table import PublishedClips
from pipeline.config import ClipsConfig
from pipeline.runtime.failures import unwrapped
from pipeline.runtime.placement import beside
from pipeline.storage import Location
from pipeline.telemetry import metrics
from pipeline.telemetry.progress import Progress

_JOINED, _JOINERS = 256, 2  # slots that a task joins, and such tasks at once
# Of a row: at most so many bytes and clips. More would cost the executor less, which takes some
# 12 ms for a row, whatever it holds. But two tasks a core keep two rows each in the object store:
# a quarter of 2 GiB, which cheap nodes have a core. A stream has at least so many rows, where it
# has as many slots.
_ROW_BYTES, _ROW_CLIPS, _ROWS = 136 * 2**20, 320, 64
_TASKS = 20_000  # of numbered work: Ray Data's driver keeps an object a task


Row = dict[str, Any]  # of a clip, as `JoinSlots` makes it


@dataclass(frozen=True)
class Augment:
    """Draw training samples instead of the centred clip; both are part of every draw's key."""

    seed: int
    round: int


class _Wanted(NamedTuple):
    """A clip to decode, and the bytes of the file that this is known to read."""

    file: MediaFile
    request: ClipRequest
    ranges: tuple[ByteRange, ...]


@dataclass(frozen=True)
class DecodeSlots:
    """The decoding stage: a row of `JoinSlots` in, their decoded batches out (`batches_of`).

    A batch has ``slot``, ``held_out``, ``clip_index`` int64 [B], ``video`` uint8 [B, T, S, S, 3],
    ``audio`` float32 [B, samples], ``has_video``, ``has_audio``, ``mirror``, ``is_last`` bool [B],
    ``label_<name>`` int32 [B] for each label that was joined, ``names``, URI and clip id of each
    clip, as JSON, and ``rejects`` (see `RejectedClip`). It is a function of what was joined.
    """

    batch_size: int  # B
    config: ClipsConfig
    modalities: tuple[str, ...]
    augment: Augment | None = None
    store: Location | None = None  # where stored clips lie

    def __call__(self, joined: pa.Table) -> dict[str, np.ndarray]:
        of_slots = joined.schema.field("slots").type.value_type
        columns = of_slots.field("clips").type.value_type
        labels = [column.name for column in columns if column.name.startswith(LABEL)]
        slots = joined["slots"][0].as_py()
        return row_of((self._batch(labels, **slot) for slot in slots), len(slots))

    def _batch(
        self, labels: list[str], slot: int, held_out: bool, clips: list[Row]
    ) -> dict[str, Any]:
        requests, mirror = self._requests(clips, slot, held_out)
        damaged: list[RejectedClip] = []
        decoded = self._decode(clips, requests, damaged)
        rejected = _rejected(decoded, clips) + damaged
        metrics.count("xdc_done", len(clips), stage="decode")
        metrics.rejects(row.reason for row in rejected)
        columns = self._assembled(decoded)
        columns["rejects"] = RejectedClip.dumps(rejected)
        columns["names"] = json.dumps([(row["uri"], row["clip_id"]) for row in clips])
        columns["clip_index"] = self._padded(clips, "clip_index", NO_CLIP, np.int64)
        columns["is_last"] = self._padded(clips, "is_last", False, np.bool_)
        for name in labels:
            columns[name] = self._padded(clips, name, -1, np.int32)
        columns["mirror"] = mirror
        columns["slot"] = np.int64(slot)
        columns["held_out"] = np.bool_(held_out)
        return columns

    def _padded(self, rows: list[Row], name: str, absent: Any, dtype: type) -> np.ndarray:
        values: np.ndarray = np.full(self.batch_size, absent, dtype)
        values[: len(rows)] = [row[name] for row in rows]
        return values

    def _requests(
        self, rows: list[Row], slot: int, held_out: bool
    ) -> tuple[dict[int, _Wanted], np.ndarray]:
        """What to decode, by place in the batch; bool [B]: mirror it."""
        requests: dict[int, _Wanted] = {}
        mirror = np.zeros(self.batch_size, bool)
        before_s, after_s = around(self.config)
        for place, row in enumerate(rows):
            video = row["has_video"] and "video" in self.modalities
            audio = row["has_audio"] and "audio" in self.modalities
            if not video and not audio:
                continue
            window = (row["start_s"], row["end_s"], self.config, video, audio)
            if self.augment is None or held_out:
                request = centred(*window)
            else:
                position = slot * self.batch_size + place
                key = (self.augment.seed, self.augment.round, position, row["clip_index"])
                draw = augmented(*window, key)
                request, mirror[place] = draw.request, draw.mirror
            stretch = request.centre_s - before_s, request.centre_s + after_s
            requests[place] = _Wanted(MediaFile.of(row), request, wanted_ranges(row, *stretch))
        return requests, mirror

    def _decode(
        self, rows: list[Row], requests: dict[int, _Wanted], damaged: list[RejectedClip]
    ) -> dict[int, DecodedClip | Reject]:
        """Decode what the clip store has from there, the rest from its media, opened once each."""
        decoded = self._decode_stored(rows, requests, damaged)
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
        self, rows: list[Row], requests: dict[int, _Wanted], damaged: list[RejectedClip]
    ) -> dict[int, DecodedClip | Reject]:
        """Clips of which the store has all that is wanted; the media may have what it lost.

        Adds to `damaged` what the store had and has not kept.
        """
        decoded: dict[int, DecodedClip | Reject] = {}
        if self.store is None:
            return decoded
        video = self.config.video.model_copy(update={"region": None})  # it is cut already
        # The CPU decodes small frames in a codec of ours.
        config = self.config.model_copy(update={"video": video, "decoder": "cpu"})
        entries = [rows[place]["stored"] for place in requests]
        for place, clip in zip(requests, read_stored(self.store, entries)):
            if isinstance(clip, Reject):
                damaged.append(_row(rows[place], STORED, clip))
            elif clip is not None:
                request = requests[place].request
                moved = replace(request, centre_s=request.centre_s - clip.origin_s)
                (found,) = decode_clips_isolated(clip.media, [moved], config)
                if isinstance(found, DecodedClip) and found.holds(request):
                    decoded[place] = found
        return decoded

    def _assembled(self, decoded: dict[int, DecodedClip | Reject]) -> dict[str, Any]:
        """The columns of the modalities, zero where there is nothing."""
        B = self.batch_size
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


def _rejected(decoded: Mapping[int, DecodedClip | Reject], rows: list[Row]) -> list[RejectedClip]:
    """What was lost of a batch's clips, in the order of their places."""
    found = []
    for place, outcome in sorted(decoded.items()):
        lost = {None: outcome} if isinstance(outcome, Reject) else outcome.lost
        found += [_row(rows[place], modality, why) for modality, why in lost.items()]
    return found


def _row(clip: Row, modality: str | None, why: Reject) -> RejectedClip:
    named = clip["clip_index"], clip["uri"], clip["clip_id"]
    return RejectedClip(*named, modality, why.reason.value, why.detail[:300])


@dataclass(frozen=True)
class Slots:
    """The batches of an order of clips."""

    clips: PublishedClips
    order: Order
    config: ClipsConfig
    modalities: tuple[str, ...]
    augment: Augment | None = None
    labels: Mapping[str, Sequence[ray.ObjectRef]] = field(default_factory=dict)

    @property
    def join(self) -> JoinSlots:
        return JoinSlots(self.clips, self.order, self.labels)

    @property
    def decode(self) -> DecodeSlots:
        store = self.clips.store.location if self.clips.store else None
        size = self.order.batch_size
        return DecodeSlots(size, self.config, self.modalities, self.augment, store)

    def decoded(self, slot: int) -> dict[str, Any]:
        """One batch, decoded in this process."""
        (batch,) = batches_of(self.decode(self.join(_numbers(np.array([slot]), 1))))
        return batch

    def together(self, slots: int) -> int:
        """How many a task should decode where there are so many: few bytes, and enough tasks."""
        by_bytes, by_clips = _ROW_BYTES // self._slot_bytes, _ROW_CLIPS // self.order.batch_size
        return max(min(by_bytes, by_clips, slots // _ROWS), 1)

    def row_bytes(self, slots: int) -> int:
        """Of what a task decodes, where there are so many slots."""
        return self._slot_bytes * self.together(slots)

    @property
    def _slot_bytes(self) -> int:
        return self.order.batch_size * clip_bytes(self.config, self.modalities)

    def stream(
        self, cost: Mapping[str, Any], slots: np.ndarray | None = None, node: str = ""
    ) -> ray.data.Dataset:
        """A dataset of decoded batches of all slots or of `slots`; see `batches_of` its rows.

        Their clips' rows are joined on this process's node or that with the id `node`, and decoded
        by tasks of this `cost`. Ray Data keeps only as many decoded blocks in flight as the
        consumer's side can take.
        """
        slots = np.arange(self.order.num_slots) if slots is None else slots
        together = self.together(len(slots))
        step = max(_JOINED // together, 1) * together
        parts = [slots[start : start + step] for start in range(0, len(slots), step)]
        # Not `ray.data.range`: its reading tasks would hold as many cores as the decoding.
        dataset = ray.data.from_blocks([_numbers(part, together) for part in parts])
        # A block a row: each is decoded by a task of its own, and goes to its consumer alone.
        dataset.context.target_max_block_size = 1
        joined = dataset.map_batches(
            self.join,
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.TaskPoolStrategy(size=max(min(_JOINERS, len(parts)), 1)),
            **beside(node),
        )
        return joined.map_batches(self.decode, batch_size=1, batch_format="pyarrow", **cost)


def _numbers(slots: np.ndarray, together: int) -> pa.Table:
    """Rows of so many slots each, as `JoinSlots` takes them."""
    ends = np.append(np.arange(0, len(slots), together), len(slots))
    lists = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(slots, pa.int64()))
    return pa.table({"slots": lists})


def row_of(batches: Iterable[Mapping[str, Any]], count: int) -> dict[str, np.ndarray]:
    """So many batches of one shape as one row: arrays with a leading axis of 1, and one of batches.

    Of the batches, one at a time is in memory beside the row.
    """
    row: dict[str, np.ndarray] = {}
    texts: dict[str, list[str]] = defaultdict(list)
    for number, batch in zip(range(count), batches, strict=True):
        for name, value in batch.items():
            if isinstance(value, str):
                texts[name].append(value)
            elif count == 1:
                row[name] = np.asarray(value)[None, None]  # not copied
            else:
                if not number:
                    row[name] = np.empty((1, count, *np.shape(value)), np.asarray(value).dtype)
                row[name][0, number] = value
    return row | {name: np.array([json.dumps(found)]) for name, found in texts.items()}


def batches_of(row: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """The batches of a row of the stream, in their order; their arrays are not copied."""
    texts = {n: json.loads(str(value[0])) for n, value in row.items() if value.ndim == 1}
    for number in range(row["slot"].shape[1]):
        yield {n: texts[n][number] if n in texts else row[n][0][number] for n in row}


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
    tasks = dataset.repartition(min(len(numbers), _TASKS))
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


def clip_bytes(config: ClipsConfig, modalities: Iterable[str]) -> int:
    """Bytes of a decoded clip."""
    return sum(_clip_types(config)[modality].itemsize for modality in modalities)
