"""A generated audio-visual world with known classes, written as real mp4 files.

The model. Every file shows one of ``classes`` kinds of object that beats in a rhythm:

    video = scene + contrast · object      audio = room + level · voice

* What video and audio share is the class and nothing else. In the video it is the object's
  outline, the colours and direction of its stripes and how often it hops; in the audio the
  voice's overtones and how often it pulses.
* What is private to the video: the scene (one of ``places`` colours and gratings), its light,
  the object's brightness, size and place. What is private to the audio: the room (one of ``places``
  colours of noise), the base pitch over two octaves, the loudness.
* The private factors are drawn independently of the class and of each other, and vary the pixels
  and the spectrogram more than the class does, so that clustering one modality by itself
  latches on to them. Only a label that comes from the other modality is free of them.
* ``difficulty`` in [0, 1] lowers the object's contrast and the voice's level; ``hard_picture`` and
  ``hard_sound`` are added to it for the one of them, so that the other is the strong modality.
* ``steady_picture`` in [0, 1] takes from the picture what is private to it: at 1 every file shows
  an object of one size and brightness in the middle of grey. As the picture has more that is
  private, sound is the strong modality without this, however hard it is.
* With several ``clips`` a file has so many cuts, one after the other, each of a class of its own.
  What is private stays the same within a file, apart from noise.

Nothing here was tuned until some method won; whatever comes out is what is reported. The same
seed writes the same video and audio (the codecs' bytes may differ between FFmpeg releases).
"""

from __future__ import annotations

import argparse
import csv
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

_RATE = 16_000  # samples a second
_FPS = 24


@dataclass(frozen=True)
class SyntheticWorld:
    """Parameters of the generative model; see the module."""

    seed: int = 0
    classes: int = 8
    places: int = 8
    size: int = 64  # side of a frame, pixels
    seconds: float = 2.0  # of a cut
    difficulty: float = 0.5
    hard_picture: float = 0.0
    hard_sound: float = 0.0
    steady_picture: float = 0.0
    clips: int = 1  # of a file

    @property
    def contrast(self) -> float:
        """Of the object against the scene: 0.95 (easy) to 0.15 of the brightness range."""
        return 0.95 - 0.8 * min(max(self.difficulty + self.hard_picture, 0.0), 1.0)

    @property
    def level(self) -> float:
        """Of the voice against the room's noise: 24 dB (easy) to -6 dB."""
        return 10 ** ((24 - 30 * min(max(self.difficulty + self.hard_sound, 0.0), 1.0)) / 20)


def write_world(folder: Path, files: int, world: SyntheticWorld, test_share: float = 0.3) -> Path:
    """Write ``files`` mp4 files and the cuts table ``cuts.csv``, which is returned.

    Classes are balanced; ``split`` says train or test, by file. Files that exist are kept.
    """
    (folder / "media").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng((world.seed, 0))
    drawn = rng.permutation(np.arange(files * world.clips) % world.classes)
    classes = drawn.reshape(files, world.clips).tolist()
    names = [f"media/{number:05d}.mp4" for number in range(files)]
    with ProcessPoolExecutor() as pool:
        list(pool.map(_write_file, [folder] * files, names, [world] * files, range(files), classes))
    tests = set(rng.permutation(files)[: round(files * test_share)].tolist())
    splits = ["test" if number in tests else "train" for number in range(files)]
    table = folder / "cuts.csv"
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["uri", "start_s", "end_s", "label", "split"])
        for name, kinds, split in zip(names, classes, splits):
            for number, kind in enumerate(kinds):
                start = number * world.seconds
                writer.writerow([name, start, start + world.seconds, f"class{kind}", split])
    return table


def _write_file(
    folder: Path, name: str, world: SyntheticWorld, number: int, kinds: list[int]
) -> None:
    place = folder / name
    if place.exists():
        return
    frames, samples = [], []
    for cut, kind in enumerate(kinds):
        # Apart from the class, video and audio share no random number.
        pictures, sounds = (np.random.default_rng((world.seed, m, number)) for m in (1, 2))
        fresh = [np.random.default_rng((world.seed, m, number, cut)) for m in (1, 2)]
        grain, hiss = fresh if cut else (None, None)
        frames.append(render_frames(world, kind, pictures, grain))
        samples.append(render_audio(world, kind, sounds, hiss))
    beside = place.with_suffix(".part.mp4")
    write_mp4(beside, np.concatenate(frames), np.concatenate(samples), _FPS, _RATE)
    beside.rename(place)


def write_mp4(
    place: Path, frames: np.ndarray, samples: np.ndarray, fps: int, rate: int, crf: int = 20
) -> None:
    """Encode uint8 frames [T, H, W, 3] and float32 mono samples as H.264 and AAC."""
    with av.open(str(place), "w") as container:
        video = container.add_stream("libx264", rate=fps)
        video.width, video.height, video.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        video.options = {"preset": "ultrafast", "crf": str(crf)}
        audio = container.add_stream("aac", rate=rate, layout="mono")
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        block = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), "fltp", "mono")
        block.rate, block.pts, block.time_base = rate, 0, Fraction(1, rate)
        container.mux(audio.encode(block))
        container.mux(audio.encode())


def render_frames(
    world: SyntheticWorld,
    kind: int,
    rng: np.random.Generator,
    noise: np.random.Generator | None = None,
) -> np.ndarray:
    """uint8 [T, size, size, 3]: an object of class `kind` hopping in a random scene.

    What is drawn comes from `rng`; of another cut of the same file, the noise from `noise`.
    """
    y, x = np.mgrid[0 : world.size, 0 : world.size] / world.size - 0.5
    where = rng.integers(world.places)
    # Places have well separated colours, the same in every world of a size.
    turn = where / world.places + np.array([0, 1 / 3, 2 / 3])
    hue = 0.5 + 0.35 * np.cos(2 * np.pi * turn) + rng.normal(0, 0.03, 3)
    angle = np.pi * where / world.places + rng.normal(0, 0.1)
    waves = 1 + 4 * ((where * 5) % world.places) / world.places + rng.normal(0, 0.2)
    phase = rng.uniform(0, 2 * np.pi)
    grating = np.sin(2 * np.pi * waves * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    light = 1 + rng.uniform(-0.3, 0.3) * x + rng.uniform(-0.3, 0.3) * y
    scene = np.clip(hue * (1 + 0.35 * grating[..., None]) * light[..., None], 0, 1)

    shade, radius = rng.uniform(0.6, 1.2), rng.uniform(0.2, 0.32)
    left, top = (1 - world.steady_picture) * rng.uniform(-0.2, 0.2, 2)
    scene = _between(scene, 0.5, world.steady_picture)
    shade = _between(shade, 0.9, world.steady_picture)
    radius = _between(radius, 0.26, world.steady_picture)
    hops, start = _hops_per_second(world, kind), rng.uniform(0, 1)
    frames = np.empty((round(world.seconds * _FPS), world.size, world.size, 3))
    for number in range(len(frames)):
        beat = (start + hops * number / _FPS) % 1
        lift = 0.15 * abs(np.sin(np.pi * beat))
        u, v = x - left, y - top + lift
        inside = _outline(kind, u / radius, v / radius)[..., None]
        skin = shade * _skin(world, kind, u, v)
        frames[number] = scene + world.contrast * inside * (skin - scene)
    frames += (noise or rng).normal(0, 0.03, frames.shape)
    return (np.clip(frames, 0, 1) * 255).astype(np.uint8)


def _between(value: Any, other: float, share: float) -> Any:
    """`value` itself where the share of the other is 0."""
    return (1 - share) * value + share * other


def render_audio(
    world: SyntheticWorld,
    kind: int,
    rng: np.random.Generator,
    noise: np.random.Generator | None = None,
) -> np.ndarray:
    """float32 [samples]: a voice of class `kind` pulsing in a random room; as `render_frames`."""
    count = round(world.seconds * _RATE)
    time = np.arange(count) / _RATE
    room = _coloured_noise(count, int(rng.integers(world.places)), world.places, rng, noise)
    pitch = 150 * 2 ** rng.uniform(0, 2)
    phases = rng.uniform(0, 2 * np.pi, (12, 1))
    numbers = np.arange(1, 13)[:, None]
    # Strengths of the voice's partials, a fixed draw for every class.
    overtones = np.random.default_rng((7, kind)).gamma(0.5, 1.0, (12, 1)) / np.sqrt(numbers) + 1e-3
    voice = (overtones * np.sin(2 * np.pi * pitch * numbers * time + phases)).sum(axis=0)
    pulse = (rng.uniform(0, 1) + _hops_per_second(world, kind) * time) % 1
    voice *= np.exp(-4 * pulse)
    voice *= room.std() / voice.std() * world.level
    mixed = room + voice
    return (mixed / np.abs(mixed).max() * 10 ** (-rng.uniform(0, 20) / 20)).astype(np.float32)


def _hops_per_second(world: SyntheticWorld, kind: int) -> float:
    return 1.5 + 4.5 * kind / max(world.classes - 1, 1)


def _outline(kind: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """bool [H, W]: inside the outline of class `kind`, in coordinates of the object's radius."""
    corners = 3 + kind // 2  # 3, 3, 4, 4, 5, 5 … pointed and hollow in turn
    angle, radius = np.arctan2(v, u), np.hypot(u, v)
    edge = 1 + 0.45 * np.cos(corners * angle)
    hollow = kind % 2 == 1
    return (radius < edge) & (~hollow | (radius > 0.55 * edge))


def _skin(world: SyntheticWorld, kind: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """float [H, W, 3]: stripes of two colours; direction and colours are the class's."""
    angle = np.pi * kind / world.classes
    stripe = np.sin(2 * np.pi * 7 * (u * np.cos(angle) + v * np.sin(angle)))[..., None] > 0
    turn = kind / world.classes + np.array([0, 1 / 3, 2 / 3])
    bright, dark = (0.5 + 0.5 * np.cos(2 * np.pi * (turn + shift)) for shift in (0, 0.4))
    return np.where(stripe, bright, dark)


def _coloured_noise(
    count: int, where: int, places: int, rng: np.random.Generator, noise: np.random.Generator | None
) -> np.ndarray:
    """float [count], deviation 1: white noise through one of `places` smooth spectra."""
    frequency = np.fft.rfftfreq(count, 1 / _RATE)
    centre = 200 * 2 ** (5 * where / places + rng.normal(0, 0.1))
    shape = np.exp(-0.5 * (np.log2(np.maximum(frequency, 20) / centre) / 0.8) ** 2) + 0.05
    white = rng.normal(size=count)  # drawn in any case: what `rng` gives next is the file's
    if noise is not None:
        white = noise.normal(size=count)
    coloured = np.fft.irfft(np.fft.rfft(white) * shape, count)
    return coloured / coloured.std()


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a generated audio-visual world.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, default=600)
    for name, default in vars(SyntheticWorld()).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    options = vars(parser.parse_args())
    folder, files = options.pop("folder"), options.pop("files")
    world = SyntheticWorld(**options)
    table = write_world(folder, files, world)
    print(f"{files} files of {world.classes} classes, listed in {table}")


if __name__ == "__main__":
    main()
