"""Trials of the study on a small generated world: what is learned from, and what is examined."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline import encoders
from pipeline.clips.table import ClipTable
from pipeline.encoders.weights import read_tensors
from pipeline.reproduction import findings, worlds
from pipeline.reproduction.probing import contents
from pipeline.reproduction.trials import Preset, Trial, overrides_of, run_trial
from pipeline.reproduction.worlds import LISTS, World, diluted
from pipeline.run import Run
from pipeline.storage import Location
from tests.conftest import TINY, tiny

KEPT = Preset("kept", settings=("embedding.keep=true",))


@pytest.fixture(scope="module")
def cuts() -> pa.Table:
    """Four files with three cuts each; the last file is held out."""
    rows = [
        (
            f"/media/{file}.mp4",
            0.5 + cut,
            1.25 + cut,
            f"word{cut}",
            "test" if file == 3 else "train",
        )
        for file in range(4)
        for cut in range(3)
    ]
    names = ("uri", "start_s", "end_s", "label", "split")
    return pa.table(dict(zip(names, map(list, zip(*rows)))))


def test_no_list_to_learn_from_holds_a_held_out_file(cuts: pa.Table) -> None:
    held_out = set(LISTS[worlds.HELD_OUT](cuts)["uri"].to_pylist())
    assert held_out == {"/media/3.mp4"}
    for name, make in LISTS.items():
        if name != worlds.HELD_OUT:
            assert not held_out & set(make(cuts)["uri"].to_pylist()), name
    assert len(LISTS["half"](cuts)) == 3, "one of three files"


def test_cuts_anywhere_keep_number_and_lengths_and_lose_their_labels(cuts: pa.Table) -> None:
    anywhere, train = LISTS["anywhere"](cuts), LISTS[worlds.TRAIN](cuts)
    start, end = anywhere["start_s"].to_numpy(), anywhere["end_s"].to_numpy()
    assert len(anywhere) == len(train)
    assert np.allclose(end - start, 0.75)
    assert start.min() >= 0.5
    assert end.max() <= 3.25
    assert not np.allclose(start, train["start_s"].to_numpy())
    assert "label" not in anywhere.column_names


def test_unrelated_clips_take_the_place_of_a_share(cuts: pa.Table) -> None:
    anywhere = LISTS["anywhere"](cuts)
    others = pa.table({"uri": ["/o/1", "/o/2"], "start_s": [0.0, 10.0], "end_s": [0.5, 19.0]})
    found = diluted(anywhere, others, 1 / 3)
    ours = [uri.startswith("/media") for uri in found["uri"].to_pylist()]
    assert (len(found), sum(ours)) == (9, 6)
    start, end = found["start_s"].to_numpy(), found["end_s"].to_numpy()
    assert np.allclose(end - start, 0.75)
    for uri, begin, stop in zip(found["uri"].to_pylist(), start, end):
        if uri == "/o/2":
            assert begin >= 10
            assert stop <= 19
        if uri == "/o/1":
            assert begin == 0, "shorter than the cut"


def test_a_list_with_unrelated_clips_is_made_of_a_folders(
    local_ray: None, world: Path, cuts: pa.Table, tmp_path: Path
) -> None:
    """Media that cannot be read are left out."""
    other = str(tmp_path / "others")
    shutil.copytree(world.parent / "media", other)
    (tmp_path / "others" / "broken.mp4").write_bytes(b"none")
    made = World("w", tuple(TINY), ("label",), lambda _: cuts, (other,))
    assert made.has("half_others")
    found = made.list_of("half_others", Location.of(tmp_path / "out")).read_table()
    from_there = [uri for uri in found["uri"].to_pylist() if uri.startswith(other)]
    assert len(from_there) == 4
    assert not any("broken" in uri for uri in from_there)
    trial = Trial("t", "xdc", cuts="half_others")
    assert trial.fits(made)
    assert not trial.fits(World("w", tuple(TINY), ("label",), lambda _: cuts))


def test_contents_of_clusters() -> None:
    """Cluster 0: a a b; cluster 1: b c; cluster 2: c. By hand."""
    assigned = np.array([0, 0, 0, 1, 1, 2, -1], np.int32)
    labels = np.array([0, 0, 1, 1, 2, 2, 0])
    found = contents(assigned, labels, ["a", "b", "c"])
    assert found["purity"] == pytest.approx(4 / 6)
    assert found["clusters"][0] == {"clips": 1, "labels": {"c": 1.0, "a": 0.0, "b": 0.0}}
    likeness = {"".join(pair["labels"]): pair["likeness"] for pair in found["confused"]}
    # a lies in cluster 0 alone, b half in 0 and half in 1, c half in 1 and half in 2.
    assert likeness == {
        "ab": pytest.approx(0.5 / np.sqrt(0.5), abs=1e-3),
        "bc": pytest.approx(0.25 / 0.5, abs=1e-3),
        "ac": 0.0,
    }


def test_a_trial_by_labels_needs_a_world_that_has_them() -> None:
    generated = worlds.generated(0, 8)
    for method in ("supervised", "tuned"):
        assert Trial("x", f"{method}:label").fits(generated)
        assert not Trial("x", f"{method}:slot").fits(generated)


def test_trials_that_cut_clips_otherwise_share_no_store(tmp_path: Path) -> None:
    def place(*settings: str) -> str:
        return (
            worlds.generated(0, 8)
            .stored("train", Location.of(tmp_path), tiny(*settings))
            .store.place
        )

    assert place() == place("learning.epochs=2")
    assert place() != place("clips.audio.align=start")


def test_a_trials_own_settings_come_last() -> None:
    preset = Preset("some", settings=("rounds=3",), short=("rounds=1",), added=("rounds=2",))
    own = Trial("own", "xdc", settings=("clustering.k=8",), short=True)
    assert overrides_of(own, preset) == ("rounds=2", "rounds=1", "clustering.k=8")


def test_presets_name_findings_and_every_comparison_has_its_trials() -> None:
    known = {trial.name for trial in findings.trials_of([f.key for f in findings.FINDINGS])}
    for finding in findings.FINDINGS:
        for one in finding.comparisons:
            assert {one.better, one.worse} <= known | {"random"}, one
    assert [t.name for t in findings.trials_of(findings.PRESETS["quick"].findings)] == ["xdc"]


@pytest.mark.usefixtures("local_ray")
def test_xdc_learns(tmp_path: Path) -> None:
    """The whole quick preset: clusters of the audio teach the video encoder what it sees.

    A correct program misses the margin with probability 0.002, as 20 seeds say
    (benchmarks/findings.md, "The quick preset").
    """
    preset = findings.PRESETS["quick"]
    (trial,) = findings.trials_of(preset.findings)
    generated = worlds.generated(0, **preset.generated)
    xdc = run_trial(trial, generated, 0, preset, Location.of(tmp_path))
    assert [found["round"] for found in xdc.rounds] == [0, 1]
    probes = [found["probe"]["video"]["test"] for found in xdc.rounds]
    assert probes[1]["accuracy"] >= probes[0]["accuracy"] + findings.QUICK_MARGIN

    assert xdc.clips == probes[1]["train_clips"], "no held-out clip"
    assert probes[1]["test_clips"] == 96
    last = xdc.rounds[-1]
    assert set(last["probe"]) == {"video", "audio"}
    agreements = [found["signals"]["agreement"] for found in xdc.rounds]
    assert all(abs(agreement) < 0.1 for agreement in agreements), "32 clusters of 224 clips"
    assert set(last["contents"]["audio"]) == {"purity", "nmi", "clusters", "confused"}
    assert set(xdc.rounds[0]["contents"]["audio"]) == {"purity", "nmi"}
    assert xdc.cost["round"].keys() == {"1"}


@pytest.mark.cluster
@pytest.mark.usefixtures("local_ray")
def test_trials_with_labels(world: Path, tmp_path: Path) -> None:
    small = World("small", tuple(TINY), ("label",), lambda folder: worlds._read(Location.of(world)))
    trial = Trial("supervised", "supervised:label")
    labels = run_trial(trial, small, 0, KEPT, Location.of(tmp_path))
    assert set(labels.rounds[0]["probe"]) == {"video", "audio"}


@pytest.mark.cluster
@pytest.mark.usefixtures("local_ray")
def test_fine_tuning_takes_another_trials_encoders(world: Path, tmp_path: Path) -> None:
    small = World("small", tuple(TINY), ("label",), lambda folder: worlds._read(Location.of(world)))
    out, base = Location.of(tmp_path), Trial("xdc", "xdc")
    tuned = Trial("xdc-tuned", "tuned:label", base=base)
    found = run_trial(tuned, small, 0, KEPT, out)
    assert set(found.rounds[0]["probe"]) == {"video", "audio"}
    run = out / "small" / "trials" / "xdc-0"
    (tuned_weights,) = Path(str(run / "evaluation")).rglob("encoders.safetensors")
    start = run / "rounds" / "0001" / "encoders.safetensors"
    assert tuned_weights.read_bytes() != start.read_bytes()
    assert (run / "exam" / "tuned" / "held_out" / "video" / "_DONE").exists()
    assert not (out / "small" / "trials" / "xdc-tuned-0").exists()


@pytest.mark.cluster
@pytest.mark.usefixtures("local_ray")
def test_trials_that_take_up_other_trials(world: Path, tmp_path: Path) -> None:
    """One grows the run of another, one begins with its encoders; that run stays as it is."""
    small = World("small", tuple(TINY), ("label",), lambda folder: worlds._read(Location.of(world)))
    out = Location.of(tmp_path)
    half = Trial("half", "xdc", "half")
    grown = Trial("grown", "xdc", "other_half", ("rounds=2",), grows=half)
    started = Trial("started", "xdc", "other_half", start=half)
    for trial in (grown, started):
        assert run_trial(trial, small, 0, KEPT, out).rounds[-1]["probe"].keys() == {
            "video",
            "audio",
        }
    place = out / small.name / "trials"
    runs = {name: Run.existing(str(place / f"{name}-0")) for name in ("half", "grown", "started")}
    assert {name: run.last_round() for name, run in runs.items()} == {
        "half": 1,
        "grown": 2,
        "started": 1,
    }
    n = {name: len(ClipTable.open(run.clips)) for name, run in runs.items()}
    assert n["grown"] == n["half"] + n["started"] == len(small.list_of("train", out).read_table())
    begun = encoders.build(runs["half"].config.encoders, seed=5)
    encoders.load_weights(begun, runs["started"].round(0).encoders)
    before = read_tensors(runs["half"].encoders)
    assert all(torch.equal(t, before[name]) for name, t in begun.state_dict().items())


@pytest.mark.cluster
@pytest.mark.usefixtures("local_ray")
def test_twins_teach_each_other_and_learn_from_less(world: Path, tmp_path: Path) -> None:
    small = World("small", tuple(TINY), ("label",), lambda folder: worlds._read(Location.of(world)))
    out = Location.of(tmp_path)
    trial = Trial("twins-audio", "twins:audio", cuts="half", settings=("rounds=2",))
    found = run_trial(trial, small, 0, Preset("none"), out)
    probe = found.rounds[0]["probe"]
    assert set(probe) == {"audio"}
    clips = probe["audio"]["test"]["train_clips"]
    assert found.clips == clips // 2, "examined on all"
    first = out / "small" / "trials" / "twins-audio-0"
    epoch_clips = Run.existing(str(first)).config.learning.epoch_clips
    assert epoch_clips == round(0.9 * clips), "equal compute"
    for twin, clustered in ((first, ("0000",)), (first / "twin", ("0000", "0001"))):
        assert (twin / "rounds" / "0001" / "_DONE").exists()
        for number in clustered:  # what the other one learned from
            assert (twin / "rounds" / number / "clusters" / "audio" / "clustering.json").exists()
    assert (first / "rounds" / "0002" / "_DONE").exists()
    assert not (first / "twin" / "rounds" / "0002").exists(), "nobody would learn from it"
    ours, theirs = (
        (place / "rounds" / "0000" / "encoders.safetensors").read_bytes()
        for place in (first, first / "twin")
    )
    assert ours != theirs
