"""Benchmarks of the clustering: ``python benchmarks/kmeans.py SECTION…``

Sections: ``table`` (seconds per iteration: faiss alone, this package before and now; one process
and two shards), ``scale`` (time per iteration and memory from 1e5 rows to as many as ``--rows``),
``labels`` (broadcast of 65 M labels), ``gpu`` (one process, on a GPU and on cores). Each writes its
part of ``benchmarks/kmeans.json``, and the table ``benchmarks/kmeans.md`` is made of that.

    python benchmarks/kmeans.py table --before PATH

PATH is a checkout of an older commit; without it the columns "before" stay empty. Contenders run in
processes of their own on the same vectors, initial centroids and cores, and take turns iteration by
iteration. The whole table takes about ten minutes on two idle cores, after the encoder's vectors
were made once (some minutes; kept in the system's temporary folder).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kmeans_table import markdown

from pipeline.telemetry.machine import about

HERE = Path(__file__).parent
PACKAGES = ("faiss-cpu", "numpy", "ray", "torch")


@dataclass(frozen=True)
class Shape:
    data: str
    n: int
    d: int
    k: int
    iterations: int


SHAPES = (
    Shape("encoder", 100_000, 512, 256, 10),
    Shape("mixture", 1_000_000, 256, 256, 6),
    Shape("mixture", 1_000_000, 128, 1024, 6),
    Shape("mixture", 300_000, 512, 4096, 4),
)


def environment(threads: int, source: Path) -> dict[str, str]:
    return os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "PYTHONPATH": f"{source}:{HERE}",
    }


class Contender:
    """A process that does an iteration when asked.

    Args:
        name: a function of `kmeans_contenders.py`.
        source: the checkout whose package runs.
    """

    def __init__(self, name: str, folder: str, shape: Shape, threads: int, source: Path):
        script = str(HERE / "kmeans_contenders.py")
        self.process = subprocess.Popen(
            [sys.executable, script, name, folder, str(shape.k), str(shape.iterations)],
            # Ray's workers look for the package where the driver was started.
            cwd=source,
            env=environment(threads, source),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.name = name
        self.answers: list[dict[str, float]] = []
        self._answer()

    def iterate(self) -> bool:
        """Whether there was something left to do."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self._answer()
        if answer:
            self.answers.append(answer)
        return bool(answer)

    def close(self, iterations: int) -> dict[str, Any]:
        """End the process; seconds and objective of the first iterations."""
        assert self.process.stdin is not None
        self.process.stdin.close()  # it ends by itself
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        answers = self.answers[:iterations]
        seconds = [answer["seconds"] for answer in answers]
        return {
            "seconds": sum(seconds) / max(1, len(seconds)),
            "per_iteration": seconds,
            "objective": [answer["objective"] for answer in answers],
        }

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"{self.name} ended with {self.process.wait()}")


def compared(shape: Shape, contenders: dict[str, tuple[str, int, Path]]) -> dict[str, Any]:
    """One row: every contender (title → function, threads, checkout) on the same vectors."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [shape.data, *(str(v) for v in (shape.n, shape.d, shape.k))]
        script = str(HERE / "kmeans_vectors.py")
        subprocess.run(
            [sys.executable, script, folder, *arguments],
            env=environment(os.cpu_count() or 1, HERE.parent),
            check=True,
        )
        running: dict[str, Contender] = {}
        try:
            for title, (name, threads, source) in contenders.items():
                running[title] = Contender(name, folder, shape, threads, source)
            for turn in range(shape.iterations):
                order = list(running.values())
                going = [one.iterate() for one in (order if turn % 2 == 0 else order[::-1])]
                if not all(going):
                    break
        finally:
            done = min((len(one.answers) for one in running.values()), default=0)
            found = {title: one.close(done) for title, one in running.items()}
    row = asdict(shape) | found
    print({title: round(one["seconds"], 3) for title, one in found.items()}, shape, flush=True)
    return row


def table(options: argparse.Namespace) -> list[dict[str, Any]]:
    here, threads = HERE.parent, options.threads
    contenders = {"faiss": ("faiss", threads, here)}
    for title, source in (("before", options.before), ("now", here)):
        if source is not None:
            contenders[title] = ("process", threads, source)
            contenders[f"{title}, 2 shards"] = ("actors", 1, source)
    rows = [compared(shape, contenders) for shape in options.shapes]
    commit = about()["commit"] if options.before is None else commit_of(options.before)
    return [row | {"threads": threads, "before_commit": commit} for row in rows]


def gpu(options: argparse.Namespace) -> list[dict[str, Any]]:
    import torch

    here, threads = HERE.parent, options.threads
    contenders = {"cores": ("process", threads, here), "gpu": ("gpu", threads, here)}
    rows = [compared(shape, contenders) for shape in options.shapes if shape.data == "mixture"]
    return [row | {"threads": threads, "name": torch.cuda.get_device_name()} for row in rows]


def scale(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for n in (100_000, 1_000_000, 10_000_000):
        if n > options.rows:
            break
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            rows.append(apart(["scale", folder, str(n), "256", "256", str(options.budget)]))
            print(rows[-1], flush=True)
    return rows


def labels(options: argparse.Namespace) -> list[dict[str, Any]]:
    return [apart(["labels", "65000000", "8"])]


def apart(arguments: list[str]) -> dict[str, Any]:
    """Run a section of `kmeans_scale.py` in a process of its own; its last line is JSON."""
    done = subprocess.run(
        [sys.executable, str(HERE / "kmeans_scale.py"), *arguments],
        env=environment(1, HERE.parent),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def commit_of(checkout: Path) -> str:
    git = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()


SECTIONS = {"table": table, "gpu": gpu, "scale": scale, "labels": labels}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="+", choices=SECTIONS)
    parser.add_argument("--before", type=Path, help="an older checkout, for comparison (table)")
    parser.add_argument("--shapes", nargs="+", default=SHAPES, type=_shape, help="rows,width,k")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rows", type=int, default=10_000_000, help="at most (scale)")
    parser.add_argument("--budget", type=int, default=256, help="MB of vectors per shard (scale)")
    parser.add_argument("--scratch", default=None, help="folder for the features (scale)")
    parser.add_argument("--output", type=Path, default=HERE / "kmeans.json")
    options = parser.parse_args()
    results = json.loads(options.output.read_text()) if options.output.exists() else {}
    for name in options.sections:
        before = os.getloadavg()[0]
        rows = SECTIONS[name](options)
        load = f"{before:.1f}, {os.getloadavg()[0]:.1f}"
        results[name] = {"machine": about(*PACKAGES) | {"load": load}, "rows": rows}
        options.output.write_text(json.dumps(results, indent=1) + "\n")
    options.output.with_suffix(".md").write_text(markdown(results))


def _shape(text: str) -> Shape:
    n, d, k = (int(float(v)) for v in text.split(","))
    return next(shape for shape in SHAPES if (shape.n, shape.d, shape.k) == (n, d, k))


if __name__ == "__main__":
    main()
