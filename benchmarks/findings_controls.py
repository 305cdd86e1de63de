"""The rule that chooses the anchor, on generated worlds whose strong modality is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.findings_tables import (
    MODALITIES,
    Results,
    by_seed,
    interval,
    markdown,
    rounds_of,
)
from pipeline.report.judgements import strong_modality
from pipeline.reproduction.findings import CONTROLS

_ANCHORED = {m: f"anchored_{m}-raw" for m in MODALITIES}  # trials


@dataclass(frozen=True)
class Case:
    """A world and seed with which both modalities were anchored."""

    world: str
    seed: int
    follows_files: dict[str, float]  # modality → `ami_to_files` of its first clusters
    probes: dict[str, tuple[float, ...]]  # anchor → test accuracy of both probes at the end

    @property
    def chosen(self) -> str | None:
        """By the rule, before training."""
        return strong_modality(self.follows_files)

    @property
    def better(self) -> str:
        return max(MODALITIES, key=lambda anchor: np.mean(self.probes[anchor]))

    @property
    def row(self) -> list[str]:
        mean = {anchor: np.mean(found) for anchor, found in self.probes.items()}
        by = mean[self.better] - min(mean.values())
        return [
            self.world,
            f"{self.seed}",
            _both(self.follows_files[m] for m in MODALITIES),
            self.chosen or "neither",
            *(_both(self.probes[anchor]) for anchor in MODALITIES),
            f"{self.better}, by {by:.3f}",
            "–" if self.chosen is None else "yes" if self.chosen == self.better else "no",
        ]


def controls(by_preset: Mapping[str, Results]) -> list[str]:
    """The rule's choice before training, what each anchor led to, and how often it was right."""
    lines = ["## Control: which modality to anchor, where the strong one is known", ""]
    cases = [case for world in CONTROLS for case in _cases(world, by_preset.get(world, {}))]
    if not cases:
        return [*lines, "Not run yet.", ""]
    decided = [case for case in cases if case.chosen]
    right = sum(case.chosen == case.better for case in decided)
    lines += [
        f"The rule was right in **{right} of {len(cases)}** worlds and seeds. It chose neither "
        f"modality in {len(cases) - len(decided)}.",
        "",
        "Each pair of numbers is of video and audio.",
        "",
    ]
    head = ["world", "seed", "first clusters follow the files", "the rule anchors"]
    head += [f"probes with {anchor} anchored" for anchor in MODALITIES]
    head += ["better by the mean of both", "the rule is right"]
    lines += [*markdown([head, *(case.row for case in cases)]), ""]
    gains = [["world", "probe", "anchored audio minus anchored video [95%]"]]
    for world in CONTROLS:
        seeds = [case.probes for case in cases if case.world == world]
        for number, modality in enumerate(MODALITIES) if len(seeds) > 1 else ():
            found = [each["audio"][number] - each["video"][number] for each in seeds]
            gains.append([world, modality, interval(np.array(found))[0]])
    return [*lines, *markdown(gains), ""]


def _cases(world: str, results: Results) -> list[Case]:
    last = {trial: max(rounds_of(results, trial), default=0) for trial in _ANCHORED.values()}
    probes = {
        anchor: [by_seed(results, trial, m, last[trial]) for m in MODALITIES]
        for anchor, trial in _ANCHORED.items()
    }
    seeds = set.intersection(*(set(found) for both in probes.values() for found in both))
    cases = []
    for seed in sorted(seeds):
        signals = results[_ANCHORED["audio"]][seed].rounds[0]["signals"]
        follows = {m: signals[f"ami_to_files_{m}"] for m in MODALITIES}
        ends = {a: tuple(found[seed] for found in both) for a, both in probes.items()}
        cases.append(Case(world, seed, follows, ends))
    return cases


def _both(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)
