"""Tables and plots of the study: ``python -m benchmarks.findings [benchmarks/findings]``.

Reads the JSON lines that ``jobs/reproduce.py --results benchmarks/findings`` writes there. Makes
``benchmarks/findings.md`` of all of them, and plots in the folder.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy import stats

from benchmarks.findings_controls import controls
from benchmarks.findings_tables import (
    MODALITIES,
    Results,
    by_seed,
    interval,
    markdown,
    read,
    rounds_of,
)
from pipeline.reproduction.findings import (
    CONTROLS,
    FINDINGS,
    QUICK_MARGIN,
    Comparison,
    Finding,
)

HERE = Path(__file__).resolve().parent
PUBLISHED, QUICK = "cpu", "quick"  # presets
NO_CHAPTER = (QUICK, *CONTROLS)

TITLES = {
    "words": "Real: words that a talker says",
    "generated": "Generated: objects that hop and hum",
}


def spread(values: dict[int, float]) -> str:
    """Mean and standard deviation over seeds, with their number."""
    numbers = list(values.values())
    if not numbers:
        return "–"
    deviation = f" ± {np.std(numbers, ddof=1):.3f}" if len(numbers) > 1 else ""
    return f"{np.mean(numbers):.3f}{deviation} ({len(numbers)})"


def compared(results: Results, one: Comparison) -> list[str]:
    """The claim, the trials, their paired difference over the seeds that both have, the verdict.

    Trials of unequal length are compared after the last round that both were examined after; where
    there is none, as for a run and what went on from it, each after its own last one.
    The interval is Student's t over the seeds; "inconclusive" means that it includes 0.
    """
    names = (one.better, one.better if one.worse == "random" else one.worse)
    rounds = [rounds_of(results, name) for name in names]
    last = [max(found, default=0) for found in rounds]
    if one.worse == "random":
        last[1] = 0
    elif all(last) and (both := rounds[0] & rounds[1]):
        last = [max(both)] * 2
    better, worse = (by_seed(results, name, one.modality, n) for name, n in zip(names, last))
    seeds = sorted(better.keys() & worse.keys())
    after = f", round {last[0]}" if 0 < last[0] < max(rounds[0]) else ""
    name = f"{one.modality}: {one.better} over {one.worse}{after}"
    gains = np.array([better[s] - worse[s] for s in seeds])
    if len(gains) < 2:
        shown = f"{gains[0]:+.3f} (one seed)" if len(gains) else "not run"
        return [one.claim, name, shown, "too few seeds"]
    return [one.claim, name, *interval(gains)]


def accuracies(finding: Finding, results: Results) -> list[str]:
    """A row for the last round of a trial, and for each round after which a shorter one ended."""
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
    """By round, how far audio and video clusters agree: a signal that needs no labels."""
    most = max(max(rounds_of(results, trial.name), default=0) for trial in finding.trials)
    rows = [["mean agreement after round", *map(str, range(most + 1))]]
    for trial in finding.trials:
        for signal in ("agreement", "agreement_beyond_files"):
            found: dict[int, list[float]] = defaultdict(list)
            for result in results.get(trial.name, {}).values():
                for each in result.rounds:
                    if signal in each["signals"]:
                        found[each["round"]].append(each["signals"][signal])
            means = [f"{np.mean(found[n]):.3f}" if found[n] else "–" for n in range(most + 1)]
            rows.append(
                [f"{trial.name}{signal.removeprefix('agreement').replace('_', ' ')}", *means]
            )
    return [*markdown(rows), ""]


def costs(finding: Finding, results: Results) -> list[str]:
    """Seconds of the second round, the first one that may be cheaper."""
    rows = [["trial", "seconds of round 2, by seed", "of which embedding"]]
    for trial in finding.trials:
        found = sorted(results.get(trial.name, {}).items())
        seeds = [result.cost for _, result in found if result.cost]
        whole, part = (
            [each[stage].get("2", 0.0) for each in seeds] for stage in ("round", "embed")
        )
        shares = [f"{share / seconds:.0%}" for share, seconds in zip(part, whole) if seconds]
        rows.append(
            [trial.name, ", ".join(f"{s:.0f}" for s in whole) or "–", ", ".join(shares) or "–"]
        )
    return [*markdown(rows), ""]


def purities(results: Results) -> list[str]:
    """Purity of each modality's clusters with respect to the labels, by round; mean of seeds."""
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
                        for each in result.rounds
                        if each["round"] == number
                    ]
                )
                for number in numbers
            ]
            shown = [f"{value:.2f}" for value in found]
            rows.append([f"{name}, {modality}", *shown, *["–"] * (most + 1 - len(shown))])
    return [*markdown(rows), ""]


def held(finding: Finding, results: Results) -> list[str]:
    """What clusters hold after the last round of the lowest seed."""
    lines = []
    for trial in finding.trials:
        for result in list(results.get(trial.name, {}).values())[:1]:
            for modality, found in result.rounds[-1]["contents"].items():
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
                    f"Most confused labels: {pairs}."
                ]
    return [*lines, ""]


def signals(results: Results) -> list[str]:
    """How well each signal that needs no labels ranks the examined rounds of all trials."""
    rows = [
        (each["signals"], [each["probe"][m]["test"]["accuracy"] for m in MODALITIES])
        for seeds in results.values()
        for result in seeds.values()
        for each in result.rounds
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
        "### Signals without labels: Spearman's rank correlation with the probes",
        "",
        *markdown(table),
        "",
    ]


def quick(results: Results) -> list[str]:
    """How often a correct program fails the test of the quick preset.

    The chance that the gain of a new seed is below the margin, by Student's t with n - 1 degrees of
    freedom: t = (mean - margin) / (s √(1 + 1/n)).
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
        "The test runs XDC's first round on an easy generated world. The video probe reaches "
        f"{spread(before)} with random encoders and {spread(after)} after the round. Gain by seed: "
        f"{', '.join(f'{gain:+.3f}' for gain in gains)}; mean {gains.mean():+.3f}, deviation "
        f"{deviation:.3f}. The test asks for a gain of {QUICK_MARGIN:+.2f}. "
        f"{missed} of {len(gains)} seeds miss it; by Student's t, a new seed misses it with "
        f"probability {stats.t.sf(t, len(gains) - 1):.1g}.",
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


def image_of(world: str, preset: str) -> str:
    return f"{world}.png" if preset == PUBLISHED else f"{world}-{preset}.png"


def chapter(world: str, preset: str, results: Results, folder: Path) -> list[str]:
    """All tables of a world and preset."""
    title = TITLES[world] + ("" if preset == PUBLISHED else f" (preset {preset})")
    made = [result.about for seeds in results.values() for result in seeds.values()]
    commits = ", ".join(sorted({about["commit"] for about in made}))
    cpus = ", ".join(sorted({f"{about['cpu']}, {about['cores']} cores" for about in made}))
    lines = [f"## {title}", "", f"Measured at {commits} on {cpus}.", ""]
    lines += [f"![accuracy by round]({folder.name}/{image_of(world, preset)})", ""]
    for finding in FINDINGS:
        lines += section(finding, results)
    return lines + signals(results)


def document(folder: Path) -> str:
    """The study's text and all tables, in Markdown."""
    lines = [(HERE / "findings-study.md").read_text().rstrip(), ""]
    for world in TITLES:
        for preset, results in read(folder, world).items():
            if preset not in NO_CHAPTER:
                lines += chapter(world, preset, results, folder)
    generated = read(folder, "generated")
    lines += controls(generated) + quick(generated[QUICK])
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="?", type=Path, default=HERE / "findings")
    folder = parser.parse_args().results
    if not any(folder.glob("*.jsonl")):
        parser.error(f"there are no results (*.jsonl) in {folder}")
    (HERE / "findings.md").write_text(document(folder))
    for world in TITLES:
        for preset, results in read(folder, world).items():
            if preset not in NO_CHAPTER:
                plot(results, folder / image_of(world, preset))


if __name__ == "__main__":
    main()
