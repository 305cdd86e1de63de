"""Does anything grow from round to round? ``python benchmarks/leaks.py RUN [ROUNDS]``.

Pretrains an indexed local RUN for many short rounds (20) on a Ray of its own, and looks once a
second: memory, threads and open files of the driver, number and memory of Ray's processes, shared
memory. Writes leaks.json, the median of each round and the growth from round 5 to the last, and
leaks.png.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from statistics import median

import matplotlib
import psutil

from pipeline.telemetry.machine import about

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).resolve().parent
FIRST = 5  # from this round on all should be flat
# Parts of Ray, as they stand in its command lines; "ray::" are workers, one by one short-lived.
KINDS = ("ray::", "gcs_server", "raylet/raylet", "dashboard", "others")
SETTINGS = [
    *("clips.video.fps=12", "clips.video.frames=4", "clips.video.size=24"),
    *("clips.video.short_side=26", "clips.video.train_short_side=[24,28]"),
    *("clips.audio.window_s=1.0", "clips.audio.spectrogram_frames=40"),
    *("encoders.video=r2plus1d_small", "encoders.audio=resnet_small", "encoders.warm_batches=1"),
    *("clustering.k=4", "clustering.iterations=5", "clustering.pca_dim=8"),
    *("clustering.block_size=16", "clustering.cpus_per_shard=0.25"),
    *("learning.batch_size=8", "learning.epochs=2", "learning.cpus_per_worker=0.5"),
    *("learning.optimizer=adamw", "learning.lr=0.001"),
]


def look(driver: psutil.Process) -> dict[str, float]:
    """What the driver and the processes below it hold now."""
    below = driver.children(recursive=True)
    memory: dict[str, float] = defaultdict(float)
    for process in below:
        with suppress(psutil.Error):
            memory[kind(process)] += process.memory_full_info().uss / 2**20
    return {
        "driver: memory, MB": driver.memory_full_info().uss / 2**20,
        "driver: threads": driver.num_threads(),
        "driver: open files": driver.num_fds(),
        "processes": len(below),
        "their memory, MB": sum(memory.values()),
        "shared memory, MB": shutil.disk_usage("/dev/shm").used / 2**20,
        **{f"of these {name}": memory[name] for name in KINDS},
    }


def kind(process: psutil.Process) -> str:
    """Of `KINDS`: which part of Ray a process is."""
    line = " ".join(process.cmdline())
    return next(name for name in KINDS if name in line or name == "others")


def watched(run: Path, rounds: int) -> dict[int, dict[str, float]]:
    """Round → medians of what was seen while it was made."""
    job = [sys.executable, str(HERE.parent / "jobs" / "pretrain.py"), *SETTINGS]
    seen: dict[int, list[dict[str, float]]] = defaultdict(list)
    with subprocess.Popen([*job, f"run={run}", f"rounds={rounds}"], cwd=HERE.parent) as started:
        driver = psutil.Process(started.pid)
        while started.poll() is None:
            done = len(list((run / "rounds").glob("*/_DONE"))) if run.exists() else 0
            with suppress(psutil.Error):
                seen[done].append(look(driver))
            time.sleep(1)
    if started.returncode:
        raise SystemExit(started.returncode)
    return {n: {k: median(one[k] for one in all_) for k in all_[0]} for n, all_ in seen.items()}


def main() -> None:
    run, rounds = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 20
    by_round = {n: found for n, found in sorted(watched(run, rounds).items()) if 1 <= n < rounds}
    names = list(by_round[1])
    growth = {
        name: round(by_round[rounds - 1][name] / max(by_round[FIRST][name], 1e-9), 3)
        for name in names
    }
    report = {
        "about": about("ray", "torch", "pyarrow"),
        "rounds": rounds,
        f"last round over round {FIRST}": growth,
        "by_round": {
            n: {k: round(v, 1) for k, v in found.items()} for n, found in by_round.items()
        },
    }
    (HERE / "leaks.json").write_text(json.dumps(report, indent=1) + "\n")
    figure, axes = plt.subplots(2, 3, figsize=(11, 5), layout="constrained")
    for axis, name in zip(axes.flat, names):  # the first six
        axis.plot(list(by_round), [found[name] for found in by_round.values()], marker=".")
        axis.set(title=name, xlabel="round", ylim=(0, None))
        axis.axvline(FIRST, color="0.8", zorder=0)
    figure.savefig(HERE / "leaks.png", dpi=110)
    print(json.dumps(report[f"last round over round {FIRST}"], indent=1))


if __name__ == "__main__":
    main()
