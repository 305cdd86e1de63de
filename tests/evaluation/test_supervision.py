from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipeline.clips.table import ClipTable
from pipeline.errors import UserError
from pipeline.evaluation.protocols import Request, evaluate
from pipeline.evaluation.supervision import Supervision
from pipeline.run import Run
from pipeline.storage import Location
from tests.evaluation.conftest import begun


@pytest.fixture
def run(new_run: Callable[[], Location]) -> Run:
    return begun(new_run(), "learning.epochs=24")


def test_a_column_of_another_table_labels_cuts_or_whole_files(run: Run, tmp_path: Path) -> None:
    clips = ClipTable.open(run.clips)
    rows = clips.rows(np.arange(len(clips)), ["uri", "start_s", "end_s"])
    loud = pa.array(["loud" if i % 3 else "quiet" for i in range(len(clips))])
    cut = rows.append_column("volume", loud).slice(0, 40)
    Location.of(tmp_path / "cut.parquet").write_table(cut)
    whole = pa.table(
        {"uri": pc.unique(rows["uri"]), "start_s": pa.nulls(48, pa.float64())}
        | {"end_s": pa.nulls(48, pa.float64()), "video": [str(n // 24) for n in range(48)]}
    )
    Location.of(tmp_path / "whole.parquet").write_table(whole)

    labels, k = Supervision.parsed(f"supervised:{tmp_path / 'cut.parquet'}:volume").labels(clips)
    assert k == 2
    assert labels[:40].tolist() == [int(i % 3 == 0) for i in range(40)]
    assert (labels[40:] == -1).all()
    by_video = Supervision.parsed(f"supervised:{tmp_path / 'whole.parquet'}:video")
    assert np.bincount(by_video.labels(clips)[0]).tolist() == [24, 24]
    with pytest.raises(UserError, match=r"lacks the column\(s\) colour; it has uri"):
        Supervision.parsed(f"supervised:{tmp_path / 'cut.parquet'}:colour").labels(clips)
    Location.of(tmp_path / "one.parquet").write_table(cut.slice(0, 1))
    with pytest.raises(UserError, match="with 1 classes in its column volume"):
        Supervision.parsed(f"supervised:{tmp_path / 'one.parquet'}:volume").labels(clips)


@pytest.mark.parametrize("text", ["supervize", "supervised:cuts.csv", "supervised:a.csv:"])
def test_other_words_are_rejected(text: str) -> None:
    with pytest.raises(UserError, match="there is no baseline"):
        Supervision.parsed(text)


def test_encoders_learn_the_labels_of_the_training_side(run: Run) -> None:
    request = Request((0,), ("knn",), baselines=("random", "supervised"), clips_per_video=1)
    report = evaluate(run, None, request)
    seen = [(row["encoder"], row["modality"]) for row in report["results"]]
    kinds = ("video", "audio", "both")
    assert seen == [(e, m) for e in ("random", "supervised") for m in kinds]
    (place,) = Path(str(run.location)).rglob("supervised-*/metrics.json")
    metrics = json.loads(place.read_text())
    assert (metrics["labelled"], metrics["skipped"]) == (34, 14)  # the test side stays unseen
    assert len(metrics["epochs"]) == 24
    assert metrics["epochs"][-1]["accuracy_audio_label"] > 0.6  # chance is 0.25
    trained = place.stat().st_mtime_ns
    assert evaluate(run, None, request) == report
    assert place.stat().st_mtime_ns == trained
