"""The training loop against the shortest plain PyTorch loop, on batches that are decoded already.

    python benchmarks/learning.py [--repeats 3] [--workers 1] [--threads 1]

Same networks (the words' settings), batch, optimiser, threads and front end; XDC's update, both
encoders at once. *Plain* is forward, loss, backward, step, in DDP with several workers. *Ours* is
`pipeline.learning.worker.train_worker` under Ray Train, fed by Ray Data with the same decoded
batches, with its progress, curves, checks and waiting. Our workers keep freed memory
(`placement.KEEPS_MEMORY`), so *plain* runs as it is started by itself and with that environment. A
step's time is the difference of a long and a short training over the difference of their steps, so
that neither pays for its start. Our workers are of one group, after a training that does not count.
With fewer threads than cores, Ray's processes have a core of their own. Contenders take turns;
ratios are of each one's best. Writes ``benchmarks/learning.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from torch import nn
from torch.nn import functional as F

from pipeline import encoders
from pipeline.clips.stream import row_of
from pipeline.clips.table import ClipTable, PublishedClips
from pipeline.config import Config
from pipeline.encoders.frontend import FramesToInput, LogMel
from pipeline.learning.feed import Plan
from pipeline.learning.group import TrainingGroup
from pipeline.learning.optimizers import new_optimizer
from pipeline.learning.schedule import ScheduleShape
from pipeline.learning.task import LearningTask, PublishedLabels, WorkerTask
from pipeline.runtime.placement import KEEPS_MEMORY
from pipeline.runtime.session import connect
from pipeline.settings import load
from pipeline.storage import Location
from pipeline.telemetry.machine import about
from pipeline.telemetry.progress import Progress

RESULT = Path(__file__).resolve().parent / "learning.json"
SHORT, LONG = 20, 80  # steps of the two trainings
K = 64
HEADS = {"video": ("audio",), "audio": ("video",)}


def made_up(config: Config, seed: int) -> dict[str, Any]:
    """A decoded batch of noise, as `DecodeSlots` makes it."""
    random, size = np.random.default_rng(seed), config.learning.batch_size
    video = config.clips.video
    return {
        "video": random.integers(0, 256, (size, video.frames, video.size, video.size, 3), np.uint8),
        "audio": random.normal(size=(size, config.clips.audio.samples)).astype(np.float32),
        "slot": np.int64(seed),
        "clip_index": np.arange(size),
        "has_video": np.ones(size, bool),
        "has_audio": np.ones(size, bool),
        "mirror": np.zeros(size, bool),
        "label_video": random.integers(0, K, size).astype(np.int32),
        "label_audio": random.integers(0, K, size).astype(np.int32),
        "rejects": "[]",
        "held_out": np.bool_(False),
    }


@dataclass(frozen=True)
class Ready:
    """Stands where decoding would: numbers of slots in, the same few batches out."""

    batches: list[ray.ObjectRef]

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        slot = int(batch["slot"][0])
        found = ray.get(self.batches[slot % len(self.batches)]) | {"slot": np.int64(slot)}
        return row_of([found], 1)


def ours(
    config: Config,
    weights: Location,
    batches: list[ray.ObjectRef],
    steps: int,
    group: TrainingGroup,
) -> float:
    """Seconds of a training of so many steps, by workers that stand ready."""
    slots = steps * config.learning.step_batches

    def ready(numbers: np.ndarray, _: str) -> ray.data.Dataset:
        dataset = ray.data.from_blocks([pa.table({"slot": [slot]}) for slot in numbers])
        return dataset.map_batches(Ready(batches), batch_size=1, num_cpus=0.5)

    with (
        tempfile.TemporaryDirectory() as folder,
        Progress("learn", slots * config.learning.batch_size, "clips") as progress,
    ):
        out = Location.of(folder)
        task = LearningTask(
            clips=PublishedClips(ClipTable(out, (), np.zeros(1, np.int64)), []),
            heads=HEADS,
            labels={m: PublishedLabels([], K) for m in HEADS},
            weights=weights,
            out=out,
            rejects=out,
            config=config,
            key=(0, 1, 0),
            title="learn",
        )
        plan = Plan(ready, slots, max_bytes=0, worker_cpus=config.learning.cpus_per_worker)
        shape = ScheduleShape(steps, 0, 1, "")
        found = group.train(WorkerTask(task, "cpu", shape, progress.meter, plan))
        return float(found["train_seconds"])


class Network(nn.Module):
    def __init__(self, config: Config, weights: Location) -> None:
        super().__init__()
        self.encoders = encoders.channels_last(encoders.build(config.encoders, seed=0))
        encoders.load_weights(self.encoders, weights)
        self.heads = nn.ModuleDict(
            {
                m: encoders.new_head(int(net.dim), K, config.learning.head)
                for m, net in self.encoders.items()
            }
        )

    def forward(self, video: torch.Tensor, audio: torch.Tensor) -> list[torch.Tensor]:
        inputs = {"video": video, "audio": audio}
        return [self.heads[m](self.encoders[m](x)) for m, x in inputs.items()]


def loop(rank: int, config: Config, weights: Location, steps: int, port: int, out: str) -> None:
    """The plain loop of one worker; the first one writes its seconds."""
    workers = config.learning.workers
    torch.set_num_threads(config.learning.threads or max((os.cpu_count() or 1) // workers, 1))
    network: nn.Module = Network(config, weights)
    if workers > 1:
        where = f"tcp://127.0.0.1:{port}"
        torch.distributed.init_process_group("gloo", where, rank=rank, world_size=workers)
        network = nn.parallel.DistributedDataParallel(network)
    optimizer = new_optimizer(network, config.learning)
    frames, spectrogram = FramesToInput(), LogMel(config.clips.audio)
    batches = [made_up(config, seed) for seed in range(4)]
    for step in range(steps + 2):
        if step == 2:
            began = time.perf_counter()
        batch = batches[step % len(batches)]
        inputs = frames(torch.from_numpy(batch["video"]))  # none is mirrored
        logits = network(inputs, spectrogram(torch.from_numpy(batch["audio"])))
        labels = [torch.from_numpy(batch[f"label_{m}"]).long() for m in ("audio", "video")]
        loss = sum(F.cross_entropy(scores, label) for scores, label in zip(logits, labels))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    if rank == 0:
        Path(out).write_text(str(time.perf_counter() - began))


def plain(config: Config, weights: Location, steps: int, environment: dict[str, str]) -> float:
    os.environ |= environment
    with tempfile.NamedTemporaryFile("r") as out:
        port = 20_000 + os.getpid() % 20_000
        arguments = (config, weights, steps, port, out.name)
        torch.multiprocessing.spawn(loop, arguments, nprocs=config.learning.workers)
        for name in environment:
            del os.environ[name]
        return float(out.read())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--threads", type=int, default=0, help="of a worker; 0: its part of the cores"
    )
    options = parser.parse_args()
    workers, threads = options.workers, options.threads
    more = [f"learning.workers={workers}", "learning.cpus_per_worker=1"]
    more.append(f"learning.threads={threads}")
    config = load([str(RESULT.parents[1] / "configs" / "words.yaml"), *more])
    clips = (LONG - SHORT) * config.learning.step_batches * config.learning.batch_size
    connect(config.resources)
    environments = {"plain": {}, "plain, keeping memory": KEEPS_MEMORY}
    rates: dict[str, list[float]] = {name: [] for name in (*environments, "ours")}
    with tempfile.TemporaryDirectory() as folder, TrainingGroup() as group:
        weights = Location.of(folder) / "encoders.safetensors"
        encoders.save_weights(encoders.build(config.encoders, seed=0), weights)
        batches = [ray.put(made_up(config, seed)) for seed in range(4)]
        ours(config, weights, batches, SHORT, group)  # starts processes that stay
        for _ in range(options.repeats):
            for name, environment in environments.items():
                rates[name].append(clips / plain(config, weights, LONG - SHORT, environment))
            short, long = (ours(config, weights, batches, n, group) for n in (SHORT, LONG))
            rates["ours"].append(clips / (long - short))
            print({name: round(values[-1], 1) for name, values in rates.items()}, flush=True)
    ray.shutdown()
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    name = f"{workers} workers" + f", {threads} threads" * bool(threads)
    found[name] = {
        "about": about("torch", "ray"),
        "clips_per_second": {n: [round(v, 1) for v in values] for n, values in rates.items()},
        "ratio to": {
            other: round(max(rates["ours"]) / max(rates[other]), 3) for other in environments
        },
    }
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(found[name]["ratio to"])


if __name__ == "__main__":
    main()
