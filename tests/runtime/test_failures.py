"""Errors of real Ray, each of which must come back as the one line it began as."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
import ray.data
from ray.exceptions import RayTaskError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer

from pipeline.runtime.failures import as_user_error
from pipeline.runtime.ray_train import HopelessEnds
from pipeline.storage import Location
from tests.tmpfs import mounted


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own without a byte to spare."""
    with mounted(tmp_path / "full", "64k") as disk:
        disk.fill()
        yield disk.place


# Tests' modules are not there in Ray's workers, so a mistake of ours is what fails in them.
SAID = "cannot open 'nowhere://x' as a storage place"


def in_task() -> None:
    ray.get(ray.remote(lambda: Location.of("nowhere://x")).remote())


def in_nested_task() -> None:
    @ray.remote(num_cpus=0.1)
    def outer() -> None:
        @ray.remote(num_cpus=0.1)
        def inner() -> None:
            Location.of("nowhere://x")

        ray.get(inner.remote())

    ray.get(outer.remote())


def in_actor_start() -> None:
    @ray.remote(num_cpus=0.1)
    class Mistaken:
        def __init__(self) -> None:
            Location.of("nowhere://x")

        def ask(self) -> None: ...

    ray.get(Mistaken.remote().ask.remote())


def in_dataset() -> None:
    ray.data.range(2).map(lambda row: Location.of("nowhere://x")).materialize()


def raised_from() -> None:
    try:
        in_task()
    except RayTaskError as error:
        raise RuntimeError("it failed") from error


@pytest.mark.parametrize(
    "fails", [in_task, in_nested_task, in_actor_start, in_dataset, raised_from]
)
def test_a_mistake_found_anywhere_comes_back_as_it_was_said(
    fails: Callable[[], None], local_ray: None, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Exception) as caught:
        fails()
    said = str(as_user_error(caught.value))
    assert said.startswith(SAID)
    assert "\n" not in said
    assert capfd.readouterr().err == ""


def test_a_bug_keeps_its_traceback(local_ray: None) -> None:
    @ray.remote(num_cpus=0.1)
    def broken() -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError) as caught:
        ray.get(broken.remote())
    assert as_user_error(caught.value) is None
    assert as_user_error(FileNotFoundError(errno.ENOENT, "gone", "x")) is None


def test_a_full_disk_is_named(full_disk: Path, local_ray: None) -> None:
    @ray.remote(num_cpus=0.1)
    def write() -> None:
        Location.of(full_disk / "table").write_bytes(b"x" * 10_000)

    with pytest.raises(OSError) as caught:
        ray.get(write.remote())
    said = str(as_user_error(caught.value))
    assert str(full_disk) in said
    assert "No space left on device" in said
    assert said.endswith("make room there, and give the same command again")
    assert "\n" not in said


def test_training_is_not_tried_again_where_that_is_hopeless(
    tmp_path: Path, local_ray: None
) -> None:
    """Ray Train's four attempts and its WorkerGroupError otherwise."""
    starts = tmp_path / "starts"

    def loop() -> None:
        with open(starts, "a") as file:
            file.write("x")
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/data/run")

    trainer = TorchTrainer(
        loop,
        scaling_config=ScalingConfig(resources_per_worker={"CPU": 0.1}),
        run_config=RunConfig(
            storage_path=str(tmp_path / "train"),
            failure_config=FailureConfig(max_failures=3),
            callbacks=[HopelessEnds()],
        ),
    )
    with pytest.raises(TrainingFailedError) as caught:
        trainer.fit()
    assert starts.read_text() == "x"
    said = str(as_user_error(caught.value))
    assert said.startswith("/data/run: EROFS, Read-only file system; make it writable")
