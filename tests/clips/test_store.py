"""The clip store: what it holds shows and sounds like the media it was made from."""

from __future__ import annotations

import tarfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray

from pipeline import manifest
from pipeline.clips import fill as filling
from pipeline.clips.decoding.decode import ClipRequest, DecodedClip, decode_clips
from pipeline.clips.decoding.shrink import shrink
from pipeline.clips.fill import fill
from pipeline.clips.rejects import Reason, Reject
from pipeline.clips.sampling import centre_range, reach
from pipeline.clips.shard_index import COLUMNS, SCHEMA, ShardIndex, checksum, shard_names
from pipeline.clips.slots import Order
from pipeline.clips.stream import Augment, Slots
from pipeline.clips.table import ClipTable
from pipeline.config import AudioConfig, ClipsConfig
from pipeline.errors import UserError
from pipeline.storage import Location
from tests.clips.decoding.media_factory import VIDEO, GeneratedVideo, heard, number, turn, write
from tests.conftest import copy_clips, s3_uri, tiny

CONFIG = ClipsConfig(video=VIDEO, audio=AudioConfig(window_s=1.0))
FILMS = {
    "h264 in mp4": ("mp4", GeneratedVideo()),
    "cut from a long recording": ("ts", GeneratedVideo(audio="mp2", shift=3000.0)),
    "reordered, 30 fps": ("mkv", GeneratedVideo(fps=Fraction(30), bframes=2)),
    "variable rate": (
        "mkv",
        GeneratedVideo(times=[0.0, 0.2, 0.25, 1.0, 1.04, 2.0, 2.5, 2.54, 3.1, 3.9]),
    ),
    "sound alone": ("mp4", GeneratedVideo(video=None)),
    "pictures alone": ("mp4", GeneratedVideo(audio=None)),
    "16 kHz stereo": ("mkv", GeneratedVideo(audio="flac", rate=16_000, layout="stereo")),
}


@pytest.mark.parametrize("codec", ["jpeg", "h264"])
@pytest.mark.parametrize("name", FILMS)
def test_a_clip_is_the_same_from_the_store(name: str, codec: str, tmp_path: Path) -> None:
    suffix, film = FILMS[name]
    source = Location.of(write(tmp_path / f"film.{suffix}", film))
    window = (0.5, 3.1)
    origin_s, end_s = reach(*window, CONFIG)
    small = shrink(source, origin_s, end_s, CONFIG, codec)
    assert not isinstance(small, Reject), small
    earliest, latest = centre_range(*window, CONFIG)
    for centre in np.linspace(earliest, latest, 7).tolist():
        asked = ClipRequest(centre, 140, crop_x=0.2, crop_y=0.9)
        (expected,) = decode_clips(source, [asked], CONFIG)
        (found,) = decode_clips(small, [replace(asked, centre_s=centre - origin_s)], CONFIG)
        assert isinstance(expected, DecodedClip)
        assert isinstance(found, DecodedClip)
        if film.video:
            assert [number(p) for p in found.video] == [number(p) for p in expected.video]
            assert np.abs(found.video.astype(int) - expected.video).mean() < 6
        if film.audio:
            begin = centre - CONFIG.audio.window_s / 2
            beeps = (heard(clip.audio, begin, CONFIG.audio.rate) for clip in (found, expected))
            assert next(beeps) == pytest.approx(next(beeps), abs=0.002)
        assert (found.video is None, found.audio is None) == (not film.video, not film.audio)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_region_and_rotation_are_applied_once(rotation: int, tmp_path: Path) -> None:
    """The region of the upright picture, read from the store as from the media."""
    film = write(tmp_path / "film.mp4", GeneratedVideo(audio=None, size=(160, 128)))
    turned = Location.of(turn(film, rotation))
    config = CONFIG.model_copy(
        update={"video": VIDEO.model_copy(update={"region": (10, 5, 100, 110)})}
    )
    asked = ClipRequest(1.5, 128)
    (expected,) = decode_clips(turned, [asked], config)
    origin_s, end_s = reach(0.5, 2.5, config)
    small = shrink(turned, origin_s, end_s, config, "jpeg")
    assert not isinstance(small, Reject)
    (found,) = decode_clips(small, [replace(asked, centre_s=1.5 - origin_s)], CONFIG)
    assert isinstance(expected, DecodedClip)
    assert isinstance(found, DecodedClip)
    assert np.abs(found.video.astype(int) - expected.video).mean() < 6


def test_what_cannot_be_stored_says_why(tmp_path: Path) -> None:
    missing = shrink(Location.of(tmp_path / "none.mp4"), 0, 1, CONFIG, "jpeg")
    assert isinstance(missing, Reject)
    assert missing.reason is Reason.MISSING
    source = Location.of(write(tmp_path / "film.mp4", GeneratedVideo()))
    outside = shrink(source, 90.0, 91.0, CONFIG, "jpeg")
    assert isinstance(outside, Reject)
    assert outside.reason is Reason.CORRUPT


def decoded(published: object, order: Order, config: ClipsConfig) -> dict[str, np.ndarray]:
    slots = Slots(published, order, config, ("video", "audio"), Augment(0, 1))
    return slots.decoded(0)


def rewritten(run: Location, **columns: list) -> ClipTable:
    """The run's clips with other values of some columns."""
    part = run / "clips" / "part-000000.parquet"
    table = part.read_table()
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), [values])
    part.write_table(table)
    (run / "clips" / manifest.NAME).delete()  # it vouches for the old bytes
    return ClipTable.open(run / "clips")


def shards_of(place: Location, clips: ClipTable) -> list[ShardIndex]:
    """The whole shards of these clips, in order."""
    settings, size = (place / "store.json").read_json(), filling.CLIPS_PER_SHARD
    names = shard_names(clips.read_parts(COLUMNS), settings, size)
    lengths = [min(size, len(clips) - start) for start in range(0, len(clips), size)]
    return [ShardIndex.read(place, *each) for each in zip(names, lengths)]


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("storage", ["local", "s3"])
def test_filled_resumed_and_read_without_the_media(
    storage: str,
    indexed: Location,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Not shrunk: at these sizes half a pixel of another crop would be all the difference.
    sides = [
        "clips.video.size=40",
        "clips.video.short_side=48",
        "clips.video.train_short_side=[40,48]",
    ]
    monkeypatch.setattr("pipeline.clips.fill.CLIPS_PER_SHARD", 20)
    config = tiny("clips.jitter_s=0.05", *sides)
    place = Location.of(tmp_path / "store")
    if storage == "s3":
        place = Location.of(s3_uri("media/store", request.getfixturevalue("s3")))
    clips = ClipTable.open(indexed / "clips")
    published = clips.publish()
    fill(published, place, config)
    shards = shards_of(place, clips)
    assert [len(index.clips) for index in shards] == [20, 20, 8]
    assert len(list(place.files(".tar"))) == 3
    tar_place = place / shards[1].tar
    shard = tar_place.read_bytes()
    (tmp_path / "shard.tar").write_bytes(shard)
    with tarfile.open(tmp_path / "shard.tar") as tar:
        ids = clips.column("clip_id").to_pylist()
        assert tar.getnames() == [f"{one}.mkv" for one in ids[20:40]]

    # A shard whose index was never written is made again, the others are not.
    (place / f"{shards[1].name}.parquet").delete()
    tar_place.write_bytes(shard[:1000])
    capsys.readouterr()
    store = fill(published, place, config)
    assert "store · 20 clips in" in capsys.readouterr().out
    assert tar_place.read_bytes() == shard, "the same bytes"

    order = Order(8, 8, [ray.put(np.array([0, 47, 21, 21, 5, 40, 39, 20]))])
    direct = decoded(published, order, config.clips)
    gone = copy_clips(indexed, Location.of(tmp_path / "run"))
    nowhere = [f"{uri}.gone" for uri in clips.column("uri").to_pylist()]
    without_media = replace(rewritten(gone, uri=nowhere).publish(), store=store)
    stored = decoded(without_media, order, config.clips)
    assert stored["has_video"].all()
    assert stored["has_audio"].all()
    assert np.abs(stored["video"].astype(int) - direct["video"]).mean() < 6
    assert np.abs(stored["audio"] - direct["audio"]).mean() < 0.01
    assert np.array_equal(stored["mirror"], direct["mirror"])


@pytest.mark.usefixtures("local_ray")
def test_what_a_stored_clip_lost_comes_from_its_media(indexed: Location, tmp_path: Path) -> None:
    run = copy_clips(indexed, Location.of(tmp_path / "run"))
    clips, config = ClipTable.open(run / "clips"), tiny()
    published = clips.publish()
    fill(published, run / "store", config)
    media = decoded(published, Order(4, 4), config.clips)
    (shard,) = shards_of(run / "store", clips)
    entry, tar = shard.clips.to_pylist()[2], run / "store" / shard.tar
    data = tar.read_bytes()
    start, stop = entry["offset"], entry["offset"] + entry["bytes"]
    no_pictures = data[start:stop].replace(b"\xff\xc0", bytes(2))  # without it no size is known
    tar.write_bytes(data[:start] + no_pictures + data[stop:])
    columns = shard.clips.to_pydict()
    columns["checksum"][2] = checksum(no_pictures)
    replace(shard, clips=pa.table(columns, schema=SCHEMA)).write(run / "store")
    store = fill(published, run / "store", config)
    batch = decoded(replace(published, store=store), Order(4, 4), config.clips)
    assert batch["has_video"].all()
    assert batch["has_audio"].all()
    assert str(batch["rejects"]) == "[]"
    assert np.array_equal(batch["video"][2], media["video"][2])
    assert not np.array_equal(batch["video"][1], media["video"][1]), "from the store"


@pytest.mark.usefixtures("local_ray")
def test_clips_that_could_not_be_stored_are_rejects_of_their_media(
    indexed: Location, tmp_path: Path
) -> None:
    run = copy_clips(indexed, Location.of(tmp_path / "run"))
    uris = ClipTable.open(run / "clips").column("uri").to_pylist()
    uris[3] = str(tmp_path / "gone.mp4")
    clips, config = rewritten(run, uri=uris), tiny()
    published = clips.publish()
    store = fill(published, run / "store", config)
    batch = decoded(replace(published, store=store), Order(8, 8), config.clips)
    assert batch["has_video"].tolist() == [index != 3 for index in range(8)]
    assert '"missing"' not in str(batch["rejects"]) or "gone.mp4" in str(batch["rejects"])
    assert str(batch["rejects"]).startswith("[[3, ")
    with pytest.raises(UserError, match=r"short_side: 28 → 40.*store\.place"):
        fill(published, run / "store", tiny("clips.video.short_side=40"))
    with pytest.raises(UserError, match=r"align: center → start"):
        fill(published, run / "store", tiny("clips.audio.align=start"))
