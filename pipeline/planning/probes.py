"""All probes of a run, one after the other: each has the machine for itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyarrow as pa
import ray

from pipeline.clips.table import ClipTable, PublishedClips
from pipeline.config import Config
from pipeline.embedding.executors import encodes_in_tasks
from pipeline.learning.group import TrainingGroup, may_stay
from pipeline.methods import Method
from pipeline.planning.decode_probe import CoreTime, decode_time, fill_time
from pipeline.planning.device_probe import DeviceTime, encode_times, step_times
from pipeline.planning.fleet import Fleet
from pipeline.planning.forecast import plain
from pipeline.planning.measured import Decoding, Measured, StoreTime
from pipeline.planning.sample import Sample, table_of
from pipeline.planning.stage_probe import (
    WEIGHTS,
    cluster_time,
    embed_seconds,
    encoders_seconds,
    filled,
    learn_seconds,
)
from pipeline.planning.throughput import Throughput
from pipeline.planning.timeline import ClipPass, Piece, UpdatePass
from pipeline.storage import Location
from pipeline.telemetry.console import say

_WORK_S = 6.0  # of the small stages, beyond their start
_FEW = 4  # clips that warm BatchNorm, and that are the fewest of a small stage
_STORED = 64  # clips of the sample that are stored


@dataclass(frozen=True)
class Probes:
    """What is measured with, and for."""

    config: Config
    method: Method
    clips: ClipTable
    pieces: frozenset[Piece]  # kinds of work of the run
    scratch: Location  # folder on the run's storage
    fleet: Fleet

    def measure(self, job_s: float, with_store: bool) -> Measured:
        """Everything. It takes one to two minutes where stages start fast.

        Raises:
            UserError: no clip of the sample can be decoded, or a stage asks for nodes that there
                are not.
        """
        say(f"plan · {len(self.sample.drawn) + len(self.sample.ordered):,} clips are tried")
        encoders_s = encoders_seconds(self._table("first", self.sample.ordered), *self._few())
        decoding: Decoding = {}
        store = None
        if with_store:
            store = self.store_time()
        else:
            decoding = self._decoding(self.ordered, self.drawn)
        read = store.decoding if store else decoding
        (encoding, dims), steps = self._encoding(), self._steps()
        embed_start_s, embed_again_s, embed_loop = self._embed(encoding, read)
        # The most features that a clustering has.
        dim = max(sum(dims[m] for m in ms) for ms in self.method.clusterings.values())
        kmeans = cluster_time(len(self.clips), dim, self.scratch, self.config)
        say(f"plan · cluster · {kmeans.rows:,} vectors, {kmeans.iteration_s:.3f} s an iteration")
        learn_start_s, learn_again_s, learn_loop = self._learn(steps, read)
        table = ray.get(self.drawn.refs[0])
        return Measured(
            job_s=job_s,
            encoders_s=encoders_s,
            decoding=decoding,
            store=store,
            encoding=encoding,
            steps=steps,
            kmeans=kmeans,
            embed_start_s=embed_start_s,
            embed_again_s=embed_again_s,
            learn_start_s=learn_start_s,
            learn_again_s=learn_again_s,
            weights_bytes=(self.scratch / WEIGHTS).info().size or 0,
            table_bytes=table.nbytes / len(table),
            dims=dims,
            loop_s={"embed": embed_loop, "learn": learn_loop},
        )

    def store_time(self) -> StoreTime:
        """Of the clip store, by a small one of the sample."""
        fill = fill_time(self.drawn, self.scratch / "fill", self.config)
        # A single task fills so few clips.
        count = min(max(int(_WORK_S / fill.core_s), _FEW), _STORED, len(self.drawn))
        few = self._table("stored", self.sample.drawn.slice(0, count))
        place = self.scratch / "store"
        store, seconds = filled(few, place, self.config)
        size = sum(info.size or 0 for info in place.children() if info.base_name.endswith(".tar"))
        few = replace(few, store=store)
        decoding = self._decoding(few, few)
        start_s = max(seconds - count * fill.core_s, 0.0)
        return StoreTime(fill, start_s, size / count, decoding)

    @cached_property
    def sample(self) -> Sample:
        return Sample.of(self.clips, self.config)

    @cached_property
    def ordered(self) -> PublishedClips:
        return self._table("ordered", self.sample.ordered)

    @cached_property
    def drawn(self) -> PublishedClips:
        return self._table("drawn", self.sample.drawn)

    def _table(self, name: str, rows: pa.Table) -> PublishedClips:
        return table_of(self.scratch / "tables" / name, rows).publish()

    def _settings(self, **sections: dict[str, Any]) -> Config:
        """The run's with these values; a sample may lose as many clips as it likes."""
        sections.setdefault("clips", {})["max_rejected"] = 1.0
        changed = {n: getattr(self.config, n).model_copy(update=v) for n, v in sections.items()}
        return self.config.model_copy(update=changed)

    def _few(self) -> tuple[Location, Config]:
        """Where round 0 is made, with its BatchNorm warmed by the fewest clips."""
        warm = min(self.config.encoders.warm_batches, 1)
        few = {"encoders": {"warm_batches": warm}, "embedding": {"batch_size": _FEW}}
        return self.scratch, self._settings(**few)

    @property
    def _whole(self) -> ClipPass:
        return ClipPass(self.method.modalities, False, False)

    @cached_property
    def _passes(self) -> list[ClipPass]:
        """Kinds of embedding passes, that over all modalities among them."""
        found = {
            self._whole,
            *(plain(piece) for piece in self.pieces if isinstance(piece, ClipPass)),
        }
        return sorted(found, key=repr)

    @cached_property
    def _updates(self) -> list[int]:
        return sorted({p.number for p in self.pieces if isinstance(p, UpdatePass)})

    def _decoding(self, ordered: PublishedClips, drawn: PublishedClips) -> Decoding:
        """Of every set of modalities that some pass or update takes."""
        found: dict[tuple[tuple[str, ...], bool], CoreTime] = {}
        passes = {each.modalities for each in self._passes}
        drawing = {self.method.updates[number].encoders for number in self._updates}
        for clips, sets, is_drawn in ((ordered, passes, False), (drawn, drawing, True)):
            for modalities in sorted(sets):
                one = decode_time(clips, modalities, is_drawn, self.config)
                found[modalities, is_drawn] = one
                what = f"{'drawn' if is_drawn else 'in order'}{' · stored' if clips.store else ''}"
                names = " and ".join(modalities)
                say(f"plan · decode {names} · {what} · {1000 * one.core_s:.2f} ms of a core a clip")
        return found

    def _encoding(self) -> tuple[dict[ClipPass, DeviceTime], dict[str, int]]:
        """Of each kind of pass, and the dimensions of the encoders' features."""
        given = (self.drawn, self._passes, self.scratch / WEIGHTS, self.config, self.fleet.device)
        found = dict(zip(self._passes, encode_times(*given)))
        for each, (took, _) in found.items():
            names = f"{' and '.join(each.modalities)}{' · no encoder' if each.raw else ''}"
            say(f"plan · encode {names} · {1000 * took.clip_s:.2f} ms a clip")
        times = {each: took for each, (took, _) in found.items()}
        return times, found[self._whole][1]

    def _steps(self) -> dict[int, tuple[DeviceTime, DeviceTime]]:
        if not self._updates:
            return {}
        weights = self.scratch / WEIGHTS
        found = dict(
            enumerate(step_times(self.drawn, self.method, weights, self.config, self.fleet))
        )
        for number, (step, _) in found.items():
            names = " and ".join(self.method.updates[number].encoders)
            say(f"plan · train {names} · {1000 * step.clip_s:.2f} ms a clip, batch {step.batch}")
        return found

    def _embed(
        self, encoding: dict[ClipPass, DeviceTime], read: Decoding
    ) -> tuple[float, float, float]:
        """Seconds of a pass beyond its clips, of a later one, and of one of the clips."""
        expected = self._together(read[self._whole.modalities, False], encoding[self._whole])
        rows = self.sample.ordered
        count = min(max(int(_WORK_S / expected), _FEW), len(rows))
        few = self._table("embedded", rows.slice(0, count))
        config = self._settings(embedding={"min_actors": 1, "max_actors": 1})
        given = (few, self.method.modalities, self.scratch / WEIGHTS)
        seconds = again_s = embed_seconds(*given, self.scratch / "embed", config)
        if encodes_in_tasks(self.fleet.device):
            again_s = embed_seconds(*given, self.scratch / "embed-again", config)
        start_s, again_s = (max(each - count * expected, 0.0) for each in (seconds, again_s))
        return start_s, again_s, expected

    def _learn(
        self, steps: dict[int, tuple[DeviceTime, DeviceTime]], read: Decoding
    ) -> tuple[float, float, float]:
        """Seconds of an update beyond its clips, of a later one, and of one of the clips."""
        if not steps:
            return 0.0, 0.0, 0.0
        learning = self.config.learning
        modalities = self.method.updates[0].encoders
        expected = self._together(read[modalities, True], steps[0][0])
        size = min(learning.batch_size, max(int(_WORK_S / expected), 2))
        clips = max(int(_WORK_S / expected / size), 1) * size
        small: dict[str, Any] = {"batch_size": size, "epoch_clips": clips, "epochs": 1.0}
        # One worker: more would wait for nodes of theirs.
        small |= {"workers": 1, "min_workers": 0, "accumulate": 1}
        small |= {"held_out": 0.0, "checkpoint_minutes": 0.0, "sampling": "natural"}
        # What training keeps of its features is not asked for.
        config = self._settings(learning=small)
        given = (self.drawn, self.method, self.scratch / WEIGHTS)
        with TrainingGroup() as group:
            seconds, found = learn_seconds(*given, self.scratch / "learn", config, group)
            again_s = seconds
            if may_stay(self.config, len(self.clips), self.fleet.device):
                again_s, _ = learn_seconds(*given, self.scratch / "again", config, group)
        done = found["clips"]
        waited = found["train_seconds"] * found["wait_share"]
        loop_s = (found["train_seconds"] - waited) / done
        say(f"plan · learn · {1000 * loop_s:.2f} ms a clip beside {waited:.1f} s of waiting")
        start_s, again_s = (max(each - done * expected, 0.0) for each in (seconds, again_s))
        return start_s, again_s, loop_s

    def _together(self, decode: CoreTime, device: DeviceTime) -> float:
        """Seconds a clip with one device."""
        fleet = self.fleet
        shared = fleet.shares_cores
        return Throughput.of(decode.core_s, device.clip_s, fleet.decode_cores, 1, shared).seconds
