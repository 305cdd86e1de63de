"""What lies in a folder, bucket or glob: each file once; what cannot be listed is a reject."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest

from pipeline.clips.cut_tables import Listing
from pipeline.clips.listing import list_media
from pipeline.errors import UserError
from pipeline.s3_objects import S3Objects
from pipeline.storage import Location
from tests.clips.decoding.flaky_s3 import flaky
from tests.conftest import s3_uri


def made(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    return folder


def listed(listing: Listing, folder: Path) -> list[str]:
    return [
        os.path.relpath(Location.of(uri).uri, folder) for uri in listing.rows["uri"].to_pylist()
    ]


def rejected(listing: Listing, folder: Path) -> dict[str, str]:
    return {
        os.path.relpath(Location.of(uri).uri, folder): why.reason.value
        for uri, _, why in listing.rejected
    }


def test_links_that_lead_round_end_and_list_each_file_once(tmp_path: Path) -> None:
    media = made(tmp_path / "media", "a.mp4", "deep/b.mp4", "deep/er/c.mp4")
    made(tmp_path, "beside.mp4")
    for link, target in {
        "self": ".",
        "up": "..",
        "root": "/",
        "deep/back": "../deep",
        "deep/er/top": "../..",
        "x": "y",
        "y": "x",
        "own": "own",
    }.items():
        (media / link).symlink_to(target)
    listing = list_media(str(media))
    assert listed(listing, media) == ["a.mp4", "deep/b.mp4", "deep/er/c.mp4"]
    assert rejected(listing, media) == {"own": "unreadable", "x": "unreadable", "y": "unreadable"}


def test_a_link_to_a_folder_elsewhere_is_followed_once(tmp_path: Path) -> None:
    made(tmp_path / "elsewhere", "a.mp4", "sub/b.mp4")
    (tmp_path / "elsewhere" / "home").symlink_to(tmp_path / "media")
    (tmp_path / "elsewhere" / "sub" / "loop").symlink_to("..")
    media = made(tmp_path / "media", "own.mp4")
    for name in ("link1", "link2"):
        (media / name).symlink_to("../elsewhere")
    (media / "part").symlink_to("../elsewhere/sub")
    found = listed(list_media(str(media)), media)
    assert found == ["link1/a.mp4", "link1/sub/b.mp4", "own.mp4"]


def test_a_link_to_a_file_counts_unless_the_file_is_listed(tmp_path: Path) -> None:
    media = made(tmp_path / "media", "a.mp4", ".annex/objects/1", "sub/b.mp4")
    made(tmp_path, "c.mp4")
    for link, target in {
        "of_a": "a.mp4",
        "sub/of_b": "b.mp4",
        "of_c": "../c.mp4",
        "of_c_too": "../c.mp4",
        "kept": ".annex/objects/1",
        "gone": "nowhere",
    }.items():
        (media / link).symlink_to(target)
    listing = list_media(str(media))
    assert listed(listing, media) == ["a.mp4", "kept", "of_c", "sub/b.mp4"]
    assert rejected(listing, media) == {"gone": "missing"}


def test_a_folder_that_cannot_be_listed_is_one_reject(tmp_path: Path) -> None:
    """Its path is too long for the system, which stops root as well."""
    media = made(tmp_path, "a.mp4", "z/b.mp4")
    here = os.getcwd()
    try:
        os.chdir(media)
        for _ in range(20):
            os.mkdir("d" * 250)
            os.chdir("d" * 250)
    finally:
        os.chdir(here)
    listing = list_media(str(media))
    assert listed(listing, media) == ["a.mp4", "z/b.mp4"]
    ((uri, cut, why),) = listing.rejected
    assert uri.startswith(f"{media}/ddd")
    assert (cut, why.reason.value) == (None, "unreadable")
    with pytest.raises(UserError, match="there is nothing"):
        list_media(str(media / "nothing" / "there"))


@pytest.mark.parametrize("folder", ["set [1]", "what?", "a*b", "{x}", "per%41cent", "new\nline"])
def test_an_existing_path_is_no_glob(tmp_path: Path, folder: str) -> None:
    made(tmp_path / folder, "a.mp4", "sub [x]/b.mp4", "c.txt")
    made(tmp_path / "set 1", "no.mp4")
    made(tmp_path / "axb", "no.mp4")
    place = tmp_path / folder
    assert listed(list_media(str(place)), place) == ["a.mp4", "c.txt", "sub [x]/b.mp4"]
    assert listed(list_media(f"{place}/*.mp4"), place) == ["a.mp4"]
    assert listed(list_media(f"{place}/sub [x]/*.mp4"), place) == ["sub [x]/b.mp4"]
    assert listed(list_media(f"{place}/sub [x]/b.mp4"), place) == ["sub [x]/b.mp4"]
    assert listed(list_media(f"{place}/**/[ab].mp4"), place) == ["a.mp4", "sub [x]/b.mp4"]


def test_names_that_are_not_utf_8_are_listed(tmp_path: Path) -> None:
    names = [b"caf\xe9.mp4", b"\xff\xfe", b"sub\xe9/a.mp4"]
    for name in names:
        path = os.path.join(os.fsencode(tmp_path), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(name)
    for source in (tmp_path, f"{tmp_path}/**", os.fsdecode(os.fsencode(tmp_path) + b"/sub\xe9")):
        uris = list_media(str(source)).rows["uri"].to_pylist()
        assert uris
        for uri in uris:
            assert uri.isascii()
            assert uri.startswith(f"file://{tmp_path}/")
            path = os.fsencode(Location.of(uri).uri)
            with open(path, "rb") as file:
                assert path.endswith(file.read())


def test_keys_that_a_glob_could_mean(s3: str) -> None:
    client = boto3.client("s3", endpoint_url=s3)
    for key in ("set [1]/a.mp4", "set 1/b.mp4", "what?.mp4", "whats.mp4", "x//y.mp4", "x/z.mp4"):
        client.put_object(Bucket="media", Key=key, Body=b"x")

    def found(path: str) -> list[str]:
        uris = list_media(s3_uri(f"media/{path}", s3)).rows["uri"].to_pylist()
        return [Location.of(uri).uri.removeprefix("s3://media/") for uri in uris]

    assert found("set [1]") == ["set [1]/a.mp4"]
    assert found("set [1]/*") == ["set [1]/a.mp4"]
    assert found("set [1]*/*") == ["set 1/b.mp4"]
    assert found("what?.mp4") == ["what?.mp4"]
    assert found("wha*") == ["what?.mp4", "whats.mp4"]
    assert found("what[s].mp4") == ["whats.mp4"]
    assert found("x") == ["x//y.mp4", "x/z.mp4"]


def test_a_prefix_that_may_not_be_listed_is_one_reject(s3: str) -> None:
    client = boto3.client("s3", endpoint_url=s3)
    for key in ("a.mp4", "open/b.mp4", "shut/c.mp4", "half/d.mp4", "half/shut/e.mp4"):
        client.put_object(Bucket="media", Key=f"videos/{key}", Body=b"x")

    def denied(path: str, _: Mapping[str, str]) -> bool:
        """As by a policy on prefixes: sweeps that would meet what is shut."""
        is_list = "list-type=2" in path
        sweep = "delimiter" not in path
        return is_list and ("shut" in path or (sweep and "open" not in path))

    with flaky(s3, fail=0, slow=0, denied=denied) as (endpoint, _):
        listing = list_media(s3_uri("media/videos", endpoint))
        uris = [Location.of(uri).uri for uri in listing.rows["uri"].to_pylist()]
        assert uris == [f"s3://media/videos/{key}" for key in ("a.mp4", "half/d.mp4", "open/b.mp4")]
        shut = [(Location.of(uri).uri, why.reason.value) for uri, _, why in listing.rejected]
        assert shut == [
            ("s3://media/videos/half/shut", "unreadable"),
            ("s3://media/videos/shut", "unreadable"),
        ]
        with pytest.raises(UserError, match="ACCESS_DENIED"):
            list_media(s3_uri("media/videos/shut", endpoint))


def test_a_requester_pays_bucket(s3: str) -> None:
    client = boto3.client("s3", endpoint_url=s3)
    for key in ("a.mp4", "deep/b.mp4"):
        client.put_object(Bucket="media", Key=f"videos/{key}", Body=key.encode())

    def denied(path: str, headers: Mapping[str, str]) -> bool:
        return headers.get("x-amz-request-payer") != "requester"

    with flaky(s3, fail=0, slow=0, denied=denied) as (endpoint, did):
        with pytest.raises(UserError, match="cannot"):
            list_media(s3_uri("media/videos", endpoint))
        refused = did["denied"]
        uris = (
            list_media(s3_uri("media/videos", endpoint) + "&request_payer=requester")
            .rows["uri"]
            .to_pylist()
        )
        places = [Location.of(uri) for uri in uris]
        assert [place.uri[18:] for place in places] == ["a.mp4", "deep/b.mp4"]
        assert [place.read_bytes() for place in places] == [b"a.mp4", b"deep/b.mp4"]
        assert did["denied"] == refused


def test_a_bucket_is_listed_page_by_page(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = boto3.client("s3", endpoint_url=s3)
    keys = [f"{folder}{n}.mp4" for folder in ("", "a/", "a/b/", "a//", "c-d/") for n in range(5)]
    for key in [*keys, "a/.hidden/x.mp4", "a/b/"]:
        client.put_object(Bucket="media", Key=f"videos/{key}", Body=b"x")
    asked, page = [], S3Objects._page

    def small(self: S3Objects, bucket: str, prefix: str, **more: Any) -> dict[str, Any]:
        asked.append(more.get("ContinuationToken"))
        return page(self, bucket, prefix, MaxKeys=2, **more)

    monkeypatch.setattr(S3Objects, "_page", small)
    uris = list_media(s3_uri("media/videos", s3)).rows["uri"].to_pylist()
    found = [Location.of(uri).uri.removeprefix("s3://media/videos/") for uri in uris]
    assert found == sorted(keys)
    assert sum(map(bool, asked)) > 7
