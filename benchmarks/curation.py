"""What each filter of ``jobs/curate.py`` finds of what was planted.

    python -m benchmarks.curation OUT [--rounds 2]

The media are a world of curation_world.py. A run with the demo's settings is pretrained on all of
it, and its last round curates it. Precision is the share of what a filter left out that was planted
for it; recall the share of what was planted that it left out. Of copies of one clip all but one are
to go, whichever stays. Without a filter of its own, *cca* scores agreement by canonical
correlations of the features (pipeline/vectors/across.py), for comparison. Writes
``benchmarks/curation.json``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from benchmarks.curation_world import COPIES, DISAGREEING, PlantedClip, plan, write
from pipeline import settings
from pipeline.clips.indexing import index
from pipeline.curation.clustered_clips import ClusteredClips
from pipeline.curation.curate import CurationTask, curate
from pipeline.curation.filters import Filters
from pipeline.curation.near_pairs import BLOCK_ROWS, cosines, unit_rows
from pipeline.curation.pair_likelihood import pair_likelihood
from pipeline.embedding.shards import read_features
from pipeline.rounds import pretrain
from pipeline.run import Run
from pipeline.runtime.session import connect
from pipeline.storage import Location
from pipeline.synthetic import SyntheticWorld
from pipeline.telemetry.machine import about
from pipeline.vectors.across import fitted

RESULT = Path(__file__).with_suffix(".json")
ROOT = RESULT.parents[1]
PLAIN = 800
PLANTED = {**dict.fromkeys(COPIES, 60), "dubbed": 80, "frozen": 60, "music": 60}
BOTH = ("video", "audio")
COSINES = (0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
LEAST_NATS = (-0.5, 0.0, 0.5)
SHARES = (0.05, 0.1, 0.2)


class Measured:
    """Selections of one run, against what was planted."""

    def __init__(self, run: Run, world: list[PlantedClip], out: Path) -> None:
        self.run, self.out, self.number = run, out, 0
        self.clustered = ClusteredClips.of(run, None)
        clips = self.clustered.clips
        by_name = {clip.name: clip for clip in world}
        self.ids = clips.column("clip_id").to_pylist()
        self.clips = [by_name[Path(uri).name] for uri in clips.column("uri").to_pylist()]
        self.place = {name: place for place, name in enumerate(self.ids)}
        self.kinds = Counter(clip.kind for clip in self.clips)

    def dropped(self, **filters: Any) -> list[dict[str, Any]]:
        """Rows of what a selection left out, each with ``planted``."""
        self.number += 1
        out = self.out / f"selection-{self.number}.parquet"
        curate(CurationTask(self.run, None, Location.of(out), Filters(**filters), seed=0))
        rows = pq.read_table(str(out).replace(".parquet", ".dropped.parquet")).to_pylist()
        return [row | {"planted": self.clips[self.place[row["clip_id"]]]} for row in rows]

    def near(self, cosine: float, spaces: tuple[str, ...] = ()) -> dict[str, Any]:
        rows = self.dropped(near=cosine, near_in=spaces)
        right = [
            row
            for row in rows
            if row["planted"].origin == self.clips[self.place[row["duplicate_of"]]].origin
        ]
        # Of the copies that a kind had made: whether no two of a clip and its copy are left.
        gone = {row["clip_id"] for row in rows}
        left = Counter(c.origin for c, i in zip(self.clips, self.ids) if i not in gone)
        there = Counter(c.origin for c in self.clips)
        to_go = sum(n - 1 for n in there.values())
        alone = [
            c
            for c in self.clips
            if c.kind in COPIES and there[c.origin] == 2 and left[c.origin] == 1
        ]
        pairs = Counter(c.kind for c in self.clips if c.kind in COPIES and there[c.origin] == 2)
        by_kind = Counter(c.kind for c in alone)
        return {
            "cosine": cosine,
            "in": list(spaces) or "both",
            "left_out": len(rows),
            "precision": _share(len(right), len(rows)),
            "recall": _share(len(right), to_go),
            **{f"recall_{kind}": _share(by_kind[kind], pairs[kind]) for kind in COPIES},
        }

    def agreement(self, **filters: Any) -> dict[str, Any]:
        rows = self.dropped(**filters)
        kinds = Counter(row["planted"].kind for row in rows)
        right = sum(kinds[kind] for kind in DISAGREEING)
        return {
            **filters,
            "left_out": len(rows),
            "precision": _share(right, len(rows)),
            "recall": _share(right, sum(self.kinds[kind] for kind in DISAGREEING)),
            **{f"recall_{kind}": _share(kinds[kind], self.kinds[kind]) for kind in DISAGREEING},
        }

    def areas(self) -> dict[str, dict[str, float]]:
        """Area under the ROC curve of each score: that a plain clip agrees more than a planted."""
        labels = [self.clustered.labels(m) for m in BOTH]
        features = [self._features(m) for m in BOTH]
        across = fitted(*features, np.array([str(c.origin) for c in self.clips]))
        assert across is not None
        a, b = across.of_video(features[0]), across.of_audio(features[1])
        cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        found = {}
        for name, score in (("clusters", pair_likelihood(*labels)), ("cca", cosine)):
            plain = [s for s, c in zip(score, self.clips) if c.kind == "plain"]
            found[name] = {}
            for kind in DISAGREEING:
                wrong = [s for s, c in zip(score, self.clips) if c.kind == kind]
                is_plain = [1] * len(plain) + [0] * len(wrong)
                area = roc_auc_score(is_plain, np.array([*plain, *wrong]))
                found[name][kind] = round(float(area), 3)
        return found

    def same_cluster(self) -> dict[str, dict[str, float | None]]:
        """Share of the copies that are in the cluster of their original, by modality."""
        number = {clip.origin: n for n, clip in enumerate(self.clips) if clip.kind == "plain"}
        found: dict[str, dict[str, float | None]] = {}
        for kind in COPIES:
            rows = [n for n, clip in enumerate(self.clips) if clip.kind == kind]
            originals = [number[self.clips[n].origin] for n in rows]
            same = {
                m: self.clustered.labels(m)[rows] == self.clustered.labels(m)[originals]
                for m in BOTH
            }
            same["either"] = same["video"] | same["audio"]
            found[kind] = {name: _share(int(each.sum()), len(rows)) for name, each in same.items()}
        return found

    def best_f1(self) -> dict[str, float]:
        """Of all pairs of clips: how well some cosine parts those that show the same.

        The least of both modalities, of features, of features less their mean, and of the vectors
        that were clustered.
        """
        n = len(self.clips)
        raw = [self._features(m) for m in BOTH]
        clustered = [self.clustered.space(m).read(np.arange(n), 0, n)[:, :-1] for m in BOTH]
        origin = np.array([clip.origin for clip in self.clips])
        upper = np.triu_indices(n, 1)
        same = (origin[:, None] == origin)[upper]
        found = {}
        for name, both in {
            "features": raw,
            "centred features": [x - x.mean(axis=0) for x in raw],
            "clustered vectors": [x.astype(np.float32) for x in clustered],
        }.items():
            unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in both]
            cosine = np.minimum(*(x @ x.T for x in unit))[upper]
            order = np.argsort(-cosine)
            right = np.cumsum(same[order])
            f1 = 2 * right / (np.arange(1, len(right) + 1) + same.sum())
            found[name] = round(float(f1.max()), 3)
        return found

    def _features(self, modality: str) -> np.ndarray:
        folder = self.clustered.features(modality)[0]
        return read_features(folder, len(self.clips))[0].astype(np.float32)

    def draw(self, clips: int, **filters: Any) -> dict[str, Any]:
        """Clips of each class that are kept, of a draw by random and of one by clusters."""
        gone = {row["clip_id"] for row in self.dropped(clips=clips, **filters)}
        kept = Counter(c.label for c, i in zip(self.clips, self.ids) if i not in gone)
        return {"clips": clips, **filters, **_spread(kept)}


def pairs_per_core_second(rows: int = 8192, width: int = 257) -> int:
    """Pairs of clips that one core compares in a second, of two modalities of 256 numbers."""
    random, edges = np.random.default_rng(0), np.array([0, width, 2 * width])
    vectors = random.normal(size=(rows, 2 * width)).astype(np.float16)
    at = [slice(a, a + BLOCK_ROWS) for a in range(0, rows, BLOCK_ROWS)]
    with threadpool_limits(1, "blas"):
        began = time.process_time()
        for left, right in ((a, b) for a in at for b in at):
            near = cosines(unit_rows(vectors[left], edges), unit_rows(vectors[right], edges), edges)
            np.nonzero(near >= 0.9)
        return round(rows * rows / (time.process_time() - began))


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 3) if whole else None


def _spread(classes: Counter[int]) -> dict[str, Any]:
    sizes = np.array([classes[label] for label in range(max(classes) + 1)])
    share = sizes[sizes > 0] / sizes.sum()
    effective = float(np.exp(-(share * np.log(share)).sum()))
    return {"classes": sizes.tolist(), "effective_classes": round(effective, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    out = options.out.resolve()
    world = SyntheticWorld(difficulty=0.0)
    clips = plan(world, PLAIN, PLANTED)
    table, place = write(out / "world", world, clips), Location.of(out / "run")
    given = [str(ROOT / "configs" / "demo.yaml"), "clips.split=[]"]
    config = settings.load([*given, f"rounds={options.rounds}", f"run={place}"])
    connect(config.resources)
    index(str(table), place, config)
    run = pretrain(config)
    scratch = out / f"selections-{options.rounds}"
    measured = Measured(run, clips, scratch)
    all_of_a_class = Counter(c.label for c in measured.clips)
    half = len(measured.clips) // 2
    found: dict[str, Any] = {
        "clips": len(measured.clips),
        "planted": {kind: measured.kinds[kind] for kind in PLANTED},
        "rounds": options.rounds,
        "clusters": config.clustering.k,
        "near_duplicates": [measured.near(cosine) for cosine in COSINES],
        "near_in_one": [measured.near(0.9, (m,)) for m in BOTH],
        "same_cluster": measured.same_cluster(),
        "best_f1": measured.best_f1(),
        "agreement": [measured.agreement(least_agreement=nats) for nats in LEAST_NATS],
        "agreement_share": [measured.agreement(disagreeing_share=share) for share in SHARES],
        "agreement_area": measured.areas(),
        "all": _spread(all_of_a_class),
        "draw": [
            measured.draw(half, draw_by=m, levels=levels) for m in BOTH for levels in ((), None)
        ],
        "pairs_per_core_second": pairs_per_core_second(),
        "about": about("torch", "ray", "scikit-learn"),
    }
    print(json.dumps(found, indent=1))
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
