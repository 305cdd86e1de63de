"""How a job connects to Ray, and how it ends."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

from pipeline.runtime.cluster_address import check_reachable, given_address

# Ray reads these when it is imported or started, so they are set before.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Raylets send this warning to every driver, also with `log_to_driver=False`. Actors without a CPU
# of their own (boards, shards, coordinators) are many here by design. It stays in Ray's logs.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "worker processes have been started on node")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
if not given_address():
    # A Ray that the job starts for itself listens on loopback only and needs no token. It ends with
    # the job, so no preemption is announced. It starts processes when they are needed.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    # Beyond so many processes, one that has nothing to do ends after a second. Those that decoded
    # serve the next stage, and spare it seconds of starting others.
    os.environ.setdefault("RAY_num_workers_soft_limit", "20")
    # Training shares the cores with decoding here: threads that wait by spinning cost a tenth.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import ray
from ray.exceptions import RayError

from pipeline import patience
from pipeline.config import ResourcesConfig
from pipeline.errors import UserError, visible
from pipeline.runtime import signals
from pipeline.runtime.failures import as_user_error
from pipeline.runtime.guardian import guarded
from pipeline.runtime.placement import local_cpus
from pipeline.runtime.places import check_nodes, refuse_passing
from pipeline.runtime.ray_data import set_up_ray_data
from pipeline.storage import Location

# Ray Data logs every error before it raises it, with its traceback.
_TOLD_TWICE = ("ray.data.exceptions", "ray.data._internal.execution.streaming_executor_state")


def connect(resources: ResourcesConfig, *places: str | Location) -> None:
    """Join the cluster in ``RAY_ADDRESS`` (set inside a submitted job), else start Ray here.

    A Ray started here has at least four logical CPUs, however few cores there are: with two, the
    training workers and the decoding tasks that feed them would wait for each other for ever.

    Args:
        places: where the job will read and write; every node must see the same there.

    Raises:
        UserError: there is no such cluster, it does not let this job in, or a place is no place for
            a cluster.
    """
    seconds = f"{resources.storage_patience_minutes * 60:g}"
    os.environ[patience.VARIABLE] = seconds  # of this process, and of a Ray that it starts
    refuse_passing(places)
    if not ray.is_initialized():
        warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
        address = given_address()
        if address:
            check_reachable(address)
            _join(address)
            check_nodes(places)
        else:
            _start(resources)
        _hide_restart_error()
    signals.handle()
    set_up_ray_data()
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _TOLD_TWICE:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _join(address: str) -> None:
    own: dict[str, Any] = {}
    if (seconds := os.environ[patience.VARIABLE]) != f"{patience.DEFAULT_S:g}":
        own = {"runtime_env": {"env_vars": {patience.VARIABLE: seconds}}}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.WARNING, **own)
    except (RayError, ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the Ray cluster at {address} is not for this job: {reason}") from error


def _start(resources: ResourcesConfig) -> None:
    os.environ.pop("RAY_ADDRESS", None)  # Ray's own processes would read it, if it is ``local``
    with guarded() as session:
        try:
            context: Any = ray.init(
                # Else Ray joins what an earlier `ray start` left on this machine, dead or alive.
                "local",
                num_cpus=local_cpus(resources),
                object_store_memory=resources.object_store_mb * 2**20,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
        except Exception as error:  # Ray 2.60 raises a bare one after 30 s without a node
            folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
            room = shutil.disk_usage(folder).free >> 20
            reason = " ".join(str(error).split()).rstrip(".")
            raise UserError(
                f"Ray does not start here: {reason}. Its folder {folder}/ray has {room:,} MiB of "
                "room; RAY_TMPDIR names another place, and the logs in it say more. On a machine "
                "that is busy with other work, try again"
            ) from error
        session.append(context.address_info["session_dir"])


@ray.remote(num_cpus=0, max_restarts=1)
class _Restartable:
    def __init__(self, argument: object) -> None: ...


def _hide_restart_error() -> None:
    """Have Ray's core print its error about restarts now, while standard error leads nowhere.

    The first actor of a process that may restart and has an object among its arguments makes Ray
    print that error (ray#53727), always to standard error. Ray Data's actor pools are such actors,
    and their objects live as long as they do. No setting hides the error and keeps the others in
    Ray's logs; this one is there too.
    """
    argument = ray.put(None)
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        actor = _Restartable.remote(argument)  # type: ignore[attr-defined]
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
    ray.kill(actor)


def run_job(main: Callable[[list[str]], None]) -> None:
    """Run a job's `main` on the command line's arguments and leave with its exit code.

    0: it ended; 1: a traceback; 2: one clear message of a `UserError`; 130: Ctrl-C; 143: stopped.
    """
    code = 0
    try:
        main(sys.argv[1:])
    except Exception as error:
        told = as_user_error(error)
        if told is None:
            raise
        print(visible(f"error: {told}"), file=sys.stderr, flush=True)
        code = 2
    except KeyboardInterrupt:
        code = signals.exit_code()
    finally:
        if ray.is_initialized():
            ray.shutdown()
    sys.exit(code)
