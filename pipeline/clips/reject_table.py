"""The rejects table of an index: a row for each input, or modality of one, that is of no use."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline.clips import rejects
from pipeline.clips.input_keys import among, distinct, reject_keys
from pipeline.errors import Malformed, UserError, parsing
from pipeline.storage import Location


class RejectTable:
    """Held whole, 0.2 KB a reject: it is rewritten as inputs are tried again.

    Attributes:
        rows: `rejects.SCHEMA`.
        inputs: uint64 [rows], keys of the inputs (`reject_keys`).
    """

    def __init__(self, place: Location) -> None:
        """Raises UserError if there is a file that holds no rejects."""
        self.place = place
        self.rows = _read(place) if place.exists() else rejects.SCHEMA.empty_table()
        self.inputs, self._keys = reject_keys(self.rows)
        self._now = np.zeros(0, np.uint64)  # keys of the rows that this process added

    def replace(self, tried: np.ndarray, new: pa.Table) -> pa.Table:
        """Take out the rejects of inputs that were tried again, and add those that there are now.

        Args:
            tried: uint64, keys of inputs; new: rejects without attempts.

        Returns:
            `new` with attempts: each input and modality once, and not again if this process has
            added it before (a file's sound is lost to each of its cuts).
        """
        _, keys = reject_keys(new)
        _, first = np.unique(keys, return_index=True)
        first = np.sort(first)
        first = first[~among(keys[first], self._now)]
        # In one piece: chunks of a task each would become very many.
        new, keys = new.take(pa.array(first)).combine_chunks(), keys[first]
        new = self._with_attempts(new, keys)
        inputs, _ = reject_keys(new)
        stay = ~(among(self.inputs, distinct([tried])) | among(self._keys, distinct([keys])))
        # What this process added before is of inputs that it does not try twice.
        stay |= among(self._keys, self._now)
        self.rows = pa.concat_tables([self.rows.filter(pa.array(stay)), new])
        self.inputs = np.concatenate([self.inputs[stay], inputs])
        self._keys = np.concatenate([self._keys[stay], keys])
        self._now = distinct([self._now, keys])
        return new

    def write(self) -> None:
        self.place.write_table(self.rows)

    def _with_attempts(self, new: pa.Table, keys: np.ndarray) -> pa.Table:
        order = np.argsort(self._keys, kind="stable")
        earlier, attempts = self._keys[order], self.rows["attempt"].to_numpy()[order]
        again = among(keys, earlier)
        attempt = np.ones(len(keys), np.int32)
        attempt[again] = attempts[np.searchsorted(earlier, keys[again], side="right") - 1] + 1
        place = rejects.SCHEMA.get_field_index("attempt")
        return new.set_column(place, rejects.SCHEMA.field(place), pa.array(attempt, pa.int32()))


def _read(place: Location) -> pa.Table:
    try:
        with parsing(place, "a rejects table"):
            table = place.read_table().select(rejects.SCHEMA.names).cast(rejects.SCHEMA)
            table.validate(full=True)
            if table["uri"].null_count or table["attempt"].null_count:
                raise ValueError("it has rows without a file or an attempt")
            return table
    except Malformed as error:
        raise UserError(f"{error}; delete it, and what it holds is tried again") from None
