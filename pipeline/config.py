"""Every setting, typed, in one tree: YAML files plus dotted overrides; an unknown key is an error.

Defaults are the paper's where it is known (README, "Deviations"), else the choice is explained at
the field. The resolved tree is saved beside the results as ``config.yaml``.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import UserError

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class IndexConfig(Section):
    """How media files are cut into clips (`jobs/index.py`)."""

    window_s: Positive = 10.0  # length of the cut that a clip is sampled in; Kinetics' length
    min_s: Positive = 0.5  # a shorter file is rejected as too_short
    files_per_task: Count = 32
    clips_per_part: Count = 262_144  # rows of one Parquet part of the clips table
    timeout_s: Positive = 30.0  # to probe one file


class VideoConfig(Section):
    frames: Count = 8
    fps: Positive = 30.0
    size: Count = 224  # side of the square that the encoder sees
    short_side: Count = 256  # the picture is scaled to this, then cropped: centre when embedding
    train_short_side: tuple[Count, Count] = (256, 320)  # drawn per clip when learning
    flip: bool = True
    # Fixed region [x, y, width, height] of the upright picture, in its pixels, cut before scaling.
    region: tuple[int, int, int, int] | None = None
    # Kinetics statistics, RGB in [0, 1] (HumamAlwassel/XDC, issue 2).
    mean: tuple[float, float, float] = (0.43216, 0.394666, 0.37645)
    std: tuple[float, float, float] = (0.22803, 0.22145, 0.216989)

    @model_validator(mode="after")
    def _sides(self) -> VideoConfig:
        smallest, largest = self.train_short_side
        if not self.size <= smallest <= largest or self.size > self.short_side:
            raise ValueError(
                f"size {self.size} must not exceed short_side {self.short_side} nor "
                f"train_short_side {list(self.train_short_side)}, which must ascend"
            )
        return self


class AudioConfig(Section):
    rate: Count = 16_000
    window_s: Positive = 2.0
    align: Literal["center", "start"] = "center"  # of the audio window on the video frames
    mels: Count = 40
    spectrogram_frames: Count = 100  # hop = window_s / spectrogram_frames
    fft_window_ms: Positive = 32.0
    # clip: each spectrogram to mean 0 and deviation 1, which takes loudness out; none: VMZ's way.
    normalize: Literal["clip", "none"] = "clip"

    @property
    def samples(self) -> int:
        return round(self.rate * self.window_s)


class ClipsConfig(Section):
    video: VideoConfig = VideoConfig()
    audio: AudioConfig = AudioConfig()
    # A window shorter than a clip is sampled at its middle, give or take this much when learning.
    jitter_s: Annotated[float, Field(ge=0)] = 0.0
    timeout_s: Positive = 20.0  # to decode one clip
    # A name in `pipeline.clips.decoding.decoder.DECODERS`, or the import path of a class of yours,
    # package.module:Class. cuda: NVIDIA's decoder for video in codecs that it knows, on GPU nodes
    # alone; audio, other codecs and indexing stay on the CPU.
    decoder: str = "cpu"

    @property
    def span_s(self) -> float:
        """Media time that one clip covers, in seconds."""
        return max(self.video.frames / self.video.fps, self.audio.window_s)


class StoreConfig(Section):
    """A copy of every clip, shrunk to what training needs, made before the first round."""

    enabled: bool = False
    place: str = ""  # folder, local or s3://…; empty: store/ in the run directory
    # jpeg: each picture by itself; h264: a fifth of the size, slower to make and to read.
    codec: Literal["jpeg", "h264"] = "jpeg"
    clips_per_shard: Count = 128


class EncoderConfig(Section):
    # r2plus1d_18: torchvision's widths; r2plus1d_18_xdc: the released XDC weights' widths.
    video: Literal["r2plus1d_18", "r2plus1d_18_xdc", "r2plus1d_small"] = "r2plus1d_18_xdc"
    # resnet18: stock with a one-channel stem; resnet18_vmz: the stem of FAIR's audio network.
    audio: Literal["resnet18", "resnet18_vmz", "resnet_small"] = "resnet18_vmz"
    # Batches of clips that set the random encoders' BatchNorm statistics before the first
    # clustering; 0: they stay at mean 0 and variance 1.
    warm_batches: Annotated[int, Field(ge=0)] = 8


class EmbeddingConfig(Section):
    batch_size: Count = 32  # clips decoded by one task and encoded at once
    actors: Count = 1  # the least number of encoder actors
    max_actors: Count = 1
    keep: bool = False  # keep every round's features (evaluation then needs no decoding)
    # Take the features that learning computed of a clip when it last saw it (augmented, in train
    # mode), as DeepCluster-v2 does, and embed only the clips that it did not see.
    from_training: bool = False
    rows_per_file: Count = 16_384  # at most; small passes write smaller files
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


class ClusteringConfig(Section):
    # What the first round clusters: features of the random encoders, as in the paper, or colours
    # and log-mel energies without any encoder (encoders/raw.py), as HuBERT begins with MFCCs.
    first: Literal["random", "raw"] = "random"
    k: Count = 128
    iterations: Count = 20
    restarts: Count = 1
    init: Literal["random", "kmeans++", "kmeans||"] = "random"
    pca_dim: Annotated[int, Field(ge=0)] = 256  # 0: no PCA; capped at the features' rank
    whiten: bool = True  # scale the PCA's components by their eigenvalues to eigen_power
    eigen_power: float = -0.5
    l2: bool = True
    spherical: bool = False
    # Sizes: none = plain Lloyd; capped = at most cap * clips / k; sinkhorn = nearly equal.
    balance: Literal["none", "capped", "sinkhorn"] = "none"
    cap: Annotated[float, Field(ge=1)] = 1.5
    sinkhorn_strength: Positive = 20.0  # inverse temperature on inner products (SeLaVi, SwAV)
    sinkhorn_passes: Count = 3  # over the data, after every iteration
    tolerance: Annotated[float, Field(ge=0)] = (
        0.0  # relative change of the objective that ends Lloyd
    )
    shards: Count = 2
    cpus_per_shard: Positive = 1.0
    gpus_per_shard: Annotated[float, Field(ge=0)] = 0.0
    block_size: Count = 4096  # clips in one block of fixed clip indices (see clustering/blocks.py)
    memory_budget_mb: Count = 4096  # per shard; above it features are mapped from local disk
    scratch: str | None = None  # local folder for that; None: the system's temporary folder


class LearningConfig(Section):
    workers: Count = 1
    cpus_per_worker: Positive = 1.0
    threads: Annotated[int, Field(ge=0)] = 0  # of torch in a CPU worker; 0: its part of the cores
    # Workers may be fewer while nodes are missing; they then take the step's batches in turn, and
    # the step stays the same. 0: training waits for all of them.
    min_workers: Annotated[int, Field(ge=0)] = 0
    batch_size: Count = 32
    accumulate: Count = 1  # batches of a worker in one step
    # Megabytes of decoded batches that wait, on all nodes together; 0: as many as fill half of the
    # cluster's object stores. With a bound, decode nodes that learning does not need go sooner.
    prefetch_mb: Annotated[int, Field(ge=0)] = 0
    epochs: Positive = 6.0  # at most, a round; an epoch is epoch_clips clips
    epoch_clips: Annotated[int, Field(ge=0)] = 0  # 0: as many as there are labelled clips
    # linear: as in the paper; batchnorm: features are brought to mean 0 and variance 1 before
    # that, which makes an encoder learn its labels, good or bad, sooner.
    head: Literal["batchnorm", "linear"] = "linear"
    sampling: Literal["uniform", "natural"] = "uniform"  # over pseudo-labels, as DeepCluster does
    # Up to so many clips of one file are drawn side by side and share its opening: for long files
    # cut into many clips, without a clip store. 1: every clip by itself.
    neighbours: Count = 1
    optimizer: Literal["sgd", "adamw", "lars"] = "sgd"
    lr: Positive = 0.01  # for one batch a step; multiplied by their number (VMZ's rule)
    momentum: Fraction = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    warmup: Fraction = 0.1  # share of a round's steps
    step_milestones: tuple[Fraction, ...] = (0.4, 0.7)
    step_factor: Fraction = 0.1
    clip_grad_norm: Annotated[float, Field(ge=0)] = 0.0  # 0: off
    # Loss weight of heads that predict their own modality's clusters (sdc, mdc, anchored_*).
    own_weight: Annotated[float, Field(ge=0)] = 1.0
    sync_batchnorm: bool = False  # one mean and variance over all workers; on GPUs alone
    # Where training stands is written so often; after a death it goes on from there. 0: never.
    checkpoint_minutes: Annotated[float, Field(ge=0)] = 10.0
    heldout: Fraction = 0.05  # of the files, for the held-out pseudo-label loss
    # Epochs without a better held-out loss; 0: never stop.
    patience: Annotated[int, Field(ge=0)] = 0
    # auto: bfloat16 where the GPU multiplies it in hardware, else float32.
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    # torch.compile the encoders: needs a C++ compiler on CPUs, where the small encoders gain next
    # to nothing, and a minute the first time on a machine; on GPUs not measured yet.
    compile: bool = False

    @property
    def step_batches(self) -> int:
        """Batches of one optimiser step, whoever takes them."""
        return self.workers * self.accumulate

    @model_validator(mode="after")
    def _fewer(self) -> LearningConfig:
        if self.min_workers > self.workers:
            raise ValueError(f"min_workers {self.min_workers} exceeds workers {self.workers}")
        return self

    @model_validator(mode="after")
    def _normalisable(self) -> LearningConfig:
        if self.head == "batchnorm" and self.batch_size < 2:
            raise ValueError("a batch of 1 has no variance: raise batch_size or set head to linear")
        return self


class ResourcesConfig(Section):
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # Cores of one decode task. Ray Data takes 0.1 to 0.2 s to replace a task that has ended, so
    # two share a core.
    decode_cpus: Positive = 0.5
    decode_gpus: Positive = 0.1  # GPUs of one decode task, with clips.decoder=cuda
    # Logical CPUs of a Ray started by the job itself; 0: at least 4, so that nothing starves.
    local_cpus: Annotated[int, Field(ge=0)] = 0
    object_store_mb: Count = 1024  # of a Ray started by the job itself
    # Whether stages keep to nodes of their role, the label `role` of cluster.yaml (placement.py);
    # stages then wait for nodes of theirs. auto: where some node has one, be it the head.
    roles: Literal["auto"] | bool = "auto"
    # Roles of the nodes that may decode. [decode, gpu] adds the cores of GPU nodes: it pays where
    # these have more than training needs, and else slows it down.
    decode_on: tuple[str, ...] = ("decode",)
    shards_on: tuple[str, ...] = ("memory",)  # of those that hold the shards of k-means
    train_on: tuple[str, ...] = ("gpu",)  # of those with encoder actors and training workers
    # Nodes for clustering and learning are asked for when so much of the embedding before them is
    # left: as long as a node takes to start. 0: each stage waits for its own.
    lead_minutes: Annotated[float, Field(ge=0)] = 5.0


class TrackingConfig(Section):
    """Where a run's numbers go beside ``events.jsonl`` and TensorBoard; empty: nowhere."""

    mlflow: str = ""  # address of a tracking server
    wandb: str = ""  # name of a project


class Config(Section):
    run: str = ""
    method: str = "xdc"
    rounds: Count = 4  # at most
    # The run ends early once every clustering's NMI with that of the round before reaches this,
    # after min_rounds at the earliest; 0: never.
    settled_nmi: Annotated[float, Field(ge=0, le=1)] = 0.0
    min_rounds: Count = 1
    seed: Annotated[int, Field(ge=0)] = 0
    index: IndexConfig = IndexConfig()
    clips: ClipsConfig = ClipsConfig()
    store: StoreConfig = StoreConfig()
    encoders: EncoderConfig = EncoderConfig()
    embedding: EmbeddingConfig = EmbeddingConfig()
    clustering: ClusteringConfig = ClusteringConfig()
    learning: LearningConfig = LearningConfig()
    resources: ResourcesConfig = ResourcesConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _settles(self) -> Config:
        if self.min_rounds > 1 and not self.settled_nmi:
            raise ValueError("min_rounds does nothing without settled_nmi: set that as well")
        return self

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def load(arguments: list[str]) -> Config:
    """Read YAML files and ``dotted.key=value`` overrides, left to right, into one `Config`.

    Values are parsed as YAML: ``clips.video.region=[115,178,80,60]``, ``run=runs/a``.

    Raises:
        UserError: a file is missing or not a mapping, a key is unknown, a value does not fit.
    """
    tree: dict[str, Any] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and not Path(argument).is_file():
            _merge(tree, _nested(key.strip().split("."), _parsed(value, argument)))
        else:
            _merge(tree, _read(argument))
    return build(tree)


def build(tree: dict[str, Any]) -> Config:
    """Validate a nested mapping of settings.

    Raises:
        UserError: one line per setting that is unknown or does not fit.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(dict(problem)) for problem in error.errors()]
        raise UserError("\n".join(lines)) from None


def with_defaults(tree: dict[str, Any]) -> dict[str, Any]:
    """A dumped config that may be older than some settings, these at their defaults."""
    return _merge(Config().model_dump(mode="json"), tree)


def differences(ours: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys at which two dumped configs differ, as ``key: ours → theirs``."""
    lines = []
    for key in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(key), theirs.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a} → {b}")
    return lines


def _read(file: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(Path(file).read_text())
    except OSError as error:
        raise UserError(
            f"cannot read the config file {file!r}: {error.strerror}. "
            "Arguments are YAML files or overrides such as clustering.k=64."
        ) from error
    except yaml.YAMLError as error:
        raise UserError(f"{file} is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{file} must hold a mapping of settings at its top level")
    return tree


def _parsed(value: str, argument: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"cannot parse the value in {argument!r}: {error}") from error


def _nested(keys: list[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    return value


def _merge(into: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
    return into


def _explain(problem: dict[str, Any]) -> str:
    path = [str(part) for part in problem["loc"]]
    dotted = ".".join(path)
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(dotted, _known_keys(Config), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"unknown setting {dotted!r}{hint}"
    if not path:
        return str(problem["msg"])
    return f"setting {dotted!r}: {problem['msg']} (got {problem['input']!r})"


def _known_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, info in section.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += _known_keys(kind, f"{prefix}{name}.")
        keys.append(f"{prefix}{name}")
    return keys
