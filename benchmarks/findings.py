"""Tables and plots of the study: ``python benchmarks/findings.py [benchmarks/findings]``.

Reads the JSON files that ``jobs/reproduce.py --results benchmarks/findings`` leaves there and
writes ``benchmarks/findings.md`` and the plots beside it. Whatever came out is shown.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from pipeline.reproduction.findings import FINDINGS, QUICK_MARGIN, Comparison, Finding

HERE = Path(__file__).resolve().parent
MODALITIES = ("video", "audio")
Results = dict[str, dict[int, dict[str, Any]]]  # trial → seed → its JSON

TITLES = {
    "words": "Real: words that a talker says",
    "generated": "Generated: objects that hop and hum",
}


def markdown(rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def read(folder: Path) -> Results:
    found: Results = defaultdict(dict)
    for place in sorted(folder.glob("*.json")):
        result = json.loads(place.read_text())
        found[result["trial"]["name"]][result["seed"]] = result
    return found


def rounds_of(results: Results, trial: str) -> set[int]:
    """Rounds after which a trial was examined with every seed; of supervision, 0."""
    examined = [{r["round"] for r in one["rounds"]} for one in results.get(trial, {}).values()]
    return set.intersection(*examined) if examined else set()


def by_seed(results: Results, trial: str, modality: str, number: int) -> dict[int, float]:
    """Test accuracy of the linear probe after a round, where the trial has such an encoder."""
    return {
        seed: examined["probe"][modality]["test"]["accuracy"]
        for seed, result in results.get(trial, {}).items()
        for examined in result["rounds"]
        if examined["round"] == number and modality in examined["probe"]
    }


def spread(values: dict[int, float]) -> str:
    """Mean and standard deviation over seeds, with their number."""
    numbers = list(values.values())
    if not numbers:
        return "–"
    deviation = f" ± {np.std(numbers, ddof=1):.3f}" if len(numbers) > 1 else ""
    return f"{np.mean(numbers):.3f}{deviation} ({len(numbers)})"


def compared(results: Results, one: Comparison) -> list[str]:
    """The claim, the difference over the seeds that both trials have, and what follows.

    Trials of unequal length are compared after the last round that both were examined after.
    """
    names = (one.better, one.better if one.worse == "random" else one.worse)
    rounds = [rounds_of(results, name) for name in names]
    last = [max(found, default=0) for found in rounds]
    if one.worse == "random":
        last[1] = 0
    elif all(last):
        last = [max(rounds[0] & rounds[1])] * 2
    better, worse = (by_seed(results, name, one.modality, n) for name, n in zip(names, last))
    seeds = sorted(better.keys() & worse.keys())
    after = f", round {last[0]}" if 0 < last[0] < max(rounds[0]) else ""
    name = f"{one.modality}: {one.better} over {one.worse}{after}"
    gains = np.array([better[s] - worse[s] for s in seeds])
    if len(gains) < 2:
        shown = f"{gains[0]:+.3f} (one seed)" if len(gains) else "not run"
        return [one.claim, name, shown, "cannot tell yet"]
    half = stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / np.sqrt(len(gains))
    low, high = gains.mean() - half, gains.mean() + half
    verdict = "holds" if low > 0 else "does not hold" if high < 0 else "cannot tell at this size"
    shown = f"{gains.mean():+.3f} [{low:+.3f}, {high:+.3f}], {len(gains)} seeds"
    return [one.claim, name, shown, verdict]


def accuracies(finding: Finding, results: Results) -> list[str]:
    """A row a trial, after its last round and after those where shorter ones ended."""
    rows = [["trial", "round", *MODALITIES]]
    ends = {max(rounds_of(results, trial.name), default=0) for trial in finding.trials}
    known = [("random encoders", "xdc", [0])]
    for trial in finding.trials:
        rounds = rounds_of(results, trial.name)
        known.append((trial.name, trial.name, sorted(rounds & ends - {0}) or [0]))
    for name, trial, numbers in known:
        for number in numbers:
            values = [spread(by_seed(results, trial, m, number)) for m in MODALITIES]
            rows.append([name, str(number) if number else "", *values])
    return markdown(rows)


def section(finding: Finding, results: Results) -> list[str]:
    own = [t for t in finding.trials if finding is FINDINGS[0] or t not in FINDINGS[0].trials]
    if own and not any(trial.name in results for trial in own):
        return [f"### {finding.key} · {finding.title}", "", "Not run yet.", ""]
    lines = [f"### {finding.key} · {finding.title}", "", *accuracies(finding, results), ""]
    if finding.comparisons:
        heads = ["claim", "comparison", "difference [95%]", "verdict"]
        lines += [*markdown([heads, *(compared(results, c) for c in finding.comparisons)]), ""]
    if finding.key == "F6":
        lines += purities(results) + held(finding, results)
    if finding.key == "A1":
        lines += agreements(finding, results)
    if finding.key == "A2":
        lines += costs(finding, results)
    return lines


def agreements(finding: Finding, results: Results) -> list[str]:
    """By round, how much audio and video clusters agree: what there is to choose by."""
    most = max(max(rounds_of(results, trial.name), default=0) for trial in finding.trials)
    rows = [["mean agreement after round", *map(str, range(most + 1))]]
    for trial in finding.trials:
        for signal in ("agreement", "agreement_beyond_files"):
            found: dict[int, list[float]] = defaultdict(list)
            for result in results.get(trial.name, {}).values():
                for each in result["rounds"]:
                    if signal in each["signals"]:
                        found[each["round"]].append(each["signals"][signal])
            means = [f"{np.mean(found[n]):.3f}" if found[n] else "–" for n in range(most + 1)]
            rows.append(
                [f"{trial.name}{signal.removeprefix('agreement').replace('_', ' ')}", *means]
            )
    return [*markdown(rows), ""]


def costs(finding: Finding, results: Results) -> list[str]:
    """What the second round took, the first one that may be cheaper; seeds in ascending order."""
    rows = [["trial", "seconds of round 2, by seed", "of which embedding"]]
    for trial in finding.trials:
        found = sorted(results.get(trial.name, {}).items())
        seeds = [result["cost"] for _, result in found if "cost" in result]
        whole, part = (
            [each[stage].get("2", 0.0) for each in seeds] for stage in ("round", "embed")
        )
        shares = [f"{share / seconds:.0%}" for share, seconds in zip(part, whole) if seconds]
        rows.append(
            [trial.name, ", ".join(f"{s:.0f}" for s in whole) or "–", ", ".join(shares) or "–"]
        )
    return [*markdown(rows), ""]


def purities(results: Results) -> list[str]:
    """How much of the label each modality's clusters hold, by round; mean of the seeds."""
    trials = [trial.name for trial in FINDINGS[0].trials if trial.every_round]
    most = max(max(rounds_of(results, name), default=0) for name in trials)
    rows = [["purity of the clusters after round", *map(str, range(most + 1))]]
    for name in trials:
        numbers = sorted(rounds_of(results, name))
        for modality in MODALITIES if numbers else ():
            found = [
                np.mean(
                    [
                        each["contents"][modality]["purity"]
                        for result in results[name].values()
                        for each in result["rounds"]
                        if each["round"] == number
                    ]
                )
                for number in numbers
            ]
            shown = [f"{value:.2f}" for value in found]
            rows.append([f"{name}, {modality}", *shown, *["–"] * (most + 1 - len(shown))])
    return [*markdown(rows), ""]


def held(finding: Finding, results: Results) -> list[str]:
    """What the last clusters of the lowest seed hold."""
    lines = []
    for trial in finding.trials:
        for result in list(results.get(trial.name, {}).values())[:1]:
            for modality, found in result["rounds"][-1]["contents"].items():
                purest = "; ".join(
                    " ".join(
                        f"{word} {share:.2f}"
                        for word, share in sorted(each["labels"].items(), key=lambda item: -item[1])
                        if share >= 0.02
                    )
                    for each in found["clusters"][:8]
                )
                pairs = ", ".join(
                    f"{'–'.join(pair['labels'])} {pair['likeness']:.2f}"
                    for pair in found["confused"]
                )
                lines += [
                    f"- **{trial.name}, {modality}**: purity {found['purity']:.2f}, NMI with the "
                    f"labels {found['nmi']:.2f}. Purest clusters: {purest}. "
                    f"Least told apart: {pairs}."
                ]
    return [*lines, ""]


def signals(results: Results) -> list[str]:
    """How well each label-free figure ranks all examined rounds of all trials."""
    rows = [
        (each["signals"], [each["probe"][m]["test"]["accuracy"] for m in MODALITIES])
        for seeds in results.values()
        for result in seeds.values()
        for each in result["rounds"]
        if each["signals"] and each["probe"].keys() >= set(MODALITIES)
    ]
    names = sorted({name for found, _ in rows for name in found})
    table = [["signal", "rounds", "video probe", "audio probe", "mean of both"]]
    for name in names:
        known = [(found[name], values) for found, values in rows if name in found]
        if len(known) < 8:
            continue
        signal = [value for value, _ in known]
        probes = np.array([values for _, values in known], float)
        ranks = [stats.spearmanr(signal, each)[0] for each in (*probes.T, probes.mean(axis=1))]
        table.append([name.replace("_", " "), str(len(known)), *(f"{r:+.2f}" for r in ranks)])
    if len(table) == 1:
        return []
    return [
        "### What can be told without labels (Spearman's rank correlation)",
        "",
        *markdown(table),
        "",
    ]


def quick(results: Results) -> list[str]:
    """How often the test of the quick preset fails where nothing is wrong.

    Of a new seed's gain, by Student's t over those seen: t = (mean - margin) / (s √(1 + 1/n)).
    """
    before, after = (by_seed(results, "xdc", "video", number) for number in (0, 1))
    gains = np.array([after[seed] - before[seed] for seed in sorted(before.keys() & after.keys())])
    if len(gains) < 2:
        return []
    deviation = gains.std(ddof=1)
    t = (gains.mean() - QUICK_MARGIN) / (deviation * np.sqrt(1 + 1 / len(gains)))
    missed = int((gains < QUICK_MARGIN).sum())
    return [
        "## The quick preset",
        "",
        "XDC's first round on an easy generated world, as a test runs it: video probe "
        f"{spread(before)} of random encoders, {spread(after)} after it. Gain by seed: "
        f"{', '.join(f'{gain:+.3f}' for gain in gains)}; mean {gains.mean():+.3f}, deviation "
        f"{deviation:.3f}. The test asks for {QUICK_MARGIN:+.2f}: {missed} of {len(gains)} seeds "
        f"miss that, and by Student's t a new seed does with probability "
        f"{stats.t.sf(t, len(gains) - 1):.1g}.",
        "",
    ]


def plot(results: Results, place: Path) -> None:
    """Test accuracy by round, mean of the seeds, one line a method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    for axis, modality in zip(axes, MODALITIES):
        for trial in FINDINGS[0].trials:
            numbers = sorted(rounds_of(results, trial.name))
            if not numbers:
                continue
            found = [list(by_seed(results, trial.name, modality, n).values()) for n in numbers]
            if not trial.every_round:
                axis.axhline(np.mean(found), ls=":", c="0.4")
                axis.text(0, np.mean(found), trial.name, va="bottom")
                continue
            low, mean, high = (f(found, axis=1) for f in (np.min, np.mean, np.max))
            axis.plot(numbers, mean, marker="o", label=trial.name)
            axis.fill_between(numbers, low, high, alpha=0.15)
        axis.set(title=modality, xlabel="round", ylim=(0, 1))
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylabel("linear probe, test")
    axes[1].legend(fontsize="small")
    figure.savefig(place, dpi=110)
    pyplot.close(figure)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "findings"
    text = (HERE / "findings-study.md").read_text()
    lines = [text.rstrip(), ""]
    for world in ("words", "generated"):
        results = read(folder / world)
        if not results:
            continue
        made = [r["about"] for seeds in results.values() for r in seeds.values()]
        commits = ", ".join(sorted({about["commit"] for about in made}))
        cpus = ", ".join(sorted({f"{about['cpu']}, {about['cores']} cores" for about in made}))
        lines += [f"## {TITLES[world]}", "", f"Made at {commits} on {cpus}.", ""]
        plot(results, folder / f"{world}.png")
        lines += [f"![accuracy by round]({folder.name}/{world}.png)", ""]
        for finding in FINDINGS:
            lines += section(finding, results)
        lines += signals(results)
    lines += quick(read(folder / "quick/generated"))
    (HERE / "findings.md").write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
