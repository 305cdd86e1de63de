"""Features of the shown clips: read where they lie, in tasks, each of a range of clips."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import ray

from pipeline.clustering.feature_files import batches, layout
from pipeline.config import ResourcesConfig
from pipeline.runtime.failures import unwrapped
from pipeline.runtime.placement import decoding
from pipeline.storage import Location
from pipeline.telemetry.progress import Progress

_RANGE = 1 << 20  # clips a task: 1 GB at 512 numbers, a part of the file at a time
_AT_ONCE = 64  # tasks in flight


def features_of(
    folder: Location, clips: np.ndarray, num_clips: int, resources: ResourcesConfig, title: str
) -> np.ndarray:
    """float32 [n, d] of the clip indices (ascending); NaN where a clip has no features.

    Raises:
        UserError: there are no features, or they are not features.
    """
    width, _ = layout(folder)
    found = np.full((len(clips), width), np.nan, np.float32)
    task = ray.remote(_read).options(**decoding(resources))
    ranges = iter(_ranges(clips, num_clips))
    waiting: dict[ray.ObjectRef, int] = {}
    with Progress(title, len(clips), "clips", limits=resources) as progress, unwrapped():
        while True:
            for start, stop, first, last in ranges:
                reference = task.remote(folder, start, stop, clips[first:last], progress.meter)
                waiting[reference] = first
                if len(waiting) >= _AT_ONCE:
                    break
            if not waiting:
                return found
            (ready, *_), _ = ray.wait(list(waiting))
            first = waiting.pop(ready)
            places, values = ray.get(ready)
            found[first + places] = values


def _ranges(clips: np.ndarray, num_clips: int) -> Iterator[tuple[int, int, int, int]]:
    """Ranges of clip indices, and of their places in `clips`."""
    for start in range(0, num_clips, _RANGE):
        stop = min(start + _RANGE, num_clips)
        first, last = np.searchsorted(clips, [start, stop]).tolist()
        if first < last:
            yield start, stop, first, last


def _read(
    folder: Location, start: int, stop: int, clips: np.ndarray, meter: object
) -> tuple[np.ndarray, np.ndarray]:
    """Places in `clips`, and their features float16 or float32."""
    places, values = [np.zeros(0, np.int64)], []
    for index, features in batches(folder, start, stop):
        place = np.minimum(np.searchsorted(clips, index), len(clips) - 1)
        wanted = clips[place] == index
        places.append(place[wanted])
        values.append(features[wanted])
    meter.add(done=sum(map(len, places)))  # type: ignore[attr-defined]
    if not values:
        return places[0], np.zeros((0, layout(folder)[0]), np.float32)
    return np.concatenate(places), np.concatenate(values)
