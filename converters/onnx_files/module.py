"""A network from an ONNX file, as a torch module."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from operator import attrgetter
from urllib.parse import unquote

import numpy as np
import torch
from torch import Tensor, nn

from converters.inspection import submodule_at
from converters.onnx_files.host import evaluate
from converters.onnx_files.node import NodeCall, Value
from converters.onnx_files.roles import Roles
from converters.onnx_files.structure import Declaration
from converters.onnx_files.tensors import element_name
from nngraph.errors import InvalidGraphError, NNGraphError

#: Size of inputs that a file leaves open, in examples of them.
OPEN = 2
#: What torch and numpy raise when values do not fit an operator.
_FAILURES = (RuntimeError, ValueError, IndexError, TypeError, ArithmeticError, MemoryError)


class OnnxModule(nn.Module):
    """A network whose forward runs the nodes of an ONNX graph with torch's operators.

    Made by :func:`~converters.onnx_files.load_onnx`. Its parameters are the file's tensors, bit by
    bit; reordering, where torch wants another order, is part of the forward. A trace sees the
    operators that a module written by hand has.

    The state dict has the names of the file; :meth:`onnx_names` gives them where torch cannot hold
    a name as it is. Converting the module, ``module.double()``, converts what the file computes in
    its weights' own floating-point type, casts included.

    Shape:
        one tensor for each of ``inputs`` -> a tensor, or a tuple of them for several ``outputs``.

    Raises:
        InvalidGraphError: if the inputs do not fit, or a node cannot be run on them.
        UnsupportedModuleError: if a node asks for something that is not supported; it names it.
    """

    def __init__(
        self, inputs: Sequence[Declaration], outputs: Sequence[str], roles: Roles, opset: int,
        left_out: Sequence[str] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        #: Labels of classes that the file gives too, and that are not run.
        self.left_out = tuple(left_out)
        self.opset, self._nodes, self._known = opset, roles.nodes, dict(roles.known)
        counts = Counter({torch.float32: 0})
        for tensor in (*roles.parameters.values(), *roles.buffers.values()):
            counts[tensor.dtype] += tensor.numel()
        self._working = counts.most_common(1)[0][0]  # the type of most weights
        # Has the type and device of the weights now, whatever the module was converted to.
        self.register_buffer("_present", torch.empty(0, dtype=self._working), persistent=False)
        self._keys: dict[str, str] = {}
        self._keys = state_dict_keys([*roles.parameters, *roles.buffers], self)
        for name, tensor in {**roles.parameters, **roles.buffers}.items():
            *path, last = self._keys[name].split(".")
            holder = submodule_at(self, path)  # made where it is not there yet
            if name in roles.parameters:
                holder.register_parameter(last, nn.Parameter(tensor))
            else:
                holder.register_buffer(last, tensor)

    def onnx_names(self) -> dict[str, str]:
        """Return for each key of the state dict the name of that tensor in the file."""
        return {key: onnx_name(key) for key in self.state_dict()}

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Return zeros of the shapes that the file declares; a size left open is :data:`OPEN`."""
        return tuple(
            torch.zeros([OPEN if d is None else d for d in i.dims or ()], dtype=i.dtype)
            for i in self.inputs
        )

    def structure(self) -> str:
        """Return a checksum of all that the file says but the numbers of its weights."""
        digest = hashlib.sha256()
        state = [(name, str(t.dtype), list(t.shape)) for name, t in self.state_dict().items()]
        words = [state, [*map(str, self.inputs)], self.outputs, self.opset]
        for node in self._nodes:
            settings = [(k, _as_words(v)) for k, v in sorted(node.attributes.items())]
            words.append([node.op_type, node.inputs, node.outputs, settings])
        words += [[name, _as_words(array)] for name, array in sorted(self._known.items())]
        digest.update(repr(words).encode())
        return digest.hexdigest()

    def operators(self) -> dict[str, int]:
        """Return how many nodes of each operator are run, the most frequent first."""
        return dict(Counter(node.op_type for node in self._nodes).most_common())

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run the network."""
        present: Tensor = self.get_buffer("_present")
        self._check(inputs)
        values: dict[str, Value] = {i.name: x for i, x in zip(self.inputs, inputs, strict=True)}
        values.update(self._known)
        for name, key in self._keys.items():
            values[name] = attrgetter(key)(self)
        for node in self._nodes:
            arguments = [values[name] if name else None for name in node.inputs]
            call = NodeCall(node, arguments, self._working, present.dtype, present.device)
            for name, value in zip(node.outputs, self._run(call), strict=False):
                if name:
                    values[name] = value  # type: ignore[assignment]
            for name in node.last_reads:
                values.pop(name, None)
        found = tuple(
            v if isinstance(v, Tensor) else torch.from_numpy(v.copy()).to(present.device)
            for v in (values[name] for name in self.outputs)
        )
        return found[0] if len(found) == 1 else found

    def extra_repr(self) -> str:
        """Return inputs, outputs and operators, for printing."""
        operators = ", ".join(f"{count} {name}" for name, count in self.operators().items())
        return (
            f"inputs={', '.join(map(str, self.inputs))}; outputs={', '.join(self.outputs)}; "
            + (f"left out: {', '.join(self.left_out)}; " if self.left_out else "")
            + f"opset={self.opset}; {operators}"
        )

    def _check(self, inputs: Sequence[Tensor]) -> None:
        expected = f"expected {', '.join(map(str, self.inputs))}"
        if len(inputs) != len(self.inputs):
            raise InvalidGraphError(f"the network was given {len(inputs)} inputs; {expected}.")
        for x, declared in zip(inputs, self.inputs, strict=True):
            if not isinstance(x, Tensor):
                raise InvalidGraphError(
                    f"input {declared.name!r} is a {type(x).__name__}; {expected}."
                )
            dims = declared.dims
            fits = dims is None or (
                len(dims) == x.dim()
                and all(d is None or d == n for d, n in zip(dims, x.shape, strict=True))
            )
            # The kind only: a module that was converted takes inputs that were, too.
            wanted = declared.dtype
            same = x.dtype == wanted or (x.is_floating_point() and wanted.is_floating_point)
            if not fits or not same:
                raise InvalidGraphError(
                    f"input {declared.name!r} has the shape {list(x.shape)} and type {x.dtype}; "
                    f"the file declares {declared}. Its sizes are fixed in the file where they are "
                    f"numbers; its type is {element_name(declared.element)}."
                )

    def _run(self, call: NodeCall) -> Sequence[object]:
        try:
            return evaluate(call)
        except NNGraphError:
            raise
        except _FAILURES as error:
            shapes = ", ".join(str(list(v.shape)) for v in call.values if v is not None)
            raise InvalidGraphError(
                f"{call.node.where} cannot be run on inputs of the shapes {shapes}: {error}"
            ) from error


def _as_words(value: object) -> object:
    """Return an array as its type, shape and bytes; other values as they are."""
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, hashlib.sha256(value.tobytes()).hexdigest()
    return value


# -- names -----------------------------------------------------------------------------------------


def state_dict_keys(names: Iterable[str], root: nn.Module) -> dict[str, str]:
    """Give each tensor of a file its key in the state dict of a module.

    A dot separates submodules, as in torch, so that ``layer1.0.weight`` stays as it is, and so does
    everything but what torch cannot hold. That is written with percent signs as in a web address:
    every ``%`` is ``%25``; a dot that cannot separate, since a part beside it would be empty or a
    tensor is called like the part before it, is ``%2E``; and a part that a module already has as an
    attribute starts with its first letter's code (``forward`` is ``%66orward``). :func:`onnx_name`
    undoes this. The names are distinct, and ``root`` does not hold the tensors yet.
    """
    names = list(names)
    taken, plain = set(names), nn.Module()  # what holds parameters has nothing of its own else
    keys = {}
    for name in names:
        parts = name.split(".")
        before = {".".join(parts[:count]) for count in range(1, len(parts))}
        if not all(parts) or before & taken:
            parts = [name]
        texts = [part.replace("%", "%25").replace(".", "%2E") for part in parts]
        for i, text in enumerate(texts):
            if hasattr(plain if i else root, text):
                texts[i] = "".join(f"%{byte:02X}" for byte in text[0].encode()) + text[1:]
        keys[name] = ".".join(texts)
    return keys


def onnx_name(key: str) -> str:
    """Return the name in the file of the tensor with this key in the state dict."""
    return unquote(key)
