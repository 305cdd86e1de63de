"""The nearest clips to each playable clip: by picture, by sound, and from picture to sound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.clustering.assign import load_faiss
from pipeline.vectors.across import fitted
from pipeline.vectors.nearest import unit_rows

_NEAREST = 10
_BY = {"video": "picture", "audio": "sound"}


def neighbours(
    features: Mapping[str, np.ndarray], playable: np.ndarray, files: np.ndarray
) -> dict[str, Any] | None:
    """What the page shows of neighbours among the playable clips; None where there are too few.

    Args:
        features: of each modality float32 [n, d] of the shown clips; NaN: none.
        playable: bool [n]. files: int32 [n], the file of each clip.
    """
    clips = np.flatnonzero(playable)
    if len(clips) < 2 or not features:
        return None
    lists, notes = {}, {"picture": "", "sound": ""}
    among = f"among the {len(clips):,} clips with media"
    for modality, values in features.items():
        lists[_BY[modality]] = _lists(values[clips], values[clips], clips)
        notes[_BY[modality]] = f"Cosine of the {modality} features, {among}."
    if len(features) == 2:
        video, audio = features["video"], features["audio"]
        both = np.isfinite(video[:, 0]) & np.isfinite(audio[:, 0])
        names = files[both].astype(str)
        if (shared := fitted(video[both], audio[both], names)) is not None:
            pictures = _mapped(video[clips], shared.of_video)
            sounds = _mapped(audio[clips], shared.of_audio)
            lists["across"] = _lists(pictures, sounds, clips)
            found = str(shared.agreement or "CCA; too few files to measure how good it is")
            notes["across"] = f"From its picture to the sound of others, {among}. {found}."
    return {"clips": clips.tolist(), "lists": lists, "notes": notes}


def _mapped(values: np.ndarray, into: Any) -> np.ndarray:
    there = np.isfinite(values[:, 0])
    mapped = into(values[there])
    found = np.full((len(values), mapped.shape[1]), np.nan, np.float32)
    found[there] = mapped
    return found


def _lists(
    queries: np.ndarray, gallery: np.ndarray, clips: np.ndarray
) -> list[list[tuple[int, float]]]:
    """Of each query: position and cosine of the nearest others, the nearest first."""
    faiss = load_faiss()
    there = np.flatnonzero(np.isfinite(gallery[:, 0]))
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(unit_rows(gallery[there]))
    asked = np.flatnonzero(np.isfinite(queries[:, 0]))
    found: list[list[tuple[int, float]]] = [[] for _ in clips]
    if not len(there) or not len(asked):
        return found
    scores, rows = index.search(unit_rows(queries[asked]), min(_NEAREST + 1, len(there)))
    for query, near, score in zip(asked.tolist(), there[rows].tolist(), scores.tolist()):
        pairs = [(int(clips[n]), s) for n, s in zip(near, score) if n != query]
        found[query] = pairs[:_NEAREST]
    return found
