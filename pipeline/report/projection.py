"""The map: features brought to two dimensions, for the eye."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.decomposition import PCA

from pipeline.errors import UserError

PROJECTIONS = ("pca", "umap")
_SPREAD = 99.5  # percent of the clips that fill the map; the others lie at its edge
NOTES = {
    "pca": "The two directions in which the features vary most. The rest of the variance is not "
    "seen here.",
    "umap": "Neighbours lie together. Distances between groups mean little.",
}


def check_projection(name: str) -> None:
    """Raises UserError if UMAP is asked for and not installed."""
    if name == "umap":
        _umap()


def projected(features: np.ndarray, name: str, seed: int) -> tuple[np.ndarray, float | None]:
    """Features float32 [n, d] (NaN: none) → float32 [n, 2] in [-1, 1].

    Also the share of the variance that PCA keeps; None for others, and for too few clips.
    """
    places = np.full((len(features), 2), np.nan, np.float32)
    there = np.isfinite(features[:, 0])
    rows = features[there]
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    if len(rows) < 3:
        return places, None
    share = None
    if name == "umap":
        found = _umap()(n_components=2, metric="cosine", random_state=seed).fit_transform(rows)
    else:
        pca = PCA(2, svd_solver="randomized", random_state=seed).fit(rows)
        found, share = pca.transform(rows), float(pca.explained_variance_ratio_.sum())
    found = found - np.median(found, axis=0)
    reach = np.maximum(np.percentile(np.abs(found), _SPREAD, axis=0), 1e-9)
    places[there] = np.clip(found / reach, -1, 1)
    return places, share


def _umap() -> Any:
    try:
        from umap import UMAP
    except ImportError as error:
        raise UserError("--map umap needs UMAP: pip install 'xdc-ray[umap]'") from error
    return UMAP
