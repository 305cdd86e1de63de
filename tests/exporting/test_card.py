"""What an exported model card says of the training data and of licences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from jobs.export import main as export
from pipeline.clips.indexing import REJECTS
from pipeline.clips.rejects import SCHEMA as REJECT_SCHEMA
from pipeline.clips.rejects import write_rejects
from pipeline.clips.table import SCHEMA, append
from pipeline.exporting.training_data import data_rows, data_summary
from pipeline.run import Run
from tests.exporting.exports import new_run


def fill(run: Run) -> None:
    """Six clips of three files in two parts; one without sound, four of them labelled."""
    shared = {"start_s": 0.0, "end_s": 600.0, "has_video": True}
    for part in (range(4), range(4, 6)):
        rows = [
            {
                **shared,
                "clip_id": f"{i:016x}",
                "uri": f"/secret/{i // 2}.mp4",
                "has_audio": i != 5,
                "label": "cat" if i < 4 else None,
                "split": "train" if i < 3 else ("test" if i < 5 else None),
            }
            for i in part
        ]
        append(run.clips, [pa.Table.from_pylist(rows, schema=SCHEMA)])
    found = [(None, "corrupt"), (None, "corrupt"), (None, "timeout"), ("audio", "no_streams")]
    rejected = [
        {"uri": f"/secret/{i}", "modality": m, "reason": r} for i, (m, r) in enumerate(found)
    ]
    (run.location / REJECTS).write_table(pa.Table.from_pylist(rejected, schema=REJECT_SCHEMA))
    lost = {"uri": "/secret/9", "clip_id": "9", "modality": "video", "reason": "crashed"}
    table = pa.table({name: [value] for name, value in {**lost, "detail": ""}.items()})
    write_rejects(run.round(1).rejects / "0.parquet", table, "embed", np.ones(1, np.int64))


def test_the_data_are_summarised(tmp_path: Path) -> None:
    run, _ = new_run(tmp_path / "run")
    fill(run)
    data = data_summary(run, 1)
    assert data == {
        "clips": 6,
        "files": 3,
        "hours": 1.0,
        "with_video": 6,
        "with_audio": 5,
        "labelled": 4,
        "splits": {"train": 3, "test": 2},
        "learned_from": [],
        "rejects": {
            "indexing": {"lost_audio": {"no_streams": 1}, "rejected": {"corrupt": 2, "timeout": 1}},
            "round": {"lost_video": {"crashed": 1}},
        },
    }
    export([str(run.location), str(tmp_path / "out"), "--modality", "audio"])
    card = (tmp_path / "out/audio/README.md").read_text()
    for row in (
        "| clips indexed | 6 of 3 files, 6 with video, 5 with audio |",
        "| hours | 1 |",
        "| splits in the table | train 3, test 2 |",
        "| splits learned from | all |",
        "| labels | 4 clips have one; training reads none |",
        "| licences of the media | unknown: a run's tables do not hold them |",
        "| rejected when indexing | corrupt 2, timeout 1 |",
        "| lost audio when indexing | no_streams 1 |",
        "| lost video since, in this round | crashed 1 |",
        "| seed | 0 |",
    ):
        assert row in card
    for file in (tmp_path / "out/audio").iterdir():
        assert b"secret" not in file.read_bytes()


def test_what_is_not_known_of_the_data_says_so(tmp_path: Path) -> None:
    run, _ = new_run(tmp_path / "run")
    assert data_summary(run, 1) is None
    assert data_rows(None) == {"clips": "unknown: the run's clips table could not be read"}
    append(
        run.clips,
        [pa.Table.from_pylist([{"uri": "a", "clip_id": "0", "start_s": 0, "end_s": 1}], SCHEMA)],
    )
    rows = data_rows(data_summary(run, 1))
    assert rows["splits in the table"] == "unknown: the table names none"
    assert rows["labels"] == "unknown: the table has none"
    assert rows["rejected when indexing"] == ""


@pytest.mark.parametrize(
    ("license", "expected"),
    [
        ("unknown", {"license": "unknown"}),
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("MIT OR CC0-1.0", {"license": "other", "license_name": "mit-or-cc0-1.0"}),
    ],
)
def test_hubs_read_the_front_matter(license: str, expected: dict[str, str], tmp_path: Path) -> None:
    new_run(tmp_path / "run")
    place = [str(tmp_path / "run"), str(tmp_path / "out"), "--modality", "video"]
    export([*place, "--license", license])
    card = (tmp_path / "out/video/README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    tags = ["xdc", "self-supervised-learning", "custom_code", "video"]
    shared = {"library_name": "transformers", "pipeline_tag": "feature-extraction", "tags": tags}
    assert front == {**expected, **shared}
    assert f"Weights: `{license}`." in card
