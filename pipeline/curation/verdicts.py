"""What becomes of each clip: kept, or left out for one reason."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import pyarrow as pa


class LeftOut(StrEnum):
    """The closed set of reasons, in the order in which the filters work."""

    EXCLUDED = "excluded"  # its cluster or its id was named
    NO_FEATURES = "no_features"  # the round has no features of it: a reject, or indexed later
    ONE_MODALITY = "one_modality"  # no picture or no sound, so these cannot agree
    DISAGREES = "disagrees"  # its picture and sound agree less than asked for
    DUPLICATE = "duplicate"  # near to a clip that stands for it
    NOT_DRAWN = "not_drawn"  # the balanced draw took others


_REASONS = tuple(LeftOut)


class Verdicts:
    """One verdict a clip, in arrays; the first reason counts.

    Attributes:
        code: uint8 [N], 0: kept, else 1 + the reason's place in `LeftOut`.
        duplicate: int64 [m], ascending: the clips left out as duplicates.
        kept_for: int64 [m], the clip that stands for each; cosine: float32 [m], how near it is.
        agreement: float32 [N], NaN where it is not known; None: nobody asked.
        named: int32 [N], which of the excluded clusters a clip is in, -1: none; None: no such.
    """

    def __init__(self, num_clips: int) -> None:
        self.code = np.zeros(num_clips, np.uint8)
        self.duplicate = np.zeros(0, np.int64)
        self.kept_for = np.zeros(0, np.int64)
        self.cosine = np.zeros(0, np.float32)
        self.agreement: np.ndarray | None = None
        self.named: np.ndarray | None = None

    @property
    def kept(self) -> np.ndarray:
        """bool [N]."""
        return self.code == 0

    def leave_out(self, clips: np.ndarray, reason: LeftOut) -> int:
        """Of the clips bool [N], those that are still kept; returns how many that were."""
        fresh = clips & self.kept
        self.code[fresh] = 1 + _REASONS.index(reason)
        return int(fresh.sum())

    def leave_out_duplicates(
        self, clips: np.ndarray, kept_for: np.ndarray, cosine: np.ndarray
    ) -> None:
        """Args: int64 [m] clips that are kept so far, int64 [m], float32 [m]."""
        order = np.argsort(clips)
        self.duplicate, self.kept_for, self.cosine = clips[order], kept_for[order], cosine[order]
        self.code[clips] = 1 + _REASONS.index(LeftOut.DUPLICATE)

    def counts(self) -> dict[str, int]:
        """Clips by reason, without those of 0, and ``kept``."""
        counts = np.bincount(self.code, minlength=1 + len(_REASONS)).tolist()
        found = {reason.value: n for reason, n in zip(_REASONS, counts[1:]) if n}
        return {"kept": counts[0], **found}


def reasons_of(code: np.ndarray) -> pa.Array:
    """string [n], the reasons of codes above 0."""
    return pa.array([reason.value for reason in _REASONS]).take(pa.array(code - 1))
