"""From raw features to the vectors that are clustered: PCA, whitening, L2, float16.

As in DeepCluster (Caron et al. 2018): PCA with eigenvalues raised to -0.5, then L2. Fitted in one
pass of count, sum and X'X (see blocks.py for how the sums stay exact), applied once.
"""

from __future__ import annotations

import io
import itertools
import math
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from pipeline.clustering.blocks import snap
from pipeline.clustering.inputs import unit
from pipeline.config import ClusteringConfig

# Components whose variance is below this share of the largest are noise of float16 (11 bits, so
# about 2**-22 in variance): whitening would blow them up.
RANK_TOLERANCE = 2.0**-22
_EIGEN_POWER = -0.5  # of whitening (DeepCluster)


@dataclass(frozen=True)
class Moments:
    """Snapped sums over the raw features divided by ``scale``: exact under addition."""

    count: int  # rows
    total: np.ndarray  # float64[d]
    products: np.ndarray  # float64[d, d], X'X

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.count + other.count, self.total + other.total, self.products + other.products
        )

    @classmethod
    def of(cls, raw: np.ndarray, scale: float, num_clips: int) -> Moments:
        """Of one block; ``scale`` is a power of two at or above every absolute value."""
        x = raw.astype(np.float64) / scale
        with threadpool_limits(1, "blas"):
            products = x.T @ x
        return cls(len(x), snap(x.sum(axis=0), num_clips), snap(products, num_clips))


@dataclass(frozen=True)
class Transform:
    """``y = ((x / scale) - mean) @ projection``, then L2 or division by ``norm``, then float16.

    Attributes:
        dims: widths of the modalities that were joined; more than one are L2-normalised first.
        scale: power of two.
        mean: float64[d].
        projection: float64[d, d'] or None (no PCA, mean 0).
        l2: whether vectors get length 1.
        norm: power of two that keeps ``|y| <= 1`` where ``l2`` is off.
        eigenvalues: float64[d'] of the kept components, in units of ``scale`` squared.
    """

    dims: tuple[int, ...]
    scale: float
    mean: np.ndarray
    projection: np.ndarray | None
    l2: bool
    norm: float
    eigenvalues: np.ndarray

    @property
    def dim(self) -> int:
        return sum(self.dims) if self.projection is None else self.projection.shape[1]

    @classmethod
    def fit(
        cls, dims: tuple[int, ...], scale: float, moments: Moments | None, config: ClusteringConfig
    ) -> Transform:
        """From the moments of all rows; None where no PCA is asked for."""
        width = sum(dims)
        if moments is None:
            return cls(dims, scale, np.zeros(width), None, config.l2, 1.0, np.zeros(0))
        mean = moments.total / moments.count
        covariance = moments.products / moments.count - np.outer(mean, mean)
        with threadpool_limits(1, "blas"):
            values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
        values, vectors = values[::-1], vectors[:, ::-1]
        rank = int((values > max(values[0], 0.0) * RANK_TOLERANCE).sum())
        dim = max(1, min(config.pca_dim, rank))
        values, vectors = np.maximum(values[:dim], 0.0), vectors[:, :dim]
        # A fixed sign: the component of the largest magnitude (the first of them) is positive.
        pivot = np.abs(vectors).argmax(axis=0)
        vectors = vectors * np.where(vectors[pivot, np.arange(dim)] < 0, -1.0, 1.0)
        power = _EIGEN_POWER if config.whiten else 0.0
        stretch = np.where(values > 0, values, 1.0) ** power
        projection = vectors * np.where(values > 0, stretch, 0.0)
        # |x / scale - mean| <= 2 per coordinate bounds every coordinate of y.
        norm = power_of_two(2 * float(np.abs(projection).sum(axis=0).max(initial=0.0)))
        return cls(dims, scale, mean, projection, config.l2, norm, values)

    def __call__(self, raw: np.ndarray) -> np.ndarray:
        """[n, d] of any float type (modalities side by side) to float16[n, d'] in [-1, 1]."""
        x = np.asarray(raw, np.float64) / self.scale
        if self.projection is not None:
            with threadpool_limits(1, "blas"):
                x = (x - self.mean) @ self.projection
        return (unit(x) if self.l2 else x / self.norm).astype(np.float16)

    def joined(self, vectors: np.ndarray) -> np.ndarray:
        """Features as they come from encoders to the raw rows of a joint clustering."""
        if len(self.dims) == 1:
            return vectors
        edges = np.cumsum((0, *self.dims))
        parts = [unit(vectors[:, a:b]).astype(np.float16) for a, b in itertools.pairwise(edges)]
        return np.concatenate(parts, axis=1)

    def dumps(self) -> bytes:
        sink = io.BytesIO()
        projection = np.zeros((0, 0)) if self.projection is None else self.projection
        np.savez(sink, **vars(self) | {"projection": projection})
        return sink.getvalue()

    @classmethod
    def loads(cls, data: bytes) -> Transform:
        with np.load(io.BytesIO(data)) as file:
            values = {name: value if value.ndim else value.item() for name, value in file.items()}
        projection = values["projection"] if values["projection"].size else None
        dims = tuple(values["dims"].tolist())
        return cls(**values | {"dims": dims, "projection": projection})


def power_of_two(value: float) -> float:
    """The smallest power of two at or above ``value``; 1.0 for 0."""
    return 2.0 ** math.ceil(math.log2(value)) if value > 0 else 1.0
