"""The training loop: one for every metanetwork; resumes bit by bit, reports what it did."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from nngraph.errors import DataFileError
from nngraph.files import TEMPORARY, write_atomically
from nngraph.graph import Architecture, NeuralGraphStack
from nngraph.nn import MODELS, Metanetwork
from nngraph.tasks.checkpoint import (
    load_tensors,
    optimizer_tensors,
    read_json,
    restore_optimizer,
    save_tensors,
    write_json,
)
from nngraph.tasks.classification import evaluate, prepare
from nngraph.tasks.settings import Report, TrainSettings
from nngraph.zoo import SPLITS, Zoo

__all__ = ["build_model", "load_run", "train"]

#: Steps that are timed to plan a run by its CPU seconds, after some that are not.
_STEPS_TO_TIME, _WARM_STEPS = 60, 10
_HEADER: dict[str, Any] = {"format": "nngraph.run", "version": 1}
_CONFIG, _REPORT = "config.json", "report.json"
_MODEL, _CHECKPOINT = "model.safetensors", "checkpoint.safetensors"


def build_model(settings: TrainSettings, zoo: Zoo) -> Metanetwork:
    """Return the model of the settings with fresh parameters, drawn from the settings' seed.

    Raises:
        ValueError: if there is no such model, or it has no such option.
        DataFileError: if the zoo's networks have no classes.
    """
    if zoo.manifest.target != "label":
        raise DataFileError(
            f"the networks of {zoo.path} have no classes: what is known of them is "
            f"{zoo.manifest.target!r}. Models are trained to tell classes apart; expected a zoo "
            "with labels."
        )
    return _build(settings, zoo.architecture, zoo.num_classes)


def _build(settings: TrainSettings, architecture: Architecture, num_classes: int) -> Metanetwork:
    if settings.model not in MODELS:
        raise ValueError(f"model is {settings.model!r}; expected one of {', '.join(MODELS)}.")
    with _seeded(settings.seed):
        try:
            return MODELS[settings.model](architecture, num_classes, **settings.options)
        except (TypeError, RuntimeError) as error:
            raise ValueError(
                f"the model {settings.model!r} cannot be built with the options "
                f"{settings.options!r}: {error}."
            ) from None


@contextmanager
def _seeded(*parts: int) -> Iterator[None]:
    """Seed torch's generators for a while; they are as before afterwards."""
    # Not hash(parts), which is Python's own affair, and equal for -1 and -2.
    digest = hashlib.sha256(repr(parts).encode()).digest()
    with torch.random.fork_rng():
        torch.manual_seed(int.from_bytes(digest[:7], "big"))
        yield


@dataclass
class _Progress:
    """How far a run is; saved with each checkpoint."""

    total_steps: int
    step: int = 0
    epoch: int = 0
    best_accuracy: float = -1.0
    best_epoch: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


class _Run:
    """One training run and its folder."""

    def __init__(self, settings: TrainSettings, out: Path) -> None:
        self.settings = settings
        self.out = out
        self.zoo = Zoo.open(settings.zoo)
        self.device = torch.device(settings.device)
        self.sets = {name: self.zoo.stack(name).to(self.device) for name in SPLITS}
        if empty := [name for name, networks in self.sets.items() if not len(networks)]:
            raise DataFileError(
                f"the zoo {settings.zoo} has no {empty[0]} networks; expected some in each of "
                f"{', '.join(SPLITS)}."
            )
        self.model = build_model(settings, self.zoo).to(self.device)
        self.model.fit_statistics(prepare(self.sets["train"], self.model, settings))
        self.optimizer = self._new_optimizer()
        self.batches = math.ceil(len(self.sets["train"]) / settings.batch_size)

    def _new_optimizer(self) -> torch.optim.Optimizer:
        matrices = [p for p in self.model.parameters() if p.dim() > 1]
        vectors = [p for p in self.model.parameters() if p.dim() <= 1]
        groups: list[dict[str, Any]] = [
            {"params": matrices}, {"params": vectors, "weight_decay": 0.0}
        ]  # fmt: skip
        return torch.optim.AdamW(
            groups,
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
        )

    def step(self, networks: NeuralGraphStack, learning_rate: float) -> Tensor:
        """Take one optimiser step; return the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        networks = prepare(networks, self.model, self.settings, training=True)
        assert networks.y is not None
        mixed = self.device.type == "cuda" and self.model.bears_bfloat16
        with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
            answers = self.model(networks)
        loss = F.cross_entropy(answers.float(), networks.y)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.optimizer.step()
        return loss.detach()

    def learning_rate(self, step: int, total: int) -> float:
        """Rise over the warm-up, then fall to 0 along half a cosine."""
        warmup = min(1.0, (step + 1) / max(self.settings.warmup_steps, 1))
        return self.settings.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * step / total))

    def planned_steps(self) -> int:
        """Number of steps: of all epochs, or as many as the CPU seconds are timed to hold."""
        if self.settings.cpu_seconds is None:
            return self.settings.epochs * self.batches
        before = {name: value.clone() for name, value in self.model.state_dict().items()}
        with _seeded(self.settings.seed, -1):
            self.model.train()
            for warm in range(_STEPS_TO_TIME + _WARM_STEPS):
                if warm == _WARM_STEPS:
                    start = time.process_time()
                self.step(self.sets["train"][: self.settings.batch_size], 0.0)
        per_step = (time.process_time() - start) / _STEPS_TO_TIME
        self.model.load_state_dict(before)
        self.optimizer = self._new_optimizer()
        return max(1, int(self.settings.cpu_seconds / per_step))

    def steps_within_budget(self, progress: _Progress) -> int:
        """Number of steps that the budget holds in all, at the cost that steps have had so far."""
        assert self.settings.cpu_seconds is not None
        left = self.settings.cpu_seconds - progress.cpu_seconds
        return progress.step + max(0, int(left * progress.step / progress.cpu_seconds))

    # -- epochs -------------------------------------------------------------------------------

    def train_epoch(self, progress: _Progress, bar: tqdm[Any]) -> float:
        """Pass over the training networks once, or to the last step; return the mean loss."""
        train, size = self.sets["train"], self.settings.batch_size
        self.model.train()
        losses = []
        # All randomness of an epoch follows from the seed and the epoch: a resumed run draws the
        # same.
        with _seeded(self.settings.seed, progress.epoch):
            order = torch.randperm(len(train)).to(self.device)
            for start in range(0, len(train), size):
                if progress.step >= progress.total_steps:
                    break
                rate = self.learning_rate(progress.step, progress.total_steps)
                losses.append(self.step(train[order[start : start + size]], rate))
                progress.step += 1
                bar.update()
        progress.epoch += 1
        return float(torch.stack(losses).mean())

    # -- files --------------------------------------------------------------------------------

    @property
    def checkpoint(self) -> Path:
        return self.out / _CHECKPOINT

    def save(self, progress: _Progress, history: list[dict[str, float]]) -> None:
        """Write the state of the run, so that it can go on from here."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        states = optimizer_tensors(self.optimizer).items()
        tensors.update({f"optimizer.{name}": value for name, value in states})
        write_atomically(
            self.out / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in history).encode()
        )
        save_tensors(self.checkpoint, tensors, {"progress": vars(progress), "history": history})

    def resume(self) -> tuple[_Progress, list[dict[str, float]]]:
        """Read the state that :meth:`save` wrote."""
        # A step of rate 0 makes the optimiser's state, whose names and shapes are then known.
        with _seeded(self.settings.seed, -1):
            self.step(self.sets["train"][:2], 0.0)
        expected = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        states = optimizer_tensors(self.optimizer).items()
        expected.update({f"optimizer.{name}": value for name, value in states})
        tensors, about = load_tensors(self.checkpoint, expected)
        try:
            progress, history = _Progress(**about["progress"]), list(about["history"])
            whole = (progress.total_steps, progress.step, progress.epoch, progress.best_epoch)
            if not all(type(n) is int for n in whole) or progress.step < 1:
                raise TypeError(f"steps and epochs are {whole}")
        except (KeyError, TypeError) as error:
            raise DataFileError(
                f"{self.checkpoint} does not say how far the run was: {error}. Delete the folder "
                "to train again."
            ) from None

        def part(prefix: str) -> dict[str, Tensor]:
            length = len(prefix)
            return {k[length:]: v for k, v in tensors.items() if k.startswith(prefix)}

        self.model.load_state_dict(part("model."))
        restore_optimizer(self.optimizer, part("optimizer."))
        return progress, history

    def save_best(self) -> None:
        save_tensors(self.out / _MODEL, self.model.state_dict(), {})

    def load_best(self) -> None:
        tensors, _ = load_tensors(self.out / _MODEL, self.model.state_dict())
        self.model.load_state_dict(tensors)


def train(settings: TrainSettings, out: str | Path, progress: bool = True) -> Report:
    """Train a metanetwork to tell the classes of a zoo's networks apart.

    The parameters with the best validation accuracy are kept and judged on the test networks once,
    at the end. A run that was interrupted goes on after its last whole epoch when it is called
    again with the same settings, and ends, on a CPU, with the same bits as one that was not.

    Writes to ``out``: ``config.json`` (settings and architecture), ``metrics.jsonl`` (a line per
    epoch), ``model.safetensors`` (the best parameters), ``checkpoint.safetensors`` (until it is
    done) and ``report.json``.

    Args:
        progress: whether a progress bar on stderr shows loss and accuracy.

    Raises:
        DataFileError: if the zoo or the folder is damaged, or the folder holds a run with other
            settings. Nothing is changed then.
    """
    out = Path(out)
    config = {**_HEADER, "settings": settings.to_dict()}
    begun = (out / _CONFIG).exists()
    if begun:
        _check_same(_read_config(out), config, out)
        if (out / _REPORT).exists():
            return Report.from_json((out / _REPORT).read_bytes(), str(out / _REPORT))
    elif orphans := [name for name in (_CHECKPOINT, _REPORT, _MODEL) if (out / name).exists()]:
        raise DataFileError(
            f"{out} holds {orphans[0]} but no {_CONFIG} that says how it was made. Choose another "
            "folder, or delete that one."
        )
    run = _Run(settings, out)
    config["architecture"] = run.zoo.architecture.to_dict()
    config["class_names"] = list(run.zoo.class_names)
    config["shards"] = [shard.sha256 for shard in run.zoo.manifest.shards]
    if begun:
        _check_same(_read_config(out), config, out)
    out.mkdir(parents=True, exist_ok=True)
    for leftover in out.glob(f"{TEMPORARY}*"):
        leftover.unlink(missing_ok=True)
    write_json(out / _CONFIG, config)
    history: list[dict[str, float]] = []
    if run.checkpoint.exists():
        state, history = run.resume()
    else:
        state = _Progress(run.planned_steps())
    with tqdm(
        total=state.total_steps, initial=state.step, desc=settings.model, unit="step",
        disable=not progress,
    ) as bar:  # fmt: skip
        while state.step < state.total_steps and not _out_of_patience(state, settings):
            _epoch(run, state, history, bar)
    run.load_best()
    test = evaluate(run.model, run.sets["test"], settings)
    report = Report(
        model=settings.model,
        column=run.model.column,
        parameters=sum(p.numel() for p in run.model.parameters()),
        steps=state.step,
        epochs=state.epoch,
        seconds=state.seconds,
        cpu_seconds=state.cpu_seconds,
        val_accuracy=state.best_accuracy,
        test_accuracy=test.accuracy,
        confusion=test.confusion.tolist(),
        class_names=list(run.zoo.class_names),
    )
    write_json(out / _REPORT, report.to_dict())
    run.checkpoint.unlink(missing_ok=True)
    return report


def _epoch(
    run: _Run, state: _Progress, history: list[dict[str, float]], bar: tqdm[Any]
) -> None:
    """Train one epoch, judge it, and write down where the run is."""
    wall, cpu = time.perf_counter(), time.process_time()
    train_loss = run.train_epoch(state, bar)
    state.seconds += time.perf_counter() - wall
    state.cpu_seconds += time.process_time() - cpu
    if run.settings.cpu_seconds is not None:  # plan anew: other work on the machine comes and goes
        state.total_steps = run.steps_within_budget(state)
        bar.total = state.total_steps
    judged = evaluate(run.model, run.sets["val"], run.settings)
    history.append(
        {
            "epoch": state.epoch,
            "step": state.step,
            "train_loss": train_loss,
            "val_loss": judged.loss,
            "val_accuracy": judged.accuracy,
            "learning_rate": run.learning_rate(state.step - 1, state.total_steps),
            "seconds": round(state.seconds, 3),
            "cpu_seconds": round(state.cpu_seconds, 3),
        }
    )
    # Of equal accuracies the later one: the learning rate was lower.
    if judged.accuracy >= state.best_accuracy:
        run.save_best()
    if judged.accuracy > state.best_accuracy:
        state.best_accuracy, state.best_epoch = judged.accuracy, state.epoch
    run.save(state, history)
    bar.set_postfix(loss=f"{train_loss:.3f}", val=f"{judged.accuracy:.1%}")


def _out_of_patience(state: _Progress, settings: TrainSettings) -> bool:
    return settings.patience is not None and state.epoch - state.best_epoch >= settings.patience


def _read_config(out: Path) -> dict[str, Any]:
    path = out / _CONFIG
    config = read_json(path)
    for name, expected in _HEADER.items():
        if config.get(name) != expected:
            raise DataFileError(
                f"{path} has {name} {config.get(name)!r:.80}; expected {expected!r}, that of a "
                "training run."
            )
    if not isinstance(config.get("settings"), dict):
        raise DataFileError(f"{path} has no settings; expected those of a training run.")
    return config


def _check_same(found: dict[str, Any], wanted: dict[str, Any], out: Path) -> None:
    """Check that a run begun in the folder had the same settings and, where known, networks."""
    wanted = json.loads(json.dumps(wanted))
    settings, expected = found["settings"], wanted["settings"]
    for name in sorted(set(settings) | set(expected)):
        if settings.get(name) != expected.get(name):
            raise DataFileError(
                f"{out} holds a run with {name} = {settings.get(name)!r}; this one has "
                f"{expected.get(name)!r}. Choose another folder, or delete that one."
            )
    for name in ("architecture", "class_names", "shards"):
        if name in wanted and found.get(name) != wanted[name]:
            raise DataFileError(
                f"{out} holds a run on other networks: their {name} differ from those now in "
                f"{expected['zoo']}. Choose another folder, or delete that one."
            )


def load_run(out: str | Path) -> tuple[Metanetwork, TrainSettings]:
    """Return the model of a finished or unfinished run, with its best parameters, and its settings.

    Raises:
        DataFileError: if the folder holds no run, or a damaged one.
    """
    out = Path(out)
    config = _read_config(out)
    try:
        settings = TrainSettings(**config["settings"])
        architecture = Architecture.from_dict(config["architecture"])
        model = _build(settings, architecture, len(config["class_names"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataFileError(f"{out / _CONFIG} does not describe a run: {error}.") from None
    tensors, _ = load_tensors(out / _MODEL, model.state_dict())
    model.load_state_dict(tensors)
    model.eval()
    return model, settings
