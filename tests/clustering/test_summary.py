"""The numbers that are shown of a clustering."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import ray
from mixture_factory import mixture

from pipeline.clustering import ClusteringTask, cluster, measures
from pipeline.clustering.agreement import agreement
from pipeline.clustering.summary import summarize
from pipeline.config import ClusteringConfig
from pipeline.storage import Location

pytestmark = pytest.mark.usefixtures("local_ray")


def test_a_summary_holds_what_there_is_to_compare_with(
    write_features: Callable[..., Location], tmp_path: Path
) -> None:
    features = (write_features(mixture(300, 8, 5)),)
    config = ClusteringConfig(k=5, iterations=6, pca_dim=0)
    task = ClusteringTask(features, 300, None, config, 0, Location.of(tmp_path / "out"))
    clustering = cluster(task)
    labels = ray.get(clustering.labels[0])
    alone = summarize(clustering, labels)
    assert list(alone) == ["k", "objective", "imbalance", "effective_clusters"]
    assert alone["k"] == 5.0
    assert alone["objective"] == clustering.objective[-1]
    assert alone["imbalance"] == measures.imbalance_factor(np.bincount(labels))

    renamed = (labels + 1) % 5
    files = np.arange(200) // 4
    other = np.random.default_rng(0).integers(7, size=300).astype(np.int32)
    others = {"audio": other, "joint": renamed}
    later = summarize(clustering, labels, before=renamed, files=files, others=others)
    assert list(later)[4:] == [
        "nmi_to_last",
        "churn",
        "agreement_with_audio",
        "agreement_with_audio_beyond_files",
        "agreement_with_joint",
        "agreement_with_joint_beyond_files",
    ]
    assert later["nmi_to_last"] == pytest.approx(1.0)
    assert later["churn"] == 0.0
    assert abs(later["agreement_with_audio"]) < 0.1
    assert later["agreement_with_audio"] == agreement(other, labels)
    assert later["agreement_with_joint_beyond_files"] == pytest.approx(1.0)

    first = summarize(clustering, labels, files=files, first=True)
    expected = measures.adjusted_mutual_information(files, labels[:200])
    assert first == alone | {"ami_to_files": expected}
    clustering.close()
