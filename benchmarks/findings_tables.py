"""What all tables of the study are made of: results by preset, trial and seed."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy import stats

from pipeline.reproduction.results import TrialResult, read_results
from pipeline.storage import Location

MODALITIES = ("video", "audio")
Results = dict[str, dict[int, TrialResult]]  # trial → seed → result; both in order


def markdown(rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def read(folder: Path, world: str) -> dict[str, Results]:
    """By preset, the results of a world."""
    found: dict[str, Results] = defaultdict(lambda: defaultdict(dict))
    for result in read_results(Location.of(folder / f"{world}.jsonl")).values():
        found[result.preset][result.trial][result.seed] = result
    return found


def rounds_of(results: Results, trial: str) -> set[int]:
    """Rounds after which a trial was examined with every seed; {0} for supervision."""
    examined = [{r["round"] for r in one.rounds} for one in results.get(trial, {}).values()]
    return set.intersection(*examined) if examined else set()


def by_seed(results: Results, trial: str, modality: str, number: int) -> dict[int, float]:
    """By seed, test accuracy of a modality's linear probe after a round; empty if there is none."""
    return {
        seed: examined["probe"][modality]["test"]["accuracy"]
        for seed, result in results.get(trial, {}).items()
        for examined in result.rounds
        if examined["round"] == number and modality in examined["probe"]
    }


def interval(gains: np.ndarray) -> tuple[str, str]:
    """The mean of differences over seeds with its 95% interval by Student's t, and the verdict."""
    half = stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / np.sqrt(len(gains))
    low, high = gains.mean() - half, gains.mean() + half
    verdict = "supported" if low > 0 else "contradicted" if high < 0 else "inconclusive"
    return f"{gains.mean():+.3f} [{low:+.3f}, {high:+.3f}], {len(gains)} seeds", verdict
