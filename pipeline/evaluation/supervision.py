"""Supervised encoders: what labels would have taught the same encoders from the same clips.

They start from the run's random encoders and learn with its settings, for as many epochs as all its
rounds together, on the training side of its clips. Each encoder has one head, for labels.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.clips.fill import publish_clips
from pipeline.clips.listing import list_media
from pipeline.clips.table import ClipTable, clip_id
from pipeline.errors import UserError
from pipeline.evaluation.datasets.labelled import TRAIN
from pipeline.evaluation.splits import numbered, sides_of
from pipeline.learning.learn import learn, metrics_of
from pipeline.learning.task import LearningTask, PublishedLabels
from pipeline.lease import hold
from pipeline.methods import MODALITIES
from pipeline.run import Run
from pipeline.storage import Location

NAME = "supervised"
_LABEL = "label"


@dataclass(frozen=True)
class Supervision:
    """Which labels: the clips' own, or a column of another table of the same cuts."""

    table: str = ""  # a cuts table, local or a URI; empty: the run's clips table
    column: str = _LABEL

    @classmethod
    def parsed(cls, text: str) -> Supervision:
        """``supervised`` or ``supervised:TABLE:COLUMN``.

        Raises:
            UserError: it is neither.
        """
        name, _, rest = text.partition(":")
        table, _, column = rest.rpartition(":")
        if name != NAME or bool(table) != bool(rest) or (rest and not column):
            raise UserError(
                f"there is no baseline {text!r}; there is random, raw, {NAME} and "
                f"{NAME}:TABLE:COLUMN, as in {NAME}:cuts.csv:colour"
            )
        return cls(table, column) if rest else cls()

    @property
    def name(self) -> str:
        """Shown in the report."""
        return f"{NAME} by {self.column}" if self.table else NAME

    def labels(self, clips: ClipTable) -> tuple[np.ndarray, int]:
        """int32 [N], -1 without a label, and the number of classes.

        Raises:
            UserError: fewer than two classes are known for these clips.
        """
        if self.table:
            listed = list_media(self.table, label_column=self.column).rows
            # Of rows about the same, the last counts.
            listed = listed.take(pa.array(range(len(listed))[::-1]))
            cuts = zip(*(listed[name].to_pylist() for name in ("uri", "start_s", "end_s")))
            # A row without a cut is about every clip of its file.
            keys = [uri if start is None else clip_id(uri, start, end) for uri, start, end in cuts]
            known = pa.array(keys, pa.string())
            of_cut, of_file = (
                pc.index_in(clips.column(name), value_set=known) for name in ("clip_id", "uri")
            )
            names = listed["label"].take(pc.coalesce(of_cut, of_file))
        else:
            names = clips.column(self.column)
        labels, classes = numbered(names)
        if len(classes) < 2:
            raise UserError(
                f"{self.table or clips.location} labels the run's clips with {len(classes)} "
                f"classes in its column {self.column}; at least two are needed to train encoders"
            )
        return labels.astype(np.int32), len(classes)


def supervised(
    run: Run,
    supervision: Supervision,
    test_split: str,
    modalities: tuple[str, ...] = MODALITIES,
    start: Location | None = None,
) -> Location:
    """Weights of both encoders, trained now unless they were before.

    Args:
        test_split: the value of the split column that is tested on (`splits.sides_of`).
        modalities: whose encoders are trained; another's stays as it was.
        start: weights to fine-tune, for as many epochs as one round has; None: the random ones.

    Raises:
        UserError: there are no labels to train on.
    """
    clips = ClipTable.open(run.clips)
    labels, k = supervision.labels(clips)
    labels[sides_of(clips, test_split) != TRAIN] = -1
    rounds = 1 if start else run.config.rounds
    longer = {"epochs": run.config.learning.epochs * rounds, "held_out": 0.0, "patience": 0}
    learning = run.config.learning.model_copy(update=longer)
    config = run.config.model_copy(update={"learning": learning})
    start = start or run.round(0).encoders
    settings = config.learning.model_dump_json().encode()
    digest = hashlib.blake2b(labels.tobytes() + settings + start.read_bytes(), digest_size=6)
    if modalities != MODALITIES:
        digest.update(repr(modalities).encode())
    out = run.location / "evaluation" / f"{NAME}-{digest.hexdigest()}"
    with hold(out / "_LEASE", f"the baseline {out}"):
        if metrics_of(out) is None:
            learn(
                LearningTask(
                    clips=publish_clips(clips, run.location, config, may_fill=False),
                    heads={m: (_LABEL,) for m in modalities if clips.count((m,))},
                    labels={_LABEL: PublishedLabels.of(labels, k)},
                    weights=start,
                    out=out,
                    rejects=out / "rejects",
                    config=config,
                    key=(config.seed, 0, 0),
                    title=supervision.name,
                )
            )
    return out / "encoders.safetensors"
