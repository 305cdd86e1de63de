"""Results of trials: their files, and the tables made of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.findings import HERE, document
from benchmarks.findings_controls import controls
from jobs.reproduce import main
from pipeline.errors import UserError
from pipeline.reproduction.results import TrialResult, read_results, write_result
from pipeline.storage import Location

PUBLISHED = HERE / "findings"


def result(trial: str, seed: int, seconds: int = 1) -> TrialResult:
    probe = {"video": {"test": {"accuracy": 1 / 3}}}
    return TrialResult(
        preset="cpu",
        trial=trial,
        seed=seed,
        method="xdc",
        cuts="train",
        world="words",
        clips=3,
        seconds=seconds,
        about={"commit": "abc"},
        rounds=[{"round": 0, "probe": probe, "signals": {}, "contents": {}}],
        overrides=("clustering.k=16",),
    )


def test_results_are_sorted_lines_that_one_trial_replaces_in_place(tmp_path: Path) -> None:
    place = Location.of(tmp_path / "words.jsonl")
    for trial, seed in (("xdc", 10), ("xdc", 9), ("sdc", 0)):
        write_result(place, result(trial, seed))
    before = place.read_bytes().splitlines()
    assert [(key[1], key[2]) for key in read_results(place)] == [
        ("sdc", 0),
        ("xdc", 9),
        ("xdc", 10),
    ]

    again = result("xdc", 9, seconds=2)
    write_result(place, again)
    after = place.read_bytes().splitlines()
    assert [old == new for old, new in zip(before, after)] == [True, False, True]
    assert read_results(place)["cpu", "xdc", 9] == replace(again, overrides=["clustering.k=16"])


def test_files_of_several_machines_are_joined_by_appending(tmp_path: Path) -> None:
    places = [Location.of(tmp_path / name) for name in ("a", "b", "both")]
    write_result(places[0], result("xdc", 1))
    write_result(places[1], result("sdc", 0))
    places[2].write_bytes(places[0].read_bytes() + places[1].read_bytes())
    assert [key[1] for key in read_results(places[2])] == ["sdc", "xdc"]


def test_a_line_that_is_no_result_is_named(tmp_path: Path) -> None:
    place = Location.of(tmp_path / "words.jsonl")
    write_result(place, result("xdc", 0))
    place.write_bytes(place.read_bytes() + b'{"trial": "sdc"}\n')
    with pytest.raises(UserError, match=r"words\.jsonl, line 2"):
        read_results(place)


@pytest.mark.usefixtures("local_ray")
def test_a_trial_that_has_its_line_is_not_run_again(tmp_path: Path) -> None:
    lines = (PUBLISHED / "generated.jsonl").read_bytes()
    results = tmp_path / "results"
    results.mkdir()
    (results / "generated.jsonl").write_bytes(lines)
    options = ["--preset", "cpu", "--findings", "F1", "--trials", "xdc", "sdc", "--seeds", "0", "1"]
    main([str(tmp_path / "out"), *options, "--results", str(results)])
    assert (results / "generated.jsonl").read_bytes() == lines
    assert not (tmp_path / "out").exists()


def test_the_published_tables_are_those_of_the_published_results() -> None:
    assert document(PUBLISHED) == (HERE / "findings.md").read_text()


def anchored(world: str, seed: int, anchor: str, accuracy: float, audio: float) -> TrialResult:
    """A control whose first video clusters follow the files to 0.4, those of audio as given."""
    follow = {"ami_to_files_video": 0.4, "ami_to_files_audio": audio}
    probe = {m: {"test": {"accuracy": accuracy}} for m in ("video", "audio")}
    examined = [{"round": n, "probe": probe, "signals": follow} for n in range(2)]
    trial = f"anchored_{anchor}-raw"
    return replace(result(trial, seed), preset=world, world="generated", rounds=examined)


def test_the_rule_is_counted_over_worlds_and_seeds() -> None:
    cases = [
        anchored("sound-strong", 0, "audio", 0.8, audio=0.1),
        anchored("sound-strong", 0, "video", 0.6, audio=0.1),
        anchored("sound-strong", 1, "audio", 0.5, audio=0.1),
        anchored("sound-strong", 1, "video", 0.6, audio=0.1),
        anchored("even", 0, "audio", 0.5, audio=0.38),
        anchored("even", 0, "video", 0.6, audio=0.38),
        anchored("even", 1, "audio", 0.5, audio=0.1),  # its other anchor has not run
    ]
    found: dict[str, dict[str, dict[int, TrialResult]]] = {}
    for each in cases:
        found.setdefault(each.preset, {}).setdefault(each.trial, {})[each.seed] = each
    text = "\n".join(controls(found))
    assert "right in **1 of 3** worlds and seeds. It chose neither modality in 1." in text
    assert "| sound-strong | 0 | 0.400, 0.100 | audio | 0.600, 0.600 | 0.800, 0.800 |" in text
    assert [line.split(" | ")[-1] for line in text.splitlines() if " by 0." in line] == [
        "yes |",
        "no |",
        "– |",
    ]
    assert "| sound-strong | video | +0.050" in text
    assert "Not run yet." in "\n".join(controls({}))
