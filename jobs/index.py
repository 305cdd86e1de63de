"""Index media into a run directory: ``python jobs/index.py MEDIA RUN [CONFIG.yaml] [key=value …]``.

MEDIA is a folder, a bucket prefix, a file, a glob, or a cuts table (CSV, TSV or Parquet, or a
folder of such, with ``uri,start_s,end_s[,label][,split]``). RUN is where the run will live.
``--retry-rejects`` tries again what was rejected before. Running it again with more media appends
clips. ``--store`` also fills the clip store (RUN/store, or ``store.place=…``), for which the
settings must be those of the pretraining to come, ``store.enabled=true`` among them.
"""

from __future__ import annotations

from pipeline import settings
from pipeline.clips.fill import fill, store_place
from pipeline.clips.indexing import REJECTS, index
from pipeline.clips.table import ClipTable
from pipeline.runtime.session import connect, run_job
from pipeline.setting_comments import SettingsParser
from pipeline.storage import Location
from pipeline.telemetry.console import duration, say


def main(arguments: list[str]) -> None:
    parser = SettingsParser(__doc__)
    parser.add_argument("media", help="folder, s3:// prefix, file, glob or cuts table")
    parser.add_argument("run", help="run directory, local or s3://, gs:// …")
    parser.add_argument("settings", nargs="*", help="YAML files and key=value overrides")
    parser.add_argument("--retry-rejects", action="store_true")
    parser.add_argument("--store", action="store_true", help="decode every clip's window now")
    options = parser.parse_args(arguments)
    config = settings.load(options.settings)
    run = Location.of(options.run)
    connect(config.resources, run, config.store.place)
    report = index(options.media, run, config, options.retry_rejects)
    if report.already_known:
        say(f"{report.already_known:,} of {report.listed:,} {report.unit} were known already")
    say(
        f"listed {report.listed - report.already_known:,} {report.unit}: "
        f"{report.indexed:,} indexed, {report.rejected:,} rejected"
    )
    for note in report.notes:
        say(f"warning: {note}")
    if report.repeated:
        say(
            f"warning: {report.repeated:,} rows ask for what an earlier row asks for; they are "
            "left out, with their labels"
        )
    if report.shortened:
        say(f"{report.shortened:,} cuts reach past their file and end with it")
    if report.unused_video_s or report.unused_audio_s:
        video, audio = duration(report.unused_video_s), duration(report.unused_audio_s)
        say(f"only what has both is used: {video} of video and {audio} of audio are left out")
    if report.lost_video or report.lost_audio:
        say(
            f"{report.lost_video:,} files lost their pictures and {report.lost_audio:,} their "
            "sound; the rest of them is indexed"
        )
    for reason, count in report.reasons.items():
        say(f"  {reason:<12} {count:,}")
    say(f"{report.clips:,} clips added, {report.total_clips:,} in {run / 'clips'}")
    if report.rejected:
        say(f"every reject with its reason: {run / REJECTS}")
    if options.store:
        clips = ClipTable.open(run / "clips")
        place = store_place(config, run)
        fill(clips.publish(), place, config)
        say(f"every clip's window is in {place}")


if __name__ == "__main__":
    run_job(main)
