"""The training loop: one for every task and model; resumes bit by bit, reports what it did."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nngraph.drawing import draw_run, new_figure
from nngraph.errors import optional_package
from nngraph.nn import traits_of
from nngraph.progress import progress_bar
from nngraph.settings import TrainSettings
from nngraph.tasks.loop import Progress, Run
from nngraph.tasks.optimiser import learning_rate
from nngraph.tasks.registry import build_task
from nngraph.tasks.report import Report, finite
from nngraph.tasks.run_folder import REPORT, RunFolder, write_json
from nngraph.zoo import Zoo


def train(
    settings: TrainSettings,
    out: str | Path,
    progress: bool = True,
    *,
    tensorboard: bool = False,
    curves: bool = False,
) -> Report:
    """Train a metanetwork on the networks of a zoo.

    The parameters with the best score on validation networks are kept and judged on the test
    networks once, at the end. A run that was interrupted goes on after its last whole epoch when it
    is called again with the same settings, and ends, on a CPU, with the bits of one that was not.

    Under ``torchrun`` all processes train one model, each on its share of every batch: the loss
    curve is that of one process, to rounding, but for what is drawn per network (dropout, ...).

    Writes to ``out``: ``config.json`` (settings, and architectures and facts of the zoo),
    ``metrics.jsonl`` (a line per epoch), ``model.safetensors`` (the best parameters),
    ``checkpoint.safetensors`` (until it is done) and ``report.json``.

    Args:
        progress: whether a progress bar on stderr shows loss and score.
        tensorboard: whether the metrics are also written for TensorBoard, to ``tensorboard/``.
        curves: whether ``curves.png`` is drawn at the end.

    Raises:
        DataFileError: if the zoo or the folder is damaged, or holds a run with other settings.
        ValueError: if the settings name a task, model or option that there is not.
        MissingDependencyError: if lightning-fabric, or what is asked for, is not installed.
    """
    out = Path(out)
    folder = RunFolder(out, settings)
    if (report := folder.report()) is not None:
        return report
    tracker = Tracker(out, tensorboard, curves)
    task = build_task(settings, Zoo.open(settings.zoo))
    folder.check(task.zoo)
    run = Run(task, out)
    if run.leads:
        folder.begin(task.zoo)
    run.fabric.barrier()
    history: list[dict[str, Any]] = []
    if run.checkpoint.exists():
        state, history = run.resume()
    else:
        state = Progress(run.planned_steps())
    with progress_bar(
        total=state.total_steps, initial=state.step, desc=settings.model, unit="step",
        shown=progress and run.leads,
    ) as bar, tracker if run.leads else Tracker(out):  # fmt: skip
        while state.step < state.total_steps and not _out_of_patience(state, settings):
            _epoch(run, state, history, bar)
            tracker.follow(history)
    return _finish(run, state, history, tracker)


def _epoch(run: Run, state: Progress, history: list[dict[str, Any]], bar: tqdm[Any]) -> None:
    """Train one epoch, judge it, and write down where the run is."""
    wall, cpu = time.perf_counter(), time.process_time()
    train_loss = run.train_epoch(state, bar)
    state.seconds += time.perf_counter() - wall
    state.cpu_seconds += time.process_time() - cpu
    if run.settings.cpu_seconds is not None:  # plan anew: other work on the machine comes and goes
        state.total_steps = run.steps_within_budget(state)
        bar.total = state.total_steps
    measures = run.evaluate("val")
    found = measures[run.task.score]
    # What is no number, such as the correlation of constant answers, is the worst of all.
    score = found if math.isfinite(found) else -math.inf
    row = {
        "epoch": state.epoch,
        "step": state.step,
        "train_loss": train_loss,
        **{f"val_{name}": value for name, value in measures.items()},
        "learning_rate": learning_rate(run.settings, state.step - 1, state.total_steps),
        "seconds": round(state.seconds, 3),
        "cpu_seconds": round(state.cpu_seconds, 3),
    }
    history.append(finite(row))
    # Of equal scores the later one: the learning rate was lower.
    if state.best is None or score >= state.best_score:
        state.best = measures
        if run.leads:
            run.save_best()
    if state.best_epoch == 0 or score > state.best_score:
        state.best_score, state.best_epoch = score, state.epoch
    if run.leads:
        run.save(state, history)
    bar.set_postfix(loss=f"{train_loss:.3g}", **{run.task.score: f"{found:.4g}"})


def _out_of_patience(state: Progress, settings: TrainSettings) -> bool:
    return settings.patience is not None and state.epoch - state.best_epoch >= settings.patience


def _finish(run: Run, state: Progress, history: list[dict[str, Any]], tracker: Tracker) -> Report:
    """Judge the best parameters, write the report, and remove what is not needed any more."""
    run.load_best()
    assert state.best is not None
    details = run.task.details(run.judged, "test") if run.leads else {}
    report = Report(
        task=run.settings.task,
        model=run.settings.model,
        access=traits_of(run.model).access,
        parameters=sum(p.numel() for p in run.model.parameters()),
        steps=state.step,
        epochs=state.epoch,
        seconds=state.seconds,
        cpu_seconds=state.cpu_seconds,
        score=run.task.score,
        val=state.best,
        test=run.evaluate("test"),
        details=run.fabric.broadcast(details),
    )
    if run.leads:
        tracker.finish(report.score, history)
        write_json(run.out / REPORT, report.to_dict())
        run.checkpoint.unlink(missing_ok=True)
    run.fabric.barrier()
    return report


CURVES = "curves.png"


class Tracker:
    """What is shown of a run besides its files; a context that ends with the training."""

    def __init__(self, out: Path, tensorboard: bool = False, curves: bool = False) -> None:
        self.out, self.curves = out, curves
        self._make = _summary_writer() if tensorboard else None
        self._writer: Any = None
        if curves:
            new_figure(1, 1)  # a missing matplotlib is told now, and not after hours

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def follow(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Show the last epoch."""
        if self._make is None:
            return
        row = history[-1]
        if self._writer is None:
            # What an interrupted run wrote of later steps is left out.
            self._writer = self._make(str(self.out / "tensorboard"), purge_step=row["step"])
        for name, value in row.items():
            if name != "step" and value is not None:
                self._writer.add_scalar(name, value, row["step"])

    def finish(self, score: str, history: Sequence[Mapping[str, Any]]) -> None:
        """Draw the learning curves, if they are asked for."""
        if self.curves:
            draw_run(self.out / CURVES, history, score)


def _summary_writer() -> Any:
    install = "'nngraph[viz]' (or pip install tensorboard)."
    with optional_package("writing for TensorBoard needs tensorboard", install):
        from torch.utils.tensorboard import SummaryWriter
    return SummaryWriter
