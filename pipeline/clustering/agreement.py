"""How far two modalities' clusterings agree: what tells without labels how well learning goes.

benchmarks/findings.md says how well it ranks settings.
"""

from __future__ import annotations

import numpy as np

from pipeline.clustering.measures import adjusted_mutual_information, entropy, mutual_information

_COMPARED = 1_000_000  # clips that are enough to tell
_TINY = 1e-9  # nats, of what a file leaves open
_SHUFFLES = 10  # of 3,000 clips: other shuffles give another 0.001


def agreement(first: np.ndarray, second: np.ndarray, files: np.ndarray | None = None) -> float:
    """Mutual information over the entropies' mean, adjusted for chance: 0 by chance, 1 if equal.

    Without the adjustment more clusters would agree more by chance alone: at k = 1024 the words'
    3,000 clips have a normalised mutual information of 0.83, of which 0.06 is agreement.

    Both clusterings may also agree on what is beside the point, such as the room and the day that
    all clips of a file share. With `files` that does not count: chance then deals the labels of a
    file's clips anew among them, so what remains is known of the clip beyond its file.

    Args:
        first, second: int[n], negative: none.
        files: int[m], the file of each of the first m clips, which are then compared; of use where
            files hold several clips.
    """
    if files is None:
        every = max(1, len(first) // _COMPARED)
        return adjusted_mutual_information(first[::every], second[::every])
    first, second = first[: len(files)], second[: len(files)]
    both = (first >= 0) & (second >= 0) & (files % max(1, len(first) // _COMPARED) == 0)
    by_file = np.argsort(files[both], kind="stable")
    first, second, files = (values[both][by_file] for values in (first, second, files))
    random = np.random.default_rng(0)
    dealt = (second[np.lexsort((random.random(len(files)), files))] for _ in range(_SHUFFLES))
    chance = np.mean([mutual_information(first, anew) for anew in dealt])
    known = mutual_information(first, second) - chance
    most = (entropy(np.bincount(first)) + entropy(np.bincount(second))) / 2 - chance
    return float(known / most) if most > _TINY else 0.0
