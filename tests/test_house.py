"""The rules of CONTRIBUTING.md that a machine can check, beside those of `make lint`."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = [*sorted((ROOT / "pipeline").rglob("*.py")), *sorted((ROOT / "jobs").glob("*.py"))]


def nodes(kind: type[ast.AST]) -> Iterator[tuple[Path, ast.AST]]:
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, kind):
                yield file.relative_to(ROOT), node


def test_files_are_short() -> None:
    long = {file.name: len(file.read_text().splitlines()) for file in FILES}
    assert {name: lines for name, lines in long.items() if lines > 350} == {}


def test_functions_take_at_most_seven_parameters() -> None:
    found = []
    for file, function in nodes(ast.FunctionDef):
        assert isinstance(function, ast.FunctionDef)
        a = function.args
        names = [p.arg for p in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
        if len([name for name in names if name not in ("self", "cls")]) > 7:
            found.append(f"{file}: {function.name}")
    assert found == []


def test_a_name_stands_for_one_thing() -> None:
    """One file name and one class name once in the package."""
    package = [file for file in FILES if "pipeline" in file.parts and file.stem != "__init__"]
    classes = [node.name for _, node in nodes(ast.ClassDef) if isinstance(node, ast.ClassDef)]
    for names in ([file.name for file in package], classes):
        assert [name for name, times in Counter(names).items() if times > 1] == []


def test_imports_stand_at_the_top() -> None:
    """But for packages that are heavy or optional, which the function that needs them imports."""
    late = {"torch", "ray", "faiss", "mlflow", "wandb", "onnx", "onnxruntime", "onnxscript"}
    late |= {"boto3", "botocore", "umap"}
    # Modules of ours that load torch, put off by what must start fast.
    late |= {"pipeline"}
    late |= {"resource"}  # not on every system
    found = []
    for file, function in nodes(ast.FunctionDef):
        for node in ast.walk(function):
            names = [n.name for n in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{file}: {n}" for n in names if n.partition(".")[0] not in late]
    assert found == []


# What runs by the dozen on a node: decoding and writing tasks, the board, the index, its shards.
MANY = ["clips.stream", "clips.fill", "clips.indexing", "embedding.shards", "telemetry.progress"]
MANY += ["telemetry.watchdog", "runtime.stalls", "clustering.index", "clustering.shard"]
MANY += ["learning.feed"]


def test_what_runs_by_the_dozen_does_not_load_torch() -> None:
    """It takes a second and half a gigabyte of every process."""
    imports = "; ".join(f"import pipeline.{name}" for name in MANY)
    script = f"{imports}; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0
