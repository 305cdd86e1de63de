"""Choose clips by a pretrained run's clusters: ``python jobs/curate.py RUN OUT.parquet [options]``.

OUT.parquet is a cuts table of the clips to keep, for `jobs/index.py` and `jobs/evaluate.py`.
OUT.dropped.parquet has every other clip of the run, with the reason. Filters work in this order,
each where it is asked for:

  --exclude, --exclude-clips   clusters and clips by name. After you have looked at them. Free.
  --min-agreement, --drop-disagreeing
                               clips whose picture and sound agree least: dubbed, music alone, still
                               pictures. How much likelier than chance the pair of its clusters is,
                               in nats. Needs labels alone: seconds. Rare pairs of clusters go, too.
  --near-duplicates            all but one of clips that are near to each other. Needs the round's
                               features, and time in proportion to the squares of the clusters'
                               sizes. Too low a cosine leaves out what differs.
  --clips, --share             a draw that is even over a hierarchy of clusters. Rare things count
                               as much as common ones; so does rubbish, if it is a cluster.

Without a round that has features, filters that need none still work. The same command goes on where
it was cut off, and gives the same bytes.
"""

from __future__ import annotations

import argparse

from pipeline.errors import UserError
from pipeline.runtime.places import refuse_passing
from pipeline.runtime.session import connect, run_job
from pipeline.storage import Location
from pipeline.telemetry.console import say, table

_NEAR = 0.9  # cosine, where none is given: all that it left out were copies (benchmarks)


def parsed(arguments: list[str]) -> argparse.Namespace:
    """
    Raises:
        UserError: options that do not go together.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", help="run directory, local or s3://, gs:// …")
    parser.add_argument("out", help="file to write, NAME.parquet, local or s3://, gs:// …")
    parser.add_argument("--round", type=int, help="whose clusters (default: the last finished)")
    parser.add_argument("--seed", type=int, help="of all draws (default: the run's)")
    named = parser.add_argument_group("by name")
    named.add_argument("--exclude", metavar="NAME:N,…", help="clusters, as in video:17,audio:3")
    named.add_argument(
        "--exclude-clips", metavar="FILE", default="", help="ids, one a line, or Parquet's clip_id"
    )
    agree = parser.add_argument_group("picture and sound")
    agree = agree.add_mutually_exclusive_group()
    agree.add_argument("--min-agreement", type=float, metavar="NATS", help="0: as by chance")
    agree.add_argument("--drop-disagreeing", type=float, metavar="SHARE", help="at most so many")
    near = parser.add_argument_group("near-duplicates")
    near.add_argument(
        "--near-duplicates",
        type=float,
        nargs="?",
        const=_NEAR,
        metavar="COSINE",
        help=f"from which on two clips are near (default: {_NEAR})",
    )
    near.add_argument(
        "--near-in", nargs="+", metavar="NAME", help="clusterings: video, audio (default: all)"
    )
    balanced = parser.add_argument_group("balanced draw")
    number = balanced.add_mutually_exclusive_group()
    number.add_argument("--clips", type=int, metavar="N", help="to keep")
    number.add_argument("--share", type=float, help="to keep, of what other filters leave")
    balanced.add_argument("--draw-by", metavar="NAME", default="", help="clustering (the first)")
    balanced.add_argument(
        "--levels", type=int, nargs="*", help="clusters of the levels above (default: roots)"
    )
    options = parser.parse_args(arguments)
    _check(options)
    return options


def _check(options: argparse.Namespace) -> None:
    for name in ("drop_disagreeing", "share"):
        value = getattr(options, name)
        if value is not None and not 0 < value < 1:
            raise UserError(f"--{name.replace('_', '-')} is {value}; it is a share, from 0 to 1")
    if options.near_duplicates is not None and not 0 < options.near_duplicates <= 1:
        raise UserError(f"--near-duplicates is {options.near_duplicates}; a cosine, from 0 to 1")
    if options.near_in and options.near_duplicates is None:
        raise UserError("--near-in is of --near-duplicates, which is not asked for")
    if options.clips is not None and options.clips < 1:
        raise UserError(f"--clips is {options.clips}; at least 1 is needed")
    draws = options.clips is not None or options.share is not None
    if not draws and (options.draw_by or options.levels is not None):
        raise UserError("--draw-by and --levels are of --clips or --share; neither is asked for")
    if options.levels and min(options.levels) < 1:
        raise UserError("--levels are numbers of clusters, from 1")
    filters = ("exclude", "exclude_clips", "min_agreement", "drop_disagreeing", "near_duplicates")
    if all(getattr(options, name) in (None, "") for name in (*filters, "clips", "share")):
        raise UserError("no filter is asked for; --help lists them")


def main(arguments: list[str]) -> None:
    options = parsed(arguments)
    refuse_passing([options.run, options.out, options.exclude_clips])
    out = Location.of(options.out)
    # Imported when the arguments are known to be right: torch takes seconds.
    from pipeline.curation.curate import CurationTask, curate
    from pipeline.curation.exclusion import parse_clusters
    from pipeline.curation.filters import Filters
    from pipeline.curation.selection_tables import beside
    from pipeline.run import Run

    filters = Filters(
        clusters=parse_clusters(options.exclude) if options.exclude else (),
        ids=options.exclude_clips,
        least_agreement=options.min_agreement,
        disagreeing_share=options.drop_disagreeing,
        near=options.near_duplicates,
        near_in=tuple(dict.fromkeys(options.near_in or ())),
        clips=options.clips,
        share=options.share,
        draw_by=options.draw_by,
        levels=None if options.levels is None else tuple(options.levels),
    )
    beside(out)
    run = Run.existing(options.run)
    connect(run.config.resources, run.location, out)
    seed = run.config.seed if options.seed is None else options.seed
    counts = curate(CurationTask(run, options.round, out, filters, seed))
    total = sum(counts.values())
    rows = [(name, f"{n:,}", f"{n / total:.1%}") for name, n in counts.items()]
    rows.append(("clips of the run", f"{total:,}", ""))
    say(f"\n{table(('', 'clips', 'share'), rows)}")
    say(f"kept: {out} · left out, with reasons: {beside(out)}")


if __name__ == "__main__":
    run_job(main)
