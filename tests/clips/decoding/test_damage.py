"""Whatever is done to a file, it ends in time and in exactly one outcome.

DAMAGED_FILES=2000 python -m pytest -s tests/clips/decoding/test_damage.py
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from pipeline.clips.decoding import isolation
from pipeline.clips.decoding.decode import ClipRequest, DecodedClip
from pipeline.clips.decoding.decoder import MediaInfo
from pipeline.clips.decoding.isolation import decode_clips_isolated, probe_isolated
from pipeline.clips.rejects import Reject
from pipeline.config import ClipsConfig
from pipeline.storage import Location
from tests.clips.decoding.damage_factory import damaged
from tests.clips.decoding.media_factory import VIDEO, GeneratedVideo, write

MEDIA = Path(__file__).parents[4] / "shared" / "media"
COUNT = int(os.environ.get("DAMAGED_FILES", "60"))
CONFIG = ClipsConfig(video=VIDEO, timeout_s=10.0)


def originals(tmp_path: Path) -> list[Path]:
    if MEDIA.is_dir():
        zoo = [p for p in sorted((MEDIA / "zoo").rglob("*")) if p.is_file()]
        zoo = [p for p in zoo if p.suffix not in (".csv", ".txt") and p.stat().st_size < 2 << 20]
        words = sorted((MEDIA / "words").rglob("*.m*"))[::50]
        return zoo + words
    made = {
        "a.mp4": GeneratedVideo(),
        "b.mkv": GeneratedVideo(audio="libopus"),
        "c.avi": GeneratedVideo(video="mpeg4"),
    }
    made["d.ts"] = GeneratedVideo(audio="mp2", layout="stereo")
    return [write(tmp_path / name, generated) for name, generated in made.items()]


def outcome(path: Path) -> str:
    source = Location.of(path)
    info = probe_isolated(source, 20.0)
    if isinstance(info, Reject):
        return f"probe: {info.reason}"
    assert isinstance(info, MediaInfo)
    assert info.start_s <= info.end_s
    asked = [ClipRequest(info.start_s + f * (info.end_s - info.start_s), 128) for f in (0.2, 0.7)]
    results = decode_clips_isolated(source, asked, CONFIG)
    assert len(results) == 2
    for result in results:
        if isinstance(result, DecodedClip):
            assert result.video is not None or result.audio is not None
            assert result.video is None or result.video.shape == (8, 112, 112, 3)
            assert result.audio is None or result.audio.shape == (32_000,)
    bad = [r for r in results if isinstance(r, Reject)]
    return "played" if not bad else f"decode: {bad[0].reason}"


def test_damaged_files_end_in_one_outcome(tmp_path):
    outcomes: Counter[str] = Counter()
    for name, data in damaged(originals(tmp_path), COUNT, seed=3):
        path = tmp_path / name
        path.write_bytes(data)
        outcomes[outcome(path)] += 1
        path.unlink()
    print(dict(outcomes))
    assert sum(outcomes.values()) == COUNT
    assert outcomes["played"] > COUNT // 4


@pytest.fixture(autouse=True)
def _no_child_left():
    yield
    isolation.close()
