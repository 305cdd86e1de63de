"""The stages that are planned are those that a run does."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from pipeline import methods
from pipeline.planning.timeline import ClipPass, LabelPass, Piece, Timeline, UpdatePass
from tests.conftest import tiny
from tests.whole_runs import Calm


def pieces(method: str, *settings: str, last: int = 0) -> list[Piece]:
    config = tiny(f"method={method}", *settings)
    return list(Timeline(config, methods.get(method), last).pieces())


def test_as_many_stages_as_a_run_logs(calm: Calm) -> None:
    lines = (calm.place / "events.jsonl").read_bytes().splitlines()
    logged = [event for event in map(json.loads, lines) if event.get("round", 9) <= 2]
    told = Counter(event["event"] for event in logged)
    planned = Counter(piece.stage for piece in pieces("xdc", "rounds=2"))
    assert (
        {name: told[name] for name in planned} == planned == {"embed": 3, "cluster": 6, "learn": 2}
    )


def test_a_modality_is_embedded_when_its_encoder_changed() -> None:
    video, audio = ("video",), ("audio",)
    assert pieces("anchored_audio", "rounds=1", "clustering.first=raw") == [
        ClipPass(audio, raw=True, kept=False),
        LabelPass("audio", audio),
        UpdatePass(0),
        ClipPass(video, raw=False, kept=False),
        LabelPass("video", video),
        UpdatePass(1),
        ClipPass(audio, raw=False, kept=False),
        LabelPass("audio", audio),
    ]


def test_a_run_goes_on_from_its_last_round() -> None:
    rest = pieces("cdc", "rounds=3", last=2)
    assert [piece.stage for piece in rest] == ["embed", "cluster", "learn", "embed", "cluster"]
    assert not any(isinstance(piece, UpdatePass) for piece in pieces("cdc", "rounds=2", last=2))
    config, there = tiny("method=cdc", "rounds=2"), {("joint", 2)}
    left = [*Timeline(config, methods.get("cdc"), 2, there).pieces()]
    assert all(isinstance(piece, ClipPass) for piece in left)


@pytest.mark.parametrize("method", methods.METHODS)
def test_features_that_training_keeps_are_told_apart(method: str) -> None:
    kept = [
        piece.kept
        for piece in pieces(method, "rounds=2", "embedding.from_training=true")
        if isinstance(piece, ClipPass)
    ]
    assert not kept[0]
    assert kept[-1]
