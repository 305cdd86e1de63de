"""The number format, the copies and the threads of a process that computes with torch."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

import numpy as np
import torch


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Mixed precision; ``auto`` is bfloat16 on GPUs that multiply it and float32 elsewhere.

    On CPUs torch 2.11 and 2.15 with bfloat16 give non-finite weight gradients for some convolutions
    of R(2+1)D's last stages, so that it is taken there only when it is asked for.
    """
    if precision == "auto":
        capable = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bfloat16" if capable else "float32"
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def on_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy a batch to the device; page-locked memory lets the host queue GPU work meanwhile."""
    kind = torch.from_numpy(np.empty(0, array.dtype)).dtype
    host = torch.empty(array.shape, dtype=kind, pin_memory=device.type == "cuda")
    np.copyto(host.numpy(), array)
    return host.to(device, non_blocking=True)


def use_threads(device: str, workers_here: int = 1, threads: int = 0) -> None:
    """Set torch's threads of a CPU worker: `threads`, or its part of the machine's cores.

    Ray sets one thread for a worker of one CPU. But the stages of a round run one after another,
    and a CPU worker may use the cores that decoding leaves idle.
    """
    if device == "cpu":
        torch.set_num_threads(threads or max((os.cpu_count() or 1) // workers_here, 1))
