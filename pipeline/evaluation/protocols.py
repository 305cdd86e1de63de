"""Evaluation protocols over encoders, modalities and splits, and their report.

    dataset → examples → clips → features (Ray Data, kept) → protocol, by split → mean and spread

Features and clips lie in ``RUN/evaluation/<dataset>-<fingerprint>/``. Those of the same clips,
weights and settings are reused; an unfinished pass goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import sklearn

from pipeline import methods
from pipeline.clips.table import ClipTable
from pipeline.clustering import read_labels
from pipeline.errors import UserError
from pipeline.evaluation import examples as examples_module
from pipeline.evaluation.classifiers import CLASSIFIERS, TEMPERATURE, VALIDATION
from pipeline.evaluation.datasets import LabelledMedia
from pipeline.evaluation.examples import Examples
from pipeline.evaluation.feature_sources import BOTH, ExampleFeatures, FeatureSource, sources_of
from pipeline.evaluation.figures import (
    FROZEN,
    Scored,
    accuracies,
    agreement_with_labels,
    evaluate_features,
    split_figures,
    summary,
)
from pipeline.evaluation.finetuning import RECIPES, FineTuning, Recipe
from pipeline.evaluation.overlap import learned_from, warn_of_overlap
from pipeline.evaluation.splits import Split
from pipeline.lease import hold
from pipeline.manifest import NAME, Damaged, digest_of
from pipeline.methods import MODALITIES
from pipeline.run import Run
from pipeline.storage import Location
from pipeline.telemetry.console import say

PSEUDO_LABELS = "pseudo-labels"  # a round's clusters of the run's own clips


@dataclass(frozen=True)
class Request:
    """What to evaluate, as the user asked."""

    rounds: tuple[int, ...]  # whose encoders
    protocols: tuple[str, ...]  # of `FROZEN` and `RECIPES`; pseudo-labels, which clusters implies
    folds: tuple[str, ...] = ()  # names of splits; empty: the dataset's official ones
    modalities: tuple[str, ...] = ()  # video, audio, both; empty: all that the examples have
    baselines: tuple[str, ...] = ()  # random, raw, supervised[:TABLE:COLUMN]
    clips_per_video: int = 10  # for each example, in training and in testing
    test_split: str = "test"  # of a run's own clips: the value of the split column to test on
    lr: float | None = None  # of fine-tuning; None: the recipe's
    epochs: int | None = None  # of fine-tuning; None: the recipe's

    @property
    def tuned(self) -> dict[str, Recipe]:
        """Recipes of the protocols that fine-tune."""
        return {
            p: replace(recipe, lr=self.lr or recipe.lr, epochs=self.epochs or recipe.epochs)
            for p in self.protocols
            if (recipe := RECIPES.get(p))
        }


def evaluate_rounds(run: Run, rounds: Sequence[int], test_split: str) -> dict[str, Any]:
    """How the encoders improved: the protocol ``linear`` for every round, on the run's own clips.

    What a run began with stands beside them, unless that was random weights. Every example is one
    clip, as in pretraining, so that features kept by rounds are reused. The
    rounds' clusters are compared with the labels, too. See `evaluate`.
    """
    clips = ClipTable.open(run.clips)
    request = Request(
        rounds=tuple(sorted({*rounds, 0} if run.config.encoders.started else rounds)),
        protocols=("linear", PSEUDO_LABELS),
        modalities=tuple(m for m in MODALITIES if clips.count((m,))),
        clips_per_video=1,
        test_split=test_split,
    )
    return evaluate(run, None, request)


def evaluate(run: Run, media: LabelledMedia | None, request: Request) -> dict[str, Any]:
    """Every protocol, encoder, modality and split; without `media` on the run's own labelled clips.

    All that it writes lies in ``RUN/evaluation/``, so that it may run while the run is pretrained.

    Returns:
        The report, with every setting; ``results`` holds a row for each encoder, modality and
        protocol with its figures ``by_split``, their ``mean`` and standard deviation ``std``.

    Raises:
        UserError: a split or a modality does not exist, the labels cannot be evaluated on, or
            another process evaluates the same.
    """
    if media:
        made_of = f"{media.kind}-{media.fingerprint}"
    else:
        said = repr((ClipTable.open(run.clips).identity(), run.config.clips.outcome()))
        made_of = f"own-{digest_of(said.encode())[:12]}-{request.clips_per_video}"
    place = run.location / "evaluation" / made_of
    with hold(place / "_LEASE", f"the evaluation {place}"):
        return _evaluate(run, media, request, place)


def _evaluate(
    run: Run, media: LabelledMedia | None, request: Request, place: Location
) -> dict[str, Any]:
    config = run.config
    n, missing = request.clips_per_video, media.missing if media else ()
    if media is None:
        own = ClipTable.open(run.clips)
        examples = examples_module.of_run(own, place / "clips", request.test_split, config, n)
    else:
        examples = examples_module.of_dataset(media, place, config, n)
    sides, there = tuple(examples.sides), examples.modalities
    has = (*there, BOTH) if examples.some_have_both else there
    folds = request.folds or (media.default if media else sides)
    modalities = request.modalities or has
    for what, asked, known in (("split", folds, sides), ("modality", modalities, has)):
        for name in asked:
            if name not in known:
                raise UserError(f"there is no {what} {name!r} here; there is {', '.join(known)}")
    splits = {fold: examples.split(fold) for fold in folds}
    _announce(examples, splits, missing)
    overlap = learned_from(run, examples, splits) if any(request.rounds) else {}
    warn_of_overlap(overlap, splits)
    features = ExampleFeatures(run, examples, place / f"features-{n}", modalities)
    results = []
    for source in sources_of(run, request.rounds, request.baselines, request.test_split):
        frozen = features.of(source) if {*request.protocols} & {*FROZEN} else {}
        for modality in modalities:
            named = {"encoder": source.name, "round": source.round, "modality": modality}
            for protocol in request.protocols:
                if protocol in FROZEN:
                    of = frozen[modality]
                    try:
                        figures = evaluate_features(protocol, of, examples, splits, config.seed)
                    except UserError as error:
                        raise UserError(f"{source.name}, {modality}: {error}") from None
                elif protocol in RECIPES and source.weights is not None and modality != BOTH:
                    recipe, out = request.tuned[protocol], place / f"tuned-{n}"
                    tuning = FineTuning(run, examples, source.weights, modality, recipe, out)
                    figures = _fine_tuned(tuning, splits, f"{source.name} · {protocol} {modality}")
                else:
                    continue  # without an encoder, or with two, there is none to fine-tune
                results.append({**named, "protocol": protocol, **figures})
        if media is None and {"clusters", PSEUDO_LABELS} & {*request.protocols}:
            results += _pseudo_labels(run, examples, source)
    return {
        "run": str(run.location),
        "method": config.method,
        "k": config.clustering.k,
        "seed": config.seed,
        "dataset": media.kind if media else "own clips",
        "root": str(media.root if media else run.clips),
        "fingerprint": media.fingerprint if media else None,
        "examples": examples.counts | {"indexed": len(examples), "clips": len(examples.clips)},
        "missing": list(missing[:100]),
        "classes": len(examples.classes),
        "request": asdict(request),
        "splits": {f: {"train": len(s.train), "test": len(s.test)} for f, s in splits.items()},
        "learned_from": overlap,
        "settings": {
            "strengths": {name: list(c.strengths) for name, c in CLASSIFIERS.items()},
            "validation_share": VALIDATION,
            "temperature": TEMPERATURE,
            "recipes": {name: asdict(recipe) for name, recipe in request.tuned.items()},
            "encoders": config.encoders.model_dump(),
            "clips": config.clips.model_dump(mode="json"),
            "scikit_learn": sklearn.__version__,
        },
        "results": results,
    }


def _announce(examples: Examples, splits: Mapping[str, Split], missing: tuple[str, ...]) -> None:
    """Report what is missing, before hours are spent on the rest."""
    counts = examples.counts
    lost = {k: counts[k] for k in ("missing", "rejected", "unlabelled") if counts[k]}
    said = "".join(f", {count:,} {name}" for name, count in lost.items())
    say(
        f"{counts['listed']:,} examples listed{said}: {len(examples):,} of "
        f"{len(examples.classes)} classes, {len(examples.clips):,} clips"
    )
    if missing:
        say(f"missing: {', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}")
    for name, split in splits.items():
        taught = np.unique(examples.labels[split.train])
        if len(taught) == 1:
            say(
                f"warning: split {name!r} has training examples of one class only, "
                f"{examples.classes[taught[0]]}: every classifier will answer it"
            )


def _fine_tuned(tuning: FineTuning, splits: Mapping[str, Split], title: str) -> dict[str, Any]:
    """Fine-tuning of one encoder, over all splits."""
    by_split = {}
    labels, seed = tuning.examples.labels, tuning.run.config.seed
    chosen = {"lr": tuning.recipe.lr, "epochs": float(tuning.recipe.epochs)}
    for name, split in splits.items():
        asked, scores = tuning.predict(split, f"{title} · split {name}")
        scored = Scored(asked, *accuracies(scores, labels[asked]), chosen)
        by_split[name] = split_figures(tuning.examples, split, split.train, scored, seed)
    return summary(by_split)


def _pseudo_labels(run: Run, examples: Examples, source: FeatureSource) -> list[dict[str, Any]]:
    """The clusters of the round's features, against the labels."""
    if source.round is None:
        return []
    rows = []
    for name in methods.get(run.config.method).clusterings:
        folder = run.round(source.round).clusters(name)
        if not (folder / NAME).exists():
            continue
        try:
            assigned = read_labels(folder, len(examples)).astype(np.int64)
        except Damaged as damaged:  # or being made again
            say(f"{source.name} · {damaged}")
            continue
        if ((assigned >= 0) & (examples.labels >= 0)).any():
            figures = {"mean": agreement_with_labels(assigned, examples.labels), "by_split": {}}
            named = {"encoder": source.name, "round": source.round, "modality": name}
            rows.append({**named, "protocol": PSEUDO_LABELS, **figures})
    return rows
