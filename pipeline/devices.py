"""The one place that chooses a device, its number format and its threads."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

import ray
import torch

from pipeline.config import ResourcesConfig


def choose_device(resources: ResourcesConfig) -> str:
    """``cuda`` or ``cpu``; *auto* takes GPUs where the cluster has any."""
    if resources.device != "auto":
        return resources.device
    return "cuda" if ray.cluster_resources().get("GPU", 0) >= 1 else "cpu"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Mixed precision of one device; ``auto`` is bfloat16 where the hardware multiplies it."""
    if precision == "auto":
        precision = "bfloat16" if multiplies_bfloat16(device) else "float32"
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def use_all_threads(device: str, threads: int = 0) -> None:
    """Set torch's threads of this worker: on a CPU `threads`, or all cores of the machine.

    Ray sets one thread for a worker of one CPU; the stages of a round run one after another, so
    that a CPU worker may use the cores which decoding leaves idle.
    """
    if device == "cpu":
        torch.set_num_threads(threads or os.cpu_count() or 1)
