"""A shard's vectors on a GPU: searched there by faiss-gpu and added up there by torch.

Device ``cpu`` does the same with faiss's own index, without a GPU: that is how it is tested.
Not measured on a GPU yet (benchmarks/kmeans.py has a section for it).
"""

from __future__ import annotations

import threading

import faiss.contrib.torch_utils  # noqa: F401  (makes indexes take tensors)
import numpy as np
import torch
from torch.nn.functional import pad

from pipeline.clustering.assign import CentroidIndex, load_faiss
from pipeline.errors import UserError

_SPARE = 2 << 30  # bytes of the GPU left to faiss and to what a block needs


class GpuBlocks:
    """Blocks of a shard, kept on the device for as long as it has room, and sums over them.

    Args:
        device: ``cuda``, or ``cpu`` to do the same without a GPU.
        rows: vectors of the shard.

    Raises:
        UserError: faiss is installed without its GPU part.
    """

    def __init__(self, device: str, rows: int):
        self.device = torch.device(device)
        self.labels = np.full(rows, -1, np.int32)
        self._blocks: dict[int, torch.Tensor] = {}  # by first row
        # faiss's resources serve one caller at a time.
        self._lock = threading.Lock()
        self._resources = None
        if self.device.type == "cuda":
            library = load_faiss()
            if not hasattr(library, "StandardGpuResources"):
                raise UserError(
                    "clustering.gpus_per_shard needs faiss-gpu: `pip install 'xdc-ray[gpu]'` in "
                    "place of [cpu], or set clustering.gpus_per_shard=0"
                )
            self._resources = library.StandardGpuResources()

    def begin(self, centroids: np.ndarray, bias: np.ndarray | None, spherical: bool) -> None:
        """A pass with other centroids; sums start at zero."""
        self._index = CentroidIndex(centroids, bias, spherical, self._resources)
        self._sums = torch.zeros(centroids.shape, dtype=torch.float64, device=self.device)
        self._counts = torch.zeros(len(centroids), dtype=torch.int64, device=self.device)

    def add(self, rows: slice, block: np.ndarray) -> None:
        """Label and add up a block float16[n, d] of the shard.

        Float64 sums of float16 numbers in [-1, 1] are exact (blocks.py). So it does not matter in
        what order the GPU's threads add, and the bits are those that a processor gets.
        """
        if not len(block):
            return
        with self._lock:
            x = self._there(rows.start, block).float()
            _, found = self._index.index.search(pad(x, (0, self._index.more)), 1)
            labels = found[:, 0]
            self._sums.index_add_(0, labels, x.double())
            self._counts += torch.bincount(labels, minlength=len(self._counts))
            self.labels[rows] = labels.cpu().numpy()

    def total(self) -> tuple[np.ndarray, np.ndarray]:
        """Sums float64[k, d] and counts int64[k] of the pass."""
        return self._sums.cpu().numpy(), self._counts.cpu().numpy()

    def _there(self, start: int, block: np.ndarray) -> torch.Tensor:
        held = self._blocks.get(start)
        if held is None:
            held = torch.from_numpy(block).to(self.device, copy=True)
            if self._resources is None or torch.cuda.mem_get_info(self.device)[0] > _SPARE:
                self._blocks[start] = held
        return held
