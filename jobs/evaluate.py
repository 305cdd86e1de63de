"""Evaluate a run's encoders.

``python jobs/evaluate.py RUN`` probes every round against the labels of the run's own clips: the
linear-probe accuracy of both frozen encoders, beside the random ones of round 0, and how well the
clusters agree with the labels (RUN/evaluation.json). It is the protocol linear, one clip each.

``python jobs/evaluate.py RUN --protocol svm knn --dataset esc50:/data/ESC-50 --baseline random``
evaluates one round's encoders on a labelled dataset, over its official splits or folds.

protocols, on frozen features:
  linear     logistic regression; its C is chosen on a part of the training examples
  svm        linear SVM on features of length one, C chosen likewise
  knn        weighted votes of the nearest training examples, k chosen likewise
  retrieval  recall@1, 5, 10, 20, 50 with the training examples as gallery
  clusters   k-means with as many clusters as classes: NMI, AMI, ARI, purity, Hungarian accuracy
and with training, of which the last epoch counts:
  fc         a new FC layer on the frozen encoder, on clips drawn at random times
  finetune   all layers; with --baseline random also supervision from scratch

An example is seen as several clips, uniformly spaced, centre crop; the scores that a classifier
gives them are averaged. Features stay in RUN/evaluation/ and are not made again.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from pipeline.errors import UserError
from pipeline.evaluation import datasets
from pipeline.run import Run
from pipeline.runtime.places import refuse_passing
from pipeline.runtime.session import connect, run_job
from pipeline.storage import Location
from pipeline.telemetry.console import say

PROTOCOLS = ("linear", "svm", "knn", "retrieval", "clusters", "fc", "finetune")


def parsed(arguments: list[str]) -> argparse.Namespace:
    """
    Raises:
        UserError: options that do not go together.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="datasets, KIND:ROOT, as they are published, on a disk or a bucket:\n"
        + datasets.help_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", help="run directory, local or s3://, gs:// …")
    parser.add_argument("--test-split", default="test", help="value of the split column to test on")
    parser.add_argument(
        "--max-rejected",
        type=float,
        metavar="SHARE",
        help="of the clips that may be unreadable (default: the run's clips.max_rejected)",
    )
    rounds = parser.add_argument_group("every round, on the run's own clips")
    rounds.add_argument("--rounds", type=int, nargs="*", help="which rounds (default: all)")
    one = parser.add_argument_group("one round, by protocols")
    one.add_argument("--protocol", nargs="+", choices=PROTOCOLS, help="default: linear")
    one.add_argument("--dataset", metavar="KIND:ROOT", help="default: the run's own clips")
    one.add_argument(
        "--fold", "--split", nargs="+", dest="folds", help="default: all official ones, averaged"
    )
    one.add_argument(
        "--modality", nargs="+", choices=("video", "audio", "both"), help="default: all there are"
    )
    one.add_argument("--round", type=int, help="whose encoders (default: the last round's)")
    one.add_argument(
        "--baseline",
        nargs="+",
        metavar="NAME",
        help="random: the encoders of round 0; raw: mean colours and a coarse log-mel spectrogram; "
        "supervised: encoders trained on the labels of the run's own training clips, "
        "supervised:TABLE:COLUMN: on another column of labels for the same cuts",
    )
    one.add_argument("--clips-per-video", type=int, help="clips of an example (default: 10)")
    one.add_argument("--lr", type=float, help="of fc and finetune (default: the recipe's)")
    one.add_argument("--epochs", type=int, help="of fc and finetune (default: 8)")
    one.add_argument("--json", metavar="OUT", help="also write the report there, local or a URI")
    options = parser.parse_args(arguments)
    chosen = ("protocol", "dataset", "folds", "modality", "round", "baseline", "clips_per_video")
    options.by_protocol = any(getattr(options, name) is not None for name in chosen)
    if options.by_protocol and options.rounds is not None:
        raise UserError("--rounds probes round after round; with a protocol name one: --round N")
    if options.clips_per_video is not None and options.clips_per_video < 1:
        raise UserError(f"--clips-per-video is {options.clips_per_video}; at least 1 is needed")
    if options.max_rejected is not None and not 0 <= options.max_rejected <= 1:
        raise UserError(f"--max-rejected is {options.max_rejected}; it is a share, from 0 to 1")
    for name in options.baseline or ():
        if name not in ("random", "raw"):
            from pipeline.evaluation.supervision import Supervision  # torch takes seconds

            Supervision.parsed(name)
    for name in ("lr", "epochs"):
        value = getattr(options, name)
        if value is not None and not {"fc", "finetune"} & set(options.protocol or ()):
            raise UserError(
                f"--{name} is for the protocols fc and finetune, which are not asked for"
            )
        if value is not None and value <= 0:
            raise UserError(f"--{name} is {value}; it must be above 0")
    return options


def main(arguments: list[str]) -> None:
    options = parsed(arguments)
    refuse_passing([options.run, options.json or ""])
    run = Run.existing(options.run)
    if options.max_rejected is not None:
        clips = run.config.clips.model_copy(update={"max_rejected": options.max_rejected})
        run = replace(run, config=run.config.model_copy(update={"clips": clips}))
    if options.by_protocol:
        by_protocol(run, options, run.finished_round(options.round).number)
    else:
        wanted = options.rounds or range(run.finished_round().number + 1)
        by_round(run, options, [run.finished_round(number).number for number in wanted])


def by_round(run: Run, options: argparse.Namespace, numbers: list[int]) -> None:
    # Imported when the run is known to be there: torch takes seconds.
    from pipeline.evaluation import report
    from pipeline.evaluation.protocols import evaluate_rounds

    connect(run.config.resources, run.location)
    found = evaluate_rounds(run, numbers, options.test_split)
    _write(found, run.location / "evaluation.json", options.json)
    say(f"\n{report.headline(found)}\n{report.by_round(found)}")
    for line in report.below_start(found):
        say(line)


def by_protocol(run: Run, options: argparse.Namespace, number: int) -> None:
    media = datasets.read(options.dataset) if options.dataset else None
    from pipeline.evaluation import report
    from pipeline.evaluation.protocols import Request, evaluate

    request = Request(
        rounds=(number,),
        protocols=tuple(dict.fromkeys(options.protocol or ("linear",))),
        folds=tuple(dict.fromkeys(options.folds or ())),
        modalities=tuple(dict.fromkeys(options.modality or ())),
        baselines=tuple(dict.fromkeys([*(options.baseline or ()), *_start(run)])),
        clips_per_video=options.clips_per_video or 10,
        test_split=options.test_split,
        lr=options.lr,
        epochs=options.epochs,
    )
    connect(run.config.resources, run.location)
    found = evaluate(run, media, request)
    place = run.location / "evaluation" / f"{found['dataset'].replace(' ', '-')}.json"
    _write(found, place, options.json)
    say(f"\n{report.headline(found)}\n\n{report.as_table(found)}")
    for line in report.below_start(found):
        say(line)


def _start(run: Run) -> list[str]:
    """What a run began with stands beside what it learned."""
    return ["random"] if run.config.encoders.started else []


def _write(found: dict[str, Any], place: Location, copy: str | None) -> None:
    place.write_json(found)
    if copy:
        Location.of(copy).write_json(found)


if __name__ == "__main__":
    run_job(main)
