"""Video and audio of a clip belong to the instant that was asked for, whatever wrote the file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from pipeline.clips.decoding.decode import ClipRequest, DecodedClip, decode_clips, probe
from pipeline.clips.decoding.decoder import MediaInfo
from pipeline.clips.rejects import Reject
from pipeline.config import AudioConfig, ClipsConfig, VideoConfig
from pipeline.storage import Location
from tests.clips.decoding.media_factory import BEEPS, GeneratedVideo, heard, number, write

CONFIG = ClipsConfig(
    video=VideoConfig(size=96, short_side=96, train_short_side=(96, 96)), audio=AudioConfig()
)
CENTRES = (0.05, 1.03, 1.49, 2.0, 2.77, 3.4)


def clips(path: Path, centres=CENTRES, config=CONFIG) -> list[DecodedClip]:
    results = decode_clips(Location.of(path), [ClipRequest(c, 96) for c in centres], config)
    assert not [r for r in results if isinstance(r, Reject)], results
    return results  # type: ignore[return-value]


def frame_times(centre: float, config=CONFIG) -> list[float]:
    video = config.video
    return [centre + (i - (video.frames - 1) / 2) / video.fps for i in range(video.frames)]


def check(
    path: Path, generated: GeneratedVideo, *, audio_tolerance: float, exact: bool = True
) -> None:
    """Every frame is the one displayed then, every beep is heard when it should be.

    Without ``exact`` media time 0 is the file's first timestamp, so that only video
    and audio can be compared with each other.
    """
    info = probe(Location.of(path))
    assert isinstance(info, MediaInfo), info
    step = 1 / float(generated.fps)
    offsets = []
    for centre, clip in zip(CENTRES, clips(path)):
        assert clip.video is not None
        shown = [number(p) for p in clip.video]
        times = frame_times(centre)
        if exact:
            assert shown == [generated.shown_at(t) for t in times], f"at {centre}"
        late = np.median([t - generated.frame_times()[n] for t, n in zip(times, shown) if n])
        if generated.audio is None:
            continue
        assert clip.audio is not None
        onsets = heard(clip.audio, centre - CONFIG.audio.window_s / 2, CONFIG.audio.rate)
        assert onsets
        for onset in onsets:
            error = onset - min(BEEPS, key=lambda b: abs(b - onset))
            if exact:
                assert abs(error) < audio_tolerance, f"beep {error * 1000:.1f} ms off at {onset}"
            elif centre > 0.5:
                offsets.append(error - (late - step / 2))
    if offsets:
        assert abs(np.median(offsets)) < step, f"audio {np.median(offsets) * 1000:.1f} ms off"


FORMATS = [
    # container, video, audio, exact, audio tolerance in s
    ("mp4", "libx264", "aac", True, 0.003),
    ("mp4", "libx265", "aac", True, 0.003),
    ("mp4", "mpeg4", "libmp3lame", True, 0.003),
    ("mp4", "libsvtav1", "libopus", True, 0.003),
    ("mp4", "libvpx-vp9", "ac3", True, 0.003),
    ("mov", "libx264", "pcm_s16le", True, 0.001),
    ("mov", "mjpeg", "pcm_s16le", True, 0.001),
    ("mkv", "libx264", "aac", True, 0.003),
    ("mkv", "libx265", "libopus", True, 0.003),
    ("mkv", "mpeg2video", "ac3", True, 0.008),
    ("mkv", "mpeg1video", "libmp3lame", True, 0.003),
    ("mkv", "libsvtav1", "vorbis", True, 0.003),
    ("webm", "libvpx-vp9", "libopus", True, 0.003),
    ("webm", "libvpx", "vorbis", True, 0.003),
    ("avi", "mpeg4", "libmp3lame", False, 0.0),
    ("avi", "mjpeg", "pcm_s16le", True, 0.001),
    ("avi", "libx264", "ac3", True, 0.008),
    ("mpg", "mpeg1video", "mp2", False, 0.0),
    ("mpg", "mpeg2video", "mp2", False, 0.0),
    ("ts", "libx264", "aac", False, 0.0),
    ("ts", "libx265", "ac3", False, 0.0),
    ("ts", "mpeg2video", "libmp3lame", False, 0.0),
    ("flv", "libx264", "aac", False, 0.0),
    ("flv", "flv", "libmp3lame", False, 0.0),
]


@pytest.mark.parametrize(("container", "video", "audio", "exact", "tolerance"), FORMATS)
def test_flash_and_beep_coincide(tmp_path, container, video, audio, exact, tolerance):
    rate = 44_100 if container == "flv" else 48_000
    layout = "stereo" if audio == "vorbis" else "mono"
    generated = GeneratedVideo(video=video, audio=audio, rate=rate, layout=layout)
    path = write(tmp_path / f"video.{container}", generated)
    check(path, generated, audio_tolerance=tolerance, exact=exact)


@pytest.mark.parametrize("fps", ["10", "15", "24000/1001", "24", "30000/1001", "30", "50", "60"])
def test_every_frame_rate(tmp_path, fps):
    generated = GeneratedVideo(fps=Fraction(fps), bframes=3, gop=40)
    check(write(tmp_path / "video.mp4", generated), generated, audio_tolerance=0.003)


def test_variable_frame_rate(tmp_path):
    times, t = [], 0.0
    for i in range(120):
        times.append(round(t, 3))
        t += (0.02, 0.05, 0.033, 0.2)[i % 7 % 4]
    generated = GeneratedVideo(times=times, seconds=4.0, bframes=2)
    path = write(tmp_path / "video.mkv", generated)
    for centre, clip in zip(CENTRES, clips(path)):
        assert [number(p) for p in clip.video] == [
            generated.shown_at(t) for t in frame_times(centre)
        ]


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
def test_the_last_picture_of_a_clip_may_come_late_in_decoding_order(tmp_path, container):
    """With a pyramid of B-frames several later frames are decoded before it."""
    options = {"x264-params": "b-adapt=0:b-pyramid=normal"}
    generated = GeneratedVideo(audio=None, bframes=7, gop=50, options=options)
    path = write(tmp_path / f"video.{container}", generated)
    late = 2 if container == "ts" else 0  # frames by which its clock starts before the first
    for centre in np.arange(0.4, 3.6, 0.0371).tolist():
        (clip,) = clips(path, [centre])
        expected = [generated.shown_at(t) for t in frame_times(centre)]
        shown = [number(p) for p in clip.video]
        assert shown == expected or (late and np.ptp(np.subtract(expected, shown)) <= 1), centre


@pytest.mark.parametrize("container", ["mp4", "mkv", "mov"])
def test_tracks_that_start_late(tmp_path, container):
    """Before the first frame that one is shown; before the first sample there is silence."""
    generated = GeneratedVideo(video_from=0.48, audio_from=1.0)
    path = write(tmp_path / f"video.{container}", generated)
    info = probe(Location.of(path))
    assert info.start_s == pytest.approx(1.0, abs=0.05)
    (clip,) = clips(path, [0.5])
    assert [number(p) for p in clip.video] == [generated.shown_at(t) for t in frame_times(0.5)]
    onsets = heard(clip.audio, -0.5, CONFIG.audio.rate)
    assert onsets == [pytest.approx(b, abs=0.004) for b in BEEPS if 1.0 < b < 1.47]
    assert np.abs(clip.audio[: round(1.4 * 16_000)]).max() < 0.05


def test_a_clock_that_starts_far_from_zero(tmp_path):
    generated = GeneratedVideo(shift=500.0)
    path = write(tmp_path / "video.mkv", generated)
    info = probe(Location.of(path))
    assert (info.start_s, info.end_s) == pytest.approx((500.0, 504.0), abs=0.1)
    (clip,) = clips(path, [502.0])
    assert [number(p) for p in clip.video] == [generated.shown_at(t) for t in frame_times(2.0)]
    onset = heard(clip.audio, 501.0, 16_000)[0] - 500
    assert min(abs(onset - b) for b in BEEPS) < 0.003


def test_order_and_company_do_not_matter(tmp_path):
    """The same clip, alone or among others, sooner or later, is the same to the last bit."""
    path = write(tmp_path / "video.mp4", GeneratedVideo(gop=25, bframes=3))
    centres = [3.1, 0.4, 2.0, 2.05, 0.4, 1.2]
    together = clips(path, centres)
    for centre, clip in zip(centres, together):
        (alone,) = clips(path, [centre])
        assert np.array_equal(alone.video, clip.video)
        assert np.abs(alone.audio - clip.audio).max() < 1e-3


def test_audio_window_may_start_with_the_first_frame(tmp_path):
    path = write(tmp_path / "video.mp4", GeneratedVideo())
    config = CONFIG.model_copy(update={"audio": AudioConfig(align="start", window_s=1.0)})
    (clip,) = clips(path, [2.0], config)
    assert clip.audio.shape == (16_000,)
    for onset in heard(clip.audio, frame_times(2.0)[0], 16_000):
        assert min(abs(onset - b) for b in BEEPS) < 0.003


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 96_000, 192_000])
@pytest.mark.parametrize("layout", ["mono", "stereo", "5.1", "7.1"])
def test_rates_and_layouts(tmp_path, rate, layout):
    generated = GeneratedVideo(video=None, audio="pcm_s16le", rate=rate, layout=layout)
    path = write(tmp_path / "audio.wav", generated)
    (clip,) = clips(path, [1.7])
    assert clip.video is None
    onsets = heard(clip.audio, 0.7, 16_000)
    assert onsets == [pytest.approx(b, abs=0.001) for b in BEEPS if 0.73 < b < 2.67]
