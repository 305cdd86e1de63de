"""Every setting, typed, in one tree. settings.py reads it from files and overrides.

Defaults are the paper's where these are known, else the choice is explained at the field. The
resolved tree is saved with the results as ``config.yaml``.
"""

from __future__ import annotations

from typing import Annotated, Literal

import yaml
from pydantic import Field, model_validator

from pipeline.encoder_settings import EncoderConfig
from pipeline.section import WHERE, Address, Count, Fraction, Names, Positive, Section


class IndexConfig(Section):
    """How media files are cut into clips (`jobs/index.py`)."""

    window_s: Positive = 10.0  # length of the window that a clip is sampled in; Kinetics' length
    # A window begins every so many seconds of a file's clock, each window_s long, whether they
    # overlap or not; 0: windows lie side by side. Cuts stay as they are.
    every_s: Annotated[float, Field(ge=0)] = 0.0
    min_s: Positive = 0.5  # a shorter file is rejected as too_short


class VideoConfig(Section):
    """The frames of a clip."""

    frames: Count = 8  # frames of a clip
    fps: Positive = 30.0  # frames a second of a clip, whatever the file has
    size: Count = 224  # side of the square that the encoder sees
    short_side: Count = 256  # frames are scaled to this, then cropped, at the centre when embedding
    train_short_side: tuple[Count, Count] = (256, 320)  # drawn per clip when learning
    flip: bool = True  # mirror every second clip when learning
    # Fixed region [x, y, width, height] of the upright frame, in its pixels, cut before scaling.
    region: tuple[int, int, int, int] | None = None

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
    """The waveform of a clip and its log-mel spectrogram."""

    rate: Count = 16_000  # samples a second
    window_s: Positive = 2.0  # length of the audio of a clip
    align: Literal["center", "start"] = "center"  # of the audio window on the video frames
    mels: Count = 40  # mel bands
    spectrogram_frames: Count = 100  # hop = window_s / spectrogram_frames
    fft_window_ms: Positive = 32.0  # length of one Fourier window
    # clip: each spectrogram gets mean 0 and deviation 1, which removes loudness; none: as in VMZ.
    normalize: Literal["clip", "none"] = "clip"

    @property
    def samples(self) -> int:
        return round(self.rate * self.window_s)


class ClipsConfig(Section):
    """How a clip is cut out of its window and decoded."""

    video: VideoConfig = VideoConfig()
    audio: AudioConfig = AudioConfig()
    # A window shorter than a clip is sampled at its middle, give or take this much when learning.
    jitter_s: Annotated[float, Field(ge=0)] = 0.0
    timeout_s: Annotated[Positive, WHERE] = 20.0  # to probe one file, or to decode one clip
    # Only clips with one of these values in their column split are clustered and learned from, for
    # example train; empty: all clips. Learning reads no labels, so the paper's setting is all.
    split: Names = ()
    # The share of the clips that one pass may lose beyond what the pass before it lost. A stage
    # that loses more stops before anything counts: the media are away, not bad.
    max_rejected: Annotated[Fraction, WHERE] = 0.05
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

    enabled: bool = False  # make the store before the first round, and read clips from it
    place: Address = ""  # folder, local or s3://…; empty: store/ in the run directory
    codec: Literal["jpeg", "h264"] = "jpeg"  # h264: a fifth of the size, slower to make


class EmbeddingConfig(Section):
    """Passes of the encoders over all clips."""

    batch_size: Count = 32  # clips decoded by one task and encoded at once
    min_actors: Annotated[Count, WHERE] = 1  # encoder actors, each with a GPU where there are any
    # The greatest number of encoder actors. On the CPUs of a Ray that the job starts itself, tasks
    # encode instead: so many at most at a time, and no least number.
    max_actors: Annotated[Count, WHERE] = 1
    # Keep every round's features: evaluation then needs no decoding.
    keep: Annotated[bool, WHERE] = False
    # Take the features that learning computed of a clip when it last saw it (augmented, in train
    # mode), as DeepCluster-v2 does, and embed only the clips that it did not see.
    from_training: bool = False
    max_rows_per_file: Annotated[Count, WHERE] = 16_384  # small passes write smaller files

    @model_validator(mode="after")
    def _ordered(self) -> EmbeddingConfig:
        if self.min_actors > self.max_actors:
            raise ValueError(f"min_actors {self.min_actors} exceeds max_actors {self.max_actors}")
        return self


class ClusteringConfig(Section):
    """Distributed k-means of the features."""

    # What the first round clusters: features of the random encoders, as in the paper, or colours
    # and log-mel energies without any encoder (encoders/raw.py), as HuBERT begins with MFCCs.
    first: Literal["random", "raw"] = "random"
    k: Count = 128  # clusters of each clustering
    iterations: Count = 20  # the most k-means iterations
    restarts: Count = 1  # Independent starts. The best objective wins.
    init: Literal["random", "kmeans++", "kmeans||"] = "random"  # how the first centroids are chosen
    pca_dim: Annotated[int, Field(ge=0)] = 256  # 0: no PCA; capped at the features' rank
    whiten: bool = True  # scale the PCA's components to variance 1
    l2: bool = True  # scale every vector to length 1
    spherical: bool = False  # centroids of length 1
    # Sizes: none = plain Lloyd; capped = at most cap * clips / k; sinkhorn = nearly equal.
    balance: Literal["none", "capped", "sinkhorn"] = "none"
    # with balance=capped: the largest cluster, in units of clips / k
    cap: Annotated[float, Field(ge=1)] = 1.5
    shards: Annotated[Count, WHERE] = 2  # at most
    cpus_per_shard: Annotated[Positive, WHERE] = 1.0  # CPUs of one shard actor
    gpus_per_shard: Annotated[float, Field(ge=0), WHERE] = 0.0  # GPUs of one shard actor
    block_size: Count = 4096  # clips in one block of fixed clip indices (see clustering/blocks.py)
    # A shard keeps so much in memory. The rest is mapped from files in the temporary folder.
    max_memory_mb: Annotated[Count, WHERE] = 4096


class LearningConfig(Section):
    """One update of the encoders."""

    workers: Count = 1  # training workers
    cpus_per_worker: Annotated[Positive, WHERE] = 1.0  # CPUs of one training worker
    # Of torch in a CPU worker; 0: its part of the cores. Losses then differ by rounding.
    threads: Annotated[int, Field(ge=0), WHERE] = 0
    # Workers may be fewer while nodes are missing. They then take the step's batches in turn, and
    # the step stays the same. 0: training waits for all of them.
    min_workers: Annotated[int, Field(ge=0), WHERE] = 0
    batch_size: Count = 32  # clips of one batch of one worker
    accumulate: Count = 1  # batches of a worker in one step
    # Megabytes of decoded batches that wait, on all nodes together; 0: as many as fill half of the
    # cluster's object stores. With a bound, decode nodes that learning does not need go sooner.
    max_prefetch_mb: Annotated[int, Field(ge=0), WHERE] = 0
    epochs: Positive = 6.0  # at most, a round; an epoch is epoch_clips clips
    epoch_clips: Annotated[int, Field(ge=0)] = 0  # 0: as many as there are labelled clips
    # linear: as in the paper; batchnorm: features are brought to mean 0 and variance 1 before
    # that, which makes an encoder learn its labels, good or bad, sooner.
    head: Literal["batchnorm", "linear"] = "linear"
    sampling: Literal["uniform", "natural"] = "uniform"  # over pseudo-labels, as DeepCluster does
    # Up to so many clips of one file are drawn side by side and share its opening: for long files
    # cut into many clips, without a clip store. 1: every clip by itself.
    max_neighbours: Count = 1
    optimizer: Literal["sgd", "adamw", "lars"] = "sgd"  # of the encoders and their heads
    lr: Positive = 0.01  # for one batch a step; multiplied by their number (VMZ's rule)
    # Of the encoders alone, where it is not lr. null: lr, and a tenth of it for an encoder that
    # began with weights.
    trunk_lr: Annotated[float, Field(gt=0)] | None = None
    momentum: Fraction = 0.9  # of sgd and lars
    # with adamw and lars, not of biases and BatchNorm's parameters
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    # how the learning rate falls over a round
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    warmup: Fraction = 0.1  # share of a round's steps
    step_milestones: tuple[Fraction, ...] = (0.4, 0.7)  # the rate is divided by 10 at each
    clip_grad_norm: Annotated[float, Field(ge=0)] = 0.0  # 0: off
    sync_batchnorm: bool = False  # one mean and variance over all workers; on GPUs alone
    # Where training stands is written so often; after a death it goes on from there. 0: never.
    checkpoint_minutes: Annotated[float, Field(ge=0), WHERE] = 10.0
    held_out: Fraction = 0.05  # of the files, for the held-out pseudo-label loss
    # Epochs without a better held-out loss; 0: never stop.
    patience: Annotated[int, Field(ge=0)] = 0
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
    """Where each stage works."""

    # Of encoders and training. cuda: GPUs will be there, even if none is yet.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # Cores of one decode task. Ray Data takes 0.1 to 0.2 s to replace a task that has ended, so
    # two share a core.
    decode_cpus: Positive = 0.5
    # Logical CPUs of a Ray started by the job itself; 0: at least 4, so that nothing starves.
    local_cpus: Annotated[int, Field(ge=0)] = 0
    # Of a Ray started by the job itself; Ray takes no less than 75.
    object_store_mb: Annotated[int, Field(ge=75)] = 1024
    # Whether stages keep to nodes of their role, the label `role` of cluster.yaml (placement.py);
    # stages then wait for nodes of theirs. auto: where some node has one, be it the head.
    roles: Literal["auto"] | bool = "auto"
    # Roles of the nodes that may decode. [decode, gpu] adds the cores of GPU nodes: it pays where
    # these have more than training needs, and else slows it down.
    decode_on: tuple[str, ...] = ("decode",)
    # Remote storage that does not answer is waited for so long, then the job ends.
    storage_patience_minutes: Annotated[float, Field(ge=0)] = 15.0
    # Nodes for clustering and learning are asked for when so much of the embedding before them is
    # left: as long as a node takes to start. 0: each stage waits for its own.
    lead_minutes: Annotated[float, Field(ge=0)] = 5.0
    # A stage without progress for so long is told, with what each of its processes does; after
    # twice that, and each time again, the processes that are stuck are restarted. 0: never.
    stall_minutes: Annotated[float, Field(ge=0)] = 15.0
    # After so many restarts without progress the run stops.
    stall_restarts: Annotated[int, Field(ge=0)] = 3


class TrackingConfig(Section):
    """Where a run's numbers go, beyond ``events.jsonl`` and TensorBoard; empty: nowhere."""

    mlflow: Address = ""  # address of a tracking server
    wandb: str = ""  # name of a project


class Config(Section):
    run: Annotated[Address, WHERE] = ""  # the run directory
    method: str = "xdc"  # what is clustered and who predicts it: a name in pipeline/methods.py
    rounds: Annotated[Count, WHERE] = 4  # at most
    # The run ends early once every clustering's NMI with that of the round before reaches this,
    # after min_rounds at the earliest; 0: never.
    settled_nmi: Annotated[float, Field(ge=0, le=1), WHERE] = 0.0
    # the least number of rounds before settled_nmi may end the run
    min_rounds: Annotated[Count, WHERE] = 1
    seed: Annotated[int, Field(ge=0)] = 0  # of everything random
    # Of both encoders. auto: bfloat16 where the GPU multiplies it in hardware, else float32.
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    index: Annotated[IndexConfig, WHERE] = IndexConfig()
    clips: ClipsConfig = ClipsConfig()
    store: Annotated[StoreConfig, WHERE] = StoreConfig()
    encoders: EncoderConfig = EncoderConfig()
    embedding: EmbeddingConfig = EmbeddingConfig()
    clustering: ClusteringConfig = ClusteringConfig()
    learning: LearningConfig = LearningConfig()
    resources: Annotated[ResourcesConfig, WHERE] = ResourcesConfig()
    tracking: Annotated[TrackingConfig, WHERE] = TrackingConfig()

    @model_validator(mode="after")
    def _settles(self) -> Config:
        if self.min_rounds > 1 and not self.settled_nmi:
            raise ValueError("min_rounds does nothing without settled_nmi: set that as well")
        return self

    def of_all_clips(self) -> Config:
        """Without ``clips.split``: for clips that are no clips of the run, and for evaluation."""
        return self.model_copy(update={"clips": self.clips.model_copy(update={"split": ()})})

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
