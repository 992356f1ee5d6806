"""Pickles of tensors, read without calling anything that they name.

Of what a pickle names, only the few functions that torch writes for tensors, and containers, are
known here by their names. A call of anything else makes a :class:`Record` of its arguments, where
the caller allows that name, and is refused where not: stricter than ``torch.load`` with
``weights_only=True``, whose calls can claim any amount of memory.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from converters.checkpoints.limits import MemoryBudget
from nngraph.errors import DataFileError

#: About what one step of a pickle makes, at most, beside the bytes of its text.
_OBJECT = 128
_DTYPES: dict[str, torch.dtype] = {
    f"torch.{name}": getattr(torch, name)
    for name in (
        "float64", "float32", "float16", "bfloat16", "complex128", "complex64", "int64", "int32",
        "int16", "int8", "uint8", "bool", "uint16", "uint32", "uint64", "float8_e4m3fn",
        "float8_e5m2",
    )
}  # fmt: skip
_STORAGES: dict[str, torch.dtype] = {
    f"torch.{kind}Storage": dtype
    for kind, dtype in zip(
        ("Double", "Float", "Half", "BFloat16", "ComplexDouble", "ComplexFloat", "Long", "Int",
         "Short", "Char", "Byte", "Bool"),
        _DTYPES.values(), strict=False,
    )
} | {"torch.storage.UntypedStorage": torch.uint8}  # fmt: skip
#: Names that settings of training are commonly made of; they become records.
_HARMLESS = (
    "_codecs.encode", "argparse.Namespace", "collections.Counter", "collections.defaultdict",
    "copyreg._reconstructor", "datetime.", "enum.", "lightning", "numpy.", "omegaconf.", "pathlib.",
    "pytorch_lightning.", "torch.device", "torch.optim.", "types.SimpleNamespace", "typing.",
    *(f"builtins.{name}" for name in (
        "bool", "bytearray", "complex", "dict", "float", "frozenset", "int", "list", "object",
        "range", "set", "slice", "str", "tuple",
    )),
)  # fmt: skip
#: Tensors that are none of plain numbers, by the function that makes them.
_OTHER_TENSORS = {
    "torch._utils._rebuild_qtensor": "a quantised tensor; dequantise it before saving",
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor; save its to_dense()",
    "torch._utils._rebuild_nested_tensor": "a nested tensor; save its parts",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor without numbers, on the meta device",
    "torch.distributed.tensor.DTensor": "a tensor spread over processes; save its full_tensor()",
}

#: Makes a storage as a flat tensor, of the arguments that a pickle names it by.
Storage = Callable[[tuple[Any, ...]], Tensor]


class Named:
    """A name that a pickle wants imported, which is not."""

    def __init__(self, name: str) -> None:
        self.name = name


class Record(dict[Any, Any]):
    """What was made by a call that was not done: its name, its arguments, what it was filled with.

    It is no mapping to a reader of state dicts: no weights are looked for in it.
    """

    def __init__(self, name: str, args: Any = ()) -> None:
        super().__init__()
        self.name, self.args = name, args
        self.state: Any = None
        self.listed: list[Any] = []

    __hash__ = object.__hash__  # type: ignore[assignment]


def load_pickle(
    file: BinaryIO, path: Path, budget: MemoryBudget, storage: Storage, known: Collection[str] = ()
) -> Any:
    """Return what the next pickle in a file holds; nothing that it names is imported.

    Args:
        storage: makes the storage of a tensor.
        known: further names that may become records.

    Raises:
        DataFileError: if it names anything but tensors, containers and ``known``, or takes too
            much memory.
    """
    stack: list[Any] = []
    marks: list[list[Any]] = []
    memo: dict[int, Any] = {}
    arg: Any
    for op, arg, _ in pickletools.genops(file):
        budget.take(_OBJECT + (len(arg) if isinstance(arg, str | bytes) else 0), path)
        match op.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                marks.append(stack)
                stack = []
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[op.name])
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE" | "EMPTY_SET":
                made: Any = {"D": {}, "L": [], "T": (), "S": []}[op.name[6]]
                stack.append(made)
            case "TUPLE" | "LIST" | "FROZENSET":
                items, stack = stack, marks.pop()
                stack.append(tuple(items) if op.name != "LIST" else items)
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(op.name[-1])
                stack[-count:] = [tuple(stack[len(stack) - count :])]
            case "APPEND":
                item = stack.pop()
                _items(stack[-1]).append(item)
            case "APPENDS" | "ADDITEMS":
                items, stack = stack, marks.pop()
                _items(stack[-1]).extend(items)
            case "SETITEM":
                key, item = stack.pop(-2), stack.pop()
                _fill(stack[-1], [key], [item])
            case "SETITEMS":
                items, stack = stack, marks.pop()
                _fill(stack[-1], items[0::2], items[1::2])
            case "GLOBAL" | "STACK_GLOBAL":
                parts = arg.split(" ", 1) if op.name == "GLOBAL" else [stack.pop(-2), stack.pop()]
                stack.append(_named(path, ".".join(parts), known))
            case "REDUCE" | "NEWOBJ":
                args = stack.pop()
                stack.append(_call(stack.pop(), args))
            case "BUILD":
                _build(stack.pop(), stack[-1])
            case "BINPERSID":
                stack.append(storage(stack.pop()))
            case "POP":
                stack.pop()
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                memo[arg] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(memo[arg])
            case name if op.arg and not op.stack_before and name[:3] not in ("PER", "EXT"):
                stack.append(arg)  # numbers and texts
            case _:
                raise ValueError(f"its pickle has the step {op.name}, which is not read")
    raise ValueError("its pickle is cut short")


def _named(path: Path, name: str, known: Collection[str]) -> Any:
    """Return what a name stands for.

    Raises:
        DataFileError: if it is neither known nor harmless.
    """
    name = name.replace("__builtin__.", "builtins.").replace("torch.tensor.", "torch._tensor.")
    if name in _OTHER_TENSORS:
        raise DataFileError(f"{path} holds {_OTHER_TENSORS[name]}.")
    if name in _DTYPES:
        return _DTYPES[name]
    if name in _STORAGES or name in _CALLS or name in known or name.startswith(_HARMLESS):
        return Named(name)
    raise DataFileError(
        f"{path} holds an object of {name:.200}; only tensors in plain containers are read, since "
        "loading others runs code of the file. Save the weights alone, with "
        "torch.save(module.state_dict(), path), or name it in records=, to read what it was made "
        "of without running it."
    )


def storage_dtype(named: Any) -> torch.dtype:
    """Return the dtype of a class of storages."""
    return _STORAGES[named.name]


def _items(made: Any) -> list[Any]:
    return made.listed if isinstance(made, Record) else _expect(list, made)


def _expect(kind: type, made: Any) -> Any:
    if type(made) is not kind:
        raise TypeError(f"a {type(made).__name__} stands where a {kind.__name__} is expected")
    return made


def _fill(made: Any, keys: Sequence[Any], values: Sequence[Any]) -> None:
    # The hash of tuples within tuples can take exponential time: such keys are in no checkpoint.
    if any(isinstance(k, tuple) and any(isinstance(part, tuple) for part in k) for k in keys):
        raise ValueError("a key is a tuple of tuples")
    if not isinstance(made, Record):
        _expect(dict, made)
    made.update(zip(keys, values, strict=True))


def _build(state: Any, made: Any) -> None:
    if isinstance(made, Record):
        made.state = state


def _call(function: Any, args: Any) -> Any:
    name = _expect(Named, function).name
    _expect(tuple, args)
    if name in _CALLS:
        return _CALLS[name](*args)
    return Record(name, args)


def _tensor(
    storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *rest: Any
) -> Tensor:
    if len(rest) > 2 and rest[2]:
        raise ValueError("it has a conjugated or negated view; save its resolve_conj()")
    if any(type(n) is not int or not 0 <= n < 2**48 for n in (offset, *size, *stride)):
        raise ValueError("a tensor has a size, stride or offset that is no count")
    reach = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) + 1
    if 0 not in size and reach > storage.numel():
        raise ValueError(f"a tensor reaches to entry {reach} of a storage of {storage.numel()}")
    return storage.as_strided(tuple(size), tuple(stride), 0 if 0 in size else offset)


def _tensor_of_dtype(
    storage: Tensor, offset: int, size: Any, stride: Any, grad: Any, hooks: Any,
    dtype: torch.dtype, *rest: Any,
) -> Tensor:  # fmt: skip
    return _tensor(storage.view(dtype), offset, size, stride, grad, hooks, *rest)


def _from_type(function: Any, kind: Any, args: Any, state: Any) -> Any:
    return _CALLS[_expect(Named, function).name](*_expect(tuple, args))


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _ordered(pairs: Sequence[tuple[Any, Any]] = ()) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    _fill(made, [key for key, _ in pairs], [value for _, value in pairs])
    return made


#: What torch calls to make tensors and their containers.
_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "torch.Size": lambda sizes=(): tuple(sizes),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.nn.parameter.Parameter": _parameter,
    "torch.nn.parameter.Buffer": _parameter,
    "torch.Tensor": _parameter,
}


def plain(value: Any) -> Any:
    """Return what a record stands for where that is known: settings, a number or array of NumPy."""
    if not isinstance(value, Record):
        return value
    last = value.name.rpartition(".")[2]
    if value.name.startswith("numpy."):
        return _of_numpy(value, last)
    state = value.state
    if isinstance(state, dict) and "_content" in state:  # omegaconf's
        return state["_content"]
    if isinstance(state, dict) and "_val" in state:
        return state["_val"]
    if value.name.startswith("pathlib.") and all(isinstance(a, str) for a in value.args):
        return str(PurePosixPath(*value.args))
    if last in ("int", "float", "str", "bool", "list", "tuple", "dict") and len(value.args) == 1:
        return value.args[0]
    return state if isinstance(state, dict) else dict(value) or value.listed or None


def _of_numpy(value: Record, last: str) -> Any:
    try:
        if last == "scalar":
            dtype, data = value.args
            return np.frombuffer(_bytes(data), _dtype(dtype), 1)[0].item()
        _, shape, dtype, fortran, data = value.state
        array = np.frombuffer(_bytes(data), _dtype(dtype))
        array = array.reshape(shape, order="F" if fortran is True else "C")
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None


def _bytes(data: Any) -> bytes:
    if isinstance(data, Record) and data.name == "_codecs.encode":
        return str(data.args[0]).encode("latin1")
    return bytes(_expect(bytes, data))


def _dtype(named: Any) -> np.dtype[Any]:
    code, order = named.args[0], named.state and named.state[1]
    if not isinstance(code, str) or len(code) > 3 or code[0] not in "fiubc":
        raise TypeError("not numbers")
    made: np.dtype[Any] = np.dtype(f">{code}" if order == ">" else code)
    return made
