"""What was probed goes into the clips table and the rejects table, a part at a time."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from pipeline.clips import rejects
from pipeline.clips.chunks import Probed
from pipeline.clips.input_keys import among, id_keys, uri_keys
from pipeline.clips.reject_table import RejectTable
from pipeline.clips.rejects import kind_of_loss
from pipeline.clips.segments import Segment
from pipeline.clips.table import append
from pipeline.storage import Location

CLIPS_PER_PART = 262_144  # rows of one Parquet part of the clips table, at least but for the last
_DELETERS = 32  # files deleted at once


class Intake:
    """Takes chunks in order, and writes when there is enough for a part, wherever segments end.

    So the clips table is the same whatever the segments are. Of inputs that have come to neither
    table when the process dies, the chunks are still in scratch.

    Args:
        clips: the clips table's folder; rejected: the rejects.
        both: uint64, sorted, keys of URIs that are asked for as whole files and as cuts.

    Attributes:
        counts: kinds of losses, and what the chunks' tasks counted; reasons: of rejects.
        num_clips: added so far.
    """

    def __init__(self, clips: Location, rejected: RejectTable, both: np.ndarray) -> None:
        self._clips, self._rejected, self._both = clips, rejected, both
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.num_clips = 0
        self._seen = np.zeros(0, np.uint64)  # ids of clips of `both`
        self._new_clips: list[pa.Table] = []
        self._new_rejects: list[pa.Table] = [rejects.SCHEMA.empty_table()]
        self._tried: list[np.ndarray] = []
        self._places: list[Location] = []
        self._num_new = self._num_new_clips = 0

    def reject(self, rows: pa.Table) -> None:
        """Add rejects of what could not even be listed."""
        self._new_rejects.append(rows)

    def add(self, segment: Segment) -> None:
        """Take all chunks of a segment that was probed."""
        for place, keys, probed in zip(segment.places, segment.keys, segment.probed()):
            self._take(probed, keys)
            self._places.append(place)
            # A part holds whole files: after a kill the others are not known yet.
            if max(self._num_new_clips, self._num_new) >= CLIPS_PER_PART:
                self.flush()

    def _take(self, probed: Probed, keys: np.ndarray) -> None:
        self.counts.update(probed.counts)
        clips = self._distinct(probed.clips)
        if len(clips):
            self._new_clips.append(clips)
            self._num_new_clips += len(clips)
        self._new_rejects.append(probed.rejects)
        self._num_new += len(probed.rejects)
        self._tried.append(keys)

    def flush(self) -> None:
        """Write what was taken.

        The rejects first: an input that was away before and has clips now is never in both tables.
        """
        new = pa.concat_tables(self._new_rejects)
        tried = np.concatenate([np.zeros(0, np.uint64), *self._tried])
        new = self._rejected.replace(tried, new)
        self._rejected.write()
        if self._new_clips:
            self.num_clips += append(self._clips, [pa.concat_tables(self._new_clips)])
        self.counts.update(map(kind_of_loss, new["modality"].to_pylist()))
        self.reasons.update(new["reason"].to_pylist())
        with ThreadPoolExecutor(_DELETERS) as pool:
            list(pool.map(Location.delete, self._places))
        self._new_clips, self._new_rejects = [], [rejects.SCHEMA.empty_table()]
        self._tried, self._places = [], []
        self._num_new = self._num_new_clips = 0

    def _distinct(self, clips: pa.Table) -> pa.Table:
        """Without clips that a table asks for twice: as a cut, and as a part of its file."""
        if not len(self._both) or not len(clips):
            return clips
        asked = among(uri_keys(clips["uri"]), self._both)
        ids = id_keys(clips["clip_id"])
        _, first = np.unique(ids, return_index=True)
        is_first = np.zeros(len(clips), bool)
        is_first[first] = True
        keep = ~asked | (is_first & ~among(ids, self._seen))
        self._seen = np.union1d(self._seen, ids[asked])
        return clips.filter(pa.array(keep))
