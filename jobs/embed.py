"""Vectors of any media: ``python jobs/embed.py MEDIA OUT [--encoder SOURCE] [key=value …]``.

MEDIA is all that `jobs/index.py` takes: a folder, a bucket prefix, a file, a glob or a cuts table.
SOURCE is a run directory (``RUN#2``: after round 2), a folder of `jobs/export.py`, or a
``.safetensors`` of a run. Clips are prepared as SOURCE's training prepared them. Without it the
encoders are those that the settings name, as in pretraining: ``encoders.video.start=weights.pth``,
or ``encoders.audio.name=hf:MIT/ast-finetuned-audioset-10-10-0.4593
encoders.audio.start=pretrained``. OUT receives ``vectors/video/*.parquet`` and
``vectors/audio/*.parquet`` with the columns ``uri``, ``start_s``, ``end_s``, ``modality``,
``vector``, of a run with clusters also ``cluster`` and ``distance``; and ``rejects/*.parquet``.

Without ``--every`` there is a vector for each window that indexing cuts (``index.window_s``), or
for each cut of a cuts table: of the clip at its middle. The same command goes on where it was cut
off, and adds media that are new.

``--npz-per-video`` also writes ``files/<modality>/*.npz``, in which ActionFormer and other tools of
temporal localisation read the dense vectors of each media file. ``--nearest FILE`` searches OUT,
once it is finished, for the windows that are nearest to the clips of another file. MEDIA is not
read then.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pipeline import settings
from pipeline.errors import UserError
from pipeline.runtime.places import refuse_passing
from pipeline.runtime.session import connect, run_job
from pipeline.setting_comments import SettingsParser
from pipeline.storage import Location
from pipeline.telemetry.console import say, table

if TYPE_CHECKING:
    from pipeline.vectors.media_vectors import VectorTask

_LEAST_S = 0.01  # between windows: clips are known by milliseconds


def parsed(arguments: list[str]) -> argparse.Namespace:
    """
    Raises:
        UserError: options that do not go together.
    """
    parser = SettingsParser(__doc__)
    parser.add_argument("media", help="folder, s3:// prefix, file, glob or cuts table")
    parser.add_argument("out", help="folder to write, local or s3://, gs:// …")
    parser.add_argument("settings", nargs="*", help="YAML files and key=value overrides")
    parser.add_argument(
        "--encoder",
        metavar="SOURCE",
        help="run, export or .safetensors of a run (default: encoders.*.start of the settings)",
    )
    parser.add_argument("--round", type=int, help="of a run (default: the last finished one)")
    parser.add_argument(
        "--every",
        type=float,
        metavar="S",
        help="dense: a window as long as a clip every S seconds of each file",
    )
    parser.add_argument(
        "--float32", action="store_true", help="vectors of float32, for readers without float16"
    )
    parser.add_argument(
        "--npz-per-video", action="store_true", help="with --every: a file for each media file"
    )
    parser.add_argument(
        "--nearest", metavar="FILE", help="print what is nearest to its clips in a finished OUT"
    )
    options = parser.parse_intermixed_args(arguments)
    if options.every is not None and options.every < _LEAST_S:
        raise UserError(f"--every is {options.every:g}; at least {_LEAST_S:g} s are needed")
    if options.round is not None and not options.encoder:
        raise UserError("--round is of the run that --encoder names")
    if options.npz_per_video and options.every is None:
        raise UserError("--npz-per-video is of dense vectors: add --every S")
    return options


def main(arguments: list[str]) -> None:
    options = parsed(arguments)
    config, out = settings.load(options.settings), Location.of(options.out)
    refuse_passing([options.out, *([options.encoder] if options.encoder else [])])
    # Imported when the arguments are known to be right: torch takes seconds.
    from pipeline.vectors.encoder_source import resolve, settings_source
    from pipeline.vectors.media_vectors import VectorTask, make_vectors
    from pipeline.vectors.source_settings import settled

    named = options.encoder
    source = resolve(named, options.round) if named else settings_source(config)
    config = settled(config, source, options.every or 0.0)
    connect(config.resources, out)
    half, per_video = not options.float32, options.npz_per_video
    task = VectorTask(options.media, out, source, config, half, per_video)
    if options.nearest:
        search(task, options.nearest)
        return
    report = make_vectors(task)
    for note in report.indexed.notes:
        say(f"warning: {note}")
    if options.every and report.indexed.unit == "cuts":
        say("warning: --every is of whole files; rows of the cuts table with times are one clip")
    counts = ", ".join(f"{count:,} of {name}" for name, count in report.vectors.items())
    say(f"{report.clips:,} clips of {source.name}: vectors {counts} in {out / 'vectors'}")
    if report.rejected:
        say(f"every reject with its reason ({report.rejected:,}): {out / 'rejects'}")


def search(task: VectorTask, file: str) -> None:
    from pipeline.vectors.nearest import nearest

    for found in nearest(task, file):
        note = f" ({found.note})" if found.note else ""
        rows = [(f"{h.score:.3f}", f"{h.start_s:.2f}–{h.end_s:.2f} s", h.uri) for h in found.hits]
        say(f"\n{found.name}{note}\n{table(('cosine', 'window', 'file'), rows)}")


if __name__ == "__main__":
    run_job(main)
