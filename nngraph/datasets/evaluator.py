r"""Judging predictions with the contract of OGB's ``Evaluator``, and with metrics it lacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from nngraph.errors import InvalidGraphError

_Array = np.ndarray[Any, Any]


def _kendall(true: _Array, predicted: _Array) -> float:
    # Not with this module: importing it takes a second, and every process imports this one.
    from scipy.stats import kendalltau

    return float(kendalltau(true, predicted).statistic)


def _r2(true: _Array, predicted: _Array) -> float:
    spread = np.square(true - true.mean()).sum()
    return float(1 - np.square(true - predicted).sum() / spread) if spread else float("nan")


#: Name -> the metric of one task. ``"acc"`` is OGB's own name.
METRICS: dict[str, Callable[[_Array, _Array], float]] = {
    "acc": lambda true, predicted: float(np.mean(true == predicted)),
    "kendall": _kendall,
    "r2": _r2,
    "mse": lambda true, predicted: float(np.square(true - predicted).mean()),
}


class Evaluator:
    r"""Judge predictions as OGB's ``Evaluator`` does, for data sets that are not OGB's own.

    OGB's takes the names of its fifteen data sets only. This one takes a metric:

    ============= =====================================================================
    ``"acc"``     share of rows that are equal
    ``"kendall"`` Kendall's :math:`\tau_b`, which takes ties into account
    ``"r2"``      :math:`1 - \sum (y - \hat y)^2 / \sum (y - \bar y)^2`
    ``"mse"``     :math:`\frac{1}{n} \sum (y - \hat y)^2`
    ============= =====================================================================

    Several tasks are averaged. Where ``y_true`` is NaN there is no label, and the row is left out.
    A metric that is not defined, such as Kendall's of constant predictions, is NaN.

    Args:
        metric: one of the above.
        num_tasks: columns of ``y_true`` and ``y_pred``.

    Raises:
        ValueError: if there is no such metric.

    Example:
        >>> evaluator = Evaluator("mse")
        >>> evaluator.eval({"y_true": np.zeros((2, 1)), "y_pred": np.array([[1.0], [3.0]])})
        {'mse': 5.0}
    """

    def __init__(self, metric: str, num_tasks: int = 1) -> None:
        if metric not in METRICS:
            raise ValueError(f"metric is {metric!r}; expected one of {', '.join(METRICS)}.")
        self.name = metric
        self.eval_metric = metric
        self.num_tasks = num_tasks

    def eval(self, input_dict: Mapping[str, Any]) -> dict[str, float]:
        """Return the metric by its name, of ``y_true`` and ``y_pred``, each ``[n, num_tasks]``.

        Raises:
            InvalidGraphError: if one is missing, of another kind or shape, or has no labels.
        """
        true, predicted = (self._array(input_dict, key) for key in ("y_true", "y_pred"))
        if true.shape != predicted.shape or true.ndim != 2 or true.shape[1] != self.num_tasks:
            raise InvalidGraphError(
                f"y_true has shape {true.shape} and y_pred {predicted.shape}; expected both to be "
                f"(n, {self.num_tasks})."
            )
        values = []
        for task in range(self.num_tasks):
            labelled = ~np.isnan(true[:, task])
            if not labelled.any():
                raise InvalidGraphError(f"task {task} has no labels; expected at least one.")
            pair = (column[labelled, task].astype(np.float64) for column in (true, predicted))
            values.append(METRICS[self.eval_metric](*pair))
        return {self.eval_metric: sum(values) / len(values)}

    @staticmethod
    def _array(given: Mapping[str, Any], key: str) -> _Array:
        if key not in given:
            raise InvalidGraphError(f"{key} is missing; got {', '.join(given) or 'nothing'}.")
        value = given[key]
        if isinstance(value, Tensor):
            value = value.detach().cpu().numpy()
        if not isinstance(value, np.ndarray):
            raise InvalidGraphError(
                f"{key} is a {type(value).__name__}; expected a numpy array or a tensor."
            )
        return value

    @property
    def expected_input_format(self) -> str:
        """What :meth:`eval` takes, in words."""
        kind = "class labels (integers)" if self.eval_metric == "acc" else "numbers"
        return (
            f"==== Expected input format of Evaluator for {self.name}\n"
            "{'y_true': y_true, 'y_pred': y_pred}\n"
            f"- y_true, y_pred: numpy ndarray or torch tensor of shape (n, {self.num_tasks}),\n"
            f"{kind}, one row per network. NaN in y_true is left out.\n"
        )

    @property
    def expected_output_format(self) -> str:
        """What :meth:`eval` returns, in words."""
        return (
            f"==== Expected output format of Evaluator for {self.name}\n"
            f"{{'{self.eval_metric}': value}}\n"
            f"- value (float): averaged over {self.num_tasks} task(s)\n"
        )
