"""Sound is the mean of its channels at the asked instant, from whatever wrote the file."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from pipeline.clips.decoding.decode import ClipRequest, DecodedClip, decode_clips
from pipeline.clips.decoding.decoder import MediaInfo, load_decoder
from pipeline.clips.decoding.isolation import decode_clips_isolated, probe_isolated
from pipeline.clips.decoding.media import opened
from pipeline.clips.decoding.mixing import guarded
from pipeline.clips.decoding.resampling import resample, source_span
from pipeline.clips.decoding.samples import Stretch, resampled
from pipeline.config import ClipsConfig, VideoConfig
from pipeline.storage import Location
from tests.clips.decoding.media_factory import BEEPS, GeneratedVideo, heard, write
from tests.clips.decoding.sound_factory import (
    level_of,
    positional,
    split_programs,
    tone,
    write_sound,
    write_tracks,
    write_wav,
)
from tests.conftest import shared_media

CONFIG = ClipsConfig(video=VideoConfig(size=48, short_side=48, train_short_side=(48, 48)))
RATE = CONFIG.audio.rate
PLAIN = Disposition(0)


def sound(path: Path, centre_s: float = 1.5) -> np.ndarray:
    """Of one clip, decoded where a crash does no harm."""
    (clip,) = decode_clips_isolated(Location.of(path), [ClipRequest(centre_s, 48)], CONFIG)
    assert isinstance(clip, DecodedClip), clip
    assert clip.audio is not None, clip.lost
    return clip.audio


CODECS = [
    # codec, container
    ("pcm_u8", "wav"),
    ("pcm_s16le", "wav"),
    ("pcm_s24le", "wav"),
    ("pcm_s32le", "wav"),
    ("pcm_s64le", "nut"),
    ("pcm_f32le", "wav"),
    ("pcm_f64le", "wav"),
    ("pcm_mulaw", "wav"),
    ("flac", "flac"),
    ("alac", "m4a"),
    ("aac", "m4a"),
    ("ac3", "mkv"),
    ("mp2", "ts"),
    ("libmp3lame", "mp3"),
    ("libopus", "ogg"),
]


@pytest.mark.parametrize(("codec", "container"), CODECS)
def test_channels_that_agree_keep_their_level(tmp_path, codec, container):
    channels = np.repeat(tone(440, 0.9, 3, 48_000)[None], 2, axis=0)
    path = write_sound(tmp_path / f"a.{container}", channels, codec, 48_000, "stereo")
    wave = sound(path)
    assert level_of(wave, 440) == pytest.approx(0.9, abs=0.05)  # LAME takes 5% off
    middle = wave[RATE // 2 : -RATE // 2]
    assert np.abs(middle).max() < 0.98


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_f32le"])
@pytest.mark.parametrize("layout", ["mono", "stereo", "2.1", "quad", "5.1", "7.1", "hexadecagonal"])
def test_every_channel_weighs_the_same(tmp_path, codec, layout):
    count = av.AudioLayout(layout).nb_channels
    channels = np.stack([tone(200 + 100 * c, 0.8, 3, 48_000) for c in range(count)])
    path = write_sound(tmp_path / "a.wav", channels, codec, 48_000, layout)
    wave = sound(path)
    for channel in range(count):
        assert level_of(wave, 200 + 100 * channel) == pytest.approx(0.8 / count, abs=0.003)


@pytest.mark.parametrize("count", [1, 3, 9, 16, 24, 32, 65])
def test_channels_without_places(tmp_path, count):
    channels = np.repeat(tone(440, 0.9, 3, 16_000)[None], count, axis=0)
    wave = sound(write_wav(tmp_path / "a.wav", channels, 16_000))
    assert level_of(wave, 440) == pytest.approx(0.9, abs=0.01)


def test_of_ambisonic_sound_the_channel_of_all_directions_is_heard(tmp_path):
    channels = np.stack([tone(hertz, 0.5, 3, 48_000) for hertz in (440, 900, 1300, 1700)])
    options = {"mapping_family": "2"}
    path = tmp_path / "a.mkv"
    write_sound(path, channels, "libopus", 48_000, "ambisonic 1", **options)
    wave = sound(path)
    assert level_of(wave, 440) == pytest.approx(0.5, abs=0.03)
    assert level_of(wave, 900) < 0.03


# Labels of QuickTime: 0 unused, 3 centre, 200 ambisonic W, 301 headphones left, 65536 discrete.
@pytest.mark.parametrize("labels", [(3, 3), (0, 0), (3, 0), (301, 302), (65536, 65537), (200, 3)])
def test_lists_of_channels_do_not_end_the_process(tmp_path, labels):
    channels = np.repeat(tone(440, 0.9, 3, 48_000)[None], 2, axis=0)
    path = write_sound(tmp_path / "a.mov", channels, "pcm_s16le", 48_000, "stereo")
    positional(path, labels)
    info = probe_isolated(Location.of(path))
    assert isinstance(info, MediaInfo), info
    assert info.channels == 2
    assert level_of(sound(path), 440) == pytest.approx(0.9, abs=0.01)


def test_frames_with_a_list_of_channels_can_be_let_go_of(tmp_path):
    """Decoders may make such a layout themselves; without the guard this ends the process."""
    channels = np.repeat(tone(440, 0.9, 1, 48_000)[None], 2, axis=0)
    path = write_sound(tmp_path / "a.mov", channels, "pcm_s16le", 48_000, "stereo")
    positional(path, (3, 3))
    with av.open(str(path)) as container:
        for packet in container.demux(container.streams.audio[0]):
            for frame in guarded(packet.decode()):
                assert "FC+FC" in frame.layout.name


@pytest.mark.parametrize("name", ["06_ambisonic_opus", "07_dual_mono_FC_FC", "07_unused_channels"])
def test_odd_layouts_of_the_field(name):
    (path,) = shared_media("field").glob(f"{name}.*")
    (clip,) = decode_clips_isolated(Location.of(path), [ClipRequest(0.5, 48)], CONFIG)
    assert clip.video is not None
    assert np.abs(clip.audio).max() > 0.3


def test_a_layout_may_change_in_the_middle(tmp_path):
    parts = []
    for layout, hertz in (("stereo", 440), ("5.1", 700), ("mono", 1000)):
        count = av.AudioLayout(layout).nb_channels
        channels = np.repeat(tone(hertz, 0.5, 1.024, 48_000)[None], count, axis=0)
        part = write_sound(tmp_path / f"{layout}.ac3", channels, "ac3", 48_000, layout)
        parts.append(part.read_bytes())
    path = tmp_path / "a.ac3"
    path.write_bytes(b"".join(parts))
    wave = sound(path, 1.55)  # 0.55 to 2.55
    for hertz, begin, end in ((440, 0.6, 0.95), (700, 1.2, 1.9), (1000, 2.2, 2.5)):
        piece = wave[round((begin - 0.55) * RATE) : round((end - 0.55) * RATE)]
        # AC-3's channel for low frequencies passes none of the second tone.
        level = 0.5 * 5 / 6 if hertz == 700 else 0.5
        assert level_of(piece, hertz) == pytest.approx(level, abs=0.05)


def test_damaged_samples_do_not_spread(tmp_path):
    wave = tone(440, 0.5, 3, 48_000)
    wave[72_000:72_004] = [np.nan, np.inf, -np.inf, 1e38]
    path = write_sound(tmp_path / "a.wav", wave[None], "pcm_f32le", 48_000, "mono")
    ours = sound(path)
    assert np.isfinite(ours).all()
    assert np.abs(ours).max() <= 1
    assert level_of(ours[: RATE // 2], 440) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("source_rate", [7_350, 8_000, 11_025, 16_000, 44_056, 44_100, 96_000])
@pytest.mark.parametrize("start_s", [-0.7, 0.0, 1.2345, 9_000.1])
def test_resampling_keeps_to_the_clock(source_rate, start_s):
    count, rate = 8_000, 16_000
    first, end = source_span(start_s, count, source_rate, rate)
    at = np.arange(first, end) / source_rate
    wave = (0.4 * np.sin(2 * np.pi * 440 * at)).astype(np.float32)
    out = resample(wave, start_s, count, source_rate, rate)
    at = (round(start_s * rate) + np.arange(count)) / rate
    assert out == pytest.approx(0.4 * np.sin(2 * np.pi * 440 * at), abs=1e-3)


def test_windows_that_overlap_share_their_samples():
    noise = np.random.default_rng(0).normal(0, 0.1, 5 * 44_100).astype(np.float32)
    stretches = [Stretch(0.3, 44_100, noise)]
    one = resampled(stretches, 1.0, 32_000, RATE)
    other = resampled(stretches, 1.5, 32_000, RATE)
    assert np.array_equal(one[8_000:], other[:-8_000])


PURE = [
    ("aac", "mp4", 44_100),
    ("aac", "ts", 48_000),
    ("libopus", "webm", 48_000),
    ("libopus", "ogg", 48_000),
    ("vorbis", "ogg", 48_000),
    ("libmp3lame", "mp3", 44_100),
    ("libmp3lame", "avi", 44_100),
    ("mp2", "mpg", 48_000),
    ("ac3", "mkv", 48_000),
    ("eac3", "mp4", 48_000),
    ("flac", "flac", 44_100),
    ("alac", "m4a", 44_100),
    ("pcm_s16le", "wav", 44_100),
    ("pcm_s16le", "mov", 44_100),
    ("adpcm_ima_wav", "wav", 44_100),
    ("adpcm_ima_qt", "mov", 44_100),
    ("wmav2", "asf", 44_100),
    ("nellymoser", "flv", 22_050),
    ("real_144", "mkv", 8_000),
    ("g722", "wav", 16_000),
]


@pytest.mark.parametrize(("codec", "container", "rate"), PURE)
def test_what_was_decoded_before_does_not_matter(tmp_path, codec, container, rate):
    """To the last bit, with noise that decoders fill in at random."""
    rng = np.random.default_rng(1)
    layout = "stereo" if codec in ("vorbis", "adpcm_ima_wav") else "mono"
    count = 2 if layout == "stereo" else 1
    channels = rng.normal(0, 0.1, (count, 6 * rate)).astype(np.float32) + tone(300, 0.3, 6, rate)
    options = {} if codec.startswith(("pcm", "flac", "alac", "adpcm", "g722")) else {"b": "64000"}
    if codec == "real_144":
        options = {}
    path = write_sound(tmp_path / f"a.{container}", channels, codec, rate, layout, **options)
    centres = (1.0, 3.311, 2.7, 0.4, 4.9, 2.7)
    windows = [(centre_s - 1.0, centre_s + 1.0) for centre_s in centres]
    kind = load_decoder("cpu")

    def decoded(asked):
        decoder = kind.open(Location.of(path), 30)
        waves = []
        for window in asked:
            decoder.read(None, window, time.monotonic() + 30)
            waves += decoder.samples([window], 2 * RATE, RATE)
        decoder.close()
        return waves

    alone = [decoded([window])[0] for window in windows]
    for wave, again in zip(alone, decoded(windows)):
        assert np.array_equal(wave, again)
    for wave, again in zip(alone, decoded(windows[::-1])[::-1]):
        assert np.array_equal(wave, again)
    assert np.array_equal(alone[2], alone[5])
    requests = [ClipRequest(centre_s, 48) for centre_s in centres]
    for wave, clip in zip(alone, decode_clips(Location.of(path), requests, CONFIG)):
        assert np.array_equal(wave, clip.audio)


@pytest.mark.parametrize(
    ("programs", "side", "hertz"),
    [
        ([[0, 2], [1, 3]], 96, 900),  # the larger picture, though the other has more channels
        ([[0, 3], [1, 2]], 96, 700),
        ([[1, 2, 4], [0], [3]], 96, 1100),
        ([[1], [0, 3]], 64, 900),  # with both rather than the larger picture alone
        ([[3], [0, 1, 2, 4]], 96, 1100),  # one with sound only
    ],
)
def test_video_and_audio_are_of_one_programme(tmp_path, programs, side, hertz):
    tones = [(700.0, PLAIN, "mono"), (900.0, PLAIN, "mono"), (1100.0, PLAIN, "stereo")]
    path = write_tracks(tmp_path / "a.ts", tones, (64, 96))
    split_programs(path, programs)
    with opened(Location.of(path), 30) as media:
        assert media.video.codec_context.width == side
    wave = sound(path, 2.0)
    assert level_of(wave, hertz) == pytest.approx(0.5, abs=0.05)


def test_programmes_of_the_field():
    path = shared_media("field") / "08_two_programs.ts"
    with opened(Location.of(path), 30) as media:
        indices = {track.index for track in media.tracks}
    assert indices == {0, 1}


@pytest.mark.parametrize(
    ("dispositions", "hertz"),
    [
        ((Disposition.default, PLAIN), 700),
        ((PLAIN, Disposition.default), 900),
        ((Disposition.default | Disposition.comment, PLAIN), 900),
        ((Disposition.default | Disposition.visual_impaired, PLAIN), 900),
        ((Disposition.comment, Disposition.hearing_impaired), 700),
    ],
)
def test_commentary_is_a_last_resort(tmp_path, dispositions, hertz):
    tones = [(h, d, "mono") for h, d in zip((700.0, 900.0), dispositions)]
    wave = sound(write_tracks(tmp_path / "a.mkv", tones, (64,)), 2.0)
    assert level_of(wave, hertz) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("container", "video", "audio"),
    [
        ("mp4", "libx264", "aac"),
        ("mov", "libx264", "pcm_s16le"),
        ("mkv", "libx264", "aac"),
        ("webm", "libvpx", "libopus"),
        ("ts", "libx264", "aac"),
        ("flv", "libx264", "aac"),
    ],
)
def test_sound_that_begins_before_the_picture(tmp_path, container, video, audio):
    rate = 44_100 if container == "flv" else 48_000
    generated = GeneratedVideo(video=video, audio=audio, rate=rate, video_from=1.0)
    path = write(tmp_path / f"a.{container}", generated)
    requests = [ClipRequest(centre_s, 48) for centre_s in (2.5, 1.2)]
    for clip in decode_clips(Location.of(path), requests, CONFIG)[1:]:
        onsets = heard(clip.audio, 0.2, RATE)
        assert [min(abs(onset - beep) for beep in BEEPS) < 0.1 for onset in onsets] == [True] * 3


@pytest.mark.parametrize("container", ["mkv", "mp4"])
def test_the_pre_skip_of_opus_is_that_of_the_track_and_not_of_the_clip(tmp_path, container):
    """Cutting a file without encoding it anew leaves long ones."""
    path = write(tmp_path / f"a.{container}", GeneratedVideo(audio="libopus"))
    data = path.read_bytes()
    order, head = ("<", b"OpusHead\x01\x01") if container == "mkv" else (">", b"dOps\x00\x01")
    assert data.count(head) == 1
    short, long = (struct.pack(order + "H", count) for count in (312, 48_000))
    path.write_bytes(data.replace(head + short, head + long))
    (clip,) = decode_clips(Location.of(path), [ClipRequest(2.8, 48)], CONFIG)
    onsets = heard(clip.audio, 1.8, RATE)
    assert onsets == [pytest.approx(beep, abs=0.004) for beep in BEEPS if 1.84 < beep < 3.76]


@pytest.mark.parametrize(
    ("container", "codec"), [("m4a", "aac"), ("mp4", "aac"), ("mov", "aac"), ("mp4", "libopus")]
)
def test_the_first_frame_is_whole(tmp_path, container, codec):
    """It overlaps with one that the edit list leaves out, and that seeking to 0 passes over."""
    wave = tone(440, 0.5, 3, 48_000)
    path = write_sound(tmp_path / f"a.{container}", wave[None], codec, 48_000, "mono")
    requests = [ClipRequest(centre_s, 48) for centre_s in (1.9, 0.5, 1.0)]
    clips = decode_clips(Location.of(path), requests, CONFIG)
    for clip, before in zip(clips[1:], (RATE // 2, 0)):
        heard_at_once = clip.audio[before + RATE // 200 : before + RATE // 50]
        assert np.abs(heard_at_once).max() == pytest.approx(0.5, abs=0.05)
        expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE // 50) / RATE)
        assert clip.audio[before : before + RATE // 50] == pytest.approx(expected, abs=0.1)
