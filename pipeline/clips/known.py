"""What earlier runs indexed or rejected.

Bad media are tried once, until it is asked for again; what was away is tried again by every run.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import manifest
from pipeline.clips import rejects
from pipeline.clips.cut_tables import cut_id
from pipeline.clips.table import ClipTable
from pipeline.errors import Malformed, UserError, parsing
from pipeline.storage import Location

_AGAIN = pa.array(sorted({*rejects.AWAY, rejects.Reason.CHANGED}))
_LOST = ("", "video", "audio")  # modalities of rejects; empty: the whole input


class KnownInputs:
    """Files are known by their URI, cuts by their `cut_id`."""

    def __init__(self, clips: Location, rejected: Location, retry: bool) -> None:
        """`retry`: what was rejected is not known.

        Raises:
            UserError: the clips table is one of another release.
        """
        indexed: list[pa.Table] = []
        # By its name first: a listing may lag behind.
        if (clips / manifest.NAME).exists() or any(clips.files(".parquet")):
            indexed = [*ClipTable.open(clips).read_parts(["uri", "clip_id"])]
        self.num_clips = sum(map(len, indexed))
        self._place = rejected
        none = rejects.SCHEMA.empty_table()
        self._rejected = _table(rejected) if rejected.exists() else none
        whole = self._rejected.filter(self._rejected["modality"].is_null())
        again = pc.and_(pc.equal(whole["stage"], "probe"), pc.is_in(whole["reason"], _AGAIN))
        self._away = _joined(_keys(whole.filter(again)))
        failed = none if retry else whole.filter(pc.invert(again))
        files = failed.filter(failed["clip_id"].is_null())["uri"]
        self._files = _joined(*(table["uri"] for table in indexed), files)
        self._cuts = _joined(*(table["clip_id"] for table in indexed), failed["clip_id"])

    def contains(self, uris: pa.ChunkedArray, cuts: pa.ChunkedArray) -> pa.ChunkedArray:
        """bool [rows], of URIs and cut ids (null: the whole file)."""
        by_uri, by_cut = pc.is_in(uris, self._files), pc.is_in(cuts, self._cuts)
        return pc.if_else(cuts.is_null(), by_uri, by_cut)

    def newly_away(self, rejected: pa.Table) -> dict[str, int]:
        """Reason → number of inputs that did not come, without those that were away before."""
        whole = rejected.filter(rejected["modality"].is_null())
        away = pc.is_in(whole["reason"], pa.array(sorted(rejects.AWAY)))
        lost = whole.filter(pc.and_(away, pc.invert(pc.is_in(_keys(whole), self._away))))
        return dict(Counter(lost["reason"].to_pylist()))

    def num_away(self, tried: pa.Table) -> int:
        """How many of these inputs (``uri``, ``clip_id``) were away before."""
        return pc.sum(pc.is_in(_keys(tried, ""), self._away)).as_py() or 0

    def write_rejects(self, new: pa.Table, tried: pa.Table) -> pa.Table:
        """Rewrite the rejects table: earlier rejects of other inputs, then the new ones.

        Args:
            new: rejects, not numbered yet; tried: columns ``uri`` and ``clip_id`` of all inputs
                that were looked at now.

        Returns:
            `new`, each input and modality once, with its attempt.
        """
        keys = _keys(new)
        new = new.take(pa.array(_first(keys)))
        keys = _keys(new)
        earlier = _keys(self._rejected)
        attempts = dict(zip(earlier.to_pylist(), self._rejected["attempt"].to_pylist()))
        attempt = [attempts.get(key, 0) + 1 for key in keys.to_pylist()]
        place = new.column_names.index("attempt")
        new = new.set_column(place, rejects.SCHEMA.field(place), [pa.array(attempt, pa.int32())])
        again = _joined(keys, *(_keys(tried, modality) for modality in _LOST))
        others = self._rejected.filter(pc.invert(pc.is_in(earlier, again)))
        self._place.write_table(pa.concat_tables([others, new]))
        return new


def _table(place: Location) -> pa.Table:
    try:
        with parsing(place, "a rejects table"):
            table = place.read_table().select(rejects.SCHEMA.names).cast(rejects.SCHEMA)
            table.validate(full=True)
            return table
    except Malformed as error:
        raise UserError(f"{error}; delete it, and what it holds is tried again") from None


def cut_ids(rows: pa.Table) -> pa.ChunkedArray:
    """`cut_id` of every row of a listing."""
    cuts = zip(*(rows[name].to_pylist() for name in ("uri", "start_s", "end_s")))
    return pa.chunked_array([pa.array([cut_id(*cut) for cut in cuts], pa.string())])


def _keys(table: pa.Table, modality: str | None = None) -> pa.ChunkedArray:
    """One text for an input, by its cut id or else its URI, and a modality (None: the column)."""
    lost: Any = pc.fill_null(table["modality"], "") if modality is None else modality
    return pc.binary_join_element_wise(pc.coalesce(table["clip_id"], table["uri"]), lost, "\n")


def _first(keys: pa.ChunkedArray) -> np.ndarray:
    """int64: the first place of each key, ascending."""
    numbered = pa.table({"key": keys, "row": np.arange(len(keys))})
    return np.sort(numbered.group_by("key").aggregate([("row", "min")])["row_min"].to_numpy())


def _joined(*columns: pa.ChunkedArray) -> pa.Array:
    chunks = [chunk for column in columns for chunk in column.chunks]
    return pa.chunked_array(chunks, pa.string()).combine_chunks()
