"""What can be seen and heard: thumbnails, spectrograms and playable clips, made in Ray tasks.

    OUT/media/<clip id>.jpg  .png  .mp4

Tasks send what they made to the driver, which writes it: the folder may lie on its disk alone.
What is there already is not made again.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from PIL import Image

from pipeline.clips.decoding.byte_index import wanted_ranges
from pipeline.clips.decoding.decoder import MediaFile
from pipeline.clips.decoding.isolation import shrink_isolated
from pipeline.clips.decoding.preview import HEIGHT, Preview, preview
from pipeline.clips.fetching import fetch_for_decoding
from pipeline.clips.rejects import Reject
from pipeline.clips.table import DECODING_COLUMNS, ClipTable
from pipeline.config import AudioConfig, ClipsConfig, ResourcesConfig
from pipeline.report.clustered import TYPICAL
from pipeline.report.seen import Seen, borderline_of
from pipeline.report.shown import ShownClips
from pipeline.runtime.failures import unwrapped
from pipeline.runtime.placement import decoding
from pipeline.storage import Location
from pipeline.telemetry.console import say
from pipeline.telemetry.progress import Progress

_TOGETHER = 12  # clips of a task
_AT_A_TIME = 4  # clips of each cluster
_WAITING = 4  # tasks for each core of the cluster
_COLOURS = ((10, 10, 25), (65, 30, 115), (170, 50, 110), (240, 120, 60), (250, 235, 170))


class Kind(IntFlag):
    """What there is of a clip."""

    THUMBNAIL = 1
    SPECTROGRAM = 2
    PLAYABLE = 4


SUFFIXES = {Kind.THUMBNAIL: ".jpg", Kind.SPECTROGRAM: ".png", Kind.PLAYABLE: ".mp4"}
Made = dict[Kind, bytes]


@dataclass(frozen=True)
class Previews:
    """The media folder of a report."""

    folder: Location
    config: ClipsConfig
    resources: ResourcesConfig
    most_bytes: int  # of all files; the clips that are at work when it is full come on top

    def kept(self, ids: Sequence[str]) -> tuple[dict[str, Kind], int]:
        """What is there of these clips, and its bytes; the media of others are removed.

        Of these, too, where the first ones take all the room.
        """
        found, sizes = dict.fromkeys(ids, Kind(0)), dict.fromkeys(ids, 0)
        kinds = {suffix: kind for kind, suffix in SUFFIXES.items()}
        for info in self.folder.children():
            stem, dot, suffix = info.base_name.rpartition(".")
            if stem in found and dot + suffix in kinds:
                found[stem] |= kinds[dot + suffix]
                sizes[stem] += info.size or 0
            else:
                (self.folder / info.base_name).delete()
        taken = 0
        for name in ids:
            if taken < self.most_bytes:
                taken += sizes[name]
                continue
            for kind in found[name]:
                (self.folder / f"{name}{SUFFIXES[kind]}").delete()
            found[name] = Kind(0)
        return found, taken

    def make(self, table: ClipTable, clips: np.ndarray) -> tuple[list[Kind], dict[str, int]]:
        """Make what lacks of these clip indices, in this order, as far as there is room.

        Returns:
            What there is of each clip now, and how many could not be had, by reason.
        """
        rows = table.rows(clips, DECODING_COLUMNS)
        ids = rows["clip_id"].to_pylist()
        found, size = self.kept(ids)
        audible, visible = (rows[f"has_{m}"].to_pylist() for m in ("audio", "video"))
        lacking = [
            number
            for number, name in enumerate(ids)
            if found[name] & Kind.PLAYABLE == 0
            or (visible[number] and not found[name] & Kind.THUMBNAIL)
            or (audible[number] and not found[name] & Kind.SPECTROGRAM)
        ]
        losses: dict[str, int] = {}

        def has_room() -> bool:
            return size < self.most_bytes

        if lacking and has_room():
            with Progress("previews", len(lacking), "clips", limits=self.resources) as progress:
                chosen = rows.take(pa.array(lacking))
                for name, made in self._made(chosen, progress.meter, has_room):
                    if isinstance(made, str):
                        losses[made] = losses.get(made, 0) + 1
                        continue
                    for kind, data in made.items():
                        (self.folder / f"{name}{SUFFIXES[kind]}").write_bytes(data)
                        found[name] |= kind
                        size += len(data)
        if not has_room() and not all(found.values()):
            there = sum(map(bool, found.values()))
            say(
                f"the media of {there:,} clips take {size / 1e6:,.0f} MB, those of "
                f"{len(ids) - there:,} more are left out; --megabytes sets how much they may take"
            )
        return [found[name] for name in ids], losses

    def _made(
        self, rows: pa.Table, meter: Any, has_room: Callable[[], bool]
    ) -> Iterator[tuple[str, Made | str]]:
        """Id and what was made, or the reason for nothing; as they come."""
        cost = decoding(self.resources)
        task = ray.remote(_make).options(**cost)
        starts = iter(range(0, len(rows), _TOGETHER))
        most = _WAITING * max(int(ray.cluster_resources().get("CPU", 1)), 1)
        waiting: list[ray.ObjectRef] = []
        with unwrapped():
            while True:
                for start in starts if has_room() else ():
                    waiting.append(task.remote(rows.slice(start, _TOGETHER), self.config, meter))
                    if len(waiting) >= most:
                        break
                if not waiting:
                    return
                (ready, *_), waiting = ray.wait(waiting)
                yield from ray.get(ready)


def _make(rows: pa.Table, config: ClipsConfig, meter: Any) -> list[tuple[str, Made | str]]:
    # The seconds that embedding sees of each clip, in the whole region, small.
    clips = rows.to_pylist()
    bounds = [(row["start_s"] + row["end_s"]) / 2 for row in clips]
    spans = [(middle - config.span_s / 2, middle + config.span_s / 2) for middle in bounds]
    needed = [(MediaFile.of(row), wanted_ranges(row, *s)) for row, s in zip(clips, spans)]
    small = {"size": HEIGHT, "short_side": HEIGHT, "train_short_side": (HEIGHT, HEIGHT)}
    shrinking = config.model_copy(update={"video": config.video.model_copy(update=small)})
    found: list[tuple[str, Made | str]] = []
    for row, file, span in zip(clips, fetch_for_decoding(needed, config.timeout_s), spans):
        stored = shrink_isolated(file, *span, shrinking, "h264")
        made = stored if isinstance(stored, Reject) else preview(stored)
        if isinstance(made, Reject):
            found.append((row["clip_id"], made.reason.value))
        else:
            found.append((row["clip_id"], _files(made, config.audio)))
        meter.add(done=1)
    return found


def _files(made: Preview, audio: AudioConfig) -> Made:
    files = {Kind.PLAYABLE: made.playable}
    if made.thumbnail is not None:
        files[Kind.THUMBNAIL] = made.thumbnail
    if made.samples is not None:
        files[Kind.SPECTROGRAM] = spectrogram(made.samples, audio)
    return files


def spectrogram(samples: np.ndarray, audio: AudioConfig) -> bytes:
    """PNG of the log-mel spectrogram that the audio encoder sees: low tones at the bottom.

    Args:
        samples: float32 [n] mono at ``audio.rate``; the first ``audio.samples`` count.
    """
    import torch

    from pipeline.encoders.frontend import LogMel

    wave = np.zeros(audio.samples, np.float32)
    wave[: len(samples)] = samples[: len(wave)]
    with torch.inference_mode():
        levels = LogMel(audio)(torch.from_numpy(wave)[None])[0, 0].numpy()
    low, high = np.percentile(levels, (2, 99.8))
    shades = np.clip((levels - low) / max(high - low, 1e-6), 0, 1)
    image = Image.fromarray(np.round(shades[::-1] * 255).astype(np.uint8), "P")
    anchors = np.linspace(0, 255, len(_COLOURS))
    channels = [np.interp(np.arange(256), anchors, shade) for shade in zip(*_COLOURS)]
    image.putpalette(np.stack(channels, axis=1).astype(np.uint8).tobytes())
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    return data.getvalue()


def worth_playing(shown: ShownClips, seen: Sequence[Seen], most: int, seed: int) -> np.ndarray:
    """int64: positions of the clips whose media are made, in all `most`.

    First the last round's typical, borderline and other clips, a few of each cluster at a time,
    then those of earlier rounds; what is left goes to the sample.
    """
    newest = {each.of.name: each.of.key for each in seen}.values()
    wishes: list[np.ndarray] = []
    for is_last in (True, False):
        of = [each for each in seen if (each.of.key in newest) == is_last]
        kinds = [
            [each.of.typical for each in of],
            [borderline_of(each, shown) for each in of],
            [each.of.at_random for each in of],
        ]
        for start in range(0, TYPICAL, _AT_A_TIME):
            some = slice(start, start + _AT_A_TIME)
            # A clip of each cluster, then another of each.
            wishes += [table[:, some].T.ravel() for tables in kinds for table in tables]
    rest = shown.index[np.random.default_rng(seed).permutation(len(shown))]
    order = np.concatenate([*wishes, rest])
    order = order[order >= 0]
    _, first = np.unique(order, return_index=True)
    chosen = order[np.sort(first)[:most]]
    return shown.positions(chosen)
