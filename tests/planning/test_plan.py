"""A plan of a run, the run, and what the run says of the plan; locally and in a bucket."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.pretrain import main as pretrain_job
from jobs.status import main as status
from pipeline.clips.table import ClipTable
from pipeline.errors import UserError
from pipeline.lease import hold
from pipeline.planning.page import as_page
from pipeline.planning.plan import Asked, make_plan
from pipeline.storage import Location
from pipeline.telemetry.attempts import AttemptRecord
from tests.conftest import TINY, copy_clips, rewrite_clips, s3_uri, tiny

OWN = "encoders.video=tests.encoders.layernorm_networks:video_convnet"
PRICES = "currency: EUR\nhour: {head: 36, decode: 1}\nstorage_gb_month: 1000\n"


def names(run: Location) -> set[str]:
    return {info.base_name for info in run.children()}


def events(run: Location) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "events.jsonl").read_bytes().splitlines()]


def times(plan: dict[str, Any]) -> list[int]:
    """How often each stage runs."""
    names = ("store", "embed", "cluster", "learn")
    return [plan["stages"].get(name, {"times": 0})["times"] for name in names]


def test_a_run_in_a_bucket_with_a_clip_store(
    indexed: Location, s3: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_clips(indexed, Location.of(s3_uri("media/run", s3)))
    (tmp_path / "prices.yaml").write_text(PRICES)
    settings = [*TINY, f"run={run.full_uri}", "store.enabled=true"]
    planning = [settings[0], "--plan", "--json", "--prices", str(tmp_path / "prices.yaml")]
    pretrain_job([*planning, *settings[1:]])
    out = capsys.readouterr()
    plan = json.loads(out.out)
    assert "plan · decode" in out.err
    assert names(run) == {"clips", "plan.json"}, "nothing else is written, and nothing stays"
    assert plan == (run / "plan.json").read_json()

    assert (plan["clips"], plan["rounds"], plan["method"]) == (48, [1, 1], "xdc")
    stages = plan["stages"]
    assert times(plan) == [1, 2, 4, 1]
    assert all(stage["seconds"] > 0 for stage in stages.values())
    assert plan["seconds"] == pytest.approx(sum(s["seconds"] for s in stages.values()), abs=0.1)
    assert plan["cost"]["nodes"] == pytest.approx(plan["seconds"] / 100, rel=0.01)
    assert plan["cost"]["storage_month"] == pytest.approx(plan["bytes"]["at_rest"] / 1e6, rel=0.01)
    assert plan["cost"]["currency"] == "EUR"
    page = as_page(plan)
    for words in ("clip store, first fill", "bottleneck: ", "your prices", "decode cores a device"):
        assert words in page

    pretrain_job(settings)
    told = capsys.readouterr().out
    assert "off by" in told
    (event,) = [event for event in events(run) if event["event"] == "forecast"]
    for name, (forecast, actual) in event["stages"].items():
        assert actual > 0, name
        assert forecast == pytest.approx(
            stages[name]["seconds"] if name in stages else plan["seconds"]
        )
    store = [info for info in (run / "store").children() if info.base_name.endswith(".tar")]
    assert plan["bytes"]["clip_store"] == pytest.approx(sum(i.size for i in store), rel=0.2)
    labels = [p for p in run.children(recursive=True) if "/labels/" in p.path and p.is_file]
    assert plan["bytes"]["labels"] == pytest.approx(sum(p.size for p in labels), rel=0.8)

    status([run.full_uri])
    assert "off by" in capsys.readouterr().out
    pretrain_job(settings)  # nothing is left to do
    assert "off by" not in capsys.readouterr().out


def test_a_run_that_goes_on(calm_copy: Location, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p.path: p.mtime for p in calm_copy.children(recursive=True)}
    config = tiny(f"run={calm_copy}", "learning.threads=1", "learning.epochs=5", "rounds=3")
    plan = make_plan(config, Asked(nodes="head=2"))
    assert plan["rounds"] == [3, 3]
    # The clusters of round 2 are there; those of round 3 will be made.
    assert [plan["stages"][n]["times"] for n in ("embed", "cluster", "learn")] == [1, 2, 1]
    assert plan["nodes"]["head"]["count"] == 2
    after = {p.path: p.mtime for p in calm_copy.children(recursive=True)}
    assert {path for path in after if after[path] != before.get(path)} == {
        (calm_copy / "plan.json").path
    }
    assert before.keys() - after.keys() == set()
    status([str(calm_copy)])
    assert "planned: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("method", "settings", "expected"),
    [
        ("anchored_audio", ["clustering.first=raw"], [0, 3, 3, 2]),
        ("cdc", ["clustering.first=raw", "clustering.pca_dim=0"], [0, 2, 2, 1]),
        ("mdc", ["embedding.from_training=true", "rounds=2", OWN], [0, 3, 6, 2]),
    ],
)
def test_what_a_run_may_be_can_be_planned(
    method: str, settings: list[str], expected: list[int], new_run: Callable[[], Location]
) -> None:
    plan = make_plan(tiny(f"run={new_run()}", f"method={method}", *settings), Asked())
    assert times(plan) == expected
    assert plan["seconds"] > 0
    assert min(plan["bytes"].values()) >= 0
    assert plan["bytes"]["features"] > 0


@pytest.fixture
def calm_copy(calm: Any, tmp_path: Path) -> Location:
    for info in calm.place.children(recursive=True):
        if info.is_file and info.base_name != "_LEASE":
            place = tmp_path / "copy" / info.path.removeprefix(f"{calm.place.path}/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(Path(info.path).read_bytes())
    return Location.of(tmp_path / "copy")


def test_mistakes_are_one_line_and_leave_nothing(
    new_run: Callable[[], Location], tmp_path: Path
) -> None:
    run = new_run()
    (tmp_path / "prices.yaml").write_text("hour: {gpus: 2}")
    for asked, words in (
        (Asked(prices=str(tmp_path / "prices.yaml")), "no node has the role 'gpus'"),
        (Asked(nodes="decode"), "write role=count"),
        (Asked(nodes="gpu=3"), "no such node is here"),
    ):
        with pytest.raises(UserError, match=words) as told:
            make_plan(tiny(f"run={run}"), asked)
        assert "\n" not in str(told.value)
    with pytest.raises(UserError, match="there is no clips table"):
        make_plan(tiny(f"run={tmp_path / 'none'}"), Asked())
    at_work = hold(run / "_LEASE", "the run"), AttemptRecord(run)
    with at_work[0], at_work[1], pytest.raises(UserError, match="works on"):
        make_plan(tiny(f"run={run}"), Asked())
    assert names(run) == {"clips", "_LEASE", "attempts"}
    for option in (["--prices", "p.yaml"], ["--json"], ["--nodes", "gpu=2"]):
        with pytest.raises(UserError, match=f"{option[0]} goes with --plan"):
            pretrain_job([f"run={run}", *option])


def test_a_modality_that_no_clip_has(new_run: Callable[[], Location]) -> None:
    run = new_run()
    table = pq.read_table(next((run / "clips").files(".parquet")).path)
    at = table.schema.get_field_index("has_audio")
    silent = table.set_column(at, "has_audio", [[False] * len(table)])
    rewrite_clips(run, silent.drop(["clip_index"]))
    with pytest.raises(UserError, match=r"no clip of .* has audio, which method=xdc learns from"):
        make_plan(tiny(f"run={run}"), Asked())
    assert len(ClipTable.open(run / "clips")) == 48
    assert names(run) == {"clips"}


def test_clips_that_cannot_be_decoded(new_run: Callable[[], Location], tmp_path: Path) -> None:
    run = new_run()
    table = pq.read_table(next((run / "clips").files(".parquet")).path)
    gone = [str(tmp_path / f"gone-{number}.mp4") for number in range(len(table))]
    at = table.schema.get_field_index("uri")
    rewrite_clips(run, table.set_column(at, "uri", [gone]).drop(["clip_index"]))
    with pytest.raises(
        UserError, match=r"none of \d+ clips that were tried can be decoded"
    ) as told:
        make_plan(tiny(f"run={run}", "encoders.warm_batches=0"), Asked())
    assert "missing" in str(told.value)
    assert names(run) == {"clips"}
