"""Fine-tuning on labels: a new FC layer on the frozen encoder, or all layers, by Ray Train.

An update as in pretraining, with labels in place of pseudo-labels. A training clip is drawn anew at
a random time of its example. The last epoch counts: test examples choose nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from safetensors.numpy import load

from pipeline.clips.fill import fill, publish_clips
from pipeline.clips.table import SCHEMA, PublishedClips
from pipeline.config import Config, LearningConfig
from pipeline.embedding.embed import EmbeddingTask, embed
from pipeline.embedding.shards import read_features
from pipeline.errors import UserError
from pipeline.evaluation.classifiers import average
from pipeline.evaluation.examples import Examples, clips_of_each, kept_table
from pipeline.evaluation.splits import Split
from pipeline.learning.divergence import Diverged
from pipeline.learning.learn import learn, metrics_of
from pipeline.learning.task import LearningTask, PublishedLabels
from pipeline.run import Run
from pipeline.storage import Location

_LABEL = "label"  # name of what the head predicts


@dataclass(frozen=True)
class Recipe:
    """A schedule of SGD with momentum 0.9, its rate falling in steps."""

    frozen: bool  # only the FC layer learns; BatchNorm stays in eval mode
    lr: float  # at a batch of 32
    weight_decay: float
    epochs: int = 8
    clips_per_example: int = 10  # in each epoch; 1 where the example is no longer than a clip
    milestones: tuple[float, ...] = (0.25, 0.5, 0.75)  # shares of the epochs; then the rate × 0.1
    batch_size: int = 32


# VMZ fine-tunes R(2+1)D on UCF101 and HMDB51 for 8 epochs of about ten clips a video, by 0.1 every
# 2, weight decay 5e-3, at 1e-4 and 2e-4 a GPU on 8 GPUs of 4 clips: 0.8e-3 and 1.6e-3 at 32 clips.
# XDC's own values are in a supplement that we could not read. The FC layer alone gets the rate and
# the decay of VMZ's training from random weights.
RECIPES = {
    "fc": Recipe(frozen=True, lr=1e-2, weight_decay=1e-4),
    "finetune": Recipe(frozen=False, lr=1e-3, weight_decay=5e-3),
}


@dataclass(frozen=True)
class FineTuning:
    """One encoder, fine-tuned on the labels of examples."""

    run: Run
    examples: Examples
    weights: Location  # safetensors of both encoders to begin with
    modality: str
    recipe: Recipe
    place: Location  # folder for weights and features, reused: their names hash all inputs

    def predict(self, split: Split, title: str) -> tuple[np.ndarray, np.ndarray]:
        """Train on one side of the split, score the other.

        Returns:
            int64 [n], the test examples with features, and float64 [n, classes]: the logits of
            their clips, averaged (as in VMZ).
        """
        config = self._settings(split)
        labels = np.full(len(self.examples), -1, np.int32)
        labels[split.train] = self.examples.labels[split.train]
        made_of = (self.recipe, split.test.tolist(), self.examples.windows.identity())
        settings = (config.clips.outcome(), config.encoders.outcome(), config.precision)
        said = repr((made_of, settings)).encode()
        digest = hashlib.blake2b(said + labels.tobytes(), digest_size=6)
        digest.update(self.weights.read_bytes())
        folder = self.place / f"{self.modality}-{digest.hexdigest()}"
        if metrics_of(folder) is None:
            task = LearningTask(
                clips=self._published(config),
                heads={self.modality: (_LABEL,)},
                labels={_LABEL: PublishedLabels.of(labels, len(self.examples.classes))},
                weights=self.weights,
                out=folder,
                rejects=folder / "rejects-learn",
                config=config,
                key=(config.seed, 0, 0),
                title=title,
                frozen=self.recipe.frozen,
            )
            try:
                learn(task)
            except Diverged:
                raise UserError(
                    f"{title} diverged: lower --lr (it is {self.recipe.lr:g})"
                ) from None
        seen = np.flatnonzero(np.isin(self.examples.example, split.test))
        clips = kept_table(self.examples.clips.rows(seen, SCHEMA.names), folder / "test-clips")
        features = folder / "features"
        weights, rejects = folder / "encoders.safetensors", folder / "rejects"
        out, heading = {self.modality: features}, f"{title} · embed test clips"
        embed(EmbeddingTask(clips.publish(), weights, out, rejects, config, heading))
        values, present = read_features(features, len(clips))
        head = load((folder / "heads.safetensors").read_bytes())
        weight, bias = (head[f"{self.modality}_{_LABEL}.{name}"] for name in ("weight", "bias"))
        logits = values[present].astype(np.float32) @ weight.T + bias
        return average(logits, self.examples.example[seen[present]])

    def _settings(self, split: Split) -> Config:
        """The run's settings with the recipe's schedule; the number of workers stays."""
        recipe, config = self.recipe, self.run.config
        each = clips_of_each(self.examples.windows, config.clips, recipe.clips_per_example)
        learning = LearningConfig(
            **config.learning.model_dump(include={"workers", "cpus_per_worker", "threads"}),
            batch_size=recipe.batch_size,
            epochs=recipe.epochs,
            epoch_clips=int(each[split.train].sum()),
            head="linear",
            sampling="natural",
            optimizer="sgd",
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            schedule="step",
            step_milestones=recipe.milestones,
            held_out=0.0,
        )
        return config.of_all_clips().model_copy(update={"learning": learning})

    def _published(self, config: Config) -> PublishedClips:
        """The windows, with a clip store if the run has one: an epoch may see each ten times."""
        windows = self.examples.windows
        if windows.location == self.run.clips:
            return publish_clips(windows, self.run.location, config, may_fill=False)
        published = windows.publish()
        if not config.store.enabled:
            return published
        return replace(published, store=fill(published, self.place / "store", config))
