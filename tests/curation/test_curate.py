"""jobs/curate.py on a finished run: its tables, what takes them, and how it ends and goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from jobs.curate import main as curate
from jobs.evaluate import main as evaluate
from jobs.index import main as index
from pipeline.clips.table import ClipTable
from pipeline.clustering import read_labels
from pipeline.curation.verdicts import LeftOut
from pipeline.errors import UserError
from pipeline.run import Run
from pipeline.storage import Location
from tests.conftest import ROOT, s3_uri
from tests.whole_runs import Calm

ALL = ["--exclude", "video:1", "--min-agreement", "-1", "--near-duplicates", "0.8", "--clips", "20"]


def tables(out: Path) -> tuple[pa.Table, pa.Table]:
    dropped = out.with_name(out.name.replace(".parquet", ".dropped.parquet"))
    return pq.read_table(out), pq.read_table(dropped)


def labels(calm: Calm, name: str) -> np.ndarray:
    return read_labels(Run.existing(calm.place.uri).finished_round().clusters(name), 48)


def test_every_clip_is_kept_or_left_out_for_a_reason(
    calm: Calm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "kept.parquet"
    curate([calm.place.uri, str(out), *ALL])
    said = capsys.readouterr().out
    kept, dropped = tables(out)
    clips = pa.concat_tables(ClipTable.open(calm.place / "clips").read_parts(kept.column_names))
    assert kept.column_names[:4] == ["clip_id", "uri", "start_s", "end_s"]
    both = pa.concat_tables([kept, dropped.select(kept.column_names)])
    assert sorted(both.to_pylist(), key=str) == sorted(clips.to_pylist(), key=str)
    reasons = dropped["reason"].to_pylist()
    assert {*reasons} <= {reason.value for reason in LeftOut}
    assert len(kept) + reasons.count("not_drawn") >= 20
    for name in {*reasons}:
        assert f"{name} " in said
    assert "clips of the run" in said
    excluded = dropped.filter(pa.compute.equal(dropped["reason"], "excluded"))
    ids = clips["clip_id"].filter(pa.array(labels(calm, "video") == 1))
    assert excluded["clip_id"].to_pylist() == ids.to_pylist()
    assert set(excluded["cluster"].to_pylist()) == {"video:1"}
    for row in dropped.to_pylist():
        is_duplicate = row["reason"] == "duplicate"
        assert is_duplicate == (row["cosine"] is not None) == (row["duplicate_of"] is not None)
        assert not is_duplicate or row["cosine"] >= 0.8
        assert (row["cluster"] is not None) == (row["reason"] == "excluded")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept.dropped.parquet", "kept.parquet"]


def test_the_result_is_indexed_and_evaluated(calm: Calm, tmp_path: Path) -> None:
    out, run = tmp_path / "kept.parquet", tmp_path / "run"
    curate([calm.place.uri, str(out), "--share", "0.8"])
    kept, _ = tables(out)
    index([str(out), str(run)])
    clips = ClipTable.open(Location.of(run / "clips"))
    assert len(clips) == len(kept) == 38
    for name in ("clip_id", "uri", "start_s", "end_s", "label", "split"):
        assert clips.column(name).to_pylist() == kept[name].to_pylist()
    report = tmp_path / "report.json"
    arguments = [calm.place.uri, "--dataset", f"csv:{out}", "--protocol", "knn"]
    evaluate([*arguments, "--clips-per-video", "1", "--json", str(report)])
    assert json.loads(report.read_text())["dataset"].startswith("csv")


def test_of_each_cluster_as_many(calm: Calm, tmp_path: Path) -> None:
    out = tmp_path / "kept.parquet"
    options = ["--clips", "12", "--draw-by", "audio", "--levels"]
    curate([calm.place.uri, str(out), *options])
    kept, dropped = tables(out)
    ids = ClipTable.open(calm.place / "clips").column("clip_id")
    number = dict(zip(ids.to_pylist(), labels(calm, "audio").tolist()))
    drawn = np.bincount([number[i] for i in kept["clip_id"].to_pylist()], minlength=4)
    there = np.bincount(labels(calm, "audio"), minlength=4)
    assert drawn.sum() == 12
    assert drawn.max() <= drawn[drawn < there].min(initial=99) + 1
    assert set(dropped["reason"].to_pylist()) == {"not_drawn"}
    again = tmp_path / "again.parquet"
    curate([calm.place.uri, str(again), *options])
    assert tables(again)[0].equals(kept)
    curate([calm.place.uri, str(tmp_path / "other.parquet"), *options, "--seed", "9"])
    assert not tables(tmp_path / "other.parquet")[0].equals(kept)


def test_clips_by_id_and_what_is_unknown(
    calm: Calm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = ClipTable.open(calm.place / "clips").column("clip_id").to_pylist()
    listed = tmp_path / "ids.txt"
    listed.write_text("\n".join(["clip_id", *ids[3:6], "", "0123456789abcdef"]))
    out = tmp_path / "kept.parquet"
    curate([calm.place.uri, str(out), "--exclude-clips", str(listed)])
    assert "1 of 4 ids" in capsys.readouterr().out
    _, dropped = tables(out)
    assert dropped["clip_id"].to_pylist() == ids[3:6]
    assert dropped["cluster"].null_count == 3
    # What one selection left out is a list for another.
    dropped_file = str(tmp_path / "kept.dropped.parquet")
    second = tmp_path / "second.parquet"
    curate([calm.place.uri, str(second), "--exclude-clips", dropped_file, "--clips", "10"])
    assert tables(second)[1]["reason"].to_pylist().count("excluded") == 3


def test_the_least_agreeing_share_goes(calm: Calm, tmp_path: Path) -> None:
    out = tmp_path / "kept.parquet"
    curate([calm.place.uri, str(out), "--drop-disagreeing", "0.3"])
    _, dropped = tables(out)
    assert 0 <= len(dropped) <= 0.3 * 48
    assert set(dropped["reason"].to_pylist()) <= {"disagrees"}
    assert dropped["agreement"].null_count == 0


def test_a_killed_selection_ends_with_the_same_bytes(calm: Calm, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    curate([calm.place.uri, str(whole), *ALL])
    killed_once_there(tmp_path / "out.parquet.work", [calm.place.uri, str(out), *ALL])
    assert not out.exists()
    curate([calm.place.uri, str(out), *ALL])
    for name in ("whole.parquet", "whole.dropped.parquet"):
        same = tmp_path / name.replace("whole", "out")
        assert same.read_bytes() == (tmp_path / name).read_bytes()
    assert not (tmp_path / "out.parquet.work").exists()
    written = out.stat().st_mtime_ns
    curate([calm.place.uri, str(out), *ALL])
    assert out.stat().st_mtime_ns == written, "made again"
    with pytest.raises(UserError, match="holds another selection"):
        curate([calm.place.uri, str(out), "--clips", "7"])


def killed_once_there(work: Path, arguments: list[str]) -> None:
    """`kill -9` of the job on the tests' Ray once it has compared clips."""
    address = ray.get_runtime_context().gcs_address
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": address}
    command = [sys.executable, str(ROOT / "jobs" / "curate.py"), *arguments]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as job:
        while job.poll() is None and not any(work.rglob("links-*.parquet")):
            time.sleep(0.02)
        job.kill()
    assert job.returncode == -signal.SIGKILL, "it ended before it was killed"


def test_a_bucket(calm: Calm, tmp_path: Path, s3: str) -> None:
    """The run and what is written may be in one."""
    bucket = Location.of(s3_uri("media/run", s3))
    for info in calm.place.children(recursive=True):
        below = info.path.removeprefix(calm.place.path + "/")
        if info.is_file and below.startswith(("clips/", "config.yaml", "LATEST", "rounds/0002/")):
            (bucket / below).write_bytes((calm.place / below).read_bytes())
    for number in ("0000", "0001"):
        for name in ("_DONE", "encoders.safetensors", "metrics.json"):
            place = calm.place / "rounds" / number / name
            (bucket / "rounds" / number / name).write_bytes(place.read_bytes())
    out = Location.of(s3_uri("media/kept.parquet", s3))
    local = tmp_path / "kept.parquet"
    curate([bucket.full_uri, out.full_uri, *ALL])
    curate([calm.place.uri, str(local), *ALL])
    assert out.read_table().equals(pq.read_table(local))
    left = {info.base_name for info in Location.of(s3_uri("media", s3)).children()}
    assert left == {"run", "kept.parquet", "kept.dropped.parquet"}


def wrong(*options: str) -> Any:
    return pytest.param(list(options[:-1]), options[-1], id=" ".join(options[:-1]) or "nothing")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        wrong("no filter is asked for"),
        wrong("--exclude", "video", "NAME:NUMBER"),
        wrong("--exclude", "smell:1", "no clusters 'smell'; it has video, audio"),
        wrong("--exclude", "video:4", "there is no cluster video:4: video has 4"),
        wrong("--exclude-clips", "none.txt", "there is no file"),
        wrong("--near-in", "video", "--near-in is of --near-duplicates"),
        wrong("--near-duplicates", "1.5", "a cosine"),
        wrong("--near-duplicates", "--near-in", "joint", "no clusters 'joint'"),
        wrong("--near-duplicates", "--round", "1", "are gone"),
        wrong("--clips", "5", "--levels", "4", "ever fewer clusters, below the 4"),
        wrong("--share", "2", "it is a share"),
        wrong("--levels", "2", "--clips or --share"),
        wrong("--clips", "0", "at least 1"),
        wrong("--clips", "5", "--round", "9", "round 9 does not exist"),
    ],
)
def test_mistakes(calm: Calm, tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        curate([calm.place.uri, str(tmp_path / "kept.parquet"), *options])
    assert not [*tmp_path.iterdir()]


def test_a_place_that_is_not_its_own(calm: Calm, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="OUT is a file"):
        curate([calm.place.uri, str(tmp_path / "folder"), "--clips", "5"])
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"a": [1]}), other)
    with pytest.raises(UserError, match="and not of jobs"):
        curate([calm.place.uri, str(other), "--clips", "5"])
    assert pq.read_table(other).column_names == ["a"]
