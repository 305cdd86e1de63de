"""Places that only the driver sees, or that do not last: found before anything is written there.

On a cluster every node reads and writes the run directory, and runs this code.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from typing import Any

import ray

from pipeline.errors import UserError
from pipeline.storage import Location

# Ray unpacks the code of a submitted job below it and deletes it with the last job that uses it.
_RAYS_CACHE = "/runtime_resources/"
_PATIENCE_S = 60.0  # for a node that just starts


def refuse_passing(places: Sequence[str | Location]) -> None:
    """Refuse places in a submitted job's copy of the code, where a relative path leads.

    Raises:
        UserError: the next change of the code would lose what is written there.
    """
    for place in _local(places):
        if _RAYS_CACHE in place.uri:
            name = place.uri.rpartition(f"{_RAYS_CACHE}working_dir_files/")[2].partition("/")[2]
            raise UserError(
                f"the path {name or place.name!r} is relative, and lies in Ray's passing copy of "
                "the code here: give an absolute path that all nodes see, or a bucket"
            )


def check_nodes(places: Sequence[str | Location]) -> None:
    """Have every node import this code and look for a file that the driver writes to each place.

    A node that does not answer within a minute is passed over.

    Raises:
        UserError: a node lacks the code, or does not see a place.
    """
    nodes = {n["NodeID"]: n["NodeManagerAddress"] for n in ray.nodes() if n["Alive"]}
    if len(nodes) < 2:
        return
    marks = [place / f".seen-{uuid.uuid4().hex[:8]}" for place in _local(places)]
    try:
        for mark in marks:
            mark.write_bytes(b"")
        found = _look([mark.uri for mark in marks], list(nodes))
    finally:
        for mark in marks:
            mark.delete()
    lacking = {nodes[node]: error for node, (error, _) in found.items() if error}
    if lacking:
        address, error = next(iter(lacking.items()))
        raise UserError(
            f"{len(lacking)} of {len(nodes)} nodes lack this code ({address}: {error}): install it "
            "in the nodes' image, or send it along: ray job submit --working-dir ."
        )
    for mark in marks:
        blind = [nodes[node] for node, (_, seen) in found.items() if mark.uri not in seen]
        if blind:
            raise UserError(
                f"{mark.uri.rpartition('/')[0]} is not the same folder on every node: "
                f"{', '.join(blind)} does not see what the driver writes there. Use a bucket "
                "(s3://…, gs://…) or a file system that all nodes share"
            )


def _local(places: Sequence[str | Location]) -> list[Location]:
    return [place for name in places if name and (place := _named(name)).is_local]


def _named(place: str | Location) -> Location:
    return place if isinstance(place, Location) else Location.named(place)


def _look(marks: list[str], nodes: list[str]) -> dict[str, tuple[str, list[str]]]:
    """Node → why it cannot import this code, or nothing, and the marks that it sees."""

    # Not at the top: Ray sends such a function whole, and would look that up in this package.
    def look(files: list[str]) -> tuple[str, list[str]]:
        try:
            import pipeline.errors  # noqa: F401
        except ImportError as error:
            return str(error), []
        return "", [file for file in files if os.path.exists(file)]

    task: Any = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = {
        task.options(label_selector={"ray.io/node-id": node}).remote(marks): node for node in nodes
    }
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_PATIENCE_S)
    found = {}
    for reference in answered:
        try:
            found[asked[reference]] = ray.get(reference)
        except ray.exceptions.RayError as error:  # the node went, or cannot read what we send
            if "No module named" in str(error):
                found[asked[reference]] = (str(error).strip().splitlines()[-1], [])
    return found
