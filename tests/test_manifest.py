"""Seals of finished stages: what was cut, changed or lost is found."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.manifest import Damaged, Entry, Manifest, seal, seal_written, signed, unsigned
from pipeline.storage import Location
from tests.conftest import s3_uri


@pytest.fixture(params=["disk", "bucket"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "disk":
        place = Location.of(tmp_path / "stage")
    else:
        place = Location.of(s3_uri("media/stage", request.getfixturevalue("s3")))
    (place / "a.bin").write_bytes(b"abc" * 1000)
    (place / "labels" / "b.bin").write_bytes(b"")
    return place


def test_a_folder_that_is_whole(folder: Location) -> None:
    assert Manifest.whole(folder) is None
    seal_written(folder, ["a.bin", "labels/b.bin"], clips=3)
    found = Manifest.whole(folder)
    assert found is not None
    assert found.made_of == {"clips": 3}
    assert found.load("a.bin") == b"abc" * 1000
    found.check_content()
    seal(folder, {"a.bin": Entry.of(b"abc" * 1000, rows=7)})
    again = Manifest.read(folder)
    assert again is not None
    assert again.files["a.bin"].notes == {"rows": 7}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda place: (place / "a.bin").delete(), "a.bin is damaged: it is gone"),
        (lambda place: (place / "a.bin").write_bytes(b"abc"), "3 bytes, 3,000 were written"),
        (lambda place: (place / "a.bin").write_bytes(b"abd" * 1000), "content has changed"),
        (lambda place: (place / "labels" / "b.bin").delete(), "b.bin is damaged: it is gone"),
        (
            lambda place: (place / "_DONE").write_bytes(b""),
            "it holds no manifest",
        ),
        (lambda place: _flip(place / "_DONE"), "it holds no manifest"),
    ],
)
def test_damage_is_found(folder: Location, damage: object, words: str) -> None:
    seal_written(folder, ["a.bin", "labels/b.bin"])
    damage(folder)  # type: ignore[operator]
    with pytest.raises(Damaged, match=words) as raised:
        Manifest.whole(folder).check_content()  # type: ignore[union-attr]
    assert "jobs/pretrain.py" in str(raised.value)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


def _flip(place: Location) -> None:
    data = bytearray(place.read_bytes())
    data[len(data) // 2] ^= 1
    place.write_bytes(bytes(data))


def test_every_flipped_bit_of_a_signed_file_is_found() -> None:
    written = signed(b'{"a": 1}')
    assert unsigned(written) == b'{"a": 1}'
    for bit in range(8 * len(written)):
        flipped = bytearray(written)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="digest"):
            unsigned(bytes(flipped))


def test_manifests_of_another_format_are_refused(tmp_path: Path) -> None:
    (tmp_path / "_DONE").write_bytes(signed(b'{"format": 9, "files": {}, "made_of": {}}'))
    with pytest.raises(UserError, match="format 9"):
        Manifest.read(Location.of(tmp_path))
