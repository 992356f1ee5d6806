"""Layers as the judge sees them: functions from a dict of tensors to a dict of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from nngraph.basis.block import Matrix
from nngraph.basis.weight_space import WeightSpace
from nngraph.errors import ArchitectureError, NonFiniteError
from nngraph.graph import Architecture

#: Unit vectors evaluated at once.
_CHUNK = 1024


class LayerMap(Protocol):
    """What is judged: ``{name: [B, *shape]} -> {name: [B, *shape]}``, affine in its input.

    If it has a method ``parameters()``, as modules do, those are varied; otherwise they are given
    to :func:`~nngraph.basis.rank_of` apart.
    """

    def __call__(self, values: dict[str, Tensor], /) -> Mapping[str, Tensor]:
        """Map a batch of values."""
        ...


class Stacked:
    """A layer on stacked features, ``(x [B, N, C], edge_attr [B, E, C])``, as a `LayerMap`.

    Values have the shapes ``[B, *shape]`` of the architecture's parameters, or ``[B, *shape, C]``
    of ``WeightSpace.of(architecture).with_channels(C)``; the layer's outputs are returned the same
    way. A layer that returns one tensor ``[B, C]`` instead is an invariant one: its output is
    called ``"invariant"``, the target ``WeightSpace.free("invariant", C)``.

    Features of neurons that have no parameter (inputs, missing biases) are 0 going in and are not
    looked at coming out.

    Raises:
        ArchitectureError: if node features have several columns, or the outputs other shapes.
    """

    def __init__(self, layer: Callable[..., Any], architecture: Architecture) -> None:
        if len(architecture.column_names) > 1:
            raise ArchitectureError(
                f"the architecture has node columns {architecture.column_names}; stacked features "
                "have one, the bias. Give rank_of a function on parameter dicts instead."
            )
        self.layer = layer
        self.architecture = architecture

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """The layer's own."""
        if not isinstance(self.layer, torch.nn.Module):
            return iter(())
        return self.layer.parameters()

    def __call__(self, values: dict[str, Tensor], /) -> dict[str, Tensor]:
        """Lay the values out on nodes and edges, apply the layer, and read them back."""
        spec = self.architecture
        first = spec.parameters[0]
        sample = values[first.name]
        channels = sample.dim() == len(first.shape) + 2
        batch, width = sample.shape[0], sample.shape[-1] if channels else 1
        x = sample.new_zeros(batch, spec.num_nodes, width)
        edge_attr = sample.new_zeros(batch, spec.num_edges, width)
        for parameter, _, rows in self._rows(x, edge_attr):
            rows.copy_(values[parameter].reshape(rows.shape))
        result = self.layer(x, edge_attr)
        if isinstance(result, Tensor):
            return {"invariant": result if channels or result.dim() == 1 else result.squeeze(-1)}
        x, edge_attr = result
        expected = (batch, spec.num_nodes), (batch, spec.num_edges)
        if (x.shape[:2], edge_attr.shape[:2]) != expected or (
            not channels and (x.shape[2:], edge_attr.shape[2:]) != ((1,), (1,))
        ):
            raise ArchitectureError(
                f"the layer returned x {tuple(x.shape)} and edge_attr {tuple(edge_attr.shape)}; "
                f"expected {[*expected[0], 'C']} and {[*expected[1], 'C']}. With C other than 1, "
                "judge it between WeightSpace.of(architecture).with_channels(...)."
            )
        last = [-1] if channels else []
        return {
            parameter: rows.reshape(batch, *shape, *last)
            for parameter, shape, rows in self._rows(x, edge_attr)
        }

    def _rows(self, x: Tensor, edge_attr: Tensor) -> Iterator[tuple[str, tuple[int, ...], Tensor]]:
        """Each parameter, its shape, and the features of its entries, ``[B, n, C]``."""
        spec = self.architecture
        for features, places in ((x, spec.columns), (edge_attr, spec.blocks)):
            for place in places:
                rows = features[:, place.start : place.stop]
                yield place.parameter.name, place.parameter.shape, rows


def stacked(layer: Callable[..., Any], architecture: Architecture) -> Stacked:
    """Let the judge see a layer on stacked features; see :class:`Stacked`."""
    return Stacked(layer, architecture)


def parameters_of(layer: object, parameters: Iterable[Tensor] | None) -> list[Tensor]:
    """The parameters to vary: those given, or the layer's own."""
    if parameters is None:
        own = getattr(layer, "parameters", None)
        parameters = own() if callable(own) else ()
    return [p for p in parameters if p.requires_grad]


def layer_matrix(
    layer: LayerMap,
    source: WeightSpace,
    target: WeightSpace | None = None,
    *,
    like: Tensor | None = None,
    check: bool = True,
) -> tuple[Matrix, Matrix]:
    """Matrix ``[m, n]`` and constant ``[m]`` of an affine map, by evaluating it.

    Args:
        layer: the map.
        source: weight space of its input.
        target: of its output; default ``source``.
        like: its dtype and device are used; default the layer's first parameter, or float64.
        check: whether to verify at a random point that the layer is affine.

    Raises:
        ArchitectureError: if the layer is not affine, or its output misshapen.
        NonFiniteError: if its output is not finite.
    """
    target = source if target is None else target
    if like is None:
        like = next(iter(parameters_of(layer, None)), torch.zeros((), dtype=torch.float64))
    options: dict[str, Any] = {"dtype": like.dtype, "device": like.device}

    def evaluate(vectors: Tensor) -> Matrix:
        with torch.no_grad():
            out = target.flatten(dict(layer(source.unflatten(vectors.to(**options)))))
        found: Matrix = out.detach().cpu().to(torch.float64).numpy()
        if not np.isfinite(found).all():
            raise NonFiniteError("the layer's output is not finite; it cannot be judged.")
        if found.shape != (len(vectors), target.numel):
            raise ArchitectureError(
                f"the layer gave an output of shape {found.shape} for a batch of {len(vectors)}; "
                f"expected one of {target.numel} coordinates for each."
            )
        return found

    n = source.numel
    probes = torch.cat([torch.zeros(1, n), torch.eye(n)])
    found = np.concatenate([evaluate(part) for part in torch.split(probes, _CHUNK)])
    constant = found[0]
    matrix = (found[1:] - constant).T
    if check:
        point = torch.randn(2, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        point = point.to(like.dtype)
        seen = evaluate(point)
        linear = point.to(torch.float64).numpy() @ matrix.T + constant
        scale = float(np.abs(seen).max() + np.abs(linear).max()) + 1e-300
        error = float(np.abs(seen - linear).max()) / scale
        if error > (1e-6 if like.dtype == torch.float64 else 1e-2):
            raise ArchitectureError(
                f"the layer is not affine in its input: at a random point it is off its own "
                f"linear part by {error:.1e} of its size. Judge linear layers, in eval mode, "
                "without activations."
            )
    return matrix, constant
