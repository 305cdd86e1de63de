"""Evaluation protocols over encoders, modalities and splits, and their report.

    dataset → examples → clips → features (Ray Data, kept) → protocol, by split → mean and spread

Features and clips lie in ``RUN/evaluation/<dataset>-<fingerprint>/``; what is finished there is
used again, an unfinished pass is done again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import sklearn

from pipeline.clips.fill import publish_clips
from pipeline.clips.table import ClipTable
from pipeline.clustering import read_labels
from pipeline.embedding.embed import EmbeddingTask, embed
from pipeline.embedding.shards import read_features
from pipeline.errors import UserError
from pipeline.evaluation import examples as examples_module
from pipeline.evaluation.classifiers import (
    CLASSIFIERS,
    TEMPERATURE,
    VALIDATION,
    ClipFeatures,
)
from pipeline.evaluation.datasets import LabelledMedia
from pipeline.evaluation.examples import Examples
from pipeline.evaluation.figures import FROZEN, accuracies, judge, result_of, summary
from pipeline.evaluation.finetuning import RECIPES, recipe_of, tuned
from pipeline.evaluation.retrieval import agreement
from pipeline.evaluation.supervision import Supervision, supervised
from pipeline.run import Run
from pipeline.storage import Location
from pipeline.telemetry.console import say

TUNED = tuple(RECIPES)
_BOTH = "both"  # the two modalities' features side by side, each of length one


@dataclass(frozen=True)
class Request:
    """What to evaluate, as the user asked.

    Attributes:
        round: whose encoders; baselines beside them: random, raw, supervised[:TABLE:COLUMN].
        protocols: some of `FROZEN` and `TUNED`.
        lr, epochs: of fine-tuning, where they differ from the protocol's recipe.
        folds: names of splits; empty: the dataset's official ones.
        modalities: video, audio, both; empty: every one that the examples have.
        clips_per_video: how many clips stand for an example, in training and in testing.
        test_split: of a run's own clips, the value of the split column to test on.
    """

    round: int
    protocols: tuple[str, ...]
    folds: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()
    clips_per_video: int = 10
    test_split: str = "test"
    lr: float | None = None
    epochs: int | None = None


@dataclass(frozen=True)
class Source:
    """Where features come from: a round's encoders, or no encoder at all.

    Attributes:
        name: shown in the report; weights: None for features without learning.
        round: the round whose encoders they are, where they are one's.
    """

    name: str
    weights: Location | None
    round: int | None

    @property
    def folder(self) -> str:
        """Other weights have other features, also under the same round's number."""
        if self.weights is None:
            return self.name
        digest = hashlib.blake2b(self.weights.read_bytes(), digest_size=4).hexdigest()
        stem = "supervised" if self.round is None else f"round-{self.round:04d}"
        return f"{stem}-{digest}"


def sources_of(run: Run, request: Request) -> list[Source]:
    """The round's encoders and the baselines, each once.

    Raises:
        UserError: there are no labels to supervise a baseline with.
    """
    known = {
        "random": Source("random", run.round(0).encoders, 0),
        "raw": Source("raw", None, None),
    }
    own = Source(f"round {request.round}", run.round(request.round).encoders, request.round)
    sources = [known["random"] if request.round == 0 else own]
    for name in request.baselines:
        if name in known:
            sources.append(known[name])
        else:
            labels = Supervision.parsed(name)
            weights = supervised(run, labels, request.test_split)
            sources.append(Source(labels.name, weights, None))
    return list(dict.fromkeys(sources))


def evaluate(run: Run, media: LabelledMedia | None, request: Request) -> dict[str, Any]:
    """Every protocol on every encoder and modality, over the splits asked for.

    Args:
        media: None: the run's own labelled clips.

    Returns:
        The report, with every setting; ``results`` holds a row for each encoder, modality and
        protocol with its figures ``by_split``, their ``mean`` and standard deviation ``std``.

    Raises:
        UserError: a split or a modality does not exist, or the examples cannot be judged.
    """
    config, place = run.config, run.location / "evaluation"
    n = request.clips_per_video
    if media is None:
        own = ClipTable.open(run.clips)
        place = place / f"own-{len(own)}-{n}"
        found = examples_module.of_run(own, place / "clips", request.test_split, config, n)
    else:
        place = place / f"{media.kind}-{media.fingerprint}"
        found = examples_module.of_dataset(media, place, config, n)
    folds = request.folds or (media.default if media else tuple(found.splits))
    _check_named("split", folds, tuple(found.splits))
    sides = {fold: found.sides(fold) for fold in folds}
    there = found.modalities
    has = (*there, _BOTH) if len(there) == 2 else there
    modalities = request.modalities or has
    _check_named("modality", modalities, has)
    needed = tuple(m for m in there if m in modalities or _BOTH in modalities)
    _announce(found, media.missing if media else ())
    results = []
    for source in sources_of(run, request):
        features: dict[str, ClipFeatures] = {}
        if set(request.protocols) & set(FROZEN):
            features = embedded(run, found, place / f"features-{n}", source, needed)
            if _BOTH in modalities:
                features[_BOTH] = _beside(*features.values())
        for modality in modalities:
            for protocol in request.protocols:
                row = {"encoder": source.name, "modality": modality, "protocol": protocol}
                if protocol in FROZEN:
                    judged = judge(protocol, features[modality], found, sides, config.seed)
                elif source.weights is not None and modality != _BOTH:
                    judged = _tune(run, found, source, row, sides, request, place / f"tuned-{n}")
                else:
                    continue  # without an encoder, or with two, there is none to fine-tune
                results.append(row | judged)
        if media is None and source.round is not None and "clusters" in request.protocols:
            results += _round_clusters(run, found, source)
    return {
        "run": str(run.location),
        "method": config.method,
        "seed": config.seed,
        "dataset": media.kind if media else "own clips",
        "root": str(media.root if media else run.clips),
        "fingerprint": media.fingerprint if media else None,
        "examples": found.counts | {"indexed": len(found), "clips": len(found.clips)},
        "missing": list(media.missing[:100]) if media else [],
        "classes": len(found.classes),
        "request": asdict(request),
        "splits": {f: {"train": len(a), "test": len(b)} for f, (a, b) in sides.items()},
        "settings": {
            "strengths": {name: list(c.strengths) for name, c in CLASSIFIERS.items()},
            "validation_share": VALIDATION,
            "temperature": TEMPERATURE,
            "recipes": {
                p: asdict(recipe_of(p, request.lr, request.epochs))
                for p in request.protocols
                if p in TUNED
            },
            "encoders": config.encoders.model_dump(),
            "clips": config.clips.model_dump(mode="json"),
            "scikit_learn": sklearn.__version__,
        },
        "results": results,
    }


def _check_named(what: str, asked: Sequence[str], known: tuple[str, ...]) -> None:
    for name in asked:
        if name not in known:
            raise UserError(f"there is no {what} {name!r} here; there is {', '.join(known)}")


def _announce(found: Examples, missing: tuple[str, ...]) -> None:
    """Says what is not there, before hours are spent on what is."""
    lost = {k: found.counts[k] for k in ("missing", "rejected", "unlabelled") if found.counts[k]}
    said = "".join(f", {count:,} {name}" for name, count in lost.items())
    say(
        f"{found.counts['listed']:,} examples listed{said}: {len(found):,} of "
        f"{len(found.classes)} classes, {len(found.clips):,} clips"
    )
    if missing:
        say(f"missing: {', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}")


def embedded(
    run: Run, found: Examples, place: Location, source: Source, modalities: tuple[str, ...]
) -> dict[str, ClipFeatures]:
    """Features of the examples' clips, made now for the modalities that lack them.

    Where the clips are the run's own, a round's features and the clip store serve.
    """
    own = found.clips.location == run.clips
    folder = place / source.folder
    if own and source.round is not None:
        folders = {m: run.round(source.round).features(m) for m in modalities}
    else:
        folders = {m: folder / m for m in modalities}
    todo = {m: f for m, f in folders.items() if not (f / "DONE").exists()}
    if todo:
        clips = found.clips
        published = publish_clips(clips, run.location, run.config) if own else clips.publish()
        title = f"{source.name} · embed {' and '.join(todo)}"
        rejects = folder / "rejects"
        embed(EmbeddingTask(published, source.weights, todo, rejects, run.config, title))
    features = {}
    for modality in modalities:
        values, present = read_features(folders[modality], len(found.clips))
        features[modality] = ClipFeatures(
            values[present].astype(np.float32), found.example[present]
        )
    return features


def _beside(first: ClipFeatures, second: ClipFeatures) -> ClipFeatures:
    """Averaged features of both modalities, each of length one, for the examples that have both."""
    a, b = first.averaged(), second.averaged()
    both = np.intersect1d(a.example, b.example)
    values = [part.of(both).averaged().values for part in (a, b)]
    return ClipFeatures(np.concatenate(values, axis=1), both)


def _tune(
    run: Run,
    found: Examples,
    source: Source,
    row: dict[str, str],
    sides: dict[str, tuple[np.ndarray, np.ndarray]],
    request: Request,
    place: Location,
) -> dict[str, Any]:
    """Fine-tuning of one encoder, over all splits."""
    assert source.weights is not None
    modality, protocol = row["modality"], row["protocol"]
    recipe = recipe_of(protocol, request.lr, request.epochs)
    by_split = {}
    for name, (train, test) in sides.items():
        title = f"{source.name} · {protocol} {modality} · split {name}"
        verdict = tuned(run, found, source.weights, modality, (train, test), recipe, place, title)
        right, figures = accuracies(verdict.scores, found.labels[verdict.examples])
        by_split[name] = result_of(
            found, train, test, verdict.examples, right, figures, verdict.chosen, run.config.seed
        )
    return summary(by_split)


def _round_clusters(run: Run, found: Examples, source: Source) -> list[dict[str, Any]]:
    """The pseudo-labels that the round's features were given, against the labels."""
    rows = []
    assert source.round is not None
    clusters = run.round(source.round).location / "clusters"
    for info in clusters.children():
        name = info.base_name
        if (clusters / name / "clustering.json").exists():
            assigned = read_labels(clusters / name, len(found.labels))
            rows.append(
                {
                    "encoder": source.name,
                    "modality": name,
                    "protocol": "pseudo-labels",
                    "mean": agreement(assigned.astype(np.int64), found.labels),
                    "by_split": {},
                }
            )
    return rows
