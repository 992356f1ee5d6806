"""State dicts run by their module: losses on data, and statistics of batch norms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from nngraph.alignment.interpolation import POINTS, Barrier, path_losses
from nngraph.alignment.merging import State, combined
from nngraph.errors import InvalidGraphError

#: A loss of the tensors of a network.
StateLoss = Callable[[State], Tensor]
#: Inputs that a module is run on at once.
_BATCH = 64


def module_loss(module: nn.Module, inputs: Tensor, answers: Tensor) -> StateLoss:
    """Return the loss of a module on data, by its tensors.

    Args:
        module: returns one tensor, ``[P, classes]`` or as the answers are. It is not changed.
        inputs: ``[P, ...]``.
        answers: classes, whole numbers, for the cross-entropy; or numbers, for the mean squared
            error.

    Raises:
        InvalidGraphError: if there are not as many answers as inputs.
    """
    if len(inputs) != len(answers) or not len(inputs):
        raise InvalidGraphError(
            f"the inputs have shape {tuple(inputs.shape)} and the answers {tuple(answers.shape)}; "
            "expected one answer to each input."
        )

    @torch.no_grad()
    def loss(state: State) -> Tensor:
        values, total = _in_float(state), torch.zeros((), dtype=torch.float64)
        with _modes(module, training=()):
            for x, y in zip(_batches(inputs), _batches(answers), strict=True):
                found = functional_call(module, values, (x,))
                kind = F.mse_loss if y.is_floating_point() else F.cross_entropy
                total += kind(found, y).double() * len(x)
        return total / len(inputs)

    return loss


def state_barrier(
    a: State, b: State, loss: StateLoss, ts: Sequence[float] = POINTS
) -> Barrier:
    """Return the losses on the straight path between the tensors of two networks.

    Raises:
        ValueError: if the places do not begin at 0, rise, and end at 1.
    """
    def between(t: float) -> dict[str, Tensor]:
        return {
            name: combined([value, b[name]], [1 - t, t]) if value.is_floating_point() else value
            for name, value in a.items()
        }

    return path_losses(lambda t: loss(between(t)), ts)


@torch.no_grad()
def measured_statistics(module: nn.Module, state: State, inputs: Tensor) -> dict[str, Tensor]:
    """Return the statistics that the batch norms of a module measure on inputs with some tensors.

    The mean over batches of 64, after which all inputs count alike but for the last batch.

    Args:
        module: takes batches of the inputs. It is not changed.
        inputs: ``[P, ...]``.

    Returns:
        name -> tensor, of the names of the state dict that are such statistics.
    """
    norms = {
        path: child for path, child in module.named_modules()
        if isinstance(child, _BatchNorm) and child.running_mean is not None
    }
    values = _in_float(state)
    measured: dict[str, Tensor] = {}
    for path, norm in norms.items():
        assert norm.running_mean is not None
        begin = path + "." if path else ""
        zeros = torch.zeros(norm.num_features)
        measured |= {f"{begin}running_mean": zeros, f"{begin}running_var": zeros + 1}
        measured[f"{begin}num_batches_tracked"] = torch.zeros((), dtype=torch.long)
    values |= measured
    momenta = {norm: norm.momentum for norm in norms.values()}
    try:
        for norm in norms.values():
            norm.momentum = None  # the mean of all batches
        with _modes(module, training=[*norms.values()]):
            for x in _batches(inputs) if norms else ():
                functional_call(module, values, (x,))
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum
    return {
        name: value.to(state[name].dtype) for name, value in measured.items() if name in state
    }


def _batches(values: Tensor) -> Iterator[Tensor]:
    return (values[i : i + _BATCH] for i in range(0, len(values), _BATCH))


def _in_float(state: State) -> dict[str, Tensor]:
    """Return tensors that a CPU computes with: those of half precision in float32."""
    return {
        name: value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
        for name, value in state.items()
    }


@contextmanager
def _modes(module: nn.Module, training: Sequence[nn.Module]) -> Iterator[None]:
    """Put some submodules in training mode for the while, all others in evaluation mode."""
    flags: Mapping[nn.Module, bool] = {child: child.training for child in module.modules()}
    try:
        for child in flags:
            child.training = any(child is one for one in training)
        yield
    finally:
        for child, flag in flags.items():
            child.training = flag
