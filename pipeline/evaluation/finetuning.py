"""Fine-tuning on labels: a new FC layer on the frozen encoder, or all layers, by Ray Train.

An update like those of pretraining, in which labels take the pseudo-labels' place: a training clip
is drawn anew at a random time of its example. The last epoch counts, whatever the test clips say.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from safetensors.numpy import load

from pipeline.clips.fill import fill, publish_clips
from pipeline.clips.table import SCHEMA, ClipTable, PublishedClips
from pipeline.config import Config, LearningConfig
from pipeline.embedding.embed import EmbeddingTask, embed
from pipeline.embedding.shards import read_features
from pipeline.evaluation.classifiers import Verdict, average
from pipeline.evaluation.examples import Examples, clips_of_each
from pipeline.learning.learn import learn
from pipeline.learning.task import LearningTask, PublishedLabels
from pipeline.run import Run
from pipeline.storage import Location

_LABEL = "label"  # the one "clustering" that the head predicts


@dataclass(frozen=True)
class Recipe:
    """A schedule of SGD with momentum 0.9, its rate falling in steps.

    Attributes:
        frozen: only the FC layer learns; BatchNorm stays in eval mode.
        lr: at a batch of 32.
        epochs: each of them sees every training example `clips_per_example` times; those that are
            no longer than a clip once.
        milestones: shares of the epochs after which the rate is multiplied by 0.1.
    """

    frozen: bool
    lr: float
    weight_decay: float
    epochs: int = 8
    clips_per_example: int = 10
    milestones: tuple[float, ...] = (0.25, 0.5, 0.75)
    batch_size: int = 32


# VMZ fine-tunes R(2+1)D on UCF101 and HMDB51 for 8 epochs of about ten clips a video, by 0.1 every
# 2, weight decay 5e-3, at 1e-4 and 2e-4 a GPU on 8 GPUs of 4 clips: 0.8e-3 and 1.6e-3 at 32 clips.
# XDC's own values are in a supplement that we could not read. The FC layer alone gets the rate and
# the decay of VMZ's training from random weights.
RECIPES = {
    "fc": Recipe(frozen=True, lr=1e-2, weight_decay=1e-4),
    "finetune": Recipe(frozen=False, lr=1e-3, weight_decay=5e-3),
}


def recipe_of(protocol: str, lr: float | None, epochs: int | None) -> Recipe:
    """The protocol's recipe with the user's rate and number of epochs, where given."""
    chosen = RECIPES[protocol]
    return replace(chosen, lr=lr or chosen.lr, epochs=epochs or chosen.epochs)


def tuned(
    run: Run,
    found: Examples,
    weights: Location,
    modality: str,
    sides: tuple[np.ndarray, np.ndarray],
    recipe: Recipe,
    place: Location,
    title: str,
) -> Verdict:
    """Fine-tune one encoder on the training examples, say what each test example is.

    What was trained and embedded stays in `place` and is used again, under a name that depends on
    all that it depends on. The values of an example are its clips' logits, averaged (as in VMZ).
    """
    train, test = sides
    digest = hashlib.blake2b(repr((recipe, train.tolist(), test.tolist())).encode(), digest_size=6)
    digest.update(weights.read_bytes())
    out = place / f"{modality}-{digest.hexdigest()}"
    each = clips_of_each(found.windows, run.config.clips, recipe.clips_per_example)
    config = _settings(run.config, recipe, int(each[train].sum()))
    if not (out / "metrics.json").exists():
        published = _published(run, found.windows, place / "store", config)
        _learn(published, found, weights, modality, train, recipe, config, out, title)
    seen = np.flatnonzero(np.isin(found.example, test))
    clips = _chosen_clips(found.clips, seen, out / "test-clips")
    features = out / "features"
    if not (features / "DONE").exists():
        embed(
            EmbeddingTask(
                clips=clips.publish(),
                weights=out / "encoders.safetensors",
                out={modality: features},
                rejects=out / "rejects",
                config=config,
                title=f"{title} · embed test clips",
            )
        )
    values, present = read_features(features, len(clips))
    head = load((out / "heads.safetensors").read_bytes())
    name = f"{modality}_{_LABEL}"
    logits = values[present].astype(np.float32) @ head[f"{name}.weight"].T + head[f"{name}.bias"]
    examples, scores = average(logits, found.example[seen[present]])
    return Verdict(examples, scores, {"lr": recipe.lr, "epochs": float(recipe.epochs)})


def _settings(config: Config, recipe: Recipe, epoch_clips: int) -> Config:
    """The run's settings with the recipe's schedule; how many workers there are stays."""
    learning = LearningConfig(
        workers=config.learning.workers,
        cpus_per_worker=config.learning.cpus_per_worker,
        threads=config.learning.threads,
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        epoch_clips=epoch_clips,
        head="linear",
        sampling="natural",
        optimizer="sgd",
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        schedule="step",
        step_milestones=recipe.milestones,
        held_out=0.0,
    )
    return config.model_copy(update={"learning": learning})


def _published(run: Run, windows: ClipTable, place: Location, config: Config) -> PublishedClips:
    """The examples' windows, by way of a clip store where pretraining has one too: an epoch of
    fine-tuning may see each of them ten times."""
    if windows.location == run.clips:
        return publish_clips(windows, run.location, config)
    published = windows.publish()
    if not config.store.enabled:
        return published
    return replace(published, store=fill(published, place, config))


def _learn(
    published: PublishedClips,
    found: Examples,
    weights: Location,
    modality: str,
    train: np.ndarray,
    recipe: Recipe,
    config: Config,
    out: Location,
    title: str,
) -> None:
    labels = np.full(len(found), -1, np.int32)
    labels[train] = found.labels[train]
    learn(
        LearningTask(
            clips=published,
            heads={modality: (_LABEL,)},
            labels={_LABEL: PublishedLabels.of(labels, len(found.classes))},
            weights=weights,
            out=out,
            rejects=out / "rejects-learn",
            config=config,
            key=(config.seed, 0, 0),
            title=title,
            frozen=recipe.frozen,
        )
    )


def _chosen_clips(clips: ClipTable, indices: np.ndarray, place: Location) -> ClipTable:
    """A clips table of some clips alone, renumbered, kept in `place`."""
    part = place / "part-000000.parquet"
    if not part.exists():
        rows = clips.rows(indices, SCHEMA.names).drop_columns(["clip_index"])
        numbers = pa.array(np.arange(len(indices)), pa.int64())
        part.write_table(pa.table([numbers, *rows.columns], schema=SCHEMA))
    return ClipTable.open(place)
