"""Which numbers of a file are weights, which are statistics, and which steer operators."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from converters.onnx_files.call import Array, NodeCall
from converters.onnx_files.elements import array_of
from converters.onnx_files.host import HOST
from converters.onnx_files.node import Node
from converters.onnx_files.structure import with_last_reads
from converters.onnx_files.table import HANDLERS, STATES, STEERING
from converters.onnx_files.tensors import Budget
from nngraph.errors import DataFileError, NNGraphError

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
    nodes: Sequence[Node], initialisers: dict[str, Tensor], kept: Sequence[str], budget: Budget
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

    Args:
        nodes: in an order in which they can be run.
        kept: values that are read at the end: the outputs of the graph.
        budget: what known values may take together with the tensors.
    """
    constants = dict(initialisers)
    written: set[str] = set()
    known: dict[str, Array] = {}
    rest: list[Node] = []
    for node in nodes:
        if node.op_type == "Constant":
            constants[node.outputs[0]] = _constant(node)
            written.add(node.outputs[0])
        else:
            rest.append(node)
    steering = _read_only_in(STEERING, rest, kept)
    states = _read_only_in(STATES, rest, kept) & written
    added = _read_directly_in(_ADDED, rest) - set(kept)
    for name, tensor in list(constants.items()):
        single = name in written and tensor.numel() == 1
        settled = name in steering | states or (name in added and _is_mask(tensor))
        if not tensor.is_floating_point() or settled or single:
            known[name] = array_of(constants.pop(name))
    left: list[Node] = []
    for node in rest:
        if node.op_type in HOST and all(name in known or not name for name in node.inputs):
            made = _fold(node, known)
            budget.spend(sum(array.nbytes for array in made), node.where)
            known.update(zip(node.outputs, made, strict=False))
        else:
            left.append(node)
    read = {name for node in left for name in node.inputs} | set(kept)
    statistics = _read_directly_in(_STATISTICS, left) - set(kept)
    buffers = {n: t for n, t in constants.items() if n in statistics or t.dim() == 0}
    return Roles(
        nodes=with_last_reads(left, kept),
        known={name: array for name, array in known.items() if name in read},
        parameters={n: t for n, t in constants.items() if n in read and n not in buffers},
        buffers={n: t for n, t in buffers.items() if n in read},
    )


def evaluate(call: NodeCall, *, host: bool) -> Sequence[object]:
    """Run one node, in numpy or in torch, and return one value for each of its outputs.

    Raises:
        NNGraphError: what the handler refuses; it names the node.
    """
    node = call.node
    handler = (HOST if host else HANDLERS).get(node.op_type)
    if handler is None:
        raise node.refuse(
            "it is supported only on values that are known from the file and the input's shape; "
            "here it reads what is computed from data."
        )
    with np.errstate(all="ignore") if host else contextlib.nullcontext():
        result = handler(call)
    values = result if isinstance(result, list | tuple) else [result]
    if len(values) < len(node.outputs) and any(node.outputs[len(values) :]):
        raise node.refuse(f"only its first {len(values)} outputs are supported.")
    return values


def _fold(node: Node, known: dict[str, Array]) -> Sequence[Array]:
    values = [known[name] if name else None for name in node.inputs]
    call = NodeCall(node, values, torch.float32, torch.float32, torch.device("cpu"))
    try:
        return evaluate(call, host=True)  # type: ignore[return-value]
    except NNGraphError:
        raise
    except (ValueError, IndexError, TypeError, ArithmeticError, MemoryError) as error:
        raise DataFileError(f"{node.where} cannot be run on its constants: {error}.") from error


def _constant(node: Node) -> Tensor:
    forms = {
        "value_float": torch.float32,
        "value_floats": torch.float32,
        "value_int": torch.int64,
        "value_ints": torch.int64,
    }
    if len(node.attributes) != 1:
        raise DataFileError(f"{node.where} has {len(node.attributes)} values; expected one.")
    for attribute, dtype in forms.items():
        if node.has(attribute):
            return torch.tensor(node.attributes[attribute], dtype=dtype)
    tensor = node.tensor("value")
    if tensor is None:
        raise node.refuse("it holds text; expected numbers.")
    return tensor


def _read_only_in(
    places: Mapping[str, tuple[int, ...]], nodes: Iterable[Node], kept: Iterable[str]
) -> set[str]:
    """Return the values read in these places only, directly or through nodes that can be folded."""
    uses: dict[str, list[bool]] = {name: [False] for name in kept}
    for node in reversed(list(nodes)):
        made = [uses.get(name, []) for name in node.outputs]
        passes = node.op_type in HOST and all(flags and all(flags) for flags in made)
        for place, name in enumerate(node.inputs):
            inside = place in places.get(node.op_type, ()) or passes
            uses.setdefault(name, []).append(inside)
    return {name for name, flags in uses.items() if all(flags)}


def _is_mask(tensor: Tensor) -> bool:
    """Whether a table hides what it is added to: no weight has half the largest number there is."""
    if tensor.dim() < 2 or not tensor.is_floating_point():
        return False
    return bool((tensor.abs() >= torch.finfo(tensor.dtype).max / 2).any())


def _read_directly_in(places: Mapping[str, tuple[int, ...]], nodes: Iterable[Node]) -> set[str]:
    """Return the values that are read in these places and in no others."""
    inside: set[str] = set()
    outside: set[str] = set()
    for node in nodes:
        for place, name in enumerate(node.inputs):
            (inside if place in places.get(node.op_type, ()) else outside).add(name)
    return inside - outside
