"""Numbers arrive in MLflow and Weights & Biases, through their own packages."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pipeline.config import TrackingConfig
from pipeline.errors import UserError
from pipeline.storage import Location
from pipeline.telemetry.events import EventLog
from pipeline.telemetry.trackers import _TRACKERS, Trackers
from tests.conftest import tiny


@pytest.fixture(autouse=True)
def without_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both write what they would send to files."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")


def test_a_run_that_goes_on_is_the_same_run_in_mlflow(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    run, store = Location.of(tmp_path / "run"), (tmp_path / "store").as_uri()
    for number in (1, 2):
        diary = EventLog(run, Trackers(run, tiny(f"tracking.mlflow={store}")))
        diary.add("cluster", round=number, clustering="audio", objective=3.5 - number)
        diary.add("learn", round=number, loss=0.5 / number)
        diary.close()
    client = MlflowClient(tracking_uri=store)
    (there,) = client.search_runs([client.get_experiment_by_name("xdc-ray").experiment_id])
    assert there.info.run_name == "run"
    assert there.info.status == "FINISHED"
    assert there.data.params["clustering.k"] == "4"
    history = client.get_metric_history(there.info.run_id, "learn/loss")
    assert [(m.step, m.value) for m in history] == [(1, 0.5), (2, 0.25)]
    assert there.data.metrics["cluster/audio/objective"] == 1.5


def test_numbers_go_to_wandb(tmp_path: Path) -> None:
    run = Location.of(tmp_path / "run")
    for number in (1, 2):
        diary = EventLog(run, Trackers(run, tiny("tracking.wandb=speech")))
        diary.add("learn", round=number, loss=0.75 / number)
        diary.close()
    logs = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert len({log.name for log in logs}) == 1, "one run, also when it goes on"
    written = b"".join(log.read_bytes() for log in logs)
    for part in (b"speech", b"learn/loss", b"0.75", b"0.375", b"clustering"):
        assert part in written


def test_every_key_has_its_tracker() -> None:
    assert set(TrackingConfig.model_fields) == set(_TRACKERS)


def test_a_tracker_that_cannot_be_reached_is_an_error_at_once(tmp_path: Path) -> None:
    config = tiny("tracking.mlflow=nowhere://at-all")
    with pytest.raises(UserError, match=r"tracking\.mlflow=nowhere://at-all cannot be used: ") as e:
        Trackers(Location.of(tmp_path / "run"), config)
    assert "\n" not in str(e.value)


def test_a_tracker_that_fails_later_does_not_end_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = tmp_path / "store"
    trackers = Trackers(Location.of(tmp_path / "run"), tiny(f"tracking.mlflow={store.as_uri()}"))
    store.rename(tmp_path / "gone")
    with caplog.at_level(logging.WARNING):
        trackers.log({"learn/loss": 1.0}, 1)
        trackers.log({"learn/loss": 1.0}, 2)
    assert len([r for r in caplog.records if "left out from here" in r.message]) == 1
