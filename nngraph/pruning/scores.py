"""What each neuron is worth: scores by which those that stay are chosen."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from converters import load_state_dict
from converters.symmetry import PermutationSpec, coordinates
from nngraph.errors import DataFileError

#: space -> a score for each of its neurons; the highest stay
Scores: TypeAlias = "Mapping[str, Tensor]"


def norm_scores(spec: PermutationSpec, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""Return the Euclidean norm of all parameters that count a neuron.

    Of neurons within others it is taken over all copies, as these are removed together.
    """
    squares = {
        name: state[name].detach().double().square() for name in _parameters(spec, state)
    }
    return {name: total.sqrt() for name, total in summed_scores(spec, squares).items()}


def batch_norm_scores(spec: PermutationSpec, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the sizes of the scales of batch norms (network slimming, Liu et al., ICCV 2017).

    A space that several batch norms scale has their sum; one that none scales has no scores.
    """
    owners = {
        name.removesuffix("running_var") for name in spec.parameters if name.endswith("running_var")
    }
    names = {f"{owner}weight" for owner in owners} & set(_parameters(spec, state))
    return summed_scores(spec, {name: state[name].detach().double().abs() for name in names})


def first_order_scores(
    spec: PermutationSpec, module: nn.Module, loss: Callable[[nn.Module, Any], Tensor],
    batches: Iterable[Any],
) -> dict[str, Tensor]:  # fmt: skip
    r"""Return the first-order importance on data of each neuron.

    .. math:: \sum |\theta \, \partial L / \partial \theta|

    over all parameters that count it (Molchanov et al., CVPR 2019).

    Args:
        spec: of the module.
        module: its gradients are left as they are.
        loss: of the module on a batch, a number.
        batches: the gradients of all are added.
    """
    named = dict(module.named_parameters(remove_duplicate=False))
    taken = {name: named[name] for name in spec.parameters if name in named}
    taken = {name: p for name, p in taken.items() if p.is_floating_point() and p.requires_grad}
    total = {name: torch.zeros_like(parameter) for name, parameter in taken.items()}
    for batch in batches:
        found = torch.autograd.grad(loss(module, batch), list(taken.values()), allow_unused=True)
        for name, gradient in zip(taken, found, strict=True):
            if gradient is not None:
                total[name] += gradient
    return summed_scores(
        spec, {name: (taken[name] * total[name]).detach().double().abs() for name in taken}
    )


def summed_scores(spec: PermutationSpec, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the sum of values over all entries that count a neuron; spaces without any left out.

    Args:
        values: tensors of the shapes of the spec's, of some of its names.
    """
    scores: dict[str, Tensor] = {}
    for name, value in values.items():
        for place, axis in enumerate(spec.parameters[name]):
            if not spec.is_free(axis):
                continue
            along = value.movedim(place, 0).flatten(1).sum(1) if value.dim() > 1 else value
            for space, position, _ in coordinates(axis):
                if space is None or spec.by_name[space].fixed:
                    continue
                seen = position >= 0
                total = scores.setdefault(space, along.new_zeros(spec.by_name[space].size))
                total.index_add_(0, position[seen].to(along.device), along[seen.to(along.device)])
    return scores


def read_scores(path: str | Path, spec: PermutationSpec) -> dict[str, Tensor]:
    """Read scores from a file: JSON of lists of numbers, or tensors, by the names of spaces.

    Raises:
        DataFileError: if it holds something else.
    """
    path = Path(path)
    found = _json(path) if path.suffix == ".json" else dict(load_state_dict(path))
    return {name: _score(path, spec, name, values) for name, values in found.items()}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataFileError(f"{path} is no JSON file: {error}.") from None
    if not isinstance(found, dict):
        raise DataFileError(f"{path} holds no object; expected names of spaces with their scores.")
    return found


def _score(path: Path, spec: PermutationSpec, name: str, values: Any) -> Tensor:
    space = spec.by_name.get(name)
    if space is None:
        free = ", ".join(s.name for s in spec.free_spaces)
        raise DataFileError(f"{path} has scores for {name!r}, which is no space of: {free}.")
    try:
        score = torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        score = torch.full((), torch.nan)
    if score.shape != (space.size,) or not bool(score.isfinite().all()):
        raise DataFileError(
            f"{path} has for {name!r} no list of finite numbers of length {space.size}, one for "
            "each neuron; expected that."
        )
    return score


def _parameters(spec: PermutationSpec, state: Mapping[str, Tensor]) -> list[str]:
    return [
        name for name in spec.parameters
        if name not in spec.buffers and name in state and state[name].is_floating_point()
    ]
