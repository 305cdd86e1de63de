"""A run's numbers in MLflow and Weights & Biases, for teams that watch them there.

Optional, through their own packages: ``pip install 'xdc-ray[tracking]'``. A resumed run continues
the same run there: its id is kept in ``run/tracking.json``.

To add a tracker, write its class here, enter it in `_TRACKERS` and add a key to `TrackingConfig`.
"""

from __future__ import annotations

import functools
import logging
import tempfile
import uuid
from collections.abc import Callable, Mapping
from typing import Protocol

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.settings import keys
from pipeline.storage import Location

log = logging.getLogger(__name__)
_EXPERIMENT = "xdc-ray"


class Tracker(Protocol):
    """One service that receives a run's numbers; it may raise whatever its package raises.

    It is made from the run directory, the settings and the id of an earlier attempt's run, or None.
    """

    id: str  # of the run there

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send the numbers of one event of round `step`."""

    def close(self) -> None: ...


class Trackers:
    """All trackers that the settings name. One that fails later is left out with a warning.

    Raises:
        UserError: a package is missing, or a tracker cannot be reached at the start.
    """

    def __init__(self, run: Location, config: Config) -> None:
        names = run / "tracking.json"
        known = names.read_json() if names.exists() else {}
        self.trackers: dict[str, Tracker] = {}
        for name, make in _TRACKERS.items():
            where = getattr(config.tracking, name)
            if not where:
                continue
            try:
                self.trackers[name] = make(run, config, known.get(name))
            except ImportError as error:
                advice = f"pip install 'xdc-ray[tracking]' ({error})"
                raise UserError(f"tracking.{name} needs its package: {advice}") from None
            except Exception as error:  # the packages' errors have no common ancestor
                reason = str(error).strip().splitlines() or [type(error).__name__]
                raise UserError(f"tracking.{name}={where} cannot be used: {reason[0]}") from None
            known[name] = self.trackers[name].id
        if self.trackers:
            names.write_json(known)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._each(lambda tracker: tracker.log(values, step))

    def close(self) -> None:
        self._each(lambda tracker: tracker.close())

    def _each(self, work: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self.trackers.items()):
            try:
                work(tracker)
            except Exception as error:
                log.warning("tracking.%s failed and is left out from here: %s", name, error)
                del self.trackers[name]


class _MLflow:
    def __init__(self, run: Location, config: Config, known: str | None) -> None:
        from mlflow import MlflowClient

        self.client = MlflowClient(tracking_uri=config.tracking.mlflow)
        if known is None:
            found = self.client.get_experiment_by_name(_EXPERIMENT)
            where = found.experiment_id if found else self.client.create_experiment(_EXPERIMENT)
            known = self.client.create_run(where, run_name=run.name).info.run_id
            for key in keys():
                value = functools.reduce(getattr, key.split("."), config)
                self.client.log_param(known, key, value)
        else:
            self.client.update_run(known, status="RUNNING")
        self.id: str = known

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.client.log_metric(self.id, name, value, step=step)

    def close(self) -> None:
        self.client.set_terminated(self.id)


class _Wandb:
    def __init__(self, run: Location, config: Config, known: str | None) -> None:
        import wandb

        self.id: str = known or uuid.uuid4().hex[:8]
        self.folder = tempfile.TemporaryDirectory()
        self.run = wandb.init(
            project=config.tracking.wandb,
            id=self.id,
            name=run.name,
            resume="allow",
            config=config.model_dump(mode="json"),
            dir=run.uri if run.is_local else self.folder.name,
            settings=wandb.Settings(silent=True, console="off"),
        )
        # Several events belong to one round; their own step counts calls.
        self.run.define_metric("*", step_metric="round")

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log({**values, "round": step})

    def close(self) -> None:
        self.run.finish()
        self.folder.cleanup()


# By the key in `TrackingConfig` that names the address or project.
_Make = Callable[[Location, Config, str | None], Tracker]
_TRACKERS: dict[str, _Make] = {"mlflow": _MLflow, "wandb": _Wandb}
