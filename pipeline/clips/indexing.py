"""Media in, clips table and rejects table out: every file is probed once and cut into clips.

Every input lands in exactly one of the two tables. Adding media later appends clips and keeps all
clip indices, so labels and features of earlier runs stay valid.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from pipeline.clips.chunks import ProbeChunk, chunks_by_file, rejected_row, rejects_table, scanned
from pipeline.clips.cut_tables import Listing
from pipeline.clips.decoding.decoder import load_decoder
from pipeline.clips.known import KnownInputs, cut_ids
from pipeline.clips.listing import list_media
from pipeline.clips.outage import Outage, check_losses
from pipeline.clips.rejects import kind_of_loss
from pipeline.clips.stream import run_numbered
from pipeline.clips.table import append
from pipeline.config import Config, IndexConfig
from pipeline.lease import hold
from pipeline.runtime import demands
from pipeline.runtime.placement import decoding
from pipeline.storage import Location
from pipeline.telemetry.progress import Progress

REJECTS = "rejects/index.parquet"
CLIPS_PER_PART = 262_144  # rows of one Parquet part of the clips table


@dataclass(frozen=True)
class IndexReport:
    """Counts of one indexing run; ``listed == indexed + rejected`` in units of `unit`."""

    unit: str  # "files", or "cuts" for a cuts table
    listed: int
    repeated: int  # rows of a cuts table that ask for what an earlier row asks for; not listed
    already_known: int
    indexed: int
    rejected: int
    lost_video: int  # files of which the sound alone could be used
    lost_audio: int  # and the pictures alone
    shortened: int  # cuts that reach past their file, and end with it
    unused_video_s: float  # seconds of the files' pictures without sound, which are in no clip
    unused_audio_s: float  # and of their sound without pictures
    clips: int  # added by this run
    total_clips: int
    reasons: dict[str, int]
    notes: tuple[str, ...]  # on the cuts table, a line each


def index(source: str, run: Location, config: Config, retry_rejects: bool = False) -> IndexReport:
    """List (`list_media`), probe, cut, and append to ``run/clips`` and ``run/rejects``.

    Resumable by chunks of files. Inputs that were away are tried again; `retry_rejects` probes
    again all that an earlier run rejected.

    Raises:
        UserError: there is nothing to index at `source`, or another process indexes into this run.
        Outage: so many files could not be read that storage is away; nothing was added.
    """
    listing = list_media(source)
    with hold(run / "clips" / "_LEASE", f"the clips table of {run}"):
        return _index(listing, run, config, retry_rejects)


def _index(listing: Listing, run: Location, config: Config, retry_rejects: bool) -> IndexReport:
    known = KnownInputs(run / "clips", run / REJECTS, retry_rejects)
    ids = cut_ids(listing.rows)
    new = pc.invert(known.contains(listing.rows["uri"], ids))
    todo = listing.rows.filter(new)
    tried = pa.table({"uri": todo["uri"], "clip_id": ids.filter(new)})
    unlisted = rejects_table(rejected_row("list", *row) for row in listing.rejected)
    unlisted = unlisted.filter(pc.invert(known.contains(unlisted["uri"], unlisted["clip_id"])))
    scan = run / "scratch" / f"index-{_fingerprint(todo, config.index)}"
    chunks = chunks_by_file(todo)
    _probe(todo, chunks, scan, config)
    counts: Counter[str] = Counter()
    _check_media(known, scan, len(chunks), tried, config.clips.max_rejected)
    found = _distinct(scanned(scan, len(chunks), "clips", counts), todo)
    clips = append(run / "clips", _joined(found))
    rejected = pa.concat_tables([unlisted, *scanned(scan, len(chunks), "rejects", counts)])
    rejected = known.write_rejects(rejected, tried)
    scan.delete()
    counts.update(map(kind_of_loss, rejected["modality"].to_pylist()))
    listed, fresh = len(listing.rows) + len(listing.rejected), len(todo) + len(unlisted)
    whole = listing.rows["start_s"].null_count == len(listing.rows)
    return IndexReport(
        unit="files" if whole and not any(cut for _, cut, _ in listing.rejected) else "cuts",
        listed=listed,
        repeated=listing.repeated,
        already_known=listed - fresh,
        indexed=fresh - counts["rejected"],
        rejected=counts["rejected"],
        lost_video=counts["lost_video"],
        lost_audio=counts["lost_audio"],
        shortened=counts["shortened"],
        unused_video_s=counts["unused_video_ms"] / 1000,
        unused_audio_s=counts["unused_audio_ms"] / 1000,
        clips=clips,
        total_clips=known.num_clips + clips,
        reasons=dict(Counter(rejected["reason"].to_pylist()).most_common()),
        notes=tuple(listing.notes),
    )


_CUT = ["uri", "start_s", "end_s"]


def _fingerprint(todo: pa.Table, config: IndexConfig) -> str:
    """Names the scratch folder: the same listing and settings go on where they stopped."""
    digest = hashlib.blake2b(config.model_dump_json().encode(), digest_size=8)
    for batch in todo.select(_CUT).to_batches():
        digest.update(repr(batch.to_pydict()).encode())
    return digest.hexdigest()


def _probe(todo: pa.Table, chunks: list[tuple[int, int]], scan: Location, config: Config) -> None:
    """Probe all chunks that no earlier attempt finished; one Parquet pair a chunk."""
    done = {place.name for place in scan.files("rejects.parquet")}
    missing = [n for n in range(len(chunks)) if f"{n:08d}-rejects.parquet" not in done]
    if not missing:
        return
    load_decoder(config.clips.decoder)  # an unknown one is an error here, not in every task
    work = ProbeChunk([ray.put(todo)], chunks, scan, config.index, config.clips)
    left = sum(stop - start for start, stop in (chunks[n] for n in missing))
    asks = demands.decoding(config.resources)
    demands.refuse_impossible(asks, config.resources)
    with Progress("index", left, "inputs", asks, config.resources) as progress:
        run_numbered(work, missing, decoding(config.resources), progress)


def _check_media(
    known: KnownInputs, scan: Location, num_chunks: int, tried: pa.Table, allowed: float
) -> None:
    """Raise `Outage` if so many files did not come that their storage is away.

    Chunks that hold such files are not finished then. Files that were away before do not count.
    """
    reasons: Counter[str] = Counter()
    away: list[int] = []
    for number, table in enumerate(scanned(scan, num_chunks, "rejects", Counter())):
        if lost := known.newly_away(table):
            reasons.update(lost)
            away.append(number)
    try:
        check_losses("index", reasons, len(tried) - known.num_away(tried), allowed)
    except Outage:
        for number in away:
            (scan / f"{number:08d}-rejects.parquet").delete()
        raise


def _distinct(tables: Iterator[pa.Table], todo: pa.Table) -> Iterator[pa.Table]:
    """The tables without clips that a table asks for twice: as a cut, and as a part of its file."""
    whole = todo["start_s"].is_null()
    files = todo.filter(whole)["uri"].combine_chunks()
    cuts = todo.filter(pc.invert(whole))["uri"].combine_chunks()
    both = cuts.filter(pc.is_in(cuts, files)).unique()
    seen: set[str] = set()
    for table in tables:
        if len(both) and len(table):
            asked = pc.is_in(table["uri"], both).to_pylist()
            ids = table["clip_id"].to_pylist()
            new = []
            for is_asked, one in zip(asked, ids):
                new.append(not (is_asked and one in seen))
                if is_asked:
                    seen.add(one)
            table = table.filter(pa.array(new))
        yield table


def _joined(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The tables joined to ones of at least `CLIPS_PER_PART` rows, and the rest.

    A part holds whole files: after a kill between two parts, the other files are not known yet.
    """
    held: list[pa.Table] = []
    for table in tables:
        if len(table):
            held.append(table)
        if sum(map(len, held)) >= CLIPS_PER_PART:
            yield pa.concat_tables(held)
            held.clear()
    if held:
        yield pa.concat_tables(held)
