"""Files whose clock starts anew: all of their content is there, once, at a time of its own."""

from __future__ import annotations

import io
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pipeline.clips.decoding.decode import ClipRequest, DecodedClip, decode_clips, probe
from pipeline.clips.decoding.decoder import MediaFile, MediaInfo
from pipeline.clips.decoding.pieces import piece_starts
from pipeline.clips.decoding.shrink import shrink
from pipeline.config import ClipsConfig, VideoConfig
from pipeline.storage import Location
from tests.clips.decoding.media_factory import BEEPS, GeneratedVideo, heard, number, write
from tests.conftest import shared_media

CONFIG = ClipsConfig(video=VideoConfig(size=96, short_side=96, train_short_side=(96, 96)))
LENGTHS_S = (5.0, 3.0, 6.0)


def joined(path: Path, video: str | None, audio: str, rates: tuple[int, ...]) -> Path:
    """Recordings one behind the other, of a content that goes on while each clock begins at 0."""
    with path.open("wb") as out:
        begin_s = 0.0
        for length_s, rate in zip(LENGTHS_S, rates):
            recording = GeneratedVideo(
                video=video,
                audio=audio,
                rate=rate,
                layout="stereo",
                seconds=begin_s + length_s,
                video_from=begin_s,
                audio_from=begin_s,
                shift=-begin_s,
            )
            part = path.with_name(f"part{path.suffix}")
            out.write(write(part, recording).read_bytes())
            begin_s += length_s
    return path


FORMATS = [
    ("ts", "libx264", "aac"),
    ("ts", "mpeg2video", "mp2"),
    ("m2ts", "libx264", "ac3"),
    ("mpg", "mpeg2video", "mp2"),
    ("mpg", "mpeg1video", "mp2"),
]


@pytest.mark.parametrize(("container", "video", "audio"), FORMATS)
def test_joined_recordings(tmp_path, container, video, audio):
    path = joined(tmp_path / f"joined.{container}", video, audio, (48_000,) * 3)
    source = Location.of(path)
    info = probe(source)
    assert isinstance(info, MediaInfo), info
    assert info.pieces == 3
    assert info.end_s == pytest.approx(sum(LENGTHS_S), abs=0.6)
    centres = np.linspace(info.start_s, info.end_s, 41).tolist()
    whole = decode_clips(source, [ClipRequest(c, 96) for c in centres], CONFIG)
    shown = []
    for centre, clip in zip(centres, whole):
        assert isinstance(clip, DecodedClip), clip
        assert clip.lost == {}, clip.lost
        shown.append(number(clip.video[3]))
        # Where a piece ends nothing is heard beyond; else picture and sound belong together.
        onsets = heard(clip.audio, centre - 1.0, 16_000)
        content_s = shown[-1] / 25
        for onset in onsets:
            assert min(abs(onset - centre + content_s - beep) for beep in BEEPS) < 0.1
    assert shown[0] <= 1
    assert shown[-1] >= sum(LENGTHS_S) * 25 - 12
    assert all(0 <= later - sooner <= 16 for sooner, later in pairwise(shown)), shown
    # The same alone, known to be in pieces or not, and from the clip store.
    for place in (3, 17, 33):
        file = MediaFile(source, path.stat().st_size, None, 3)
        (alone,) = decode_clips(file, [ClipRequest(centres[place], 96)], CONFIG)
        assert np.array_equal(alone.video, whole[place].video)
        assert np.array_equal(alone.audio, whole[place].audio)
        stored = shrink(source, centres[place] - 1.5, centres[place] + 1.5, CONFIG, "jpeg")
        (kept,) = decode_clips(stored, [ClipRequest(1.5, 96)], CONFIG)
        assert number(kept.video[3]) == number(alone.video[3])


@pytest.mark.parametrize(
    ("audio", "rates"),
    [
        ("vorbis", (44_100, 44_100, 44_100)),
        ("vorbis", (44_100, 22_050, 48_000)),
        ("libopus", (48_000, 48_000, 48_000)),
        ("flac", (44_100, 44_100, 16_000)),
    ],
)
def test_chained_ogg(tmp_path, audio, rates):
    path = joined(tmp_path / "radio.ogg", None, audio, rates)
    source = Location.of(path)
    info = probe(source)
    assert info.pieces == 3
    assert info.end_s == pytest.approx(sum(LENGTHS_S), abs=0.1)
    found = []
    for centre in np.arange(0.5, sum(LENGTHS_S), 0.5).tolist():
        (clip,) = decode_clips(source, [ClipRequest(centre, 96)], CONFIG)
        found += heard(clip.audio, centre - 1.0, 16_000)
    # Ends of pieces are rounded to frames of the codec.
    for beep in BEEPS:
        if 0.1 < beep < sum(LENGTHS_S) - 0.2 and not any(abs(beep - e) < 0.2 for e in (5.0, 8.0)):
            assert min(abs(beep - onset) for onset in found) < 0.12, beep


def test_a_large_file_is_searched_at_samples_first(tmp_path, monkeypatch):
    path = joined(tmp_path / "joined.ts", "mpeg2video", "mp2", (48_000,) * 3)
    data = path.read_bytes()
    whole = piece_starts(io.BytesIO(data), len(data), "mpegts")
    assert len(whole) == 3
    monkeypatch.setattr("pipeline.clips.decoding.pieces._WHOLE", 1 << 16)
    monkeypatch.setattr("pipeline.clips.decoding.pieces._SAMPLE", 1 << 15)
    monkeypatch.setattr("pipeline.clips.decoding.pieces._CHUNK", 1 << 17)
    assert piece_starts(io.BytesIO(data), len(data), "mpegts") == whole

    class Counted(io.BytesIO):
        read_bytes = 0

        def read(self, size=-1):
            found = super().read(size)
            self.read_bytes += len(found)
            return found

    plain = write(tmp_path / "plain.ts", GeneratedVideo(seconds=20.0)).read_bytes()
    file = Counted(plain)
    assert piece_starts(file, len(plain), "mpegts") == [0]
    assert file.read_bytes <= 16 << 15


@pytest.mark.parametrize("cut", [1, 100, 187])
def test_pieces_of_which_one_is_cut_off_within_a_packet(tmp_path, cut):
    path = joined(tmp_path / "joined.ts", "libx264", "aac", (48_000,) * 3)
    data = path.read_bytes()
    _, second, third = piece_starts(io.BytesIO(data), len(data), "mpegts")
    data = data[: second - cut] + data[second:]
    starts = piece_starts(io.BytesIO(data), len(data), "mpegts")
    assert starts == [0, second - cut, third - cut]


def test_a_piece_of_which_nothing_decodes_is_told_and_costs_no_other(tmp_path):
    path = joined(tmp_path / "radio.ogg", None, "vorbis", (44_100,) * 3)
    data = path.read_bytes()
    _, second, third = piece_starts(io.BytesIO(data), len(data), "ogg")
    begins = [page.start() for page in re.finditer(b"OggS", data[second:third])][2]
    begins += second  # behind the pages of the codec's headers
    path.write_bytes(data[:begins] + bytes(third - begins) + data[third:])
    info = probe(Location.of(path))
    assert isinstance(info, MediaInfo), info
    assert info.pieces == 3
    assert f"bytes {second:,} to {third:,}" in dict(info.lost)["audio"].detail
    assert info.end_s == pytest.approx(LENGTHS_S[0] + LENGTHS_S[2], abs=0.1)
    (clip,) = decode_clips(Location.of(path), [ClipRequest(8.0, 96)], CONFIG)
    onsets = heard(clip.audio, 7.0, 16_000)
    assert onsets
    for onset in onsets:  # of the third piece, whose content began 3 s later
        assert min(abs(onset + LENGTHS_S[1] - beep) for beep in BEEPS) < 0.1


def test_no_other_real_file_has_pieces():
    """Also damaged ones, and those with several programmes."""
    several = set()
    for folder in ("zoo", "field"):
        for path in sorted(shared_media(folder).rglob("*")):
            if path.suffix in (".ts", ".mpg", ".mpeg", ".vob", ".ogg", ".ogv", ".oga"):
                info = probe(Location.of(path))
                if isinstance(info, MediaInfo) and info.pieces > 1:
                    several.add(path.name)
    assert several == {"10_two_recordings_in_one.ts", "20_chained.ogg"}
