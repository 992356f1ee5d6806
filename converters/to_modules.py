"""Neural graphs to torch modules."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import accumulate
from operator import attrgetter

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from converters.activations import activation_module, check_known
from converters.inspection import submodule_at
from converters.state_dicts import refuse_batch, to_state_dict
from converters.symmetry.memory import storage_key
from nngraph.errors import ArchitectureError, InvalidGraphError
from nngraph.graph import Activation, ChainLayer, NeuralGraph, chain_layers

_KIND = "Expected a module of the kind that the graph was made of."


def to_module(graph: NeuralGraph, template: nn.Module | None = None) -> nn.Module:
    """Turn a graph back into a network that computes the same.

    With a template, the module that the graph was made of or one of its kind: a copy of it with the
    graph's numbers, bit by bit; tensors that are shared in the template are shared in the copy.

    Without, chains of affine maps alone. The module has copies of the graph's parameters under
    their names. It is an ``nn.Sequential``, nested where names have dots, with a module for each
    activation. Names that no ``nn.Sequential`` can have (``"w1"``, or layers of two blocks in
    alternation) make an :class:`AffineChain`.

    Raises:
        ArchitectureError: without a template, if the graph is no chain of affine maps, or an
            activation is not known exactly (``other``).
        InvalidGraphError: if the graph is a batch; without a template, if a name cannot be that of
            a parameter; with one, if its state dict has other names or shapes.
    """
    refuse_batch(graph)
    if template is not None:
        return _filled(template, graph)
    maps = chain_layers(
        graph.architecture, "Only such a chain makes a module; of others pass a template."
    )
    for group in graph.architecture.groups:
        check_known(group.activation)
    if (first := graph.architecture.groups[0].activation) != Activation("identity"):
        raise ArchitectureError(f"the inputs have the activation {first}; no module can be made.")
    values = {name: value.detach().clone() for name, value in graph.parameters().items()}
    try:
        return _sequential(maps, values) if _is_sequential(maps) else AffineChain(maps, values)
    except KeyError as error:
        raise InvalidGraphError(
            f"the parameters {', '.join(map(repr, values))} cannot all be those of a module: "
            f"{error.args[0]}."
        ) from None


def _filled(template: nn.Module, graph: NeuralGraph) -> nn.Module:
    module = copy.deepcopy(template)
    held = module.state_dict()
    values = to_state_dict(graph)
    first: dict[object, str] = {}
    for name, tensor in held.items():
        # A shared tensor is in the graph under the first of its names.
        owner = first.setdefault(storage_key(tensor), name)
        value = values.get(name, values.get(owner))
        if value is None or value.shape != tensor.shape:
            found = "nothing" if value is None else f"a tensor of shape {tuple(value.shape)}"
            raise InvalidGraphError(
                f"the template's {name!r} has shape {tuple(tensor.shape)}; the graph has {found} "
                f"for it. {_KIND}"
            )
        with torch.no_grad():
            tensor.copy_(value)
    if unknown := [name for name in values if name not in held]:
        raise InvalidGraphError(f"the template has no {unknown[0]!r}, which the graph has. {_KIND}")
    return module


class AffineChain(nn.Module):
    """Affine maps one after another, their parameters under any names."""

    def __init__(self, maps: Sequence[ChainLayer], parameters: dict[str, Tensor]) -> None:
        super().__init__()
        self._maps = tuple(maps)
        for name, value in parameters.items():
            *path, last = name.split(".")
            submodule_at(self, path).register_parameter(last, nn.Parameter(value))

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply the maps: ``[*, d_0]`` -> ``[*, d_L]``."""
        values = inputs
        for affine in self._maps:
            bias = None if affine.bias is None else attrgetter(affine.bias)(self)
            values = affine.activation(F.linear(values, attrgetter(affine.weight)(self), bias))
        return values

    def extra_repr(self) -> str:
        """Return the maps, for printing."""
        return ", ".join(f"{affine.weight} {affine.activation}" for affine in self._maps)


def _is_sequential(maps: Sequence[ChainLayer]) -> bool:
    """Whether nested ``nn.Sequential`` visit the layers in order under exactly their names."""
    left: set[str] = set()
    previous: list[str] = []
    prefixes, inner = set(), set()
    for affine in maps:
        prefix, _, kind = affine.weight.rpartition(".")
        if not prefix or kind != "weight" or affine.bias not in (None, f"{prefix}.bias"):
            return False
        containers = _paths(affine.weight)
        prefixes.add(prefix)
        inner.update(containers[:-1])
        # A container is left once: what it holds stands together. A layer is no container.
        left.update(name for name in previous if name not in containers)
        if not left.isdisjoint(containers):
            return False
        previous = containers
    return inner.isdisjoint(prefixes)


def _sequential(maps: Sequence[ChainLayer], values: dict[str, Tensor]) -> nn.Sequential:
    root = nn.Sequential()
    taken = {name for affine in maps for name in _paths(affine.weight)}
    for affine in maps:
        *path, name, _ = affine.weight.split(".")
        owner = submodule_at(root, path, nn.Sequential)
        weight = values[affine.weight]
        rows, columns = weight.shape
        # Made without numbers: drawing initial weights would cost time, and random state.
        linear = nn.Linear(columns, rows, affine.bias is not None, device="meta")
        linear.weight = nn.Parameter(weight)
        if affine.bias is not None:
            linear.bias = nn.Parameter(values[affine.bias])
        owner.add_module(name, linear)
        if affine.activation.name != "identity":
            beside = str(int(name) + 1) if name.isdecimal() else f"{name}_activation"
            while ".".join([*path, beside]) in taken:
                beside = f"{name}_activation" if beside.isdecimal() else f"{beside}_"
            taken.add(".".join([*path, beside]))
            owner.add_module(beside, activation_module(affine.activation))
    return root


def _paths(weight: str) -> list[str]:
    """Return the paths of a layer and of all containers around it."""
    return list(accumulate(weight.split(".")[:-1], "{}.{}".format))
