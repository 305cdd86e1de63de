"""A decoder that crashes, hangs or eats memory costs one clip, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.clips.decoding import isolation
from pipeline.clips.decoding.decode import ClipRequest, DecodedClip, decode_clips
from pipeline.clips.decoding.decoder import MediaInfo
from pipeline.clips.decoding.isolation import decode_clips_isolated, probe_isolated
from pipeline.clips.rejects import Reason, Reject
from pipeline.config import ClipsConfig
from pipeline.storage import Location
from tests.clips.decoding.media_factory import VIDEO, GeneratedVideo, write

CONFIG = ClipsConfig(video=VIDEO, timeout_s=1.0)
ROOT = Path(__file__).parents[3]

# Runs in the decoding process only: the video decoder of some clips really dereferences
# a null pointer, spins inside C without ever coming back, or takes all the memory it can get.
TROUBLE = """
import sys
if sys.argv[0] == "-c":
    import ctypes, os
    from pipeline.clips.decoding import pyav
    genuine = pyav.displayed_frames

    def displayed_frames(media, packets, targets_s, deadline):
        name = media.source.name
        here = "everywhere" in name or any(1.9 < at < 2.1 for at in targets_s)
        if "once" in name:
            flag = media.source.uri + ".seen"
            here = not os.path.exists(flag)
            open(flag, "w").close()
        if here and "segfault" in name:
            ctypes.string_at(0)
        if here and "spin" in name:
            # A regular expression that backtracks for ages in C and does not let go of the GIL.
            import re
            re.match("(a+)+b", "a" * 64)
        if here and "memory" in name:
            import numpy as np
            held = [np.empty(256 << 20, np.uint8) for _ in range(64)]
        return genuine(media, packets, targets_s, deadline)

    pyav.displayed_frames = displayed_frames
"""


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "video.mp4", GeneratedVideo(seconds=6.0))


@pytest.fixture
def trouble(tmp_path, monkeypatch):
    place = tmp_path / "trouble"
    place.mkdir()
    (place / "sitecustomize.py").write_text(TROUBLE)
    monkeypatch.syspath_prepend(str(place))
    isolation.close()
    yield
    isolation.close()


def named(path: Path, name: str) -> Location:
    copy = path.with_name(f"{name}.mp4")
    copy.write_bytes(path.read_bytes())
    return Location.of(copy)


def requests(*centres: float) -> list[ClipRequest]:
    return [ClipRequest(c, 128) for c in centres]


def reasons(results):
    """Why each clip, or its video alone, was lost."""
    lost = [r if isinstance(r, Reject) else r.lost.get("video") for r in results]
    assert all(isinstance(r, Reject) or r.audio is not None for r in results)
    return [why.reason if why else "ok" for why in lost]


def test_the_same_as_without(path):
    asked = requests(3.0, 0.2, 5.0)
    for ours, theirs in zip(
        decode_clips_isolated(Location.of(path), asked, CONFIG),
        decode_clips(Location.of(path), asked, CONFIG),
    ):
        assert isinstance(ours, DecodedClip)
        assert isinstance(theirs, DecodedClip)
        assert np.array_equal(ours.video, theirs.video)
        assert np.array_equal(ours.audio, theirs.audio)
    assert isinstance(probe_isolated(Location.of(path)), MediaInfo)
    missing = decode_clips_isolated(Location.of("/no/such/file"), asked, CONFIG)
    assert reasons(missing) == [Reason.MISSING] * 3


def test_one_child_serves_many_files(path):
    decode_clips_isolated(Location.of(path), requests(1.0), CONFIG)
    first = isolation._CHILD.process.pid
    for _ in range(20):
        decode_clips_isolated(Location.of(path), requests(1.0, 4.0), CONFIG)
    assert isolation._CHILD.process.pid == first


def test_results_are_the_callers_own(path):
    (one,) = decode_clips_isolated(Location.of(path), requests(1.0), CONFIG)
    before = one.video.copy()
    decode_clips_isolated(Location.of(path), requests(4.0), CONFIG)
    assert np.array_equal(one.video, before)


def test_segmentation_fault_costs_its_clip_only(path, trouble):
    source = named(path, "segfault")
    results = decode_clips_isolated(source, requests(0.3, 2.0, 5.5), CONFIG)
    assert reasons(results) == ["ok", Reason.CRASHED, "ok"]
    assert "SIGSEGV" in results[1].lost["video"].detail
    assert reasons(decode_clips_isolated(Location.of(path), requests(2.0), CONFIG)) == ["ok"]


def test_a_crash_that_does_not_happen_again_costs_nothing(path, trouble):
    source = named(path, "segfault_once")
    assert reasons(decode_clips_isolated(source, requests(2.0), CONFIG)) == ["ok"]


def test_endless_loop_is_interrupted(path, trouble):
    source = named(path, "spin")
    began = time.monotonic()
    results = decode_clips_isolated(source, requests(0.3, 2.0, 5.5), CONFIG)
    assert reasons(results) == ["ok", Reason.TIMEOUT, "ok"]
    assert time.monotonic() - began < 20
    assert reasons(decode_clips_isolated(Location.of(path), requests(2.0), CONFIG)) == ["ok"]


def test_memory_is_limited(path, trouble):
    results = decode_clips_isolated(named(path, "memory"), requests(0.3, 2.0), CONFIG)
    assert reasons(results) == ["ok", Reason.TOO_LARGE]


def gone(pid: int, within_s: float = 10.0) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("end", ["return", "sys.exit(3)", "os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_no_child_outlives_its_worker(path, end):
    script = f"""
        import os, sys
        from pipeline.clips.decoding import isolation
        from pipeline.clips.decoding.decode import ClipRequest
        from pipeline.config import ClipsConfig
        from pipeline.storage import Location

        def work():
            source = Location.of({str(path)!r})
            isolation.decode_clips_isolated(source, [ClipRequest(1.0, 128)], ClipsConfig())
            print(isolation._CHILD.process.pid, flush=True)
            {end}

        work()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, capture_output=True, text=True
    )
    assert gone(int(done.stdout.split()[0])), done.stderr


def test_a_spinning_child_ends_though_its_worker_is_gone(path, trouble, tmp_path):
    source = named(path, "spin_everywhere")
    script = f"""
        import sys
        sys.path.insert(0, {str(tmp_path / "trouble")!r})
        from pipeline.clips.decoding import isolation
        from pipeline.clips.decoding.decode import ClipRequest
        from pipeline.config import ClipsConfig
        from pipeline.storage import Location
        child = isolation._child()
        print(child.process.pid, flush=True)
        isolation.decode_clips_isolated(
            Location.of({source.uri!r}), [ClipRequest(1.0, 128)], ClipsConfig(timeout_s=1.5)
        )
    """
    worker = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    pid = int(worker.stdout.readline())
    time.sleep(1.5)
    worker.kill()
    worker.wait()
    assert gone(pid, 10)


def test_a_killed_child_is_replaced(path):
    decode_clips_isolated(Location.of(path), requests(1.0), CONFIG)
    os.kill(isolation._CHILD.process.pid, 9)
    assert reasons(decode_clips_isolated(Location.of(path), requests(1.0), CONFIG)) == ["ok"]


def test_an_interrupted_question_does_not_spoil_the_next(path):
    decode_clips_isolated(Location.of(path), requests(1.0), CONFIG)
    asked = isolation._CHILD.ask(
        ("decode", Location.of(path), requests(0.5, 5.0), CONFIG), CONFIG.timeout_s
    )
    next(asked)
    asked.close()
    (clip,) = decode_clips_isolated(Location.of(path), requests(3.0), CONFIG)
    (same,) = decode_clips(Location.of(path), requests(3.0), CONFIG)
    assert np.array_equal(clip.video, same.video)
