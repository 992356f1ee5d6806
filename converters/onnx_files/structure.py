"""The graph of an ONNX model, checked: every value made once, no cycles, every operator known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from converters.onnx_files.host import HOST
from converters.onnx_files.node import Node
from converters.onnx_files.ops import HANDLERS, LEARN
from converters.onnx_files.tensors import ELEMENTS, TensorStore, array_of, element_name, read_tensor
from nngraph.errors import DataFileError, UnsupportedModuleError

if TYPE_CHECKING:
    from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

#: Operator sets whose semantics the handlers implement.
OPSETS = (9, 24)
_DOMAINS = ("", "ai.onnx")
#: The operators of scikit-learn's exporters, and those of them that only make labels of classes.
_LEARN = "ai.onnx.ml"
_LABELS = ("ArrayFeatureExtractor", "Binarizer", "LabelEncoder")
_CONTROL_FLOW = ("If", "Loop", "Scan", "SequenceMap")


@dataclass(frozen=True)
class Declaration:
    """An input or output of the graph: its name, element type and sizes (``None``: not fixed)."""

    name: str
    element: int
    dims: tuple[int | None, ...] | None

    @property
    def dtype(self) -> torch.dtype:
        """Its element type as torch has it."""
        return ELEMENTS[self.element].torch

    def __str__(self) -> str:
        sizes = "any shape" if self.dims is None else str([d or "?" for d in self.dims])
        return f"{self.name} {sizes} {element_name(self.element)}".replace("'", "")


@dataclass(frozen=True)
class Graph:
    """What of a model is run: only the nodes that an output needs, each after what it reads."""

    inputs: tuple[Declaration, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    #: initialisers that a node or an output reads
    initialisers: dict[str, TensorProto]
    opset: int
    #: labels of classes that the model gives too, and that are not run
    left_out: tuple[str, ...] = ()


def read_graph(
    model: ModelProto, path: Path, store: TensorStore, chosen: Sequence[str] | None = None
) -> Graph:
    """Check the graph of a model, sort its nodes and leave out those that no output needs.

    The outputs are those ``chosen``; default those of the model, without the labels of classes that
    a classifier gives beside its numbers.
    """
    graph = model.graph
    opsets = _opsets(model, path)
    if graph.sparse_initializer:
        raise UnsupportedModuleError(
            "the model holds sparse tensors; expected dense ones. Export it with dense weights."
        )
    initialisers: dict[str, TensorProto] = {}
    for tensor in graph.initializer:
        if not tensor.name or tensor.name in initialisers:
            raise DataFileError(f"two or no tensors are called {tensor.name!r}.")
        initialisers[tensor.name] = tensor
    inputs = tuple(_declaration(v) for v in graph.input if v.name not in initialisers)
    made = dict.fromkeys(initialisers, -1)
    for name in (declared.name for declared in inputs):
        if not name or name in made:
            raise DataFileError(f"two inputs are called {name!r}, or one has no name.")
        made[name] = -1
    for place, proto in enumerate(graph.node):
        for name in filter(None, proto.output):
            if name in made:
                raise DataFileError(
                    f"{_title(proto)} makes the value {name!r}, which is there already."
                )
            made[name] = place
    declared_outputs = tuple(value.name for value in graph.output)
    if not declared_outputs or not inputs:
        raise DataFileError(
            f"the graph has no {'outputs' if inputs else 'inputs'}; expected a network."
        )
    if missing := [name for name in declared_outputs if name not in made]:
        raise DataFileError(f"nothing makes the output {missing[0]!r}.")
    reads = [(_title(p), list(p.input)) for p in graph.node]
    if chosen is None:
        kinds = [(node.domain, node.op_type) for node in graph.node]
        labels = {place for place, (d, name) in enumerate(kinds) if d == _LEARN and name in _LABELS}
        outputs = declared_outputs if not labels else tuple(
            n for n in declared_outputs if labels.isdisjoint(_order(reads, made, [n]))
        ) or declared_outputs
    else:
        outputs = _chosen(chosen, made, declared_outputs)
    order = _order(reads, made, outputs)
    advice = f"The outputs of the model are {', '.join(map(repr, declared_outputs))}."
    nodes = [_node(graph.node[p], opsets, store, advice) for p in order]
    read = {name for node in nodes for name in node.inputs} | set(outputs)
    kept = {name: tensor for name, tensor in initialisers.items() if name in read}
    left_out = tuple(n for n in declared_outputs if chosen is None and n not in outputs)
    return Graph(inputs, outputs, tuple(nodes), kept, opsets[""], left_out)


def _chosen(
    names: Sequence[str], made: Mapping[str, int], outputs: Sequence[str]
) -> tuple[str, ...]:
    names = (names,) if isinstance(names, str) else tuple(names)
    if missing := [name for name in names if made.get(name, -1) < 0]:
        raise DataFileError(
            f"no node makes the value {missing[0]!r}; expected an output of the model, "
            f"{', '.join(map(repr, outputs))}, or a value within it."
        )
    if not names or len(set(names)) < len(names):
        raise DataFileError(
            f"the outputs {', '.join(map(repr, names)) or 'none'} were chosen; expected "
            "at least one, each once."
        )
    return names


def _opsets(model: ModelProto, path: Path) -> dict[str, int]:
    """Return the versions of the operator sets: of ai.onnx under the empty name."""
    versions = [entry.version for entry in model.opset_import if entry.domain in _DOMAINS]
    least, most = OPSETS
    if not versions or not least <= versions[0] <= most:
        raise UnsupportedModuleError(
            f"{path} uses operator set {versions[0] if versions else 'of other domains only'}; "
            f"expected ai.onnx {least} to {most}. Convert it with onnx.version_converter."
        )
    others = {entry.domain: int(entry.version) for entry in model.opset_import}
    return {**others, "": int(versions[0])}


def _title(proto: NodeProto) -> str:
    return f"node {(proto.name or next(iter(proto.output), ''))!r} ({proto.op_type})"


def _declaration(value: ValueInfoProto) -> Declaration:
    kind = value.type.WhichOneof("value")
    tensor = value.type.tensor_type
    if kind != "tensor_type" or tensor.elem_type not in ELEMENTS:
        found = element_name(tensor.elem_type) if kind == "tensor_type" else kind
        raise UnsupportedModuleError(
            f"the input {value.name!r} is {found}; expected a tensor of real numbers, "
            "integers or booleans."
        )
    sizes = [d.dim_value if d.HasField("dim_value") else 0 for d in tensor.shape.dim]
    dims = tuple(size if size > 0 else None for size in sizes)
    return Declaration(value.name, tensor.elem_type, dims if tensor.HasField("shape") else None)


def _order(
    nodes: list[tuple[str, list[str]]], made: dict[str, int], outputs: Iterable[str]
) -> list[int]:
    """Return the places of the nodes that the outputs need, each after those that it reads."""
    needed: set[int] = set()
    todo = [made[name] for name in outputs]
    while todo:
        place = todo.pop()
        if place < 0 or place in needed:
            continue
        needed.add(place)
        for name in filter(None, nodes[place][1]):
            if name not in made:
                raise DataFileError(f"{nodes[place][0]} reads {name!r}, which nothing makes.")
            todo.append(made[name])
    sorter = TopologicalSorter(
        {place: {made[name] for name in nodes[place][1] if name} - {-1} for place in needed}
    )
    with suppress(CycleError):  # said below; what can be run before it is sorted all the same
        sorter.prepare()
    # The first in the file that can be run: the order of a sorted file is kept.
    ready = sorted(sorter.get_ready())
    order = []
    while ready:
        order.append(heappop(ready))
        sorter.done(order[-1])
        for place in sorter.get_ready():
            heappush(ready, place)
    if len(order) < len(needed):
        stuck = [nodes[place][0] for place in sorted(needed - set(order))]
        raise DataFileError(
            f"{len(stuck)} nodes wait for each other in a cycle, or for one: "
            f"{', '.join(stuck[:4])}. A network's graph has none."
        )
    return order


def _node(proto: NodeProto, opsets: Mapping[str, int], store: TensorStore, advice: str) -> Node:
    from onnx.defs import SchemaError, get_schema

    title, name, learn = _title(proto), proto.op_type, proto.domain == _LEARN
    domain = _LEARN if learn else ""
    opset = opsets.get(domain, 1)
    if learn and name not in LEARN:
        raise UnsupportedModuleError(
            f"{title} is an operator of {_LEARN} without a handler, such as those that make labels "
            f"of classes or are no neural network. {advice} Choose numeric ones with "
            "load_onnx(path, outputs=[...]), or --output on a command line; an MLP of scikit-learn "
            f"is also read by mlp_to_graph from its coefs_ and intercepts_. {_known()}"
        )
    if not learn and proto.domain not in _DOMAINS:
        raise UnsupportedModuleError(
            f"{title} is an operator of the domain {proto.domain!r}, which nngraph does not know. "
            f"{_known()} If it is a function of the model, expand it with "
            "onnx.inliner.inline_local_functions first."
        )
    if name in _CONTROL_FLOW:
        raise UnsupportedModuleError(
            f"{title} is control flow, whose path depends on data; a neural graph has one path. "
            "Export the network with fixed sizes, in evaluation mode, or simplify the file."
        )
    if not learn and name not in HANDLERS and name not in HOST and name != "Constant":
        quantised = any(word in name for word in ("uantize", "QLinear", "Integer"))
        why = ": quantised weights have no neural graph" if quantised else ""
        raise UnsupportedModuleError(f"{title} has no handler{why}. {_known()}")
    try:
        schema = get_schema(name, opset, domain)
    except SchemaError:
        raise UnsupportedModuleError(
            f"{title} is no operator of {domain or 'ai.onnx'} {opset}, the set that the file "
            "declares."
        ) from None
    found, made = len(proto.input), len(proto.output)
    if not schema.min_input <= found <= schema.max_input or not 1 <= made <= schema.max_output:
        raise DataFileError(
            f"{title} has {found} inputs and {made} outputs; expected {schema.min_input} to "
            f"{schema.max_input} inputs and up to {schema.max_output} outputs."
        )
    attributes: dict[str, Any] = {}
    for attribute in proto.attribute:
        expected = schema.attributes.get(attribute.name)
        if expected is None or expected.type.value != attribute.type:  # type: ignore[attr-defined]
            raise DataFileError(
                f"{title} has an attribute {attribute.name!r} of type {attribute.type}, which "
                f"{name} of ai.onnx {opset} does not have."
            )
        value = _value(attribute, title, store)
        if isinstance(value, Tensor) and name != "Constant":
            value = array_of(value)  # only a Constant may hold a weight: this is a setting
        attributes[attribute.name] = value
    missing = [n for n, a in schema.attributes.items() if a.required and n not in attributes]
    if missing:
        raise DataFileError(f"{title} lacks the attribute {missing[0]!r}.")
    return Node(name, proto.name, tuple(proto.input), tuple(proto.output), attributes, opset)


def _value(attribute: AttributeProto, title: str, store: TensorStore) -> object:
    kind = attribute.type
    if kind == attribute.TENSOR:
        what = f"{title}, attribute {attribute.name!r},"
        return read_tensor(attribute.t, what, store)
    if kind == attribute.STRING:
        return _decoded(attribute.s, title)
    if kind == attribute.STRINGS:
        return tuple(_decoded(text, title) for text in attribute.strings)
    numbers = {
        attribute.FLOAT: attribute.f, attribute.INT: attribute.i,
        attribute.FLOATS: tuple(attribute.floats), attribute.INTS: tuple(attribute.ints),
    }  # fmt: skip
    if kind not in numbers:
        raise UnsupportedModuleError(
            f"{title} has an attribute {attribute.name!r} that holds a graph or sparse tensors; "
            "expected numbers, strings and dense tensors."
        )
    return numbers[kind]


def _decoded(text: bytes, title: str) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise DataFileError(f"{title} has an attribute that is no text: {text[:40]!r}.") from None


def _known() -> str:
    return f"Known operators: {', '.join(sorted({*HANDLERS, *HOST, 'Constant'}))}."
