"""XDC pretraining on Ray: raw videos in, a video and an audio encoder out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__version__ = "0.1.0"


def load_encoder(
    source: str | os.PathLike[str],
    modality: str | None = None,
    *,
    round: int | None = None,
    eps: float | None = None,
) -> nn.Module:
    """An encoder in eval mode, from a run, an exported folder, or a file of weights.

    See `pipeline.exporting.loading.load_encoder`.
    """
    # Imported when it is called: torch takes seconds.
    from pipeline.exporting import loading

    return loading.load_encoder(source, modality, round=round, eps=eps)
