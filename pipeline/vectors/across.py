"""From pictures to sound: canonical correlation analysis of clips that have both.

CCA as PCA with whitening of each modality, then the singular vectors of what they share (PLSSVD of
whitened variables is CCA). Few components, because an encoder's last ones are noise that whitening
blows up. Directions count by their correlation, as Gong et al. 2014 weight them for retrieval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.cross_decomposition import PLSSVD
from sklearn.decomposition import PCA

_COMPONENTS = 64  # at most, and at most one for so many clips:
_CLIPS_EACH = 32  # with 8 held-out recall was lower (1.6 against 2.1 times chance, 807 clips)
_MOST = 20_000  # clips that it is fitted on
_HELD_OUT = 0.2  # of the files
_GALLERY = 1000  # held-out clips at most that are searched
_TOP = 10
_LEAST = 16  # clips, below which nothing is fitted


@dataclass(frozen=True)
class Agreement:
    """How well held-out clips find their own sound by their pictures."""

    clips: int  # fitted on
    gallery: int  # held-out clips, of files that were not fitted on, one of each where they suffice
    recall: float  # share of them whose own sound is among the ten nearest of the gallery
    chance: float  # the same for an order at random

    def __str__(self) -> str:
        return (
            f"CCA on {self.clips:,} clips; of {self.gallery:,} held-out clips it finds the own "
            f"sound among the {_TOP} nearest for {self.recall:.3f}, by chance {self.chance:.3f}"
        )


@dataclass(frozen=True)
class Across:
    """Both modalities in one space."""

    video: PCA
    audio: PCA
    shared: PLSSVD
    weights: np.ndarray  # float [c], correlations of the directions
    agreement: Agreement | None = None

    def of_video(self, vectors: np.ndarray) -> np.ndarray:
        """Float [n, d] → [n, c]."""
        return self.shared.transform(self.video.transform(vectors)) * self.weights

    def of_audio(self, vectors: np.ndarray) -> np.ndarray:
        """Float [n, d] → [n, c]."""
        white = self.audio.transform(vectors)
        # The transform wants rows of both; those of the first do not matter.
        none = np.zeros((len(white), self.video.n_components_))
        return self.shared.transform(none, white)[1] * self.weights


def fitted(video: np.ndarray, audio: np.ndarray, files: np.ndarray) -> Across | None:
    """Fit on four fifths of the files, and find out on the rest how good it is.

    Args:
        video, audio: float [n, d] of the same clips; files: [n], of which file each clip is.

    Returns:
        None where there are too few clips.
    """
    names, file = np.unique(files.astype(str), return_inverse=True)
    held = np.random.default_rng(0).random(len(names)) < _HELD_OUT
    held_out = held[file]
    train = _spread(np.flatnonzero(~held_out), _MOST)
    # One clip a file where there are enough files: windows of one file sound alike.
    firsts = np.unique(file, return_index=True)[1]
    of_files = firsts[held]
    rest = of_files if len(of_files) >= _LEAST else np.flatnonzero(held_out)
    test = _spread(rest, _GALLERY)
    if min(len(train), len(test)) < _LEAST:
        train, test = _spread(np.arange(len(file)), _MOST), test[:0]
    if len(train) < _LEAST:
        return None
    found = _of(video[train], audio[train])
    if not len(test):
        return found
    queries, gallery = found.of_video(video[test]), found.of_audio(audio[test])
    queries, gallery = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, gallery))
    scores = queries @ gallery.T
    rank = (scores > np.diag(scores)[:, None]).sum(axis=1)
    chance = min(_TOP / len(test), 1.0)
    agreement = Agreement(len(train), len(test), float((rank < _TOP).mean()), chance)
    return Across(found.video, found.audio, found.shared, found.weights, agreement)


def _of(video: np.ndarray, audio: np.ndarray) -> Across:
    most = min(_COMPONENTS, len(video) // _CLIPS_EACH, video.shape[1], audio.shape[1])
    whiten = [PCA(max(most, 1), whiten=True, random_state=0).fit(x) for x in (video, audio)]
    x, y = (pca.transform(values) for pca, values in zip(whiten, (video, audio)))
    shared = PLSSVD(max(most, 1), scale=False).fit(x, y)
    a, b = shared.transform(x, y)
    correlations = (a * b).mean(axis=0) / np.maximum(a.std(axis=0) * b.std(axis=0), 1e-12)
    return Across(whiten[0], whiten[1], shared, np.clip(correlations, 0, None))


def _spread(rows: np.ndarray, most: int) -> np.ndarray:
    """So many of the rows, evenly over all of them."""
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(int)]
