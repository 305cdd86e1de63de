"""Results of trials as data: one JSON-lines file a world, one line a preset, trial and seed.

A line starts with ``preset``, ``trial`` and ``seed`` and holds no dump of the configuration: the
preset and the overrides name it, at the commit in ``about``. Lines are sorted by these three.
Files from several machines are joined with ``cat``: order does not matter to `read_results`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.errors import UserError
from pipeline.storage import Location

Key = tuple[str, str, int]  # preset, trial, seed


@dataclass(frozen=True)
class TrialResult:
    """The result of one trial with one seed.

    Each of the examined `rounds` holds ``round``; ``probe`` (modality → split → figures of a linear
    probe); ``signals`` (name → value); ``contents`` (modality → what its clusters hold, see
    probing.py). ``agreement_estimated`` marks a round from before agreement was adjusted for chance
    (benchmarks/findings-study.md).
    """

    preset: str  # name in `PRESETS` (findings.py)
    trial: str  # name in `FINDINGS` (findings.py)
    seed: int
    method: str  # as in `Trial`
    cuts: str  # as in `Trial`
    world: str  # folder of the world
    clips: int  # how many were learned from
    seconds: int  # of the last attempt
    about: dict[str, Any]  # machine, versions, commit, date (`pipeline.telemetry.machine.about`)
    rounds: list[dict[str, Any]]
    base: str | None = None  # name of the trial that was fine-tuned
    overrides: Sequence[str] = ()  # settings after the world's and the preset's own
    cost: dict[str, dict[str, float]] = field(default_factory=dict)  # round/embed → round → seconds

    @property
    def key(self) -> Key:
        return self.preset, self.trial, self.seed


def read_results(place: Location) -> dict[Key, TrialResult]:
    """All results of a file, sorted by key; empty where there is no file.

    Raises:
        UserError: a line is not a result.
    """
    if not place.exists():
        return {}
    found = {}
    for number, line in enumerate(place.read_bytes().decode().splitlines(), start=1):
        try:
            result = TrialResult(**json.loads(line))
        except (TypeError, json.JSONDecodeError) as error:
            raise UserError(f"{place}, line {number}: not the result of a trial") from error
        found[result.key] = result
    return dict(sorted(found.items()))


def write_result(place: Location, result: TrialResult) -> None:
    """Add a result, or replace the one with its key; the file is written whole or not at all.

    Only one command at a time may write to a file: two could lose each other's lines.
    """
    results = read_results(place) | {result.key: result}
    lines = []
    for key, one in sorted(results.items()):
        # The key first and everything else sorted by name, so that diffs stay small.
        values = json.loads(json.dumps(asdict(one), sort_keys=True))
        lines.append(json.dumps(dict(zip(("preset", "trial", "seed"), key)) | values))
    place.write_text("\n".join(lines) + "\n")
