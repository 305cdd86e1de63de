"""The run directory: what lies where, which round counts, and when it may be used.

    run/  config.yaml  clips/  store/  rejects/  events.jsonl  attempts/  _LEASE
          LATEST   (the pointer, written last)
    run/rounds/0002/  encoders.safetensors  metrics.json  _DONE
                      updates/<n>/   encoders.safetensors  heads.safetensors  metrics.json  _DONE
                      rejects/       *.parquet: clips that failed while embedding or learning
                      embedded.json  how many were embedded and rejected
                      features/<modality>/   *.parquet  _DONE: what this round's encoders make
                      clusters/<name>/       labels/*.parquet  centroids.npy  clustering.json  _DONE

Features and clusters lie with the encoders they come from: what round 3 learns is in
``rounds/0002/clusters``, and clips that had no features for it are in ``rounds/0002/rejects``.
Features are deleted when the next round is done, unless they are kept.

A folder counts when its _DONE exists, the manifest of its files (manifest.py). A round's says what
it was made of: the round before, and the pseudo-labels that it learned (recovery.py). Everything
else of an unfinished round is scratch, of which finished stages are used again and the rest is
overwritten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipeline import manifest, settings
from pipeline.clips.decoding.decoder import load_decoder
from pipeline.clips.table import ClipTable
from pipeline.config import Config
from pipeline.encoders import check_encoders
from pipeline.errors import UserError
from pipeline.learnable import trainable
from pipeline.methods import MODALITIES, Method
from pipeline.runtime import demands
from pipeline.runtime.placement import choose_device
from pipeline.storage import Location
from pipeline.telemetry.console import say


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

    @property
    def counts(self) -> Location:
        """Clips of the last pass of these encoders, and those that it rejected."""
        return self.location / "embedded.json"

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
        return (self.location / manifest.NAME).exists()

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

    @cached_property
    def digest(self) -> str:
        """Of the weights' file."""
        return manifest.digest_of(self.weights.read_bytes())

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
        run, changed = cls.fitting(config)
        if changed:
            say(f"from here on: {', '.join(changed)}")
        run.saved_settings.write_bytes(manifest.signed(config.to_yaml().encode()))
        return run

    @classmethod
    def fitting(cls, config: Config) -> tuple[Run, list[str]]:
        """What `open` would take up, which is only read, and the settings that change.

        Raises:
            UserError: it belongs to other settings, or none is named.
        """
        run = cls(cls.place(config), config)
        run._refuse_older()
        theirs = run.saved()
        changed = settings.differences(theirs.outcome(), config.outcome()) if theirs else []
        if fixed := [line for line in changed if not run.may_change(line.partition(":")[0])]:
            listing = "\n  ".join(fixed)
            raise UserError(
                f"{run.location} was begun with other settings (there → here):\n  {listing}\n"
                "Use another run directory, or give the settings it was begun with."
            )
        return run, changed

    @classmethod
    def existing(cls, run: str) -> Run:
        """A run that `open` began earlier, with the settings it was made with.

        Raises:
            UserError: there is no such run, or its settings cannot be read.
        """
        location = Location.of(run)
        saved = location / "config.yaml"
        if not saved.exists():
            raise UserError(f"{location} is not a run yet: pretrain it with jobs/pretrain.py first")
        _warn_of_other_content(saved)
        found = cls(location, settings.saved(saved))
        found._refuse_older()
        return found

    def _refuse_older(self) -> None:
        if (self.round(0).location / "DONE").exists():
            raise UserError(
                f"{self.location} was made by an older release, which did not seal what it wrote: "
                "go on with that release, or begin another run"
            )

    @property
    def saved_settings(self) -> Location:
        return self.location / "config.yaml"

    def saved(self) -> Config | None:
        """The settings that the run was made with so far; None of one that has none yet.

        Where their file is damaged, those that its first round was sealed with.
        """
        place = self.saved_settings
        if place.exists():
            _warn_of_other_content(place)
            with suppress(UserError):
                return settings.saved(place)
            say(f"{place} cannot be read; it is written anew")
        with suppress(manifest.Damaged):
            if sealed := manifest.Manifest.read(self.round(0).location):
                return settings.build(sealed.made_of["settings"])
        return None

    def may_change(self, setting: str) -> bool:
        """Whether nothing that counts depends on the setting's value yet.

        What is learned in rounds to come may be learned in another way than what was.
        """
        if setting.startswith("learning.") or not self.round(0).is_done:
            return True
        clustered = any((self.round(0).location / "clusters").children())
        return setting.startswith("clustering.") and not clustered

    def with_more_rounds(self, more: int) -> Config:
        """The settings for so many rounds beyond those that are finished.

        Given again after it was stopped, it goes on to where it was to end.
        """
        last, saved = self.last_round() or 0, self.saved()
        unfinished = saved is not None and saved.rounds > last
        if saved is not None and saved.settled_nmi:  # it may have ended before, on purpose
            unfinished &= saved.min_rounds == saved.rounds
        goal = saved.rounds if saved is not None and unfinished else last + more
        wanted: dict[str, Any] = {"rounds": goal}
        if self.config.settled_nmi:
            wanted["min_rounds"] = goal
        return self.config.model_copy(update=wanted)

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

        LATEST may lag by a round when a driver died between _DONE and the pointer. One that cannot
        be right is not believed.
        """
        number = self.pointer()
        if number is None or not self.round(number).is_done:
            number = -1
        while self.round(number + 1).is_done:
            number += 1
        return number if number >= 0 else None

    def pointer(self) -> int | None:
        """The round that LATEST names, finished or not; None where it names none."""
        place = self.location / "LATEST"
        if place.exists():
            with suppress(ValueError):
                number = int(place.read_bytes())
                return number if 0 <= number < 1_000_000 else None
        return None

    def finished_round(self, number: int | None = None) -> Round:
        """A round that counts: `number`, or the last one.

        Raises:
            Damaged: a file of it is not as it was written.
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
        found = self.round(number)
        if sealed := manifest.Manifest.whole(found.location):
            sealed.check_content()
        return found

    def commit(self, done: Round, metrics: dict[str, Any], **made_of: Any) -> None:
        """Make a round count: metrics, then _DONE, then the pointer."""
        done.metrics.write_json(metrics)
        files = [place.name for place in (done.encoders, done.metrics)]
        manifest.seal_written(done.location, files, **made_of)
        (self.location / "LATEST").write_text(f"{done.number}\n")


def _warn_of_other_content(saved: Location) -> None:
    try:
        manifest.unsigned(saved.read_bytes())
    except ValueError:
        say(f"warning: {saved} is not as this run wrote it: somebody changed it, or it is damaged")


def check(config: Config, method: Method, clips: ClipTable) -> Method:
    """Raise at once what would only fail hours later; return the method that the clips allow.

    Raises:
        UserError: too few clips can be clustered and learned from, the decoder is unknown or
            needs a GPU that the cluster lacks, or the encoders do not fit the settings.
    """
    check_encoders(config)
    decoder = config.clips.decoder
    if load_decoder(decoder).on_gpu and choose_device(config.resources) != "cuda":
        lacking = f"clips.decoder={decoder} needs GPU nodes, and the cluster has none"
        raise UserError(f"{lacking}; set clips.decoder=cpu")
    demands.check(config, load_decoder(decoder).on_gpu)
    return trainable(config, method, clips)
