"""What earlier runs indexed or rejected: eight bytes for each file and each cut.

Bad media are tried once, until it is asked for again; what was away is tried again by every run.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import manifest
from pipeline.clips import rejects
from pipeline.clips.input_keys import among, distinct, id_keys, keys_of, uri_keys
from pipeline.clips.reject_table import RejectTable
from pipeline.clips.table import ClipTable
from pipeline.storage import Location

_AGAIN = pa.array(sorted({*rejects.AWAY, rejects.Reason.CHANGED}))


class KnownInputs:
    """Files are known by their URI, cuts by their `cut_id`: as of when this was made.

    Of the clips table only the column that is asked for is read, part by part.
    """

    def __init__(self, clips: Location, rejected: Location, retry: bool) -> None:
        """`retry`: what was rejected is not known.

        Raises:
            UserError: the clips table is one of another release, or a table is damaged.
        """
        self._table: ClipTable | None = None
        # By its name first: a listing may lag behind.
        if (clips / manifest.NAME).exists() or any(clips.files(".parquet")):
            self._table = ClipTable.open(clips)
        self.num_clips = 0 if self._table is None else len(self._table)
        self.rejects = RejectTable(rejected)
        rows = self.rejects.rows
        whole = rows.filter(rows["modality"].is_null())
        again = _tried_again(whole)
        away = whole.filter(again)
        self._away = distinct([keys_of(away["uri"], away["clip_id"])])
        self._failed = whole.filter(pc.invert(again)).slice(0, 0 if retry else None)
        self._retry = retry

    def tries_again(self, rejected: pa.Table) -> bool:
        """Whether there are inputs that this run probes, though an earlier one rejected them."""
        return bool(len(rejected)) and (self._retry or pc.any(_tried_again(rejected)).as_py())

    @cached_property
    def _files(self) -> np.ndarray:
        """uint64, sorted: of files that have clips, and of those rejected as a whole."""
        failed = self._failed.filter(self._failed["clip_id"].is_null())["uri"]
        found = [uri_keys(failed)]
        if self._table is not None:
            found += self._table.of_each_part(["uri"], lambda t: distinct([uri_keys(t["uri"])]))
        return distinct(found)

    @cached_property
    def _cuts(self) -> np.ndarray:
        failed = self._failed["clip_id"].drop_null()
        found = [id_keys(failed)]
        if self._table is not None:
            found += self._table.of_each_part(["clip_id"], lambda t: id_keys(t["clip_id"]))
        return distinct(found)

    def contains(self, keys: np.ndarray, is_cut: np.ndarray) -> np.ndarray:
        """bool [inputs], of their keys (uint64) and whether they are cuts (bool)."""
        found = np.zeros(len(keys), bool)
        if is_cut.any():
            found[is_cut] = among(keys[is_cut], self._cuts)
        if not is_cut.all():
            found[~is_cut] = among(keys[~is_cut], self._files)
        return found

    def newly_away(self, rejected: pa.Table) -> Counter[str]:
        """Reason → number of inputs that did not come, without those that were away before."""
        whole = rejected.filter(rejected["modality"].is_null())
        away = whole.filter(pc.is_in(whole["reason"], pa.array(sorted(rejects.AWAY))))
        if not len(away):
            return Counter()
        before = among(keys_of(away["uri"], away["clip_id"]), self._away)
        return Counter(away.filter(pa.array(~before))["reason"].to_pylist())

    def num_away(self, keys: np.ndarray) -> int:
        """How many of these inputs (uint64) were away before."""
        return int(among(keys, self._away).sum())


def _tried_again(rejected: pa.Table) -> pa.ChunkedArray:
    """bool: of inputs that may be there now, or hold still."""
    by_reason = pc.and_(pc.equal(rejected["stage"], "probe"), pc.is_in(rejected["reason"], _AGAIN))
    return pc.and_(by_reason, rejected["modality"].is_null())
