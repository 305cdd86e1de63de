"""Clips and steps as a run of the same settings has them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pipeline import methods
from pipeline.clips.table import SCHEMA, ClipTable, append
from pipeline.learning.schedule import Schedule
from pipeline.planning.counts import ClipCounts, update_steps
from pipeline.planning.sample import Sample
from pipeline.storage import Location
from tests.conftest import tiny
from tests.whole_runs import Calm


@pytest.mark.parametrize("method", ["xdc", "sdc", "anchored_audio"])
@pytest.mark.parametrize(
    "settings",
    [
        ["learning.epochs=2.5"],
        ["learning.epochs=0.5", "learning.accumulate=2"],
        ["learning.epoch_clips=100", "learning.held_out=0.3"],
    ],
)
def test_steps_are_those_of_the_schedule(method: str, settings: list[str], calm: Calm) -> None:
    import ray

    config, clips = tiny(*settings), ClipTable.open(calm.place / "clips")
    counts, chosen = ClipCounts.read(clips, config), methods.get(method)
    labels = [ray.put(np.zeros(48, np.int32))]
    for number, update in enumerate(chosen.updates):
        boxed = [labels] * len(update.clusterings)
        key = (config.seed, 1, number)
        given = (clips, boxed, chosen.needs_all_labels(update), config.learning, key)
        schedule = Schedule.draw(*given)
        found = update_steps(clips, counts, config, chosen, number)
        assert found.labelled == schedule.labelled == 48
        assert found.steps == schedule.shape.train_steps * schedule.shape.epochs
        held = schedule.shape.held_out_steps * schedule.shape.epochs
        assert found.held_clips == held * found.batch


def clips_of(folder: Location, parts: int, rows: int) -> ClipTable:
    """Made-up clips: every third lacks audio, every seventh video, half are of the split train."""
    number = np.arange(rows)

    def part(which: int) -> pa.Table:
        columns = {name: pa.nulls(rows, kind) for name, kind in zip(SCHEMA.names, SCHEMA.types)}
        columns["clip_id"] = pa.array([f"{which}-{n}" for n in number])
        columns["uri"] = pa.array([f"/media/{which}/{n // 4}" for n in number])
        columns["has_audio"] = pa.array(number % 3 > 0)
        columns["has_video"] = pa.array(number % 7 > 0)
        columns["split"] = pa.array(np.where(number % 2, "train", "test"))
        return pa.table({n: c for n, c in columns.items() if n != "clip_index"})

    append(folder, map(part, range(parts)))
    return ClipTable.open(folder)


def test_counts_and_sample_keep_to_the_split(tmp_path: object) -> None:
    clips = clips_of(Location.of(f"{tmp_path}/clips"), parts=9, rows=2100)
    counts = ClipCounts.read(clips, tiny())
    assert (counts.indexed, counts.chosen) == (18_900, 18_900)
    assert counts.with_all(["audio"]) == 9 * 1400
    assert counts.with_all(["video", "audio"]) == 9 * 1200
    assert counts.with_any(["video", "audio"]) == 9 * 2000
    config = tiny("clips.split=train", "learning.max_neighbours=4")
    assert ClipCounts.read(clips, config).chosen == 9 * 1050
    sample = Sample.of(clips, config)
    assert sample.ordered.num_rows == 8 * config.embedding.batch_size
    assert sample.drawn.num_rows == 512
    for rows in (sample.ordered, sample.drawn):
        assert set(rows["split"].to_pylist()) == {"train"}
        ids = rows["clip_id"].to_pylist()
        assert len(set(ids)) == len(ids)
        assert len({one.partition("-")[0] for one in ids}) <= 4, "few parts are read"
    assert Sample.of(clips, config).drawn.equals(sample.drawn)
    # Neighbours stay together, in groups that come in any order.
    numbers = np.array([int(one.partition("-")[2]) for one in sample.drawn["clip_id"].to_pylist()])
    assert (np.diff(numbers.reshape(-1, 4), axis=1) > 0).mean() > 0.95
