"""State dicts to neural graphs and back."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch_geometric.data import Batch

from converters.chains.chain import Activations, mlp_to_graph, to_neural_graph
from nngraph.errors import InvalidGraphError
from nngraph.graph import Architecture, NeuralGraph, NeuralGraphStack, check_tensor

#: Buffers of batch norms, by the last part of their names.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
#: Dead ends after which the search for the order of the layers is given up.
MAX_STATES = 10_000
#: How many layers of each run are placed, and what the last of them gives.
_Placed = tuple[tuple[int, ...], int | None]


def state_dict_to_graph(
    state_dict: Mapping[str, Tensor],
    architecture: Architecture | None = None,
    *,
    activations: Activations | None = None,
    allow_nonfinite: bool = False,
    differentiable: bool = False,
) -> NeuralGraph:
    """Turn a state dict into a neural graph, without a copy.

    Without an architecture an MLP is inferred: every key is ``prefix.weight`` (a matrix) or
    ``prefix.bias``. Layers whose prefixes differ in their numbers alone stand in the order of these
    (``fc2`` before ``fc10``), and each must take what the one before it gives. The only order of
    all layers that this leaves is taken.

    Args:
        architecture: what the parameters belong to, by name, buffers of whole numbers with them.
            A tied tensor may stand under any of its names, or all, with the same numbers.
        activations: of an inferred MLP, as in ``mlp_to_graph``. A state dict does not say;
            the default is ReLU on the hidden layers, the commonest.

    Raises:
        InvalidGraphError: if the entries do not fit the architecture; or, without one, if they are
            no MLP, or leave more than one order or none.
        NonFiniteError: if a weight is NaN or infinite, and they are not allowed.
    """
    if not isinstance(state_dict, Mapping):
        raise InvalidGraphError(
            f"the state dict is a {type(state_dict).__name__}; expected a mapping from names to "
            "tensors, such as module.state_dict()."
        )
    if architecture is None:
        _refuse_statistics(state_dict)
    integers = () if architecture is None else architecture.integers
    whole = {name for p in integers for name in (p.name, *p.aliases)}
    values = {
        str(name): check_tensor(str(name), value, str(name) in whole)
        for name, value in state_dict.items()
    }
    if architecture is not None:
        if activations is not None:
            raise InvalidGraphError(
                "both an architecture and activations were given; the architecture has its own. "
                "Leave one of them out."
            )
        values = under_first_names(architecture, values)
        return to_neural_graph(architecture, values, allow_nonfinite, differentiable)
    layers = layers_in_order(values)
    return mlp_to_graph(
        [weight for _, weight, _ in layers], [bias for _, _, bias in layers],
        "relu" if activations is None else activations, names=[prefix for prefix, _, _ in layers],
        allow_nonfinite=allow_nonfinite, differentiable=differentiable,
    )  # fmt: skip


def to_state_dict(graph: NeuralGraph | NeuralGraphStack) -> dict[str, Tensor]:
    """Return the parameters of a graph by their names, bit for bit as they were converted.

    They are detached and share memory with the graph, as those of ``module.state_dict()`` do with
    the module. A tied tensor is there under each of its names, so that ``load_state_dict`` takes
    the result. The parameters of a stack are stacked, ``[B, *shape]``.

    Raises:
        InvalidGraphError: for a ``Batch``, whose graphs have a state dict each, and for a graph
            whose edges or nodes were changed, as ``coalesce`` and ``ToUndirected`` do.
    """
    refuse_batch(graph)
    values = {name: value.detach() for name, value in graph.parameters().items()}
    tied = {alias: values[p.name] for p in graph.architecture.parameters for alias in p.aliases}
    return {**values, **tied}


def under_first_names(
    architecture: Architecture, values: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the values with one name for each tied tensor; refuse other numbers under another."""
    values = dict(values)
    for parameter in architecture.parameters:
        for alias in parameter.aliases:
            if alias not in values:
                continue
            value = values.pop(alias)
            first = values.setdefault(parameter.name, value)
            if first is not value and not same_bits(first, value):
                raise InvalidGraphError(
                    f"{parameter.name!r} and {alias!r} are one tensor in the architecture, and "
                    "have different numbers here. Convert the module that they come from with its "
                    "weights untied."
                )
    return values


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same, NaN and the sign of zero included."""
    if (one.shape, one.dtype, one.device) != (other.shape, other.dtype, other.device):
        return False
    if (one.data_ptr(), one.stride()) == (other.data_ptr(), other.stride()):
        return True
    bits = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (one, other)]
    return torch.equal(*bits)


def refuse_batch(graph: object) -> None:
    """Refuse a PyG ``Batch`` and what is no network where one graph is meant."""
    if isinstance(graph, Batch):
        raise InvalidGraphError(
            "a Batch of graphs was given where one graph is expected; convert each graph of "
            "batch.to_data_list()."
        )
    if not isinstance(graph, (NeuralGraph, NeuralGraphStack)):
        raise InvalidGraphError(
            f"a {type(graph).__name__} was given; expected a NeuralGraph, as to_graph makes it of "
            "a module, load_graph of a file and NeuralGraph.from_parameters of tensors."
        )


def layers_in_order(values: Mapping[str, Tensor]) -> list[tuple[str, Tensor, Tensor | None]]:
    """Return the layers of an MLP: prefix, weight, and bias if it has one.

    Raises:
        InvalidGraphError: if the entries are no MLP, or leave more than one order or none.
    """
    _refuse_statistics(values)
    weights, biases = _layers(values)
    order = _only_order({name: (w.shape[0], w.shape[1]) for name, w in weights.items()})
    return [(prefix, weights[prefix], biases.get(prefix)) for prefix in order]


def _refuse_statistics(state_dict: Mapping[str, Tensor]) -> None:
    for name in map(str, state_dict):
        if name.rpartition(".")[2] in _STATISTICS:
            raise InvalidGraphError(
                f"entry {name!r} is a statistic of a batch norm, so no MLP can be inferred. Give "
                "the architecture, which to_architecture(module, inputs) makes of the module."
            )


def _layers(values: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights and the biases of layers by their prefixes."""
    weights: dict[str, Tensor] = {}
    biases: dict[str, Tensor] = {}
    for name, value in values.items():
        prefix, _, kind = name.rpartition(".")
        if kind == "weight" and value.dim() == 2:
            weights[prefix] = value
        elif kind == "bias" and value.dim() == 1:
            biases[prefix] = value
        else:
            raise InvalidGraphError(
                f"entry {name!r} of shape {tuple(value.shape)} is no weight (out, in) or bias "
                "(out) of a linear layer, so no MLP can be inferred. Give the architecture, or use "
                "mlp_to_graph."
            )
    if lone := [name for name in values if name.rpartition(".")[0] not in weights]:
        raise InvalidGraphError(f"entry {lone[0]!r} is a bias without a weight beside it.")
    if not weights:
        raise InvalidGraphError("the state dict is empty; expected the parameters of an MLP.")
    return weights, biases


def _only_order(layers: Mapping[str, tuple[int, int]]) -> list[str]:
    """Return the one order of the layers that chains and keeps the order of their numbers."""
    runs: dict[str, list[str]] = {}
    for prefix in layers:
        runs.setdefault(re.sub(r"\d+", "#", prefix), []).append(prefix)
    for run in runs.values():
        run.sort(key=lambda prefix: [int(number) for number in re.findall(r"\d+", prefix)])
    orders = _orders(list(runs.values()), layers)
    if len(orders) == 1:
        return orders[0]
    found = ", ".join(f"{name!r} ({i} -> {o})" for name, (o, i) in layers.items())
    problem = (
        "no order of them is a chain" if not orders
        else "more than one order of them is a chain, such as " + " and ".join(
            ", ".join(order) for order in orders
        )
    )
    raise InvalidGraphError(
        f"the layers are {found}; {problem}. Give the architecture, or use mlp_to_graph."
    )


def _orders(runs: list[list[str]], layers: Mapping[str, tuple[int, int]]) -> list[list[str]]:
    """Return up to two orders that chain and keep each run in its order.

    How many ways lead on from here depends only on how far each run is and on the current width, so
    that dead ends are remembered, and no state is visited twice in vain.
    """
    total = sum(map(len, runs))
    dead: set[_Placed] = set()
    found: list[list[str]] = []
    order: list[str] = []

    def ahead(done: tuple[int, ...], width: int | None) -> Iterator[tuple[str, _Placed]]:
        for r in reversed(range(len(runs))):
            prefix = runs[r][done[r]] if done[r] < len(runs[r]) else None
            if prefix is not None and width in (None, layers[prefix][1]):
                yield prefix, ((*done[:r], done[r] + 1, *done[r + 1 :]), layers[prefix][0])

    # A stack of its own in place of recursion: files may hold a thousand layers.
    start: _Placed = ((0,) * len(runs), None)
    stack = [(start, ahead(*start), 0)]
    while stack and len(found) < 2:
        placed, options, before = stack[-1]
        for prefix, following in options:
            if following not in dead:
                order.append(prefix)
                stack.append((following, ahead(*following), len(found)))
                break
        else:
            if len(order) == total:
                found.append(list(order))
            if len(found) == before:
                dead.add(placed)
            if len(dead) > MAX_STATES:
                raise InvalidGraphError(
                    "the layers can be put together in too many ways to tell their order. Give the "
                    "architecture, or use mlp_to_graph."
                )
            stack.pop()
            del order[-1:]
    return found
