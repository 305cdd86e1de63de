"""A decoder of another's: found by its import path wherever clips are decoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.clips.decoding import isolation
from pipeline.clips.decoding.decode import ClipRequest, DecodedClip, decode_clips
from pipeline.clips.decoding.decoder import DECODERS, MediaInfo, load_decoder
from pipeline.clips.decoding.isolation import decode_clips_isolated, probe_isolated
from pipeline.clips.indexing import index
from pipeline.clips.rejects import Reason, Reject, RejectedClip
from pipeline.clips.slots import Order
from pipeline.clips.stream import Slots, batches_of
from pipeline.clips.table import ClipTable
from pipeline.config import ClipsConfig
from pipeline.errors import UserError
from pipeline.storage import Location
from tests.clips.decoding.array_decoder import NAME
from tests.conftest import tiny

FPS, RATE, SECONDS = 10, 8_000, 4


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three files; frame n of file f is filled with (10 f, n, 0), its samples rise to f / 10."""
    paths = []
    for number in range(3):
        frames = np.zeros((FPS * SECONDS, 40, 60, 3), np.uint8)
        frames[..., 0] = 10 * number
        frames[..., 1] = np.arange(len(frames))[:, None, None]
        wave = np.linspace(0, number / 10, RATE * SECONDS, dtype=np.float32)
        path = tmp_path / f"{number}.npz"
        np.savez(path, frames=frames, fps=FPS, samples=wave, rate=RATE)
        paths.append(path)
    return paths


def config(decoder: str = NAME) -> ClipsConfig:
    return tiny(f"clips.decoder={decoder}").clips


def expected_frames(centre_s: float, clips: ClipsConfig) -> list[int]:
    video = clips.video
    times = centre_s + (np.arange(video.frames) - (video.frames - 1) / 2) / video.fps
    return np.floor(times * FPS + 1e-6).astype(int).tolist()


def test_it_decodes_in_the_child_process(files: list[Path]) -> None:
    source, clips = Location.of(files[2]), config()
    info = probe_isolated(source, 20.0, NAME)
    assert info == MediaInfo(0.0, 4.0, FPS, 60, 40, 0, True, True, RATE, 1)
    asked = [ClipRequest(2.0, 30), ClipRequest(1.1, 26, audio=False), ClipRequest(30.0, 30)]
    first, second, outside = decode_clips_isolated(source, asked, clips)
    assert isinstance(first, DecodedClip)
    assert isinstance(second, DecodedClip)
    for clip, centre_s in ((first, 2.0), (second, 1.1)):
        assert clip.video is not None
        assert clip.video.shape == (4, 24, 24, 3)
        assert clip.video[:, 5, 5, 0].tolist() == [20] * 4
        assert clip.video[:, 5, 5, 1].tolist() == expected_frames(centre_s, clips)
    assert first.audio is not None
    assert first.audio.mean() == pytest.approx(0.1, abs=1e-3)
    assert second.audio is None
    assert isinstance(outside, Reject)
    assert outside.reason is Reason.BAD_CUT


def test_what_it_raises_is_a_reject(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    asked = [ClipRequest(1.0, 26)]
    for name, reason in (("text.npz", Reason.NOT_MEDIA), ("none.npz", Reason.MISSING)):
        source = Location.of(tmp_path / name)
        rejects = [probe_isolated(source, 20.0, NAME), *decode_clips(source, asked, config())]
        assert [r.reason for r in rejects if isinstance(r, Reject)] == [reason] * 2


@pytest.mark.usefixtures("local_ray")
def test_media_are_indexed_and_decoded_with_it_on_ray(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "3.npz").write_text("no archive")
    run, settings = Location.of(tmp_path / "run"), tiny(f"clips.decoder={NAME}")
    report = index(str(tmp_path / "*.npz"), run, settings)
    assert (report.indexed, report.rejected) == (3, 1)
    files[2].write_text("no archive any more")
    clips = settings.clips
    published = ClipTable.open(run / "clips").publish()
    data = Slots(published, Order(3, 4), clips, ("video", "audio")).stream({"num_cpus": 0.5})
    (batch,) = (batch for row in data.iter_batches(batch_size=1) for batch in batches_of(row))
    assert batch["has_video"].tolist() == batch["has_audio"].tolist() == [True, True, False, False]
    assert batch["video"][:2, :, 12, 12, 1].tolist() == [expected_frames(2.0, clips)] * 2
    assert batch["video"][:2, 0, 12, 12, 0].tolist() == [0, 10]
    assert batch["audio"][:2].mean(axis=1) == pytest.approx([0, 0.05], abs=1e-3)
    (reject,) = RejectedClip.loads(batch["rejects"])
    assert (reject.clip_index, reject.modality, reject.reason) == (2, None, "not_media")
    with pytest.raises(UserError, match="no decoder 'gpu'"):
        index(str(tmp_path / "*.npz"), run, tiny("clips.decoder=gpu"), retry_rejects=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", f"no decoder 'gpu'.*{', '.join(DECODERS)}"),
        ("no_such_package:Decoder", "no_such_package:Decoder cannot be imported"),
        ("tests.clips.decoding.array_decoder:Other", "cannot be imported.*Other"),
    ],
)
def test_an_unknown_one_is_the_users_error(name: str, message: str, files: list[Path]) -> None:
    source, asked = Location.of(files[0]), [ClipRequest(1.0, 26)]
    with pytest.raises(UserError, match=message):
        decode_clips(source, asked, config(name))
    with pytest.raises(UserError, match=message):
        probe_isolated(source, 20.0, name)
    with pytest.raises(UserError, match=message):
        decode_clips_isolated(source, asked, config(name))
    assert isolation._CHILD is not None
    child = isolation._CHILD.process.pid
    (clip,) = decode_clips_isolated(source, asked, config())
    assert isinstance(clip, DecodedClip)
    assert isolation._CHILD.process.pid == child, "the child that said so is still good"


def test_every_name_in_the_table_is_a_decoder() -> None:
    for name in DECODERS:
        assert load_decoder(name).on_gpu == (name == "cuda")
