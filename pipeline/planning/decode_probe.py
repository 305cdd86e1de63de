"""What decoding and filling the clip store take of a core, on one node that does it, all tasks at
once: as in a run, where two tasks share a core and waits for storage of one are the other's time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import ray

from pipeline.clips.decoding.decoder import load_decoder
from pipeline.clips.fill import FillShard, shaping
from pipeline.clips.rejects import RejectedClip
from pipeline.clips.shard_index import COLUMNS, shard_names
from pipeline.clips.slots import Order
from pipeline.clips.stream import Augment, Slots
from pipeline.clips.table import PublishedClips
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.planning.fleet import cores_of
from pipeline.runtime.failures import unwrapped
from pipeline.runtime.placement import decoding
from pipeline.storage import Location

_TASKS = 8  # at once; more would want a larger sample
_LEAST_S = 2.0  # that each of them decodes
_STORED = 8  # clips that each task stores


@dataclass(frozen=True)
class CoreTime:
    """Of many clips."""

    core_s: float  # seconds of a core, of a GPU where that decodes, for a clip
    clips: int  # that were timed
    lost: int  # of them, neither video nor audio could be decoded
    reasons: tuple[str, ...]  # why


def decode_time(
    clips: PublishedClips, modalities: Sequence[str], drawn: bool, config: Config
) -> CoreTime:
    """Of samples as an embedding pass takes them, or as learning does (`drawn`: augmented).

    Args:
        clips: in the order in which they are taken; with a clip store, from there.

    Raises:
        UserError: no clip of the sample can be decoded.
    """
    size = min((config.learning if drawn else config.embedding).batch_size, len(clips))
    augment = Augment(config.seed, 1) if drawn else None
    slots = Slots(clips, Order(len(clips), size), config.clips, tuple(modalities), augment)
    told, core_s = _at_once(partial(_decode, slots), slots.order.num_slots, config)
    lost = sum(one["lost"] for one in told)
    reasons = tuple(sorted({reason for one in told for reason in one["reasons"]}))
    done = sum(one["clips"] for one in told)
    if lost == done:
        raise UserError(
            f"none of {done} clips that were tried can be decoded ({', '.join(reasons)}): nothing "
            "can be planned, nor learned"
        )
    return CoreTime(core_s, done, lost, reasons)


def fill_time(clips: PublishedClips, scratch: Location, config: Config) -> CoreTime:
    """Of clips that are shrunk for the clip store and written, as in the first fill."""
    bounds = [(at, min(at + _STORED, len(clips))) for at in range(0, len(clips), _STORED)]
    names = shard_names(clips.table.read_parts(COLUMNS), shaping(config), _STORED)
    fill = FillShard(clips, scratch, bounds, names, config.clips, config.store.codec)
    told, core_s = _at_once(partial(_fill, fill), len(bounds), config)
    lost = sum(one["lost"] for one in told)
    return CoreTime(core_s, sum(one["clips"] for one in told), lost, ())


Timed = Mapping[str, Any]  # clips, lost, reasons, seconds


def _decode(slots: Slots, number: int) -> dict[str, Any]:
    batch = slots.decoded(number)
    lost = [r.reason for r in RejectedClip.loads(batch["rejects"]) if r.modality is None]
    done = int((batch["clip_index"] >= 0).sum())
    return {"clips": done, "lost": len(lost), "reasons": lost}


def _fill(fill: FillShard, number: int) -> dict[str, Any]:
    counts = fill(number)
    return {"clips": counts["done"], "lost": counts["unreadable"], "reasons": []}


@ray.remote
def _timed(work: Callable[[int], Timed], numbers: Sequence[int], least_s: float) -> Timed:
    """Work on these numbers in turn, for so long."""
    began, clips, lost, reasons = time.perf_counter(), 0, 0, set[str]()
    while True:
        for number in numbers:
            done = work(number)
            clips, lost = clips + done["clips"], lost + done["lost"]
            reasons |= {*done["reasons"]}
            seconds = time.perf_counter() - began
            if seconds >= least_s:
                return {"clips": clips, "lost": lost, "reasons": reasons, "seconds": seconds}


@ray.remote
def _node() -> str:
    return str(ray.get_runtime_context().get_node_id())


def _at_once(work: Callable[[int], Timed], count: int, config: Config) -> tuple[list[Timed], float]:
    """Numbers 0..count-1, dealt to as many tasks as one node runs at once; and seconds a clip.

    These are of a core: tasks share the cores of their node, and each has one at most. Of a GPU,
    where that decodes.
    """
    cost = _cost(config)
    with unwrapped():
        # Where there is none yet, this is what the autoscaler starts one for.
        node = ray.get(_node.options(**cost).remote())
        there = next(n["Resources"] for n in ray.nodes() if n["NodeID"] == node)
        asked = {"CPU": cost["num_cpus"], "GPU": cost["num_gpus"]}
        fit = min(int(there.get(name, 0) / each + 1e-6) for name, each in asked.items() if each)
        tasks = max(min(fit, _TASKS, count), 1)
        here = cost | {"label_selector": {"ray.io/node-id": node}}
        dealt = np.array_split(np.arange(count), tasks)
        for least_s in (0.0, _LEAST_S):  # once so that all processes are there
            waiting = [
                _timed.options(**here).remote(work, some.tolist(), least_s) for some in dealt
            ]
            told = ray.get(waiting)
    rate = sum(one["clips"] / one["seconds"] for one in told)
    if decodes_on_gpu(config):
        return told, tasks * cost["num_gpus"] / rate
    return told, min(tasks, cores_of(there, config.resources)) / rate


def decodes_on_gpu(config: Config) -> bool:
    return load_decoder(config.clips.decoder).on_gpu


def _cost(config: Config) -> dict[str, Any]:
    return decoding(config.resources, decodes_on_gpu(config))
