"""What each training worker runs: batches from Ray Data, steps of the `Learner`, metrics back.

Ray Train's controller and helpers import this module too: heavy imports stand in the function that
needs them, which spares seconds of every round on small machines.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import ray
import ray.train
from ray.exceptions import RayActorError
from ray.train.collective import barrier, broadcast_from_rank_zero

from pipeline.clips.rejects import RejectedClip, write_rejects
from pipeline.learning.checkpoint import Checkpoints, TrainingState
from pipeline.learning.divergence import check_values, diverged
from pipeline.learning.feed import Feed, arriving
from pipeline.learning.media_watch import MediaWatch, over_workers
from pipeline.learning.task import LearningTask, WorkerTask
from pipeline.runtime.ray_train import GivenUp
from pipeline.telemetry import metrics

Sums = dict[str, tuple[float, int]]  # name → sum, number of batches

_LOOK_EVERY = 20  # steps between two looks at the clock, the desk, and for a notice of preemption


def serve(loop_config: dict[str, Any]) -> None:
    """One update after another, as they lie on the group's desk, until there are no more.

    Raises:
        GivenUp: the desk is gone: another group does what this one was to do.
        UserError: see `train_worker`.
    """
    desk, number = loop_config["desk"], 0
    first = ray.train.get_context().get_world_rank() == 0
    while given := _asked(desk.take.remote(number)):
        number, (work,) = given
        found = train_worker(ray.get(work), lambda: _asked(desk.is_there.remote()))
        barrier()  # all of them are done with it
        if first:
            _asked(desk.finish.remote(number, found))


def _asked(answer: ray.ObjectRef) -> Any:
    try:
        return ray.get(answer)
    except RayActorError:
        raise GivenUp("the driver has given up this group of training workers") from None


def train_worker(work: WorkerTask, look: Callable[[], None]) -> dict[str, Any]:
    """Train for a round, from where an earlier attempt stood; rank 0 returns the update's metrics.

    Every worker takes the same decisions, since losses are averaged over workers first. A step is
    the same whatever the number of workers: they take its batches in turn.

    Args:
        look: is called every some steps, and may end the training.

    Raises:
        UserError: the training diverged, or the media went away; nothing is written of it.
    """
    task, schedule, config = work.task, work.schedule, work.task.config
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    state = TrainingState.of(task.out)
    state.schedule = schedule.digest
    # Decoding starts while this process imports and makes its networks.
    batches = arriving(work.plan.fed(state.slot, rank, world))
    from ray.train.torch import prepare_model

    from pipeline.embedding.memory_bank import MemoryBank
    from pipeline.learning.learner import Learner, read
    from pipeline.runtime.devices import use_threads

    per_step = config.learning.step_batches
    use_threads(work.device, context.get_local_world_size(), config.learning.threads)
    rows_per_file = config.embedding.max_rows_per_file
    bank = MemoryBank(task.bank, rows_per_file, rank, state.slot) if task.bank else None
    learner = Learner(task.spec, config, ray.train.torch.get_device(), prepare_model, bank)
    if state.tensors:
        learner.restore(state.tensors)
    resumed_at = state.slot // per_step
    checkpoints = Checkpoints(task.out)
    watch = MediaWatch(task.title, config.clips.max_rejected)
    feed = Feed(batches, state.slot, rank, world, watch)
    totals = Totals(state.sums if rank == 0 else {})
    clock = Clock(config.learning.checkpoint_minutes)
    epoch_slots = schedule.epoch_steps * per_step

    def book(losses: dict[str, Any], batches: int, step: int) -> None:
        values = read(losses)
        check_values(values, task, f"step {step + 1} of {schedule.train_steps * schedule.epochs}")
        totals.add(values, batches)
        metrics.gpu_memory("learn")
        if rank == 0:
            for name, value in values.items():
                state.curve.setdefault(name, []).append(value)
            _show(work, len(state.epochs), feed, values)

    def check_sound(when: str, sums: Sums) -> None:
        """Before anything is written: of all workers together."""
        watch.check_all()
        check_values({name: total / count for name, (total, count) in sums.items()}, task, when)
        if broken := learner.not_finite():
            raise diverged(f"{len(broken)} tensors hold NaN or infinity", task, when)

    while len(state.epochs) < schedule.epochs:
        begun = len(state.epochs) * epoch_slots
        # Steps whose losses are still to be read, with the number of their batches.
        taken: list[tuple[dict[str, Any], int, int]] = []
        for number in range((state.slot - begun) // per_step, schedule.train_steps):
            state.slot = begun + (number + 1) * per_step
            step = len(state.epochs) * schedule.train_steps + number
            given = list(feed.until(state.slot))
            progress = step / (schedule.train_steps * schedule.epochs)
            taken.append((learner.step(given, progress, world), len(given), step))
            # Read a step later, while the device has the next one to do.
            if len(taken) > 1:
                book(*taken.pop(0))
            is_last = number + 1 == schedule.train_steps
            if (step + 1) % _LOOK_EVERY == 0:
                look()
                watch.check()
            if (step + 1) % _LOOK_EVERY == 0 and not is_last and clock.is_time():
                book(*taken.pop())
                state.sums = totals.over_workers()
                check_sound(f"step {step + 1}", state.sums)
                _write_rejects(feed, rank, task)
                if bank:
                    bank.flush()
                if rank == 0:
                    state.tensors = learner.state()
                    checkpoints.save(state)
        if taken:
            book(*taken.pop())
        state.slot = begun + epoch_slots
        for batch in feed.until(state.slot):
            totals.add(learner.evaluate(batch))
        sums = totals.over_workers()
        check_sound(f"the end of epoch {len(state.epochs) + 1}", sums)
        state.epochs.append({name: total / count for name, (total, count) in sums.items()})
        totals = Totals({})
        if learner.should_stop([losses.get("held_out_loss") for losses in state.epochs]):
            break
    _write_rejects(feed, rank, task)
    if bank:
        bank.flush()
    if rank == 0:
        checkpoints.finish()
        learner.save(task.out)
        (task.out / "curve.parquet").write_table(pa.table(state.curve))
    steps = len(state.epochs) * schedule.train_steps
    return {
        "epochs": state.epochs,
        "steps": steps,
        "resumed_at": resumed_at,
        "clips": steps * per_step * config.learning.batch_size,
        "wait_share": round(feed.wait_share, 4),
        "train_seconds": round(feed.seconds, 2),
        "workers": world,
        **feed.losses,
    }


class Clock:
    """Says when to write a checkpoint: after so many minutes, and once when a node will go."""

    def __init__(self, minutes: float) -> None:
        self._minutes = minutes
        self._last = time.monotonic()
        self._warned = False

    def is_time(self) -> bool:
        """The same for every worker; all must ask at the same steps."""
        if not self._minutes:
            return False
        notice = ray.train.get_preemption_info() is not None and not self._warned
        self._warned |= notice
        due = time.monotonic() - self._last >= 60 * self._minutes
        agreed = bool(broadcast_from_rank_zero(notice or due))
        if agreed:
            self._last = time.monotonic()
        return agreed


class Totals:
    """Sums of an epoch's values, of one worker or of all."""

    def __init__(self, sums: Sums) -> None:
        self._sums = dict(sums)

    def add(self, values: dict[str, float], batches: int = 1) -> None:
        self._include({name: (value * batches, batches) for name, value in values.items()})

    def _include(self, sums: Sums) -> None:
        for name, (value, batches) in sums.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + value, count + batches)

    def over_workers(self) -> Sums:
        """The same on every worker."""
        whole = Totals({})
        for part in over_workers(self._sums):
            whole._include(part)
        return whole._sums


def _show(work: WorkerTask, epoch: int, feed: Feed, losses: dict[str, float]) -> None:
    shown = {name: round(value, 3) for name, value in losses.items() if name.startswith("loss")}
    waiting = f"{feed.wait_share:.0%}"
    if feed.wait_share > 0.2 and feed.seconds > 60:
        waiting += f" (decode-bound: {1 / (1 - feed.wait_share):.1f}× the CPU cores would keep up)"
    learning = work.task.config.learning
    clips = learning.step_batches * learning.batch_size
    metrics.level("xdc_wait_share", feed.wait_share)
    for name, value in losses.items():
        metrics.level("xdc_loss", value, loss=name)
    work.meter.add({"epoch": epoch + 1, "waiting": waiting, **shown}, done=clips)


def _write_rejects(feed: Feed, rank: int, task: LearningTask) -> None:
    """The clips that failed in this worker, each once, as a part of the round's rejects."""
    if feed.rejects:
        unique = {reject[:2]: reject for reject in feed.rejects}
        columns = zip(RejectedClip._fields, zip(*unique.values()))
        place = task.rejects / f"{task.rejects_prefix}-{feed.first:09d}-{rank:04d}.parquet"
        write_rejects(place, pa.table(dict(columns)), "learn")
