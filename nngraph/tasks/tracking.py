"""Following a run while it learns: TensorBoard, and learning curves as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nngraph.drawing import draw_run, new_figure
from nngraph.errors import MissingDependencyError

CURVES = "curves.png"


class Tracker:
    """What is shown of a run besides its files; a context that ends with the training.

    Raises:
        MissingDependencyError: if tensorboard or matplotlib is asked for and not installed.
    """

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
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingDependencyError(
            "writing for TensorBoard needs tensorboard, which is not installed. "
            "Install it with: pip install 'nngraph[viz]' (or pip install tensorboard)."
        ) from None
    return SummaryWriter
