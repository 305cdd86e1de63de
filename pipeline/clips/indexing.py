"""Media in, clips table and rejects table out: every file is probed once and cut into clips.

Every input lands in exactly one of the two tables. Adding media later appends clips and keeps all
clip indices, so labels and features of earlier runs stay valid.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from itertools import chain, islice

from pipeline.clips.cut_tables import MediaStream
from pipeline.clips.intake import Intake
from pipeline.clips.known import KnownInputs
from pipeline.clips.listing import stream_media
from pipeline.clips.segments import Prober, segments
from pipeline.clips.worklist import Worklist
from pipeline.config import Config
from pipeline.lease import hold
from pipeline.storage import Location

REJECTS = "rejects/index.parquet"


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
    """List (`stream_media`), probe, cut, and append to ``run/clips`` and ``run/rejects``.

    Resumable by chunks of files: what was added is known then, and what was probed lies in
    ``run/scratch/index``. Inputs that were away are tried again; `retry_rejects` probes again all
    that an earlier run rejected.

    The driver's memory grows by 16 bytes for each known file (for cuts: for each known cut), by up
    to 24 bytes a row of a cuts table, and by 0.2 KB a reject. A million names or more are sorted on
    its disk, in ``TMPDIR``.

    Raises:
        UserError: there is nothing to index at `source`, or another process indexes into this run.
        Outage: so many files could not be read that storage is away; what was added before stays.
    """
    with tempfile.TemporaryDirectory(prefix="xdc-names-") as names:
        media = stream_media(source, scratch=Location.of(names))
        # A mistake in `source` leaves nothing behind: the first rows are read before the lease.
        tables = iter(media.tables)
        media.tables = chain([*islice(tables, 1)], tables)
        with hold(run / "clips" / "_LEASE", f"the clips table of {run}"):
            known = KnownInputs(run / "clips", run / REJECTS, retry_rejects)
            return _index(media, known, run, config)


def _index(media: MediaStream, known: KnownInputs, run: Location, config: Config) -> IndexReport:
    scratch = run / "scratch" / "index"
    work = Worklist.written(media, known, scratch / "inputs")
    intake = Intake(run / "clips", known.rejects, work.both)
    intake.reject(work.unlisted)
    with Prober(known, scratch / "probed", config, work.num_inputs) as prober:
        for segment in segments(work.tables(), scratch / "probed", config):
            prober.probe(segment)
            intake.add(segment)
    intake.flush()
    scratch.delete()
    counts, fresh = intake.counts, work.num_inputs + len(work.unlisted)
    return IndexReport(
        unit=work.unit,
        listed=work.listed,
        repeated=work.repeated,
        already_known=work.listed - fresh,
        indexed=fresh - counts["rejected"],
        rejected=counts["rejected"],
        lost_video=counts["lost_video"],
        lost_audio=counts["lost_audio"],
        shortened=counts["shortened"],
        unused_video_s=counts["unused_video_ms"] / 1000,
        unused_audio_s=counts["unused_audio_ms"] / 1000,
        clips=intake.num_clips,
        total_clips=known.num_clips + intake.num_clips,
        reasons=dict(intake.reasons.most_common()),
        notes=tuple(media.notes),
    )
