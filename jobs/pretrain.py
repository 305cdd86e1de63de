"""Pretrain: ``python jobs/pretrain.py CONFIG.yaml [more.yaml] [key=value …]``.

For example ``python jobs/pretrain.py configs/small.yaml run=runs/a method=xdc clustering.k=64``.
The run directory is one that ``jobs/index.py`` filled. The same command again goes on from where
an earlier one stopped. ``rounds=+2`` adds two rounds to a finished run, for example after more
media were indexed into it. Inside ``ray job submit`` it uses that cluster, else it starts Ray here.
"""

from __future__ import annotations

from pipeline import settings
from pipeline.runtime.session import connect, run_job
from pipeline.setting_comments import SettingsParser


def main(arguments: list[str]) -> None:
    parser = SettingsParser(__doc__)
    parser.add_argument("settings", nargs="*", help="YAML files and key=value overrides")
    given, more = settings.more_rounds(parser.parse_args(arguments).settings)
    config = settings.load(given)
    # Imported when the settings are known to be right: torch takes seconds.
    from pipeline.rounds import pretrain
    from pipeline.run import Run

    if more:
        config = Run(Run.place(config), config).with_more_rounds(more)

    connect(config.resources, config.run, config.store.place)
    pretrain(config)


if __name__ == "__main__":
    run_job(main)
