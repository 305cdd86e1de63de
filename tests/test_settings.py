from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from pipeline import settings
from pipeline.clips.chunks import clips_of
from pipeline.clips.decoding.decoder import MediaInfo
from pipeline.clips.rejects import Reason, Reject
from pipeline.clips.sampling import augmented
from pipeline.clustering import ClusteringTask
from pipeline.clustering.blocks import ClipBlocks
from pipeline.clustering.handle import shard_spec
from pipeline.config import AudioConfig, Config, IndexConfig, LearningConfig
from pipeline.embedding.executors import encoder_pool
from pipeline.encoders.frontend import LogMel, mel_settings
from pipeline.errors import UserError
from pipeline.learning.optimizers import new_optimizer
from pipeline.runtime import placement
from pipeline.storage import Location

KEYS = settings.keys()
CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


def test_files_and_overrides_apply_left_to_right(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("clustering: {k: 7, whiten: false}\nseed: 3\n")
    config = settings.load([str(tmp_path / "a.yaml"), "clustering.k=9", "method=cdc"])
    assert (config.clustering.k, config.clustering.whiten) == (9, False)
    assert (config.seed, config.method) == (3, "cdc")


@pytest.mark.parametrize("place", CONFIGS, ids=lambda place: place.name)
def test_shipped_configs_are_valid(place: Path) -> None:
    settings.load([str(place)])


def test_one_text_stands_for_an_encoder(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("encoders: {video: r2plus1d_small}\n")
    config = settings.load([str(tmp_path / "a.yaml"), "encoders.video.start=runs/a"])
    assert config.encoders.video.name == "r2plus1d_small"
    again = settings.load(["encoders.video.start=runs/a", str(tmp_path / "a.yaml")])
    assert again == config
    plain = settings.load([str(tmp_path / "a.yaml")])
    assert plain.outcome()["encoders"]["video"] == "r2plus1d_small", "as runs saved it before"
    for one in (config, plain):
        (tmp_path / "saved.yaml").write_text(one.to_yaml())
        assert settings.load([str(tmp_path / "saved.yaml")]) == one


def test_saved_config_reads_back_the_same(tmp_path: Path) -> None:
    config = settings.load(
        ["clips.video.region=[1,2,3,4]", "clips.video.train_short_side=[230,240]"]
    )
    (tmp_path / "saved.yaml").write_text(config.to_yaml())
    assert settings.load([str(tmp_path / "saved.yaml")]) == config


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("clusterng.k=3", "did you mean 'clustering"),
        ("clustering.kk=3", "unknown setting 'clustering.kk'"),
        ("min_rounds=3", "min_rounds does nothing without settled_nmi"),
        ("embedding.min_actors=3", "min_actors 3 exceeds max_actors 1"),
        ("clustering.k=0", "clustering.k"),
        ("learning.lr=fast", "learning.lr"),
        ("clips.video.size=300", "must not exceed short_side"),
        ("nowhere.yaml", "cannot read the config file"),
    ],
)
def test_bad_settings_say_what_to_do(argument: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        settings.load([argument])


@pytest.mark.parametrize(("old", "new"), settings.RENAMED.items())
def test_a_renamed_setting_says_its_name_now(old: str, new: str) -> None:
    with pytest.raises(UserError, match=f"'{old}' is now '{new}'"):
        settings.load([f"{old}=1"])
    assert new in KEYS


@pytest.mark.parametrize("old", settings.GONE)
def test_a_setting_that_is_gone_says_what_to_do(old: str) -> None:
    with pytest.raises(UserError, match=f"no setting '{old}' any more: ."):
        settings.load([f"{old}=1"])
    for key in re.findall(r"\b[a-z]\w+\.\w+", settings.GONE[old]):
        assert key in KEYS


def test_a_saved_config_may_be_older(tmp_path: Path) -> None:
    """Renamed settings carry their values over, those that are gone are left out."""
    tree = yaml.safe_load(Config().to_yaml())
    tree["learning"] |= {"heldout": 0.25, "own_weight": 1.0}
    del tree["learning"]["held_out"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    old = settings.saved(Location.of(tmp_path / "config.yaml"))
    assert old == settings.load(["learning.held_out=0.25"])


@pytest.mark.parametrize(
    "given",
    [
        {"learning": {"own_weight": 0.5}},
        {"clustering": {"eigen_power": -0.3}},
        {"embedding": {"precision": "bfloat16"}, "learning": {"precision": "float32"}},
    ],
)
def test_a_saved_value_that_cannot_be_had_any_more_is_named(given: dict, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(given))
    with pytest.raises(UserError, match=r"was begun with \w+\.\w+=.*begin another run"):
        settings.saved(Location.of(tmp_path / "config.yaml"))


def test_outcome_is_all_but_what_says_where() -> None:
    one = settings.load(["run=a", "rounds=2", "clustering.shards=3", "resources.device=cpu"])
    other = settings.load(["run=b", "learning.threads=4", "embedding.max_actors=8"])
    assert one.outcome() == other.outcome()
    assert one.outcome() != settings.load(["clustering.k=3"]).outcome()
    assert "shards" not in one.outcome()["clustering"]
    assert not {"run", "rounds", "resources", "store", "index", "tracking"} & set(one.outcome())


# -- every setting is seen at work -----------------------------------------------------------------


def test_short_files_are_rejected() -> None:
    info = MediaInfo(0.0, 1.5, 25.0, 64, 48, 0, True, True, 16_000, 1)
    cut = {"uri": "a.mp4", "start_s": None, "end_s": None, "label": None, "split": None}
    clips = clips_of("a.mp4", info, cut, IndexConfig(min_s=1.0))
    rejected = clips_of("a.mp4", info, cut, IndexConfig(min_s=2.0))
    assert not isinstance(clips, Reject)
    assert len(clips) == 1
    assert isinstance(rejected, Reject)
    assert rejected.reason is Reason.TOO_SHORT


def test_flip() -> None:
    for flip, mirrored in ((True, {True, False}), (False, {False})):
        config = settings.load([f"clips.video.flip={flip}"]).clips
        draws = [augmented(0, 10, config, True, True, (0, 1, n, 0)) for n in range(32)]
        assert {bool(draw.mirror) for draw in draws} == mirrored


def test_spectrogram_settings() -> None:
    config = AudioConfig(rate=8000, window_s=1.5, mels=20, spectrogram_frames=50, fft_window_ms=64)
    assert config.samples == 12_000
    made = mel_settings(config)
    assert (made["sample_rate"], made["n_mels"], made["win_length"]) == (8000, 20, 512)
    front = LogMel(config)
    wave = torch.randn(2, config.samples)
    assert front(wave).shape == (2, 1, 20, 50)
    loud = LogMel(config.model_copy(update={"normalize": "none"}))
    assert float(loud(10 * wave).mean() - loud(wave).mean()) == pytest.approx(np.log(100), rel=0.01)


def test_encoder_actors_are_between_least_and_most() -> None:
    config = settings.load(["embedding.min_actors=2", "embedding.max_actors=5"])
    pool = encoder_pool(config)
    assert (pool.min_size, pool.max_size) == (2, 5)


def test_accumulate_makes_a_step_of_several_batches() -> None:
    assert LearningConfig(workers=3, accumulate=2).step_batches == 6


def test_optimizer_settings() -> None:
    model = nn.Linear(2, 2)
    sgd = new_optimizer(model, LearningConfig(momentum=0.5, weight_decay=0.25, lr=0.125))
    (group,) = sgd.param_groups
    assert (group["momentum"], group["weight_decay"], group["lr"]) == (0.5, 0.25, 0.125)


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("resources.decode_cpus", lambda config: placement.decoding(config.resources)["num_cpus"]),
        (
            "clustering.cpus_per_shard",
            lambda config: placement.clustering(config.clustering, config.resources)["num_cpus"],
        ),
        (
            "clustering.gpus_per_shard",
            lambda config: placement.clustering(config.clustering, config.resources)["num_gpus"],
        ),
        (
            "learning.cpus_per_worker",
            lambda config: placement.training(config.learning, config.resources, "cpu")["num_cpus"],
        ),
        ("resources.local_cpus", lambda config: placement.local_cpus(config.resources)),
    ],
)
def test_resources_are_asked_for(key: str, options: Callable[[Config], float]) -> None:
    """Roles are given, so that no Ray is asked for them."""
    one, two = (settings.load([f"{key}={n}", "resources.roles=false"]) for n in (3, 6))
    assert options(two) == 2 * options(one)


def test_a_shard_keeps_so_much_in_memory(tmp_path: Path) -> None:
    config = settings.load(["clustering.max_memory_mb=7"]).clustering
    task = ClusteringTask((), 10, None, config, 0, Location.of(tmp_path))
    assert shard_spec(task, ClipBlocks(10, 4), 0, 1).budget == 7 * 2**20


# Where each setting is seen at work: by a test of this file, or of the file that is named.
SEEN = {
    "run": "test_rounds.py::test_a_whole_run_with_two_workers",
    "method": "test_methods.py::test_methods_are_consistent",
    "rounds": "test_rounds.py::test_a_whole_run_with_two_workers",
    "settled_nmi": "test_rounds.py::test_a_run_ends_early_once_its_clusters_have_settled",
    "min_rounds": "test_rounds.py::test_a_run_ends_early_once_its_clusters_have_settled",
    "seed": "test_rounds.py::test_other_settings_are_refused",
    "precision": "learning/test_learner.py::test_precision_changes_the_last_bits",
    "index.window_s": "clips/test_indexing.py::test_files_are_cut_into_equal_windows",
    "index.every_s": "clips/test_windows.py::"
    "test_dense_windows_begin_at_multiples_of_the_files_clock",
    "index.min_s": "test_short_files_are_rejected",
    "clips.split": "test_rounds.py::test_a_whole_run_with_two_workers",
    "clips.video.frames": "clips/test_stream.py::test_every_clip_once_and_the_last_batch_padded",
    "clips.video.fps": "clips/decoding/test_clock.py::test_every_frame_rate",
    "clips.video.size": "clips/test_stream.py::test_every_clip_once_and_the_last_batch_padded",
    "clips.video.short_side": "clips/decoding/test_decode.py::test_crop_and_scale",
    "clips.video.train_short_side": "clips/test_inputs.py::test_draws_fill_their_ranges_evenly",
    "clips.video.flip": "test_flip",
    "clips.video.region": "clips/decoding/test_decode.py::test_region",
    "clips.audio.rate": "test_spectrogram_settings",
    "clips.audio.window_s": "test_spectrogram_settings",
    "clips.audio.align": "clips/decoding/test_clock.py::"
    "test_audio_window_may_start_with_the_first_frame",
    "clips.audio.mels": "test_spectrogram_settings",
    "clips.audio.spectrogram_frames": "test_spectrogram_settings",
    "clips.audio.fft_window_ms": "test_spectrogram_settings",
    "clips.audio.normalize": "test_spectrogram_settings",
    "clips.jitter_s": "clips/test_inputs.py::test_draws_fill_their_ranges_evenly",
    "clips.timeout_s": "clips/decoding/test_isolation.py::test_endless_loop_is_interrupted",
    "clips.max_rejected": "clips/test_outage.py::test_a_twentieth_may_be_lost_and_always_one",
    "clips.decoder": "clips/decoding/test_decoder.py::"
    "test_media_are_indexed_and_decoded_with_it_on_ray",
    "store.enabled": "test_rounds.py::test_a_whole_run_with_two_workers",
    "store.place": "test_jobs.py::test_index_fills_the_clip_store",
    "store.codec": "clips/test_store.py::test_a_clip_is_the_same_from_the_store",
    "encoders.video.name": "encoders/test_encoders.py::test_video_encoders_give_pooled_features",
    "encoders.audio.name": "encoders/test_encoders.py::test_audio_encoders_give_pooled_features",
    "encoders.video.start": "test_starts.py::test_the_weights_of_a_file_become_round_0",
    "encoders.audio.start": "test_starts.py::test_a_run_begins_where_another_one_stands",
    "encoders.video.frozen": "learning/test_learner.py::test_stages_stay_frozen",
    "encoders.audio.frozen": "learning/test_learner.py::test_stages_stay_frozen",
    "encoders.warm_batches": "embedding/test_warming.py::test_statistics_are_those_of_some_clips",
    "embedding.batch_size": "embedding/test_embed.py::test_goes_on_where_it_was_killed",
    "embedding.min_actors": "test_encoder_actors_are_between_least_and_most",
    "embedding.max_actors": "test_encoder_actors_are_between_least_and_most",
    "embedding.keep": "test_rounds.py::test_features_kept_from_training",
    "embedding.from_training": "test_rounds.py::test_features_kept_from_training",
    "embedding.max_rows_per_file": "embedding/test_embed.py::test_goes_on_where_it_was_killed",
    "clustering.first": "test_rounds.py::test_features_kept_from_training",
    "clustering.k": "clustering/test_kmeans.py::test_any_shape_gives_k_filled_clusters",
    "clustering.iterations": "clustering/test_kmeans.py::test_equals_faiss_unsampled",
    "clustering.restarts": "clustering/test_kmeans.py::test_restarts_keep_the_best",
    "clustering.init": "clustering/test_kmeans.py::test_spreading_seeds_beats_random_ones",
    "clustering.pca_dim": "clustering/test_kmeans.py::test_whitening_makes_directions_equal",
    "clustering.whiten": "clustering/test_kmeans.py::test_whitening_makes_directions_equal",
    "clustering.l2": "clustering/test_kmeans.py::test_whitening_makes_directions_equal",
    "clustering.spherical": "clustering/test_kmeans.py::test_equals_faiss_unsampled",
    "clustering.balance": "clustering/test_kmeans.py::test_same_bytes_for_any_sharding",
    "clustering.cap": "clustering/test_kmeans.py::test_same_bytes_for_any_sharding",
    "clustering.shards": "clustering/test_kmeans.py::test_same_bytes_for_any_sharding",
    "clustering.cpus_per_shard": "test_resources_are_asked_for",
    "clustering.gpus_per_shard": "test_resources_are_asked_for",
    "clustering.block_size": "clustering/test_kmeans.py::test_same_bytes_for_any_sharding",
    "clustering.max_memory_mb": "test_a_shard_keeps_so_much_in_memory",
    "learning.workers": "learning/test_learn.py::"
    "test_with_a_worker_missing_the_steps_stay_the_same",
    "learning.cpus_per_worker": "test_resources_are_asked_for",
    "learning.threads": "learning/test_learn.py::"
    "test_with_a_worker_missing_the_steps_stay_the_same",
    "learning.min_workers": "learning/test_learn.py::"
    "test_with_a_worker_missing_the_steps_stay_the_same",
    "learning.batch_size": "learning/test_schedule.py::"
    "test_the_order_is_the_same_for_any_number_of_workers",
    "learning.accumulate": "test_accumulate_makes_a_step_of_several_batches",
    "learning.max_prefetch_mb": "learning/test_learn.py::"
    "test_with_a_worker_missing_the_steps_stay_the_same",
    "learning.epochs": "learning/test_schedule.py::"
    "test_natural_sampling_draws_every_clip_once_an_epoch",
    "learning.epoch_clips": "learning/test_learn.py::"
    "test_a_killed_worker_leaves_the_same_losses_step_by_step",
    "learning.head": "encoders/test_encoders.py::test_a_folded_head_is_linear_on_the_features",
    "learning.sampling": "learning/test_schedule.py::"
    "test_natural_sampling_draws_every_clip_once_an_epoch",
    "learning.max_neighbours": "learning/test_schedule.py::"
    "test_neighbours_change_the_order_of_an_epoch_and_not_its_clips",
    "learning.optimizer": "learning/test_learner.py::test_learns_a_batch_by_heart",
    "learning.lr": "learning/test_learner.py::test_learns_a_batch_by_heart",
    "learning.trunk_lr": "learning/test_learner.py::test_a_trunk_learns_at_a_rate_of_its_own",
    "learning.momentum": "test_optimizer_settings",
    "learning.weight_decay": "test_optimizer_settings",
    "learning.schedule": "learning/test_learner.py::test_learning_rate_schedules",
    "learning.warmup": "learning/test_learner.py::test_learning_rate_schedules",
    "learning.step_milestones": "learning/test_learner.py::test_learning_rate_schedules",
    "learning.clip_grad_norm": "learning/test_learner.py::test_gradients_are_clipped",
    "learning.sync_batchnorm": "learning/test_learn.py::test_what_needs_gpus_is_refused",
    "learning.checkpoint_minutes": "learning/test_learn.py::"
    "test_a_killed_worker_leaves_the_same_losses_step_by_step",
    "learning.held_out": "learning/test_schedule.py::test_held_out_files_are_never_trained_on",
    "learning.patience": "learning/test_learner.py::"
    "test_stops_when_the_held_out_loss_no_longer_falls",
    "learning.compile": "learning/test_learner.py::test_encoders_are_compiled_where_asked",
    "resources.device": "test_rounds.py::test_settings_that_cannot_work_are_refused_at_once",
    "resources.decode_cpus": "test_resources_are_asked_for",
    "resources.local_cpus": "test_resources_are_asked_for",
    "resources.object_store_mb": "runtime/test_session.py::test_rays_own_words_stay_in_its_logs",
    "resources.roles": "runtime/test_placement.py::test_with_roles_every_stage_keeps_to_its_nodes",
    "resources.decode_on": "runtime/test_placement.py::"
    "test_with_roles_every_stage_keeps_to_its_nodes",
    "resources.stall_minutes": (
        "telemetry/test_watchdog.py::test_a_stopped_process_is_told_and_its_work_done_again"
    ),
    "resources.stall_restarts": (
        "telemetry/test_watchdog.py::test_what_is_always_stuck_ends_the_run_in_one_line"
    ),
    "resources.lead_minutes": "runtime/test_standby.py::"
    "test_nodes_are_asked_for_when_little_is_left",
    "resources.storage_patience_minutes": "test_patience.py::"
    "test_storage_that_stays_away_is_one_line",
    "tracking.mlflow": "telemetry/test_trackers.py::"
    "test_a_run_that_goes_on_is_the_same_run_in_mlflow",
    "tracking.wandb": "telemetry/test_trackers.py::test_numbers_go_to_wandb",
}


def test_every_setting_is_seen_at_work() -> None:
    assert set(KEYS) == set(SEEN)
    for key, test in SEEN.items():
        file, _, name = test.rpartition("::")
        source = Path(__file__).parent / file if file else Path(__file__)
        assert f"def {name}(" in source.read_text(), f"{key}: {test}"


@pytest.mark.parametrize("job", ["pretrain", "index", "cluster"])
def test_help_lists_every_setting(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = importlib.import_module(f"jobs.{job}").main
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert [key for key in KEYS if f"{key}=" not in said] == []
    assert (
        " *learning.cpus_per_worker=1.0\n      number, > 0: CPUs of one training worker\n" in said
    )
