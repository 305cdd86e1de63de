"""From media to the table of vectors: index → embed → join, each resumable.

OUT/  vectors/<modality>/part-*.parquet   the table
      rejects/*.parquet                   what has no vectors, and why
      files/<modality>/*.npz              as asked: a file of dense vectors for each media file
      vectors.json                        what was made, written last
      work/                               clips table, features and records, to go on from
"""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import ray

from pipeline.clips.indexing import REJECTS, IndexReport, index
from pipeline.clips.stream import run_numbered
from pipeline.clips.table import ClipTable
from pipeline.config import Config
from pipeline.embedding.embed import EmbeddingTask, embed
from pipeline.embedding.written import discard, weight_digests
from pipeline.errors import UserError
from pipeline.lease import hold
from pipeline.manifest import Damaged, digest_of
from pipeline.runtime import demands
from pipeline.runtime.placement import decoding
from pipeline.settings import differences
from pipeline.storage import Location
from pipeline.telemetry.console import say
from pipeline.telemetry.progress import Progress
from pipeline.vectors.encoder_source import EncoderSource
from pipeline.vectors.localisation import WriteFiles
from pipeline.vectors.vector_table import WriteVectors, last_tries, part_name, record_of

SUMMARY = "vectors.json"
_REPAIRS = 100  # of damaged features, one after the other
_REQUESTS = 16  # records read at once


@dataclass(frozen=True)
class VectorTask:
    """One table of vectors."""

    media: str  # what `jobs/index.py` takes
    out: Location
    source: EncoderSource
    config: Config  # `source_settings.settled`
    half: bool = True  # vectors are float16, as features are kept; False: float32
    per_video: bool = False  # also a file of dense vectors for each media file (localisation.py)

    @property
    def work(self) -> Location:
        return self.out / "work"

    @property
    def features(self) -> dict[str, Location]:
        return {m: self.work / "embedded" / "features" / m for m in self.source.modalities}


@dataclass(frozen=True)
class VectorReport:
    """What a table holds."""

    indexed: IndexReport
    clips: int
    vectors: dict[str, int]  # by modality
    rejected: int  # rows of the rejects, of inputs and of clips


def make_vectors(task: VectorTask) -> VectorReport:
    """Index the media, embed their clips, and write the table; what is there is not made again.

    Raises:
        UserError: OUT holds vectors of another encoder or of other windows, nothing of the media
            can be used, or another process works on OUT.
    """
    with hold(task.out / "_LEASE", f"the vectors in {task.out}"):
        weights = task.source.weights_in(task.work)
        check_made_of(task, weights)
        indexed = index(task.media, task.work, task.config)
        rejected = task.work / REJECTS
        if rejected.exists():
            (task.out / "rejects" / "index.parquet").write_bytes(rejected.read_bytes())
        if not indexed.total_clips:
            reasons = ", ".join(f"{why} {count:,}" for why, count in indexed.reasons.items())
            raise UserError(
                f"nothing of {task.media} can be embedded: {indexed.rejected:,} {indexed.unit} are "
                f"rejected ({reasons or 'earlier'}), see {task.out / 'rejects'}"
            )
        clips = ClipTable.open(task.work / "clips")
        return _made(task, weights, clips, indexed)


def check_made_of(task: VectorTask, weights: Location) -> None:
    """Note what the vectors in OUT are made of.

    Raises:
        UserError: OUT is of something else.
    """
    place, made = task.work / "made_of.json", made_of(task, weights)
    if not place.exists():
        place.write_json(made)
        return
    changed = differences(place.read_json(), json.loads(json.dumps(made)))
    if changed:
        listing = "; ".join(line[:200] for line in changed)
        raise UserError(
            f"{task.out} holds vectors of another kind (there → here): {listing}. Name another OUT"
        )


def made_of(task: VectorTask, weights: Location) -> dict[str, Any]:
    """What decides the vectors of given media."""
    config = task.config
    digests = weight_digests(weights)
    return {
        "encoder": {m: digests[m] for m in task.source.modalities},
        "index": config.index.model_dump(mode="json"),
        "clips": config.clips.outcome(),
        "precision": config.precision,
        "batch_size": config.embedding.batch_size,
        "numbers": "float16" if task.half else "float32",
    }


def _made(
    task: VectorTask, weights: Location, clips: ClipTable, indexed: IndexReport
) -> VectorReport:
    published = clips.publish()
    rejects = task.work / "embedded" / "rejects"
    where = (published, weights, task.features, rejects, task.config)
    for attempt in range(_REPAIRS):
        title = f"embed {' and '.join(task.source.modalities)}"
        embed(EmbeddingTask(*where, title))
        writing = writing_of(task, clips, rejects)
        try:
            _join(task, writing)
            break
        except Damaged as damaged:
            say(f"{damaged.place} is damaged ({damaged.what}): its clips are embedded again")
            discard(damaged)
            if attempt + 1 == _REPAIRS:
                raise
    if task.per_video:
        _write_files(task, clips)
    return _finish(task, writing, indexed)


def writing_of(task: VectorTask, clips: ClipTable, rejects: Location) -> WriteVectors:
    """The step that joins features and clips."""
    tries = ",".join(place.name for place in rejects.files(".parquet"))
    return WriteVectors(
        clips=clips,
        features=task.features,
        lost=[ray.put(last_tries(rejects))],
        tries=digest_of(tries.encode()),
        out=task.out,
        records=task.work / "joined",
        rows=task.config.embedding.max_rows_per_file,
        half=task.half,
        splits=task.config.clips.split,
        clusterings=task.source.clusterings,
    )


def _join(task: VectorTask, writing: WriteVectors) -> None:
    resources = task.config.resources
    asks = demands.decoding(resources)
    demands.refuse_impossible(asks, resources)
    with Progress("vectors", len(writing.clips), "clips", asks, resources) as progress:
        run_numbered(writing, range(writing.parts), decoding(resources), progress)


def _write_files(task: VectorTask, clips: ClipTable) -> None:
    resources = task.config.resources
    places = task.out / "files", task.work / "files"
    work = WriteFiles.of(clips, task.features, *places, task.config)
    place, naming = task.work / "names.json", [work.folder, sorted(work.clashing)]
    if place.exists() and place.read_json() != naming:
        work.out.delete()  # media came that change the names of those that were there
        work.records.delete()
    place.write_json(naming)
    with Progress("files", len(clips), "clips", demands.decoding(resources), resources) as progress:
        run_numbered(work, range(len(work.bounds) - 1), decoding(resources), progress)


def _finish(task: VectorTask, writing: WriteVectors, indexed: IndexReport) -> VectorReport:
    """Remove parts that no longer belong, and say in the summary what there is."""
    with ThreadPoolExecutor(_REQUESTS) as pool:
        records = list(pool.map(lambda n: record_of(writing.records, n), range(writing.parts)))
    rows: Counter[str] = Counter(dict.fromkeys(task.source.modalities, 0))
    rejected = _index_rejects(task)
    for record in records:
        assert record is not None
        rows.update(record["rows"])
        rejected += record["rejected"]
    names = {part_name(number) for number in range(writing.parts)}
    for folder in (*(task.out / "vectors" / m for m in rows), task.out / "rejects"):
        folder.sweep()
        for place in folder.files(".parquet"):
            if place.name not in names | {"index.parquet"}:
                place.delete()
    report = VectorReport(indexed, len(writing.clips), dict(rows), rejected)
    (task.out / SUMMARY).write_json(
        {
            "encoder": task.source.name,
            "clips": report.clips,
            "vectors": report.vectors,
            "rejected": rejected,
            "clustered": sorted(m for ms in task.source.clusterings for m in ms),
            "made_of": (task.work / "made_of.json").read_json(),
        }
    )
    return report


def _index_rejects(task: VectorTask) -> int:
    place = task.work / REJECTS
    return len(place.read_table(["uri"])) if place.exists() else 0
