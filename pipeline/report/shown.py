"""The clips that a report shows: all of them, or of many a sample, and those that clusters name.

Shares and measures are of the sample, which is drawn evenly over the clips table. Clips that are
shown for another reason, as typical of a cluster, would tilt them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.clips.table import ClipTable, distinct

_COLUMNS = ["clip_id", "uri", "start_s", "end_s", "label", "split", "has_video", "has_audio"]


def sample(num_clips: int, most: int, seed: int) -> np.ndarray:
    """int64, ascending: all clip indices, or `most`, one at random of each equal stretch."""
    if num_clips <= most:
        return np.arange(num_clips)
    edges = np.linspace(0, num_clips, most + 1)
    random = np.random.default_rng(seed).random(most)
    return np.minimum((edges[:-1] + random * np.diff(edges)).astype(np.int64), num_clips - 1)


@dataclass(frozen=True)
class ShownClips:
    """Columns of the clips on the page; a clip's place in them is its position.

    Attributes:
        index: int64 [n], ascending clip indices.
        sampled: bool [n], whether the clip belongs to the sample.
        rows: their rows of the clips table, without `clip_index`.
        uri, label: int32 [n], into `uris` and `labels`; -1: no label.
    """

    index: np.ndarray
    sampled: np.ndarray
    rows: pa.Table
    uri: np.ndarray
    uris: list[str]
    label: np.ndarray
    labels: list[str]

    @classmethod
    def of(cls, table: ClipTable, sampled: np.ndarray, named: Iterable[np.ndarray]) -> ShownClips:
        """The sample, and clip indices that are to be shown besides (negative: none)."""
        further = np.concatenate([np.zeros(0, np.int64), *(some.ravel() for some in named)])
        index = np.union1d(sampled, further[further >= 0])
        rows = table.rows(index, _COLUMNS)
        uri, uris = distinct(rows["uri"])
        label, labels = distinct(rows["label"])
        return cls(
            index,
            np.isin(index, sampled, assume_unique=True),
            rows,
            uri,
            uris.to_pylist(),
            label,
            labels.to_pylist(),
        )

    def __len__(self) -> int:
        return len(self.index)

    def positions(self, clips: np.ndarray) -> np.ndarray:
        """int64, of clip indices that are shown; -1 stays."""
        found = np.searchsorted(self.index, clips)
        return np.where(clips < 0, -1, found)

    @property
    def ids(self) -> list[str]:
        return self.rows["clip_id"].to_pylist()

    @property
    def several_a_file(self) -> bool:
        """Whether files hold several clips, so that following the file can be told apart."""
        return 2 * len(self.uris) <= len(self.uri)

    def columns(self, media: np.ndarray, media_ids: list[str], kinds: np.ndarray) -> dict:
        """What the page knows of each clip (`page_data.put` writes it).

        Args:
            media: int32 [n], into `media_ids`, -1 where nothing can be seen or heard.
            kinds: uint8 of each medium; see `previews.Kind`.
        """
        return {
            "n": len(self),
            "clip_index": self.index.astype(np.int32),
            "uris": self.uris,
            "uri": self.uri,
            "start": self.rows["start_s"].to_numpy().astype(np.float32),
            "end": self.rows["end_s"].to_numpy().astype(np.float32),
            "labels": self.labels,
            "label": self.label,
            "media_ids": media_ids,
            "media": media.astype(np.int32),
            "media_kinds": kinds.astype(np.uint8),
        }
