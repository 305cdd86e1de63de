"""A world in which it is known what curation should leave out: what was planted, clip by clip.

Plain clips are those of `pipeline.synthetic`, with many clips of some classes and few of others.
Beside them lie

    exact       a copy of a plain clip's file
    reencoded   a plain clip at three quarters of its size, darker, more quiet, and coarsely encoded
    shifted     a plain clip that begins 0.15 s later
    dubbed      the pictures of one class with the sound of another
    frozen      a plain clip's own sound with its first picture alone
    music       a plain clip's own pictures with chords
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np

from pipeline.synthetic import SyntheticWorld, render_audio, render_frames, write_mp4

FPS, RATE = 24, 16_000  # of `pipeline.synthetic`
COPIES = ("exact", "reencoded", "shifted")
DISAGREEING = ("dubbed", "frozen", "music")
SHIFT_S = 0.15
_FALL = 0.8  # clips of a class, of those of the class before it


@dataclass(frozen=True)
class PlantedClip:
    """One file, and what it is."""

    name: str
    kind: str  # plain, or as above
    label: int  # class of its pictures
    origin: int  # the plain clip of the same number shows the same; of plain clips their own


def plan(world: SyntheticWorld, plain: int, planted: Mapping[str, int]) -> list[PlantedClip]:
    """So many plain clips, and so many of each kind, each made of another plain clip."""
    rng = np.random.default_rng((world.seed, 3))
    weights = _FALL ** np.arange(world.classes)
    labels = rng.choice(world.classes, plain, p=weights / weights.sum())
    clips = [PlantedClip(f"{n:05d}.mp4", "plain", int(labels[n]), n) for n in range(plain)]
    number = plain
    for kind, count in planted.items():
        # What is dubbed and the like is of clips that are nowhere else.
        for _ in range(count):
            origin = int(rng.integers(plain)) if kind in COPIES else number
            label = labels[origin] if kind in COPIES else rng.choice(world.classes)
            clips.append(PlantedClip(f"{number:05d}.mp4", kind, int(label), origin))
            number += 1
    return clips


def write(folder: Path, world: SyntheticWorld, clips: list[PlantedClip]) -> Path:
    """Write the files and the cuts table ``cuts.csv``, which is returned; labels are classes."""
    (folder / "media").mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(2) as pool:
        copies = [clip for clip in clips if clip.kind == "exact"]
        others = [clip for clip in clips if clip.kind != "exact"]
        list(pool.map(_write, [folder / "media"] * len(others), [world] * len(others), others))
    for clip in copies:
        shutil.copy(folder / "media" / f"{clip.origin:05d}.mp4", folder / "media" / clip.name)
    table = folder / "cuts.csv"
    with table.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["uri", "start_s", "end_s", "label"])
        rows.writerows([f"media/{c.name}", 0.0, world.seconds, f"class{c.label}"] for c in clips)
    return table


def _write(folder: Path, world: SyntheticWorld, clip: PlantedClip) -> None:
    place, seed, kind = folder / clip.name, world.seed, clip.kind
    if place.exists():
        return
    longer = replace(world, seconds=world.seconds + SHIFT_S)
    sounding = clip.label
    if kind == "dubbed":
        other = np.random.default_rng((seed, 4, clip.origin)).integers(1, world.classes)
        sounding = int(clip.label + other) % world.classes
    frames = render_frames(longer, clip.label, np.random.default_rng((seed, 1, clip.origin)))
    samples = render_audio(longer, sounding, np.random.default_rng((seed, 2, clip.origin)))
    skipped = SHIFT_S if kind == "shifted" else 0.0
    frames = frames[round(skipped * FPS) :][: round(world.seconds * FPS)]
    samples = samples[round(skipped * RATE) :][: round(world.seconds * RATE)]
    crf = 20
    if kind == "reencoded":
        frames, samples, crf = _smaller(frames), samples * 0.6, 32
    if kind == "frozen":
        frames = np.repeat(frames[:1], len(frames), axis=0)
    if kind == "music":
        samples = _chords(len(samples), np.random.default_rng((seed, 5, clip.origin)))
    beside = place.with_suffix(".part.mp4")
    write_mp4(beside, frames, samples, FPS, RATE, crf)
    beside.rename(place)


def _smaller(frames: np.ndarray) -> np.ndarray:
    side = frames.shape[1] * 3 // 8 * 2
    scaled = [
        av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(side, side).to_ndarray()
        for frame in frames
    ]
    return (np.array(scaled) * 0.85).astype(np.uint8)


def _chords(count: int, rng: np.random.Generator) -> np.ndarray:
    """float32 [count]: triads of a key, one every half a second."""
    time = np.arange(count) / RATE
    key, wave = 110 * 2 ** rng.uniform(0, 1), np.zeros(count)
    for start in np.arange(0, count / RATE, 0.5):
        step = rng.choice([0, 5, 7, 9])
        inside = (time >= start) & (time < start + 0.5)
        for third in (0, 4, 7, 12):
            pitch = key * 2 ** ((step + third) / 12)
            for overtone in (1, 2, 3):
                wave += inside * np.sin(2 * np.pi * pitch * overtone * time) / overtone
    return (wave / np.abs(wave).max() * 0.7).astype(np.float32)
