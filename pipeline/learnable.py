"""What a run can learn from: which clips, which modalities of theirs, and so by which method."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pipeline import methods
from pipeline.clips.table import ClipTable
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.methods import MODALITIES, Method
from pipeline.telemetry.console import say


def trainable(config: Config, method: Method, clips: ClipTable) -> Method:
    """The method, without an encoder that has no clip to learn from; says what is left out.

    Raises:
        UserError: too few clips are of the wanted splits, or have the modalities that the method
            needs.
    """
    chosen = clips.in_splits(config.clips.split)
    if not chosen.any():
        named = sorted({*clips.column("split").to_pylist()} - {None})
        raise UserError(
            f"no clip of {clips.location} is of the split {' or '.join(config.clips.split)} "
            f"(clips.split); its column split holds {', '.join(named) or 'nothing'}"
        )
    if not chosen.all():
        say(
            f"{chosen.sum():,} of {len(clips):,} clips are of the split "
            f"{' or '.join(config.clips.split)}: the others are neither clustered nor learned from"
        )
    has = {m: chosen & clips.column(f"has_{m}").to_numpy() for m in MODALITIES}
    there = [m for m in MODALITIES if has[m].any()]
    lacking = " nor ".join(m for m in MODALITIES if m not in there)
    reduced = method.restricted(there)
    if reduced is None:
        others = [name for name, other in methods.METHODS.items() if other.restricted(there)]
        would_do = f"; with {there[0]} alone method={' or '.join(others)} would do" if there else ""
        raise UserError(
            f"no clip of {clips.location} has {lacking}, which method={config.method} learns from"
            f"{would_do}"
        )
    if reduced != method:
        say(f"no clip has {lacking}: {config.method} trains the {there[0]} encoder alone")
    for update in reduced.updates:
        needed = {*update.encoders, *reduced.modalities_of(update)}
        if reduced.needs_all_labels(update) and not _all(has, needed).any():
            raise UserError(
                f"no clip of {clips.location} has both video and audio, which "
                f"method={config.method} needs: {has['video'].sum():,} have video alone, "
                f"{has['audio'].sum():,} audio alone. Index media that have both, or set method=sdc"
            )
    for modalities in reduced.clusterings.values():
        usable, k = int(_all(has, modalities).sum()), config.clustering.k
        if k > usable:
            raise UserError(
                f"clustering.k={k} exceeds the {usable:,} clips of {clips.location} that have "
                f"{' and '.join(modalities)}; lower clustering.k or index more media"
            )
    return reduced


def _all(has: dict[str, np.ndarray], modalities: Iterable[str]) -> np.ndarray:
    """bool [N]: the clips that have all of these modalities."""
    return np.logical_and.reduce([has[m] for m in modalities])
