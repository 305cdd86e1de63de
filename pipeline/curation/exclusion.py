"""Clusters and clips that the user names, to be left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from pipeline.clips.table import ClipTable
from pipeline.curation.clustered_clips import ClusteredClips
from pipeline.errors import UserError, parsing
from pipeline.storage import Location

Cluster = tuple[str, int]  # name of the clustering, and the cluster's number


def parse_clusters(text: str) -> tuple[Cluster, ...]:
    """Of ``video:17,audio:3``.

    Raises:
        UserError: it is something else.
    """
    found = []
    for part in text.split(","):
        name, colon, number = part.strip().rpartition(":")
        if not colon or not name or not number.isdecimal():
            raise UserError(
                f"--exclude takes NAME:NUMBER,… as in video:17,audio:3, and not {part!r}"
            )
        found.append((name, int(number)))
    return tuple(dict.fromkeys(found))


def in_clusters(clustered: ClusteredClips, clusters: Sequence[Cluster]) -> np.ndarray:
    """int32 [N]: which of `clusters` a clip is in, the first of several; -1: none."""
    found = np.full(len(clustered.clips), -1, np.int32)
    for place, (name, number) in reversed([*enumerate(clusters)]):
        found[clustered.labels(name) == number] = place
    return found


def read_clip_ids(place: Location) -> pa.Array:
    """The column ``clip_id`` of a Parquet file, or one id a line of a text file.

    Raises:
        UserError: there is no such file or column, or no id in it.
    """
    if not place.info().is_file:
        raise UserError(f"there is no file {place} with ids of clips")
    if place.name.endswith(".parquet"):
        ids = place.read_table(["clip_id"])["clip_id"].combine_chunks().cast(pa.string())
    else:
        ids = _lines(place)
        ids = ids.filter(pc.and_(pc.not_equal(ids, ""), pc.not_equal(ids, "clip_id")))
    ids = ids.drop_null().unique()
    if not len(ids):
        raise UserError(f"{place} holds no ids of clips")
    return ids


def _lines(place: Location) -> pa.Array:
    """string, without blanks around them."""
    data = place.read_bytes()
    if not data.strip():
        return pa.array([], pa.string())
    with parsing(place, "a text file"):
        table = pyarrow.csv.read_csv(
            pa.BufferReader(data),
            pyarrow.csv.ReadOptions(column_names=["line"]),
            pyarrow.csv.ParseOptions(delimiter="\x1f", quote_char=False),
            pyarrow.csv.ConvertOptions(column_types={"line": pa.string()}),
        )
    return pc.utf8_trim_whitespace(table["line"]).combine_chunks()


def with_ids(clips: ClipTable, ids: pa.Array) -> np.ndarray:
    """bool [N], the clips with these ids."""

    def among(part: pa.Table) -> np.ndarray:
        return pc.is_in(part["clip_id"], value_set=ids).to_numpy()

    return np.concatenate(clips.of_each_part(["clip_id"], among))
