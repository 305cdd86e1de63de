"""Cuts tables as people write them: one row's fault is that row's reject."""

from __future__ import annotations

import bz2
import datetime
import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.clips.cut_tables import Listing
from pipeline.clips.listing import list_media
from pipeline.errors import UserError
from pipeline.storage import Location

HEADER = "uri,start_s,end_s,label,split"


def write(path: Path, *rows: str, header: str = HEADER) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


def times(listing: Listing) -> list[tuple[float | None, float | None]]:
    return [(row["start_s"], row["end_s"]) for row in listing.rows.to_pylist()]


def reasons(listing: Listing) -> list[str]:
    return [why.reason.value for _, _, why in listing.rejected]


@pytest.mark.parametrize(
    "uri",
    ["https://www.youtube.com/watch?v=abc", "az://box/f.mp4", "gopher://host/f.mp4", "s3://"],
)
def test_an_address_that_nothing_opens_is_that_rows_reject(tmp_path: Path, uri: str) -> None:
    listing = list_media(write(tmp_path / "cuts.csv", f"{uri},0,5,a,", "f.mp4,0,5,a,"))
    assert listing.rows["uri"].to_pylist() == [str(tmp_path / "f.mp4")]
    assert reasons(listing) == ["unreadable"]
    assert listing.rejected[0][0] == uri


def test_rows_without_a_file_are_rejects_of_their_own(tmp_path: Path) -> None:
    rows = [",0,5,a,", "  ,0,5,a,", "f.mp4,0,5,a,", ",,,,"]
    listing = list_media(write(tmp_path / "cuts.csv", *rows))
    assert len(listing.rows) == 1
    assert reasons(listing) == ["bad_cut"] * 3
    uris = [uri for uri, _, _ in listing.rejected]
    assert uris == [f"{tmp_path}/cuts.csv#row={row}" for row in (1, 2, 4)]
    table = pa.table({"uri": [None, "f.mp4"], "start_s": [0.0, 0.0], "end_s": [1.0, 1.0]})
    pq.write_table(table, tmp_path / "cuts.parquet")
    listing = list_media(str(tmp_path / "cuts.parquet"))
    assert (len(listing.rows), reasons(listing)) == (1, ["bad_cut"])


@pytest.mark.parametrize(
    "cut", ["0,inf", "nan,nan", "-inf,3", "0,1e306", "5,1", "3,3", ",5", "5,", "x,5", "1:75,90"]
)
def test_times_that_make_no_sense_are_that_rows_reject(tmp_path: Path, cut: str) -> None:
    listing = list_media(write(tmp_path / "cuts.csv", f"f.mp4,{cut},a,", "f.mp4,1,2,a,"))
    assert times(listing) == [(1.0, 2.0)]
    ((uri, cut_id, why),) = listing.rejected
    assert (uri, why.reason.value) == (str(tmp_path / "f.mp4"), "bad_cut")
    assert cut_id is not None
    assert all(part in why.detail for part in cut.split(",") if part)


@pytest.mark.parametrize(
    ("text", "second"),
    [
        ("62.5", 62.5),
        ("01:02.5", 62.5),
        ("00:01:02.5", 62.5),
        ("1:02:03", 3723.0),
        ("00:01:02,500", 62.5),
        ("90:00", 5400.0),
        (" 5 ", 5.0),
    ],
)
def test_clock_times_are_times(tmp_path: Path, text: str, second: float) -> None:
    assert times(list_media(write(tmp_path / "cuts.csv", f'f.mp4,0,"{text}",,'))) == [(0.0, second)]
    table = pa.table({"uri": ["f.mp4"], "start_s": ["0"], "end_s": [text]})
    pq.write_table(table, tmp_path / "cuts.parquet")
    assert times(list_media(str(tmp_path / "cuts.parquet"))) == [(0.0, second)]


def test_times_of_other_types(tmp_path: Path) -> None:
    second = datetime.timedelta(seconds=1)
    columns = [
        (pa.array([1, 2]), pa.array([3, 4])),
        (pa.array([second, 2 * second]), pa.array([3 * second, 4 * second])),
        (pa.array([datetime.time(0, 0, 1), datetime.time(0, 0, 2)]), pa.array([3.0, 4.0])),
        (pa.array(["1", "2"]).dictionary_encode(), pa.array(["3", "4"])),
        (pa.array([b"1", b"2"]), pa.array([3, 4], pa.decimal128(5, 2))),
    ]
    for start, end in columns:
        table = pa.table({"uri": ["f.mp4", "f.mp4"], "start_s": start, "end_s": end})
        pq.write_table(table, tmp_path / "cuts.parquet")
        assert times(list_media(str(tmp_path / "cuts.parquet"))) == [(1.0, 3.0), (2.0, 4.0)]


def test_only_an_empty_cell_is_no_label(tmp_path: Path) -> None:
    labels = ["NA", "null", "nan", "None", "N/A", "", "007", " spaced ", "#N/A", '""']
    rows = [f"f.mp4,{n},{n + 1},{label},{label}" for n, label in enumerate(labels)]
    listing = list_media(write(tmp_path / "cuts.csv", *rows))
    wanted = [None if label in ("", '""') else label for label in labels]
    assert listing.rows["label"].to_pylist() == wanted
    assert listing.rows["split"].to_pylist() == wanted


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        (pa.array([1, 2, None]), ["1", "2", None]),
        (pa.array([1.0, 2.5, None]), ["1", "2.5", None]),
        (pa.array([["a"], ["b", "c"], []]), ["a", None, None]),
        (pa.array([True, False, None]), ["true", "false", None]),
        (pa.array(["x", "", None]).dictionary_encode(), ["x", None, None]),
        (pa.array([b"x", b"caf\xe9", b""]), ["x", "caf\\xe9", None]),
        (pa.array([None, None, None]), [None, None, None]),
    ],
)
def test_labels_of_any_type(tmp_path: Path, labels: pa.Array, wanted: list[str | None]) -> None:
    files = {"uri": ["f.mp4"] * 3, "start_s": [0.0, 1, 2], "end_s": [1.0, 2, 3]}
    pq.write_table(pa.table(files | {"label": labels}), tmp_path / "cuts.parquet")
    listing = list_media(str(tmp_path / "cuts.parquet"))
    assert listing.rows["label"].to_pylist() == wanted
    assert len(listing.notes) == pa.types.is_list(labels.type)


@pytest.mark.parametrize("name", ["x.CSV", "x.tsv", "x.csv.gz", "x.TSV.GZ", "x.csv.bz2", "x.Tsv"])
def test_every_kind_of_table_is_one(tmp_path: Path, name: str) -> None:
    comma = "\t" if "tsv" in name.lower() else ","
    text = "\n".join([HEADER, "f.mp4,0,5,a,train", ""]).replace(",", comma).encode()
    packed = {"gz": gzip.compress, "z2": bz2.compress}.get(name.lower()[-2:], bytes)
    (tmp_path / name).write_bytes(packed(text))
    (row,) = list_media(str(tmp_path / name)).rows.to_pylist()
    assert row == {
        "uri": str(tmp_path / "f.mp4"),
        "start_s": 0.0,
        "end_s": 5.0,
        "label": "a",
        "split": "train",
    }


def test_a_folder_of_parts_is_a_table(tmp_path: Path) -> None:
    folder = tmp_path / "cuts.parquet"
    for split in ("train", "test"):
        (folder / f"split={split}").mkdir(parents=True)
        cut = {"uri": ["../f.mp4"], "start_s": [0 if split == "test" else 0.5], "end_s": [5.0]}
        pq.write_table(pa.table(cut), folder / f"split={split}" / "part-0.snappy.parquet")
    (folder / "_SUCCESS").write_text("")
    (folder / "_delta_log").mkdir()
    (folder / "_delta_log" / "0.json").write_text("{}")
    (folder / ".part-0.crc").write_text("x")
    rows = list_media(str(folder)).rows.to_pylist()
    assert {row["uri"] for row in rows} == {str(tmp_path / "f.mp4")}
    assert [(row["split"], row["start_s"]) for row in rows] == [("test", 0), ("train", 0.5)]
    write(folder / "video.mp4")
    assert len(list_media(str(folder)).rows) == 5  # media among them: a folder of files


def test_the_same_cut_twice_is_listed_once(tmp_path: Path) -> None:
    rows = ["f.mp4,0,5,a,", "g.mp4,,,a,", "f.mp4,0.0,5.0001,b,", "./f.mp4,0:00,5,a,", "g.mp4,,,b,"]
    listing = list_media(write(tmp_path / "cuts.csv", *rows))
    assert [row["label"] for row in listing.rows.to_pylist()] == ["a", "a"]
    assert listing.repeated == 3


def test_ragged_rows_are_rejects(tmp_path: Path) -> None:
    rows = ["f.mp4,0", "f.mp4,0,5,a,train", "f.mp4,0,5,a,train,more", '"f\nx.mp4",0,5,,']
    listing = list_media(write(tmp_path / "cuts.csv", *rows))
    assert len(listing.rows) == 2
    assert reasons(listing) == ["bad_cut"] * 2
    assert len({cut for _, cut, _ in listing.rejected}) == 2


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"uri,uri,start_s,end_s\nf,f,0,5\n", "the column.* uri more than once"),
        ("a.csv", b"uri,start_s,end_s\n", "has no rows"),
        ("a.csv", b"", "cannot read"),
        ("a.csv", b"uri;start_s;end_s\nf;0;5\n", "lacks the column"),
        ("a.csv", b"uri,start_s,end_s,caf\xe9\nf,0,5,\n", "cannot read"),
        ("a.csv.gz", b"uri,start_s,end_s\nf,0,5\n", "cannot read"),
        ("a.parquet", b"PAR1 is not one", "cannot read"),
    ],
)
def test_a_fault_of_the_whole_table_is_one_line(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        list_media(str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_doubled_columns_of_parquet_and_unused_ones(tmp_path: Path) -> None:
    arrays = [pa.array(["f"]), pa.array([0.0]), pa.array([1.0]), pa.array([0.0])]
    double = pa.Table.from_arrays(arrays, ["uri", "start_s", "end_s", "start_s"])
    pq.write_table(double, tmp_path / "cuts.parquet")
    with pytest.raises(UserError, match="start_s more than once"):
        list_media(str(tmp_path / "cuts.parquet"))
    header = "note,uri,start_s,end_s,note"
    assert len(list_media(write(tmp_path / "cuts.csv", "x,f,0,1,y", header=header)).rows) == 1


def test_names_stand_for_themselves(tmp_path: Path) -> None:
    names = ["a?b.mp4", "a#b.mp4", "%41.mp4", "a b", "[x].mp4", "é.mp4", "a\\b", "x?region=y", "~"]
    rows = [f"{folder}{name},0,5,," for name in names for folder in ("", f"{tmp_path}/")]
    listing = list_media(write(tmp_path / "cuts.csv", *rows))
    found = [Location.of(uri).uri for uri in listing.rows["uri"].to_pylist()]
    assert found == [str(tmp_path / name) for name in names]
    assert listing.repeated == len(names)


def test_a_name_that_is_not_utf_8_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "cuts.csv").write_bytes(b"uri,start_s,end_s\ncaf\xe9.mp4,0,5\n")
    (uri,) = list_media(str(tmp_path / "cuts.csv")).rows["uri"].to_pylist()
    assert uri == f"file://{tmp_path}/caf%E9.mp4"
    assert Location.of(uri).uri == f"{tmp_path}/caf\udce9.mp4"


def test_relative_names_start_at_the_tables_folder_in_a_bucket(s3: str) -> None:
    table = Location.of("s3://media/lists/cuts.csv?" + s3_options(s3))
    rows = ["a#b.mp4", "../x?.mp4", "s3a://other/y//z.mp4", "sub/x?region=y"]
    text = "\n".join(["uri,start_s,end_s", *(f"{row},0,5" for row in rows)])
    table.write_bytes(text.encode())
    listing = list_media(table.full_uri)
    found = [Location.named(uri) for uri in listing.rows["uri"].to_pylist()]
    assert [(place.uri, bool(place.query)) for place in found] == [
        ("s3://media/lists/a#b.mp4", True),
        ("s3://media/x?.mp4", True),
        ("s3://other/y//z.mp4", False),
        ("s3://media/lists/sub/x?region=y", True),
    ]


def s3_options(endpoint: str) -> str:
    return f"endpoint_override={endpoint.removeprefix('http://')}&scheme=http&region=us-east-1"


@pytest.mark.parametrize(
    ("uri", "kept"),
    [
        ("s3://AKIAKEY:abc/HIDDEN+x@box/f.mp4", "s3://***@box/f.mp4"),
        ("s3://box/f.mp4?access_key=AKIAKEY&secret_key=HIDDEN", "s3://box/f.mp4?access_key=***"),
        ("https://h/f.mp4?X-Amz-Credential=AKIAKEY&X-Amz-Signature=HIDDEN", "https://h/f.mp4?X-A"),
        ("https://AKIAKEY:HIDDEN@h/f.mp4", "https://***@h/f.mp4"),
        ("abfss://box:HIDDEN@store/f.mp4", "abfss://***@store/f.mp4"),
    ],
)
def test_credentials_reach_no_table(tmp_path: Path, uri: str, kept: str) -> None:
    listing = list_media(write(tmp_path / "cuts.csv", f"{uri},0,5,,", f"{uri},5,x,,", f"{uri},,,,"))
    assert len(listing.rows) == 0
    assert len(listing.rejected) == 3
    for address, _, why in listing.rejected:
        assert address.startswith(kept)
        assert "HIDDEN" not in address + why.detail
