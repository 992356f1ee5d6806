"""From an ONNX file to a module: its message with its size bounded, then what it holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

from converters.checkpoints import MAX_BYTES, checked_path
from converters.onnx_files.module import OnnxModule
from converters.onnx_files.roles import assign_roles
from converters.onnx_files.structure import read_graph
from converters.onnx_files.tensors import TensorStore, read_tensor
from nngraph.errors import (
    DataFileError,
    MissingDependencyError,
    NNGraphError,
    UnsupportedModuleError,
)

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from onnx import ModelProto, NodeProto

#: No protobuf message is longer; larger models keep their weights in files beside them.
MAX_MESSAGE = 2**31 - 1
#: More nodes than this are no network: functions that call each other twice double at each call.
MOST_NODES = 10**6

_Name = tuple[str, str, str]


def load_onnx(
    path: str | Path, *, outputs: Sequence[str] | None = None, max_bytes: int = MAX_BYTES
) -> OnnxModule:
    r"""Read a network from an ONNX file, as a torch module with the file's weights as parameters.

    The parameters keep the file's bits, names and layout, and the forward does what the file says.
    What it computes from shapes alone leaves nothing in a trace.

    Nothing in a file is executed, and a file is trusted in nothing: the sizes that tensors declare
    are held against the bytes that are there before anything is allocated; tensors in other files
    are taken from regular files in the model's own folder only, and mapped rather than read.
    Running the network takes what its operators take, which nothing here bounds.

    Args:
        outputs: names of the values that the module returns: outputs of the model, or any value
            within it; only what these need is read. Default all outputs but the labels of classes
            that a classifier of scikit-learn gives beside its probabilities (``left_out`` of the
            module). Dictionaries of probabilities (ZipMap) are returned as a tensor
            ``[N, classes]``.
        max_bytes: larger files, and files whose tensors are larger together, are refused.

    Raises:
        MissingDependencyError: if the package onnx is not installed (extra ``onnx``).
        DataFileError: if the file, or one that its weights lie in, is missing, too large, truncated
            or damaged; if a value is made twice or never, or nodes form a cycle; if no node makes
            an output that is asked for.
        UnsupportedModuleError: if it has an operator without a handler, control flow, quantised,
            sparse or complex tensors; the message names the node.

    Example:
        >>> module = load_onnx("network.onnx").double()  # doctest: +SKIP
        >>> torch.export.export(module, (x,), strict=False)  # doctest: +SKIP
    """
    path = Path(path)
    store, model = TensorStore(path.parent, max_bytes), _read_model(path, max_bytes)
    try:
        graph = read_graph(_expand_functions(model), path, store, outputs)
        tensors = {
            name: read_tensor(proto, f"the tensor {name!r}", store)
            for name, proto in graph.initialisers.items()
        }
        roles = assign_roles(graph.nodes, tensors, graph.outputs, store)
        return OnnxModule(graph.inputs, graph.outputs, roles, graph.opset, graph.left_out)
    except NNGraphError as error:
        text = str(error)
        raise error if text.startswith(str(path)) else type(error)(f"{path}: {text}") from error


def _read_model(path: Path, max_bytes: int) -> ModelProto:
    """Parse a file as an ONNX model, without looking at any other file."""
    try:
        from google.protobuf.message import DecodeError
        from onnx import ModelProto
    except ImportError:
        raise MissingDependencyError(
            "reading an ONNX file needs the package onnx, which is not installed. "
            "Install it with: pip install 'nngraph[onnx]'"
        ) from None
    path = checked_path(path, min(max_bytes, MAX_MESSAGE))
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataFileError(f"{path} cannot be read: {error.strerror}.") from None
    try:
        model: ModelProto = ModelProto.FromString(content)
    except (DecodeError, RuntimeError) as error:
        raise DataFileError(f"{path} is damaged or no ONNX file: {error}.") from None
    _check_text(model, path)
    if not model.HasField("graph") or not model.opset_import:
        raise DataFileError(
            f"{path} is no ONNX model: it has no "
            f"{'graph' if not model.HasField('graph') else 'operator set'}."
        )
    return model


def _check_text(message: Message, path: Path) -> None:
    """Refuse names that are no text, which protobuf hands on as bytes."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            for text in [value] if isinstance(value, str | bytes) else value:
                if not isinstance(text, str):
                    raise DataFileError(f"{path} is damaged: a name in it is no text: {text!r}.")
        elif field.type == field.TYPE_MESSAGE:
            for part in [value] if hasattr(value, "ListFields") else value:
                _check_text(part, path)


def _expand_functions(model: ModelProto) -> ModelProto:
    """Put the functions that a model defines for itself in where they are called."""
    if not model.functions:
        return model
    from onnx.inliner import inline_local_functions

    bodies: dict[_Name, Counter[_Name]] = {}
    for function in model.functions:
        _refuse_graphs(function.node)
        name = (function.domain, function.name, function.overload)
        bodies[name] = Counter((n.domain, n.op_type, n.overload) for n in function.node)
    _refuse_graphs(model.graph.node)
    sizes = _sizes(bodies)
    total = sum(sizes.get((n.domain, n.op_type, n.overload), 1) for n in model.graph.node)
    if total > MOST_NODES:
        raise DataFileError(
            f"with its functions expanded the graph has more nodes than the "
            f"{MOST_NODES} that at most are read."
        )
    try:
        expanded: ModelProto = inline_local_functions(model)
    except (RuntimeError, ValueError, TypeError) as error:
        raise DataFileError(f"its functions cannot be expanded: {error}.") from error
    return expanded


def _refuse_graphs(nodes: Iterable[NodeProto]) -> None:
    """Refuse control flow, whose bodies might call functions out of sight."""
    for node in nodes:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise UnsupportedModuleError(
                f"node {node.name!r} ({node.op_type}) is control flow, in a model with "
                "functions of its own; a neural graph has one path."
            )


def _sizes(bodies: dict[_Name, Counter[_Name]]) -> dict[_Name, int]:
    """Return how many nodes each function has when all that it calls is expanded."""
    sizes: dict[_Name, int] = {}
    sorter = TopologicalSorter({name: body.keys() & bodies for name, body in bodies.items()})
    try:
        for name in sorter.static_order():
            # Bounded, so that numbers do not grow without end either.
            size = sum(count * sizes.get(other, 1) for other, count in bodies[name].items())
            sizes[name] = min(size, MOST_NODES + 1)
    except CycleError as error:
        raise DataFileError(f"the function {error.args[1][0][1]!r} calls itself.") from None
    return sizes
