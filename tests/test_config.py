from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import settings
from pipeline.errors import UserError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


def test_files_and_overrides_apply_left_to_right(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("clustering: {k: 7, whiten: false}\nseed: 3\n")
    config = settings.load([str(tmp_path / "a.yaml"), "clustering.k=9", "method=cdc"])
    assert (config.clustering.k, config.clustering.whiten) == (9, False)
    assert (config.seed, config.method) == (3, "cdc")


@pytest.mark.parametrize("place", CONFIGS, ids=lambda place: place.name)
def test_shipped_configs_are_valid(place: Path) -> None:
    settings.load([str(place)])


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
        ("clustering.k=0", "clustering.k"),
        ("learning.lr=fast", "learning.lr"),
        ("clips.video.size=300", "must not exceed short_side"),
        ("nowhere.yaml", "cannot read the config file"),
    ],
)
def test_bad_settings_say_what_to_do(argument: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        settings.load([argument])
