"""The run directory: what lies where, which round counts, and when it may be used.

    run/  config.yaml  clips/  store/  rejects/  events.jsonl  LATEST   (the pointer, written last)
    run/rounds/0002/  encoders.safetensors  metrics.json  _DONE
                      updates/<n>/   encoders.safetensors  heads.safetensors  metrics.json
                      rejects/       *.parquet: clips that failed while embedding or learning
                      features/<modality>/   *.parquet: what this round's encoders make of the clips
                      clusters/<name>/       labels/*.parquet  centroids.npy  clustering.json

Features and clusters lie with the encoders they come from: what round 3 learns is in
``rounds/0002/clusters``. Features are deleted when the next round is done, unless they are kept.

A round exists when its _DONE exists; everything else of an unfinished round is scratch, of which
finished stages are used again and the rest is overwritten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline import settings
from pipeline.clips.decoding.decoder import load_decoder
from pipeline.clips.table import ClipTable
from pipeline.config import Config
from pipeline.encoders import check_encoders
from pipeline.errors import UserError
from pipeline.learnable import trainable
from pipeline.methods import MODALITIES, Method
from pipeline.runtime import demands
from pipeline.runtime.devices import choose_device
from pipeline.storage import Location


@dataclass(frozen=True)
class Round:
    """One round's directory; round 0 holds the random encoders."""

    number: int
    location: Location

    @property
    def encoders(self) -> Location:
        return self.location / "encoders.safetensors"

    @property
    def rejects(self) -> Location:
        return self.location / "rejects"

    @property
    def metrics(self) -> Location:
        return self.location / "metrics.json"

    def features(self, modality: str) -> Location:
        return self.location / "features" / modality

    def raw(self, modality: str) -> Location:
        """Features without an encoder; in round 0, where they are asked for."""
        return self.location / "raw" / modality

    def clusters(self, name: str) -> Location:
        return self.location / "clusters" / name

    def update(self, number: int) -> Location:
        return self.location / "updates" / str(number)

    @property
    def is_done(self) -> bool:
        return (self.location / "_DONE").exists()

    def delete_features(self) -> None:
        for name in ("features", "raw"):
            (self.location / name).delete()


@dataclass(frozen=True)
class Encoders:
    """Both encoders at one moment of a round."""

    run: Run
    weights: Location  # safetensors of both
    # Modality → the round that trained its encoder last, and holds its features and clusters.
    trained: Mapping[str, int]

    def updated(self, encoders: Sequence[str], weights: Location, number: int) -> Encoders:
        """After an update of some encoders in round `number`."""
        return Encoders(self.run, weights, {**self.trained, **dict.fromkeys(encoders, number)})

    def is_raw(self, modality: str) -> bool:
        """Whether the modality's features come from no encoder."""
        return self.trained[modality] == 0 and self.run.config.clustering.first == "raw"

    def features(self, modality: str) -> Location:
        """Where the modality's features lie."""
        newest = self.run.round(self.trained[modality])
        return newest.raw(modality) if self.is_raw(modality) else newest.features(modality)

    def version(self, modalities: Sequence[str]) -> int:
        """The round in whose directory a clustering of these modalities lies."""
        return max(self.trained[m] for m in modalities)


@dataclass(frozen=True)
class Run:
    """A run directory on any storage, together with the settings it was made with."""

    location: Location
    config: Config

    @staticmethod
    def place(config: Config) -> Location:
        """Raises UserError if the settings name no run directory."""
        if not config.run:
            raise UserError("no run directory: add run=PATH, the one that jobs/index.py filled")
        return Location.of(config.run)

    @classmethod
    def open(cls, config: Config) -> Run:
        """Take up the run directory of ``config.run``, or begin it.

        Raises:
            UserError: it belongs to other settings, or none is named.
        """
        location = cls.place(config)
        saved = location / "config.yaml"
        theirs = settings.saved(saved) if saved.exists() else config
        if changed := settings.differences(theirs.outcome(), config.outcome()):
            listing = "\n  ".join(changed)
            raise UserError(
                f"{location} was begun with other settings (there → here):\n  {listing}\n"
                "Use another run directory, or give the settings it was begun with."
            )
        saved.write_text(config.to_yaml())
        return cls(location, config)

    @classmethod
    def existing(cls, run: str) -> Run:
        """A run that `open` began earlier, with the settings it was made with.

        Raises:
            UserError: there is no such run.
        """
        location = Location.of(run)
        saved = location / "config.yaml"
        if not saved.exists():
            raise UserError(f"{location} is not a run yet: pretrain it with jobs/pretrain.py first")
        return cls(location, settings.saved(saved))

    @property
    def clips(self) -> Location:
        return self.location / "clips"

    @property
    def encoders(self) -> Location:
        """The weights of the last finished round."""
        return self.round(self.last_round() or 0).encoders

    def encoders_after(self, finished: Round) -> Encoders:
        return Encoders(self, finished.encoders, dict.fromkeys(MODALITIES, finished.number))

    def round(self, number: int) -> Round:
        return Round(number, self.location / "rounds" / f"{number:04d}")

    def last_round(self) -> int | None:
        """The last finished round; None before the random encoders are there.

        LATEST may lag by a round when a driver died between _DONE and the pointer.
        """
        pointer = self.location / "LATEST"
        number = int(pointer.read_bytes()) if pointer.exists() else -1
        while self.round(number + 1).is_done:
            number += 1
        return number if number >= 0 else None

    def finished_round(self, number: int | None = None) -> Round:
        """A round that counts: `number`, or the last one.

        Raises:
            UserError: no round is finished yet, or not this one.
        """
        last = self.last_round()
        if last is None:
            raise UserError(
                f"{self.location} has no finished round yet; run jobs/pretrain.py first"
            )
        number = last if number is None else number
        if not 0 <= number <= last:
            raise UserError(f"round {number} does not exist; the last finished one is {last}")
        return self.round(number)

    def commit(self, done: Round, metrics: dict[str, Any]) -> None:
        """Make a round count: metrics, then _DONE, then the pointer."""
        done.metrics.write_json(metrics)
        (done.location / "_DONE").write_text("")
        (self.location / "LATEST").write_text(f"{done.number}\n")


def check(config: Config, method: Method, clips: ClipTable) -> Method:
    """Raise at once what would only fail hours later; return the method that the clips allow.

    Raises:
        UserError: too few clips can be clustered and learned from, the decoder is unknown or
            needs a GPU that the cluster lacks, or the encoders do not fit the settings.
    """
    check_encoders(config.encoders, config.learning.batch_size)
    decoder = config.clips.decoder
    if load_decoder(decoder).on_gpu and choose_device(config.resources) != "cuda":
        lacking = f"clips.decoder={decoder} needs GPU nodes, and the cluster has none"
        raise UserError(f"{lacking}; set clips.decoder=cpu")
    demands.check(config, load_decoder(decoder).on_gpu)
    return trainable(config, method, clips)
