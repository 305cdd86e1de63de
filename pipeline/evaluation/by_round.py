"""A run's rounds against its clips' labels: how the encoders grew, from random to the last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline import methods
from pipeline.clips.fill import publish_clips
from pipeline.clips.table import ClipTable
from pipeline.clustering import measures, read_labels
from pipeline.embedding.embed import EmbeddingTask, embed
from pipeline.embedding.shards import read_features
from pipeline.errors import UserError
from pipeline.evaluation.datasets.labelled import is_test_by_hash
from pipeline.evaluation.probes import linear_probe
from pipeline.evaluation.report import aligned
from pipeline.methods import MODALITIES
from pipeline.run import Run


@dataclass(frozen=True)
class Truth:
    """Labels and splits of the clips, as numbers.

    Attributes:
        labels: int64 [N], -1 where a clip has none; classes: the labels' names.
        files: int64 [N]; is_train, is_test: bool [N].
    """

    labels: np.ndarray
    classes: list[str]
    files: np.ndarray
    is_train: np.ndarray
    is_test: np.ndarray

    @classmethod
    def of(cls, clips: ClipTable, test_split: str) -> Truth:
        """
        Raises:
            UserError: no clip has a label, or none is in the test split.
        """
        encoded = clips.column("label").combine_chunks().dictionary_encode()
        labels = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        if (labels < 0).all():
            raise UserError(
                f"no clip in {clips.location} has a label, so there is nothing to evaluate "
                "against; index a cuts table with a label column"
            )
        uris = clips.column("uri").combine_chunks().dictionary_encode()
        files = uris.indices.to_numpy().astype(np.int64)
        splits = clips.column("split").to_numpy(zero_copy_only=False)
        if all(split is None for split in splits):
            tests = np.array([is_test_by_hash(u) for u in uris.dictionary.to_pylist()])[files]
            trains = ~tests
        else:
            tests, trains = splits == test_split, splits == "train"
        if not tests.any() or not trains.any():
            found = sorted({str(split) for split in splits})
            raise UserError(
                f"the clips' splits are {', '.join(found)}: train and {test_split} are needed; "
                "choose another with --test-split"
            )
        known = labels >= 0
        return cls(labels, encoded.dictionary.to_pylist(), files, trains & known, tests & known)


def evaluate_rounds(run: Run, numbers: Sequence[int], test_split: str) -> dict[str, Any]:
    """Linear probes of both encoders, and NMI of the clusters, for each of the rounds.

    Features that a round did not keep are made again, with one decoding pass a round.
    """
    clips = ClipTable.open(run.clips)
    truth = Truth.of(clips, test_split)
    published = None
    rows = []
    for number in numbers:
        this = run.round(number)
        missing = {
            m: this.features(m) for m in MODALITIES if not (this.features(m) / "DONE").exists()
        }
        if missing:
            published = published or publish_clips(clips, run.location, run.config)
            title = f"round {number} · embed {' and '.join(missing)}"
            embed(EmbeddingTask(published, this.encoders, missing, this.rejects, run.config, title))
        row: dict[str, Any] = {"round": number, "probe": {}, "nmi": {}}
        for modality in MODALITIES:
            features, present = read_features(this.features(modality), len(clips))
            result = linear_probe(
                features,
                truth.labels,
                truth.files,
                truth.is_train & present,
                truth.is_test & present,
                seed=run.config.seed,
            )
            row["probe"][modality] = asdict(result)
        for name in methods.get(run.config.method).clusterings:
            if (this.clusters(name) / "clustering.json").exists():
                assigned = read_labels(this.clusters(name), len(clips))
                row["nmi"][name] = measures.normalized_mutual_information(truth.labels, assigned)
        rows.append(row)
    return {
        "method": run.config.method,
        "seed": run.config.seed,
        "k": run.config.clustering.k,
        "clips": len(clips),
        "classes": len(truth.classes),
        "test_split": test_split,
        "rounds": rows,
    }


def as_table(report: dict[str, Any]) -> str:
    """The report for the console: one line a round."""
    names = list(dict.fromkeys(name for row in report["rounds"] for name in row["nmi"]))
    heads = ["round", *(f"{m} probe [95%]" for m in MODALITIES), *(f"{n} NMI" for n in names)]
    lines = [heads]
    for row in report["rounds"]:
        cells = [f"{row['round']}" + (" (random)" if row["round"] == 0 else "")]
        for modality in MODALITIES:
            probe = row["probe"][modality]
            cells.append(f"{probe['accuracy']:.3f} [{probe['low']:.3f}, {probe['high']:.3f}]")
        cells += [f"{row['nmi'][n]:.3f}" if n in row["nmi"] else "–" for n in names]
        lines.append(cells)
    return aligned(lines)
