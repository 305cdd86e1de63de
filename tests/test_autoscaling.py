"""A run on a cluster that grows from a head alone, loses nodes, and shrinks to the head again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.autoscaling import stages
from pipeline.clustering import read_labels
from pipeline.rounds import pretrain
from pipeline.run import Run
from pipeline.storage import Location
from tests.conftest import TINY, tiny
from tests.fake_cloud import CLOUD, LESSON, LOSSES, FakeCloud


@pytest.mark.cluster
@pytest.mark.usefixtures("local_ray")
def test_a_run_grows_from_a_head_survives_spot_losses_and_shrinks_again(
    new_run: Callable[[], Location],
) -> None:
    calm = pretrain(tiny(f"run={new_run('calm')}", *LESSON))
    place = new_run("cloud")
    with FakeCloud(CLOUD) as cloud:
        job = ["jobs/pretrain.py", *TINY, *LESSON, f"run={place}"]
        story = cloud.tell(job, LOSSES)
        samples = cloud.samples
    assert story.code == 0, story.output
    assert "xdc: 2 rounds done" in story.output
    assert [kind for kind, _ in story.lost] == ["gpu", "decode"]
    assert story.alone is not None, samples[-1]

    assert not any(samples[0].nodes.values()), "it began with a head alone"
    most = {kind: max(sample.nodes[kind] for sample in samples) for kind in CLOUD}
    assert all(most.values()), most
    (_, lost), *_ = story.lost
    after = [sample.nodes["gpu"] for sample in samples if sample.time > lost]
    assert 1 in after[after.index(0) :], "another node took the lost one's place"

    same_labels(Run.existing(str(place)), calm)


@pytest.mark.cluster
@pytest.mark.usefixtures("local_ray")
def test_decode_nodes_go_while_learning_needs_few_of_them(new_run: Callable[[], Location]) -> None:
    """From the clip store one of two nodes decodes faster than one GPU node learns."""
    place = new_run("cloud")
    slow = ["size=56", "frames=8", "short_side=60", "train_short_side=[56,64]"]
    settings = [
        *(f"clips.video.{setting}" for setting in slow),
        *("rounds=1", "store.enabled=true"),
        *("learning.epochs=25", "learning.max_prefetch_mb=8", "learning.checkpoint_minutes=0"),
    ]
    with FakeCloud(CLOUD) as cloud:
        story = cloud.tell(["jobs/pretrain.py", *TINY, *LESSON, *settings, f"run={place}"], {})
        samples = cloud.samples
    assert story.code == 0, story.output
    (learning,) = (s for s in stages(Path(str(place)), story) if s["stage"] == "learn")
    from_s, to_s = (story.began + learning[name] for name in ("from_s", "to_s"))
    nodes = [sample.nodes["decode"] for sample in samples if from_s <= sample.time <= to_s]
    assert max(nodes) == 2, nodes
    assert nodes[-1] == 1, nodes
    assert story.alone is not None, samples[-1]


def same_labels(found: Run, expected: Run) -> None:
    """Those of the encoders of every round, so of the last ones too."""
    for number in range(3):
        for modality in ("video", "audio"):
            ours, theirs = (
                read_labels(run.round(number).clusters(modality), 48) for run in (found, expected)
            )
            assert np.array_equal(ours, theirs), (number, modality)
    curves = [Path(str(run.round(2).update(0) / "curve.parquet")) for run in (found, expected)]
    assert curves[0].read_bytes() == curves[1].read_bytes()
