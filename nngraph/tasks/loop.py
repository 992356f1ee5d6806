"""One training run: its model, its steps and epochs, and the files it goes on from."""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from nngraph.errors import DataFileError, NonFiniteError, optional_package
from nngraph.files import write_atomically
from nngraph.nn import traits_of
from nngraph.ranks import Ranks
from nngraph.settings import TrainSettings
from nngraph.tasks.batches import NetworksInMemory, draw_batches, share_of
from nngraph.tasks.optimiser import AveragedModel, learning_rate, new_optimizer
from nngraph.tasks.registry import build_model
from nngraph.tasks.run_folder import (
    CHECKPOINT,
    METRICS,
    MODEL,
    load_tensors,
    optimizer_forms,
    optimizer_tensors,
    restore_optimizer,
    save_tensors,
)
from nngraph.tasks.seeding import generator_of, seeded
from nngraph.tasks.task import Task
from nngraph.zoo import SPLITS

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: Steps that are taken to plan a run by its CPU seconds, at most and at least; of them up to so
#: many, or the first half, are not timed; beyond the least they take no more than so much of it.
_STEPS_TO_TIME, _LEAST_STEPS, _WARM_STEPS, _SHARE_TO_TIME = 70, 4, 10, 0.05


@dataclass
class Progress:
    """How far a run is; saved with each checkpoint."""

    total_steps: int
    step: int = 0
    epoch: int = 0
    best_score: float = -math.inf
    best_epoch: int = 0
    best: dict[str, float] | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0


class Run:
    """A model in training on a task, in one process or in one of several; its files are in out."""

    def __init__(self, task: Task, out: Path) -> None:
        self.task, self.settings, self.out = task, task.settings, out
        self.model = build_model(self.settings, task)
        self.fabric: Fabric = new_fabric(self.settings, precision_of(self.settings, self.model))
        task.device = self.fabric.device
        for split in SPLITS:
            task.networks(split)
        self.networks = NetworksInMemory(task.networks("train"), task.zoo.architecture_index)
        self.model.to(task.device)
        task.fit_statistics(self.model)
        self.optimizer = new_optimizer(self.model, self.settings)
        decay = self.settings.ema
        self.average = None if decay is None else AveragedModel(self.model, decay)
        self._wrapped, self._stepper = self.fabric.setup(self.model, self.optimizer)
        #: steps that were not taken, since their gradients were not finite
        self.left_out = 0
        self.batches = math.ceil(len(self.networks.numbers) / self.settings.batch_size)

    @property
    def judged(self) -> torch.nn.Module:
        """The model that is judged and kept: the average, where there is one."""
        return self.model if self.average is None else self.average.model

    @property
    def leads(self) -> bool:
        """Whether this process judges and writes."""
        return int(self.fabric.global_rank) == 0

    # -- steps ------------------------------------------------------------------------------------

    def step(self, batch: Tensor, rate: float) -> Tensor:
        """Take one optimiser step on networks by their numbers; return this process's share of
        the loss. A gradient that is not finite is not followed: one would end the run.
        """  # fmt: skip
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        self.optimizer.zero_grad(set_to_none=True)
        fabric = self.fabric
        parts = share_of(batch, fabric.global_rank, fabric.world_size, self.settings.accumulate)
        losses = []
        for i, (numbers, weight) in enumerate(parts):
            last = i + 1 == len(parts)
            with nullcontext() if last else fabric.no_backward_sync(self._wrapped):
                loss = self.task.loss(self._wrapped, self.networks.take(numbers))
                loss = loss if weight == 1 else weight * loss
                fabric.backward(loss)
            losses.append(loss.detach())
        most = math.inf if self.settings.clip is None else self.settings.clip
        norm = fabric.clip_gradients(
            self._wrapped, self._stepper, max_norm=most, error_if_nonfinite=False
        )
        # In float16 the scaler of the loss sees to it, and is to learn of it.
        if self.settings.precision == "fp16" or bool(torch.isfinite(cast(Tensor, norm))):
            self._stepper.step()
        else:
            self.left_out += 1
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def planned_steps(self) -> int:
        """Number of steps: of all epochs, or as many as the CPU seconds are timed to hold."""
        if self.settings.cpu_seconds is None:
            return self.settings.epochs * self.batches
        before = {name: value.clone() for name, value in self.model.state_dict().items()}
        with seeded(self.settings.seed, -1, device=self.task.device):
            self.model.train()
            most = time.process_time() + _SHARE_TO_TIME * self.settings.cpu_seconds
            times: list[float] = []
            while len(times) < _LEAST_STEPS or (len(times) < _STEPS_TO_TIME and times[-1] < most):
                self.step(self.networks.numbers[: self.settings.batch_size], 0.0)
                times.append(time.process_time())
        warm = min(_WARM_STEPS, len(times) // 2)
        per_step = (times[-1] - times[warm - 1]) / (len(times) - warm)
        self.model.load_state_dict(before)
        self.optimizer.state.clear()
        return int(self.fabric.broadcast(max(1, int(self.settings.cpu_seconds / per_step))))

    def steps_within_budget(self, progress: Progress) -> int:
        """Number of steps that the budget holds in all, at the cost that steps have had so far."""
        assert self.settings.cpu_seconds is not None
        left = self.settings.cpu_seconds - progress.cpu_seconds
        steps = progress.step + max(0, int(left * progress.step / progress.cpu_seconds))
        return int(self.fabric.broadcast(steps))

    def train_epoch(self, progress: Progress, bar: tqdm[Any]) -> float:
        """Pass over the training networks once, or to the last step; return the mean loss."""
        settings, networks, left_out = self.settings, self.networks, self.left_out
        # All randomness of an epoch follows from the seed and the epoch: a resumed run draws the
        # same. The order is that of all processes; what each does to its networks is its own.
        order = draw_batches(
            networks.numbers, networks.kinds, settings.batch_size, settings.per_architecture,
            generator_of(settings.seed, progress.epoch),
        )  # fmt: skip
        self.model.train()
        losses = []
        rank = self.fabric.global_rank
        with seeded(settings.seed, progress.epoch, rank, device=self.task.device):
            for batch in order[: progress.total_steps - progress.step]:
                rate = learning_rate(settings, progress.step, progress.total_steps)
                losses.append(self.step(batch, rate))
                progress.step += 1
                if self.average is not None:
                    self.average.update(self.model, progress.step)
                bar.update()
        progress.epoch += 1
        self._tell_of_steps_left_out(self.left_out - left_out, len(losses), progress.epoch)
        every = torch.stack(losses)
        mean = every[every.isfinite()].mean()
        return float(self.fabric.all_reduce(mean, reduce_op="mean"))

    def _tell_of_steps_left_out(self, count: int, steps: int, epoch: int) -> None:
        if not count:
            return
        told = (
            f"{self.out}: of the {steps} steps of epoch {epoch}, {count} had gradients that are "
            "not finite, and were left out."
        )
        if count == steps:
            raise NonFiniteError(
                f"{told} Expected some to learn from: look for weights that are not finite "
                "(nngraph zoo verify), or lower the learning rate."
            )
        if self.leads:
            warnings.warn(f"{told} Where it is many, lower the learning rate.", stacklevel=3)

    def evaluate(self, split: str) -> dict[str, float]:
        """Judge the model on a split; the same measures in every process."""
        found = self.task.evaluate(self.judged, split) if self.leads else {}
        return self.fabric.broadcast(found)  # type: ignore[no-any-return]

    # -- files ------------------------------------------------------------------------------------

    @property
    def checkpoint(self) -> Path:
        """The file that the run goes on from."""
        return self.out / CHECKPOINT

    def _models(self) -> nn.ModuleDict:
        """The model and its average, under their names in a file."""
        average = {} if self.average is None else {"average": self.average.model}
        return nn.ModuleDict({"model": self.model, **average})

    def save(self, progress: Progress, history: list[dict[str, Any]]) -> None:
        """Write the state of the run, so that it can go on from here."""
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in history)
        write_atomically(self.out / METRICS, lines.encode())
        tensors = self._models().state_dict() | optimizer_tensors(self.optimizer)
        save_tensors(self.checkpoint, tensors, {"progress": vars(progress), "history": history})

    def resume(self) -> tuple[Progress, list[dict[str, Any]]]:
        """Read the state that :meth:`save` wrote."""
        models, states = self._models(), optimizer_forms(self.optimizer)
        tensors, about = load_tensors(self.checkpoint, models.state_dict(), states)
        try:
            progress, history = Progress(**about["progress"]), list(about["history"])
            whole = (progress.total_steps, progress.step, progress.epoch, progress.best_epoch)
            if not all(type(n) is int for n in whole) or progress.step < 1:
                raise TypeError(f"steps and epochs are {whole}")
        except (KeyError, TypeError) as error:
            raise DataFileError(
                f"{self.checkpoint} does not say how far the run was: {error}. Delete the folder "
                "to train again."
            ) from None
        restore_optimizer(self.optimizer, tensors)
        models.load_state_dict(tensors)
        return progress, history

    def save_best(self) -> None:
        """Write the parameters that are kept."""
        save_tensors(self.out / MODEL, self.judged.state_dict(), {})

    def load_best(self) -> None:
        """Read the parameters that were kept."""
        tensors, _ = load_tensors(self.out / MODEL, self.judged.state_dict())
        self.judged.load_state_dict(tensors)


_PRECISIONS: dict[str, Any] = {"float32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def precision_of(settings: TrainSettings, model: nn.Module) -> str:
    """Return the precision of a run: what the settings ask for, or where ``"auto"`` what helps.

    That is bfloat16 on a GPU for a model that bears it, and else float32: on CPUs the conversions
    cost more than the products save, and float16 has no use where there is bfloat16.
    """
    if settings.precision != "auto":
        return settings.precision
    on_gpu = torch.device(settings.device).type == "cuda"
    return "bf16" if on_gpu and traits_of(model).bears_bfloat16 else "float32"


def new_fabric(settings: TrainSettings, precision: str) -> Fabric:
    """Return what places models on devices and joins processes, ready for use.

    Under ``torchrun`` the processes that it started, on all of its machines, train one model.
    """
    install = "'nngraph[train]' (or pip install lightning-fabric)."
    with optional_package("training needs lightning-fabric", install):
        from lightning_fabric import Fabric
        from lightning_fabric.strategies import DDPStrategy, SingleDeviceStrategy
    device, ranks = torch.device(settings.device), Ranks.of_environment()
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    known = device.type if device.type in ("cpu", "cuda", "mps") else "cpu"
    options: dict[str, Any] = {"accelerator": known, "precision": _PRECISIONS[precision]}
    if ranks.world == 1:
        fabric = Fabric(strategy=SingleDeviceStrategy(device), devices=1, **options)
    else:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.world))
        # A step may leave parameters alone: maps of layers deeper than any of its networks.
        strategy = DDPStrategy(find_unused_parameters=True, broadcast_buffers=False)
        fabric = Fabric(strategy=strategy, devices=here, num_nodes=ranks.world // here, **options)
    fabric.launch()
    return fabric
