"""Hostile files: a part of benchmarks/fuzz.py, bombs, and code that nothing may run."""

from __future__ import annotations

import io
import os
import pickle
import signal
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.fuzz import _too_long, fuzz
from benchmarks.fuzz_files import KINDS
from pipeline import settings
from pipeline.clips.listing import list_media
from pipeline.clustering.vector_files import as_features
from pipeline.config import Config
from pipeline.encoders.weights import read_tensors
from pipeline.errors import UserError
from pipeline.learning.checkpoint import TrainingState
from pipeline.manifest import digest_of
from pipeline.storage import Location


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, _too_long)
    yield
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", KINDS)
def test_every_mutation_is_one_line_or_read(name: str) -> None:
    tally = fuzz(KINDS[name], name, 15, seed=1)
    assert not tally.failures, tally.failures[0]
    assert tally.outcomes["refused"] + tally.outcomes["read"] == 15


class Runs:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def torch_file(payload: Any) -> bytes:
    sink = io.BytesIO()
    torch.save(payload, sink)
    return sink.getvalue()


def npy_file(payload: Any) -> bytes:
    sink = io.BytesIO()
    np.save(sink, np.array([payload], object), allow_pickle=True)
    return sink.getvalue()


def checkpoint(payload: Any) -> bytes:
    data = torch_file({"schedule": payload})
    return digest_of(data).encode() + data


PICKLED: dict[str, tuple[str, Callable[[Any], bytes], Callable[[Location], Any]]] = {
    "pickle": ("w.pt", pickle.dumps, read_tensors),
    "torch": ("w.pth", torch_file, read_tensors),
    "torch, named": ("w.pt", lambda payload: torch_file({"a": payload}), read_tensors),
    "safetensors": ("w.safetensors", pickle.dumps, read_tensors),
    "npy": ("v.npy", npy_file, lambda place: as_features(place, "", Location(place.uri + ".d"))),
    "checkpoint": (
        "checkpoint.pt",
        checkpoint,
        lambda place: TrainingState.of(Location.of(os.path.dirname(place.uri))),
    ),
    "settings": (
        "config.yaml",
        lambda payload: f"seed: !!python/object/apply:os.mkdir ['{payload.mark}']".encode(),
        settings.saved,
    ),
}


@pytest.mark.parametrize("name", PICKLED)
def test_no_file_runs_code(name: str, tmp_path: Path) -> None:
    file, written, read = PICKLED[name]
    mark = tmp_path / "ran"
    place = Location.of(tmp_path / file)
    place.write_bytes(written(Runs(mark)))
    with pytest.raises((UserError, pickle.UnpicklingError)):
        read(place)
    assert not mark.exists()


def test_nothing_of_ours_unpickles() -> None:
    package = Path(settings.__file__).parent
    for file in package.rglob("*.py"):
        text = file.read_text()
        assert "pickle.load" not in text, file
        assert "allow_pickle=True" not in text, file
        for call in text.split("torch.load(")[1:]:
            if "`torch.load`" not in call[:1]:
                assert "weights_only=True" in call.partition("\n")[0], file


def refused(read: Callable[[], object]) -> str:
    """The one line by which it is refused, soon."""
    started = time.monotonic()
    with pytest.raises(UserError) as error:
        read()
    assert time.monotonic() - started < 5
    assert len(str(error.value)) < 6000
    return str(error.value)


def test_bombs_are_refused(tmp_path: Path) -> None:
    laughs = ["a0: &a0 [ha, ha]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    (tmp_path / "laughs.yaml").write_text("\n".join(laughs))
    assert "aliases" in refused(lambda: settings.load([str(tmp_path / "laughs.yaml")]))
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 40_000)
    assert "deep" in refused(lambda: settings.load([str(tmp_path / "deep.yaml")]))
    (tmp_path / "large.yaml").write_text("a: 1\n" * 1_000_000)
    assert "bytes" in refused(lambda: settings.load([str(tmp_path / "large.yaml")]))
    assert len(refused(lambda: settings.load([f"seed={'x' * 50_000}"]))) < 600
    refused(lambda: settings.load(["a." * 5000 + "b=1"]))
    refused(lambda: settings.load(["learning.lr=1e999"]))
    many = {"uri": pa.DictionaryArray.from_arrays(np.zeros(50_000_000, np.int8), ["x"])}
    pq.write_table(pa.table(many), tmp_path / "many.parquet")
    assert "50,000,000 rows" in refused(lambda: list_media(str(tmp_path / "many.parquet")))
    with zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(100 << 20))
    refused(lambda: read_tensors(Location.of(tmp_path / "w.pt")))
    wide = torch.ones(1).expand(10**12)
    (tmp_path / "wide.pt").write_bytes(torch_file({"a": wide}))
    assert "more values" in refused(lambda: read_tensors(Location.of(tmp_path / "wide.pt")))


def test_settings_of_wrong_types_are_one_line_each() -> None:
    odd: dict[Any, Any] = {name: [1] for name in Config.model_fields} | {1: 2, None: 3, (): ()}
    lines = refused(lambda: settings.build(odd)).splitlines()
    assert len(lines) <= 21
    assert all(len(line) < 600 for line in lines)
