"""Evaluation from a dataset's files to its figures, on real Ray."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs.evaluate import parsed
from pipeline.errors import UserError
from pipeline.evaluation import datasets
from pipeline.evaluation.examples import of_dataset
from pipeline.evaluation.protocols import Request, evaluate, evaluate_rounds
from pipeline.evaluation.report import as_table, headline
from pipeline.run import Run
from pipeline.storage import Location
from tests.conftest import rewrite_clips
from tests.evaluation.conftest import begun


@pytest.fixture(scope="module")
def ucf(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world as UCF101 is published; one file is missing and one is broken."""
    root = tmp_path_factory.mktemp("ucf")
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for number, row in enumerate(csv.DictReader(world.open())):
        name = f"{row['label']}/v_{row['label']}_g{number:02d}_c01.mp4"
        lists[row["split"]].append(name)
        (root / row["label"]).mkdir(exist_ok=True)
        shutil.copy(world.parent / row["uri"], root / name)
    (root / lists["train"][0]).unlink()
    (root / lists["train"][1]).write_bytes(b"no video")
    for split in "123":
        for side, names in lists.items():
            (root / f"{side}list0{split}.txt").write_text("\n".join(names))
    (root / "classInd.txt").write_text("\n".join(f"{n + 1} class{n}" for n in range(4)))
    return root


@pytest.fixture
def run(new_run: Callable[[], Location]) -> Run:
    return begun(new_run())


def shards(run: Run) -> dict[str, tuple[int, bytes]]:
    places = Path(str(run.location / "evaluation")).rglob("features-*/**/part-*.parquet")
    return {str(place): (place.stat().st_mtime_ns, place.read_bytes()) for place in places}


def test_a_dataset_from_its_files_to_its_figures(
    ucf: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    media = datasets.read(f"ucf101:{ucf}")
    protocols = ("linear", "retrieval", "clusters")
    request = Request((0,), protocols, ("1", "2"), baselines=("random", "raw"), clips_per_video=3)
    report = evaluate(run, media, request)
    counts = report["examples"]
    assert (counts["listed"], counts["missing"], counts["rejected"]) == (48, 1, 1)
    assert (counts["indexed"], counts["clips"]) == (46, 3 * 46)
    assert "48 examples listed, 1 missing, 1 rejected" in capsys.readouterr().out
    seen = [(r["encoder"], r["modality"], r["protocol"]) for r in report["results"]]
    kinds = ("video", "audio", "both")
    assert seen == [(e, m, p) for e in ("random", "raw") for m in kinds for p in protocols]
    for row in report["results"]:
        for split in row["by_split"].values():
            assert (split["train"], split["test"]) == (32, 14)
            assert split["without_features"] == 0
        if row["protocol"] == "retrieval":
            values = list(row["mean"].values())
            assert values == sorted(values)
            assert values[-1] == 1.0  # 32 in the gallery, of four classes
    assert "48 examples listed, 1 missing, 1 rejected" in headline(report)
    assert "recall@50" in as_table(report)

    before = shards(run)
    assert len(before) >= 4
    assert evaluate(run, media, request) == report
    assert shards(run) == before  # not touched

    # Kept features that are damaged are found, and made again.
    lost = next(Path(str(run.location)).rglob("features-3/raw/audio/part-*.parquet"))
    flipped = bytearray(lost.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    lost.write_bytes(flipped)
    assert evaluate(run, media, request) == report
    assert f"{lost} is damaged" in capsys.readouterr().out
    after = shards(run)
    assert not [name for name in before if "raw/audio" not in name and before[name] != after[name]]


def test_a_runs_own_clips(run: Run) -> None:
    report = evaluate(run, None, Request((0,), ("knn",), modalities=("audio",), clips_per_video=1))
    (row,) = report["results"]
    assert report["splits"] == {"test": {"train": 34, "test": 14}}
    assert 0 <= row["mean"]["accuracy"] <= 1
    assert shards(run)
    assert not (run.round(0).location / "features").exists(), "nothing is written into a round"


def test_rounds_are_probed_by_the_protocol_linear(run: Run) -> None:
    by_round = evaluate_rounds(run, [0], "test")
    request = Request((0,), ("linear",), modalities=("video", "audio"), clips_per_video=1)
    before = shards(run)
    assert by_round["results"] == evaluate(run, None, request)["results"]
    assert shards(run) == before


def with_column(run: Run, name: str, values: list) -> None:
    """Replace a column of the run's clips table."""
    table = (run.clips / "part-000000.parquet").read_table()
    position = table.schema.get_field_index(name)
    kind = table.schema.field(position)
    rewrite_clips(run.location, table.set_column(position, kind, pa.array(values, kind.type)))


def test_one_file_is_rejected_by_round(run: Run) -> None:
    with_column(run, "uri", ["/media/one.mp4"] * 48)
    with pytest.raises(UserError, match=r"1 source videos on both its training and its test side"):
        evaluate_rounds(run, [0], "test")
    with_column(run, "split", [None] * 48)
    with pytest.raises(UserError, match="a hash of the files' names split them; add a column"):
        evaluate_rounds(run, [0], "test")


def test_one_class_in_training_is_said_by_round(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = (run.clips / "part-000000.parquet").read_table()["split"].to_pylist()
    with_column(
        run, "label", ["a" if side == "train" or n % 3 else "b" for n, side in enumerate(sides)]
    )
    report = evaluate_rounds(run, [0], "test")
    for row in report["results"]:
        (split,) = row["by_split"].values()
        assert row["mean"]["accuracy"] == split["chance"]
    assert "training examples of one class only, a" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request((0,), ("knn",), folds=("4",)), "there is no split '4' here; there is test"),
        (Request((0,), ("knn",), modalities=("both", "smell")), "there is no modality 'smell'"),
        (
            Request((0,), ("knn",), test_split="val"),
            "0 test examples, .* holds test, train; choose another with --test-split",
        ),
    ],
)
def test_what_is_not_there_is_rejected_before_embedding(
    run: Run, request_: Request, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        evaluate(run, None, request_)
    assert not shards(run)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--round", "1", "--rounds", "1", "2"], "name one: --round N"),
        (["--protocol", "svm", "--clips-per-video", "0"], "at least 1 is needed"),
        (["--max-rejected", "5"], "is 5.0; it is a share, from 0 to 1"),
    ],
)
def test_options_that_do_not_go_together(arguments: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        parsed(["runs/a", *arguments])


def test_unknown_and_shortened_options_are_errors(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--protocols", "svm"], ["--proto", "svm"], ["--protocol", "magic"]):
        with pytest.raises(SystemExit) as ended:
            parsed(["runs/a", *wrong])
        assert ended.value.code == 2
    assert "magic" in capsys.readouterr().err


def test_averaged_features_have_one_row_an_example(ucf: Path, run: Run) -> None:
    """Clips follow their example, and are as many as were asked for."""
    found = of_dataset(
        datasets.read(f"ucf101:{ucf}"), run.location / "evaluation" / "x", run.config, 3
    )
    assert np.array_equal(found.example, np.repeat(np.arange(46), 3))
    middles = (
        found.clips.column("start_s").to_numpy() + found.clips.column("end_s").to_numpy()
    ) / 2
    starts, ends = (found.windows.column(c).to_numpy() for c in ("start_s", "end_s"))
    np.testing.assert_allclose(middles[1::3], (starts + ends) / 2)
    np.testing.assert_allclose(middles[::3], starts + 0.5)  # a clip is 1 s of audio
    np.testing.assert_allclose(middles[2::3], ends - 0.5)
    assert found.clips.column("uri").to_pylist()[::3] == found.windows.column("uri").to_pylist()


@pytest.fixture
def twins(world: Path, tmp_path: Path) -> Path:
    """Sixteen videos for training, and the same ones under other names for testing."""
    for number, row in enumerate(csv.DictReader(world.open())):
        for side in ("train", "test") if number < 16 else ():
            folder = tmp_path / "twins" / side / row["label"]
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(world.parent / row["uri"], folder / f"{side}{number}.mp4")
    return tmp_path / "twins"


def test_fine_tuning_recognises_videos_that_it_was_taught(twins: Path, run: Run) -> None:
    media = datasets.read(f"folders:{twins}")
    arguments = (("test",), ("audio",), ("raw",), 2)
    report = evaluate(run, media, Request((0,), ("finetune",), *arguments, lr=0.05, epochs=8))
    (row,) = report["results"]  # none for raw features: there is nothing to tune
    split = row["by_split"]["test"]
    assert (split["train"], split["test"], split["chosen"]["epochs"]) == (16, 16, 8.0)
    assert row["mean"]["accuracy"] >= 0.75
    again = evaluate(run, media, Request((0,), ("finetune",), *arguments, lr=0.05, epochs=8))
    assert again == report  # from what is there

    evaluate(run, media, Request((0,), ("fc",), *arguments, epochs=1))
    before = run.round(0).encoders.read_bytes()
    tuned = sorted(Path(str(run.location)).rglob("tuned-2/*/encoders.safetensors"))
    assert len(tuned) == 2
    assert sorted(place.read_bytes() == before for place in tuned) == [False, True]
