"""Random encoders start with the BatchNorm statistics of some clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load

from pipeline import encoders
from pipeline.clips.table import ClipTable
from pipeline.embedding.warming import write_random_encoders
from pipeline.storage import Location
from tests.conftest import tiny


def test_statistics_are_those_of_some_clips(indexed: Location, tmp_path: Path) -> None:
    clips = ClipTable.open(indexed / "clips").publish()
    found = {}
    for batches in (0, 1, 2):
        config = tiny(f"encoders.warm_batches={batches}")
        weights = Location.of(tmp_path) / f"{batches}.safetensors"
        write_random_encoders(clips, config, weights)
        found[batches] = load(weights.read_bytes())
    plain = Location.of(tmp_path) / "plain.safetensors"
    encoders.save_weights(encoders.build(tiny().encoders, seed=0), plain)
    assert (Location.of(tmp_path) / "0.safetensors").read_bytes() == plain.read_bytes()
    for name, values in found[0].items():
        if "running_" in name:
            assert not np.array_equal(found[1][name], values), name
            assert not np.array_equal(found[2][name], found[1][name]), name
        elif "num_batches" not in name:
            assert np.array_equal(found[2][name], values), name
