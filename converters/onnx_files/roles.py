"""Which numbers of a file are weights, which are statistics, and which steer operators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from converters.onnx_files.host import HOST, evaluate
from converters.onnx_files.node import Node, NodeCall
from converters.onnx_files.tensors import Array, TensorStore, array_of
from nngraph.errors import DataFileError, NNGraphError

#: operator -> inputs whose floating-point numbers steer it, and are no weights
_STEERING: dict[str, tuple[int, ...]] = {
    "Clip": (1, 2), "Dropout": (1, 2), "OneHot": (1,), "Pad": (2,), "Pow": (1,),
    "Range": (0, 1, 2), "Resize": (1, 2, 3), "Upsample": (1,),
}  # fmt: skip
#: operator -> inputs that are where a sequence begins; a constant written there is no weight
_STATES: dict[str, tuple[int, ...]] = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
#: The inputs of a BatchNormalization that are no parameters, as in torch.
_STATISTICS = {"BatchNormalization": (3, 4)}
#: Where the mask of an attention is read.
_ADDED = {"Add": (0, 1), "Where": (1, 2)}


@dataclass(frozen=True)
class Roles:
    """The nodes that are left to run, and what each constant of the file is to them."""

    nodes: tuple[Node, ...]
    known: dict[str, Array]
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]


def assign_roles(
    nodes: Sequence[Node], initialisers: dict[str, Tensor], kept: Sequence[str], store: TensorStore
) -> Roles:
    """Sort the constants of a graph, and run the nodes that read nothing but known values.

    - Integers and booleans are *known*: they steer shapes and look-ups. So are numbers in places
      where an operator takes a setting (the bounds of a Clip, the scales of a Resize), single
      numbers in ``Constant`` nodes (the 0.5 of a GELU written out), and the states in which a
      recurrent layer starts, if a ``Constant`` node has them; one in an initialiser was trained.
      So are masks: added tables with numbers that no weight has, infinite or near it.
    - The running statistics of a BatchNormalization are *buffers*, as in torch, and so are
      initialisers of one number without a dimension.
    - Every other floating-point tensor is a *parameter*, from an initialiser or a ``Constant``.

    The nodes are in an order in which they can be run; ``kept`` are the outputs of the graph.
    """
    known: dict[str, Array] = {}
    rest = [node for node in nodes if node.op_type != "Constant"]
    written = {n.outputs[0]: _constant(n) for n in nodes if n.op_type == "Constant"}
    constants = initialisers | written
    steering = _read_only_in(_STEERING, rest, kept)
    states = _read_only_in(_STATES, rest, kept) & written.keys()
    added = _read_only_in(_ADDED, rest, kept, folded=False)
    for name, tensor in list(constants.items()):
        single = name in written and tensor.numel() == 1
        settled = name in steering | states or (name in added and _is_mask(tensor))
        if not tensor.is_floating_point() or settled or single:
            known[name] = array_of(constants.pop(name))
    left: list[Node] = []
    for node in rest:
        if node.op_type in HOST and all(name in known or not name for name in node.inputs):
            made = _fold(node, known)
            store.spend(sum(array.nbytes for array in made), node.where)
            known.update(zip(node.outputs, made, strict=False))
        else:
            left.append(node)
    read = {name for node in left for name in node.inputs} | set(kept)
    statistics = _read_only_in(_STATISTICS, left, kept, folded=False)
    buffers = {n: t for n, t in constants.items() if n in statistics or t.dim() == 0}
    return Roles(
        nodes=_with_last_reads(left, kept),
        known={name: array for name, array in known.items() if name in read},
        parameters={n: t for n, t in constants.items() if n in read and n not in buffers},
        buffers={n: t for n, t in buffers.items() if n in read},
    )


def _fold(node: Node, known: dict[str, Array]) -> Sequence[Array]:
    try:
        call = NodeCall(node, [known[name] if name else None for name in node.inputs])
        return cast("Sequence[Array]", evaluate(call))
    except NNGraphError:
        raise
    except (ValueError, IndexError, TypeError, ArithmeticError, MemoryError) as error:
        raise DataFileError(f"{node.where} cannot be run on its constants: {error}.") from error


def _constant(node: Node) -> Tensor:
    if len(node.attributes) != 1:
        raise DataFileError(f"{node.where} has {len(node.attributes)} values; expected one.")
    (attribute, value), = node.attributes.items()
    if isinstance(value, Tensor):
        return value
    if attribute not in ("value_float", "value_floats", "value_int", "value_ints"):
        raise node.refuse("it holds text; expected numbers.")
    dtype = torch.float32 if attribute.startswith("value_float") else torch.int64
    return torch.tensor(value, dtype=dtype)


def _with_last_reads(nodes: Sequence[Node], kept: Iterable[str]) -> tuple[Node, ...]:
    """Note at each node which values may be dropped after it; ``kept`` are needed at the end."""
    later = {"", *kept}
    out = []
    for node in reversed(nodes):
        mine = dict.fromkeys((*node.inputs, *node.outputs))
        out.append(replace(node, last_reads=tuple(name for name in mine if name not in later)))
        later.update(mine)
    return tuple(reversed(out))


def _read_only_in(
    places: Mapping[str, tuple[int, ...]], nodes: Sequence[Node], kept: Iterable[str],
    folded: bool = True,
) -> set[str]:  # fmt: skip
    """Return the values read in these places only, directly or through nodes that can be folded."""
    uses: dict[str, list[bool]] = {name: [False] for name in kept}
    for node in reversed(nodes):
        made = [uses.get(name, []) for name in node.outputs]
        passes = folded and node.op_type in HOST and all(flags and all(flags) for flags in made)
        for place, name in enumerate(node.inputs):
            inside = place in places.get(node.op_type, ()) or passes
            uses.setdefault(name, []).append(inside)
    return {name for name, flags in uses.items() if all(flags)}


def _is_mask(tensor: Tensor) -> bool:
    """Whether a table hides what it is added to: no weight has half the largest number there is."""
    if tensor.dim() < 2 or not tensor.is_floating_point():
        return False
    return bool((tensor.abs() >= torch.finfo(tensor.dtype).max / 2).any())
