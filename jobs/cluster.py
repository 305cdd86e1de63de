"""Cluster any vectors: ``python jobs/cluster.py VECTORS OUT [CONFIG.yaml] [key=value …]``.

VECTORS is a ``.npy`` file [n, d], or a Parquet file or folder with a column of fixed-size lists
(``--column``) and, if it has one, ``clip_index``; else rows count from 0 in order of the files.
OUT receives ``labels/*.parquet``, ``centroids.npy``, ``transform.npz`` and ``clustering.json``.
The same command goes on where it was cut off.
"""

from __future__ import annotations

from pipeline import settings
from pipeline.clustering import ClusteringTask, KMeansProgress, cluster
from pipeline.clustering.measures import collapse_alarm, imbalance_factor
from pipeline.clustering.vector_files import as_features
from pipeline.runtime.places import refuse_passing
from pipeline.runtime.session import connect, run_job
from pipeline.setting_comments import SettingsParser
from pipeline.storage import Location
from pipeline.telemetry.console import say


def main(arguments: list[str]) -> None:
    parser = SettingsParser(__doc__)
    parser.add_argument("vectors", help=".npy, .parquet, or a folder of Parquet parts")
    parser.add_argument("out", help="folder to write, local or s3://, gs:// …")
    parser.add_argument("settings", nargs="*", help="YAML files and dotted overrides")
    parser.add_argument("--column", default="features", help="of the vectors in Parquet files")
    options = parser.parse_args(arguments)
    config = settings.load(options.settings)
    out = Location.of(options.out)
    refuse_passing([out])
    features, rows = as_features(Location.of(options.vectors), options.column, out / "features")
    connect(config.resources, out)
    task = ClusteringTask((features,), rows, None, config.clustering, config.seed, out)
    clustering = cluster(task, resources=config.resources, on_progress=_tell)
    sizes = clustering.sizes
    say(
        f"{int(sizes.sum()):,} of {rows:,} rows in {clustering.k} clusters of {sizes.min():,} to "
        f"{sizes.max():,}, imbalance {imbalance_factor(sizes):.2f}; written to {out}"
    )
    warning = collapse_alarm(sizes)
    if warning:
        say(f"warning: {warning}")
    clustering.close()


def _tell(progress: KMeansProgress) -> None:
    if progress.stage == "iterating":
        assert progress.objective is not None
        split = f", {progress.empty} empty clusters split" if progress.empty else ""
        say(
            f"iteration {progress.iteration}/{progress.iterations}: objective "
            f"{progress.objective:.6g}, {progress.seconds:.2f} s{split}"
        )


if __name__ == "__main__":
    run_job(main)
