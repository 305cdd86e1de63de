"""Benchmarks of the clustering: ``python benchmarks/kmeans.py SECTION…``

Sections: ``process`` (one process against faiss and scikit-learn), ``shards`` (1, 2, 4 actors on
the same cores), ``scale`` (time per iteration and memory from 1e5 rows to as many as ``--rows``),
``labels`` (broadcast of 65 M labels), ``gpu`` (products on a GPU against those on cores). Each
writes its part of ``benchmarks/kmeans.json``, and the table ``benchmarks/kmeans.md`` is made of
that. Contenders of one row run one after another in fresh processes, with the same vectors, initial
centroids, iterations and threads.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipeline.telemetry.machine import about

HERE = Path(__file__).parent
SHAPES = ((100_000, 512, 256), (1_000_000, 256, 256), (1_000_000, 128, 1024), (300_000, 512, 4096))
ITERATIONS = 10
PACKAGES = ("faiss-cpu", "numpy", "ray", "scikit-learn", "torch")
ENCODED = 100_000  # vectors of a real encoder that are made in minutes


def apart(arguments: list[str], threads: int) -> dict[str, Any]:
    """Run a section of `kmeans_contenders.py` in a process of its own; its last line is JSON."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "PYTHONPATH": str(HERE.parent),
    }
    script = str(HERE / "kmeans_contenders.py")
    done = subprocess.run(
        [sys.executable, script, *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise SystemExit(f"{arguments} failed with {done.returncode}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def process(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    threads = options.threads
    for data in options.data:
        for n, d, k in options.shapes:
            if data == "encoder" and n > ENCODED:
                continue
            with tempfile.TemporaryDirectory() as folder:
                shape = [str(v) for v in (n, d, k)]
                apart(["make", folder, data, *shape], threads)
                row: dict[str, Any] = {"threads": threads, "data": data, "n": n, "d": d, "k": k}
                for name in options.contenders:
                    row[name] = apart([name, folder, str(k), str(ITERATIONS)], threads)
                if "faiss" in row and "ours" in row:
                    for clock in ("seconds", "cpu_seconds"):  # of one iteration
                        each = [row[c][clock] / len(row[c]["objective"]) for c in ("ours", "faiss")]
                        row[f"ratio_to_faiss_{clock}"] = each[0] / each[1]
                rows.append(row)
                print(row, flush=True)
    return rows


def shards(options: argparse.Namespace) -> list[dict[str, Any]]:
    n, d, k = 400_000, 256, 256
    with tempfile.TemporaryDirectory() as folder:
        apart(["make", folder, "mixture", str(n), str(d), str(k)], 2)
        arguments = [str(k), str(ITERATIONS)]
        rows = [{"shards": "one process, 2 threads"} | apart(["ours", folder, *arguments], 2)]
        for count in (1, 2, 4):
            found = apart(["actors", folder, *arguments, str(count)], 1)
            rows.append({"shards": count} | found)
            print(rows[-1], flush=True)
    for row in rows:
        row |= {"n": n, "d": d, "k": k}
        row["overhead"] = row["seconds"] / rows[0]["seconds"] - 1
    return rows


def scale(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for n in (100_000, 1_000_000, 10_000_000):
        if n > options.rows:
            break
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            rows.append(apart(["scale", folder, str(n), "256", "256", str(options.budget)], 1))
            print(rows[-1], flush=True)
    return rows


def labels(options: argparse.Namespace) -> list[dict[str, Any]]:
    return [apart(["labels", "65000000", "8"], 1)]


def gpu(options: argparse.Namespace) -> list[dict[str, Any]]:
    import torch

    rows = []
    for n, d, k in options.shapes:
        with tempfile.TemporaryDirectory() as folder:
            apart(["make", folder, "mixture", *(str(v) for v in (n, d, k))], options.threads)
            row: dict[str, Any] = {"threads": options.threads, "n": n, "d": d, "k": k}
            row["gpu"] = torch.cuda.get_device_name()
            for device in ("cpu", "cuda"):
                arguments = ["ours", folder, str(k), str(ITERATIONS), device]
                row[device] = apart(arguments, options.threads)
            rows.append(row)
            print(row, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    sections = {
        "process": process,
        "gpu": gpu,
        "shards": shards,
        "scale": scale,
        "labels": labels,
    }
    parser.add_argument("sections", nargs="+", choices=sections)
    parser.add_argument("--data", nargs="+", default=["encoder", "mixture"])
    parser.add_argument("--contenders", nargs="+", default=["faiss", "ours", "sklearn"])
    parser.add_argument("--shapes", nargs="+", default=SHAPES, type=_shape)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--budget", type=int, default=256, help="MB of vectors per shard (scale)")
    parser.add_argument("--scratch", default=None, help="folder for the features of scale")
    parser.add_argument("--output", type=Path, default=HERE / "kmeans.json")
    options = parser.parse_args()
    results = json.loads(options.output.read_text()) if options.output.exists() else {}
    for name in options.sections:
        before = os.getloadavg()[0]
        rows = sections[name](options)
        load = f"{before:.1f}, {os.getloadavg()[0]:.1f}"
        results[name] = {"machine": about(*PACKAGES) | {"load": load}, "rows": rows}
        options.output.write_text(json.dumps(results, indent=1) + "\n")
    from kmeans_table import table

    options.output.with_suffix(".md").write_text(table(results))


def _shape(text: str) -> tuple[int, int, int]:
    n, d, k = (int(float(v)) for v in text.split(","))
    return n, d, k


if __name__ == "__main__":
    main()
