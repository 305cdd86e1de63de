"""The nearest windows of a table of vectors to a file's clips: by picture, by sound, and across.

Scores are cosines, searched by faiss part by part, in tasks. Across goes from the file's pictures
to the sound of windows: both are brought into one space by the table's own clips (`across`).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray

from pipeline.clustering.assign import load_faiss
from pipeline.errors import UserError
from pipeline.runtime.failures import unwrapped
from pipeline.runtime.placement import decoding
from pipeline.storage import Location
from pipeline.vectors.across import Across, fitted
from pipeline.vectors.media_vectors import SUMMARY, VectorTask, check_made_of, make_vectors

_ROW_COLUMNS = ["uri", "start_s", "end_s"]
_PARTS = 16  # that an across search is fitted on, evenly over the table

Map = Callable[[np.ndarray], np.ndarray]


class Hit(NamedTuple):
    """A window near to one of the file's clips."""

    score: float  # cosine with the nearest of them
    uri: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Search:
    """One search over one modality's parts."""

    name: str
    hits: tuple[Hit, ...]  # the nearest first
    note: str = ""  # of an across search: how far it is to be trusted


def nearest(task: VectorTask, file: str, count: int = 10) -> list[Search]:
    """Search the finished table of `task` for what is nearest to the clips of `file`.

    Raises:
        UserError: the table is not finished or of another encoder, or the file cannot be used.
    """
    if not (task.out / SUMMARY).exists():
        raise UserError(f"{task.out} has no finished vectors: run the same without --nearest first")
    check_made_of(task, task.source.weights_in(task.work))
    own = task.work / f"query-{uuid.uuid4().hex[:8]}"
    config = task.config.of_all_clips()
    query = replace(task, media=file, out=own, config=config, per_video=False)
    try:
        make_vectors(query)
        vectors = {m: _all_vectors(own / "vectors" / m) for m in task.source.modalities}
    finally:
        own.delete()
    searches = [
        Search(f"by {'picture' if m == 'video' else 'sound'}", _search(task, m, values, count))
        for m, values in vectors.items()
        if len(values)
    ]
    if len(vectors) == 2 and len(vectors["video"]):
        across = _fitted(task)
        if across is not None:
            queries, sounds = across.of_video(vectors["video"]), across.of_audio
            hits = _search(task, "audio", queries, count, sounds)
            note = str(across.agreement or "CCA; too few files to measure how good it is")
            searches.append(Search("across, from its pictures to sound", hits, note))
    return searches


def _search(
    task: VectorTask, modality: str, queries: np.ndarray, count: int, mapped: Map | None = None
) -> tuple[Hit, ...]:
    places = list((task.out / "vectors" / modality).files(".parquet"))
    cost = decoding(task.config.resources)
    search = ray.remote(search_part).options(**cost)
    boxed = ray.put((queries, mapped))
    with unwrapped():
        found = ray.get([search.remote(place, boxed, count) for place in places])
    hits = sorted((hit for some in found for hit in some), key=lambda hit: -hit.score)
    return tuple(hits[:count])


def search_part(place: Location, given: tuple[np.ndarray, Map | None], count: int) -> list[Hit]:
    """The nearest windows of a part of the table, each once.

    Args:
        given: queries float [q, d], and what brings the part's vectors into their space.
    """
    faiss = load_faiss()
    queries, mapped = given
    table = place.read_table([*_ROW_COLUMNS, "vector"])
    values = vectors_of(table)
    index = faiss.IndexFlatIP(queries.shape[1])
    index.add(unit_rows(mapped(values) if mapped else values))
    scores, rows = index.search(unit_rows(queries), min(count, len(table)))
    order = np.argsort(-scores, axis=None, kind="stable")
    rows, scores = rows.reshape(-1)[order], scores.reshape(-1)[order]
    _, first = np.unique(rows, return_index=True)
    chosen = np.sort(first)[:count]
    told = table.select(_ROW_COLUMNS).take(pa.array(rows[chosen])).to_pylist()
    return [Hit(float(score), *row.values()) for score, row in zip(scores[chosen], told)]


def _fitted(task: VectorTask) -> Across | None:
    folders = [task.out / "vectors" / m for m in ("video", "audio")]
    there = [{place.name for place in folder.files(".parquet")} for folder in folders]
    names = sorted(there[0] & there[1])
    chosen = np.linspace(0, len(names) - 1, min(len(names), _PARTS)).astype(int).tolist()
    fit: Any = ray.remote(_fit).options(**decoding(task.config.resources))
    with unwrapped():
        found: Across | None = ray.get(fit.remote(folders, [names[n] for n in chosen]))
    return found


def _fit(folders: Sequence[Location], names: Sequence[str]) -> Across | None:
    """From these parts, the clips of which have the same indices in both modalities."""
    pairs = [pairs_of(*(folder / name for folder in folders)) for name in names]
    if not pairs:
        return None
    video, audio, files = (np.concatenate(each) for each in zip(*pairs))
    return fitted(video, audio, files)


def pairs_of(video: Location, audio: Location) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors [n, d] of both modalities of the clips that have both, and str [n], their files."""
    tables = [place.read_table([*_ROW_COLUMNS, "vector"]) for place in (video, audio)]
    keys = [list(zip(*(t[name].to_pylist() for name in _ROW_COLUMNS))) for t in tables]
    at = {key: row for row, key in enumerate(keys[1])}
    both = [(row, at[key]) for row, key in enumerate(keys[0]) if key in at]
    left, right = np.array(both, np.int64).reshape(-1, 2).T
    files = np.array([uri for uri, _, _ in keys[0]], object)[left]
    return vectors_of(tables[0])[left], vectors_of(tables[1])[right], files


def vectors_of(table: pa.Table) -> np.ndarray:
    """float32 [n, d]."""
    column = table["vector"].combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    return column.flatten().to_numpy().reshape(len(table), -1).astype(np.float32)


def unit_rows(values: np.ndarray) -> np.ndarray:
    """float32 [n, d], each of length one, contiguous as faiss takes them; zeros stay."""
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.ascontiguousarray(values / np.where(lengths > 0, lengths, 1), np.float32)


def _all_vectors(folder: Location) -> np.ndarray:
    found = [vectors_of(place.read_table(["vector"])) for place in folder.files(".parquet")]
    return np.concatenate(found) if found else np.zeros((0, 1), np.float32)
