"""Alarms fire on runs that are known to have gone wrong, and are silent on those that went well."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.report.clustering_measures import ClusteringMeasures
from pipeline.report.judgements import judgements
from tests.conftest import ROOT

RECORDED = ROOT / "benchmarks" / "findings" / "words.jsonl"  # signals of the published runs
MEASURED = ROOT / "benchmarks" / "alarms.json"  # short runs that are right or have one fault
FILE, COLLAPSE = "The clusters follow the file", "The video clusters collapse"


def recorded(trial: str) -> list[list[ClusteringMeasures]]:
    """The clusterings of a trial's runs, one list a seed, as far as signals were recorded."""
    rows = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    return [
        [_measured(name, each) for each in row["rounds"] for name in ("video", "audio")]
        for row in rows
        if row["trial"] == trial and "agreement_beyond_files" in row["rounds"][-1]["signals"]
    ]


def _measured(name: str, told: dict[str, Any]) -> ClusteringMeasures:
    signals = told["signals"]
    return ClusteringMeasures(
        name,
        told["round"],
        64,
        signals[f"effective_clusters_{name}"],
        1.0,
        agreement=signals.get("agreement"),
        beyond_files=signals.get("agreement_beyond_files"),
    )


def measured(case: str) -> tuple[list[ClusteringMeasures], str]:
    """The clusterings of a run of benchmarks/alarms.py, and its method."""
    told = json.loads(MEASURED.read_text())[case]
    (method,) = (s.removeprefix("method=") for s in told["settings"] if s.startswith("method="))
    return [ClusteringMeasures(**each) for each in told["measures"]], method


def alarms(found: list[ClusteringMeasures], method: str) -> list[str]:
    return [each.title for each in judgements(found, method) if each.kind == "alarm"]


@pytest.mark.parametrize("trial", ["anchored_audio-raw", "xdc", "xdc_video_first", "sdc"])
def test_runs_that_went_well_give_no_alarm(trial: str) -> None:
    runs = recorded(trial)
    assert runs
    for found in runs:
        method = trial.removesuffix("-raw")
        assert alarms(found, method) == []
        titles = [each.title for each in judgements(found, method)]
        # Without the other modality's labels there is nothing that they could agree on.
        learning = "No sign that it is learning" if method == "sdc" else "It is learning"
        assert (learning in titles) == (found[0].number < found[-1].number)


def test_a_run_anchored_in_what_follows_the_file() -> None:
    """Both probes fell below random encoders' in these runs."""
    runs = recorded("anchored_video-raw")
    assert runs
    for found in runs:
        assert FILE in alarms(found, "anchored_video")


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("good", []),
        ("silent", ["The audio clusters collapse"]),
        ("wrong anchor", [FILE, "The modalities may be swapped"]),
        ("handed over", ["What audio knew is lost"]),
    ],
)
def test_short_runs_with_one_fault_give_its_alarm(case: str, expected: list[str]) -> None:
    assert alarms(*measured(case)) == expected


def test_a_clustering_that_collapsed_is_not_called_strong() -> None:
    titles = [each.title for each in judgements(*measured("silent"))]
    assert "Which modality is strong is not known" in titles


def test_clusters_that_collapse() -> None:
    good = ClusteringMeasures("audio", 1, 64, 58.0, 1.2)
    bad = ClusteringMeasures("video", 1, 64, 11.0, 9.0)
    assert alarms([bad, good], "xdc") == [COLLAPSE]
    assert alarms([ClusteringMeasures("video", 1, 64, 21.0, 3.0), good], "xdc") == []


def test_the_wrong_anchor() -> None:
    first = [
        ClusteringMeasures("video", 0, 64, 60.0, 1.1, ami_to_files=0.39),
        ClusteringMeasures("audio", 0, 64, 60.0, 1.1, ami_to_files=-0.02),
    ]
    assert alarms(first, "anchored_video") == ["The modalities may be swapped"]
    assert alarms(first, "anchored_audio") == []
    strong, *_ = judgements(first, "anchored_audio")
    assert strong.title == "The strong modality is audio"
    assert "anchor of this run is audio" in strong.text


def test_nothing_is_said_that_is_not_known() -> None:
    assert judgements([], "xdc")[0].title == "No clusters yet"
    alone = [ClusteringMeasures(name, 0, 8, 7.0, 1.1) for name in ("video", "audio")]
    assert [v.title for v in judgements(alone, "xdc")] == ["Which modality is strong is not known"]
    joint = [
        ClusteringMeasures("joint", number, 8, 7.0, 1.1, nmi_to_last=0.95) for number in (1, 2)
    ]
    assert [v.title for v in judgements(joint, "cdc")] == ["It has settled"]
