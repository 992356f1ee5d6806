"""The tensors in what a forward takes and in what it returns, whatever they are wrapped in.

Both ways of tracing and the proof read a forward's result through this module, so that what is
fixed is what is compared. Any Python value is opened; one that cannot be seen whole is refused.
"""

from __future__ import annotations

import copy
import enum
import logging
import numbers
import re
import struct
import sys
import types
import weakref
from collections import defaultdict, deque, namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, time, timedelta
from functools import partial
from threading import Lock, RLock
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor

from nngraph.errors import UnsupportedModuleError

#: A part of a value, and how one reaches it from there: ``[0]``, ``.name``.
Part: TypeAlias = "tuple[str, Any]"

#: What holds no tensors, beside what is said of their attributes.
_PLAIN = (
    type(None), numbers.Number, str, bytes, bytearray, enum.Enum, np.generic, np.dtype, range,
    slice, type(...), type(NotImplemented), torch.dtype, torch.device, torch.layout,
    torch.memory_format, re.Pattern, date, time, timedelta, logging.Logger,
    types.ModuleType, types.CodeType, types.GenericAlias, types.UnionType,
    type(Lock()), type(RLock()),
    types.GetSetDescriptorType, types.MemberDescriptorType, types.MethodDescriptorType,
    types.WrapperDescriptorType, types.ClassMethodDescriptorType,
    type(vars(namedtuple("_Named", "field"))["field"]),
)  # fmt: skip

#: Attributes that a tensor has while it is traced.
_OF_TRACING = ("elem", *FakeTensor.__annotations__)

_COUNTED = (torch.SymInt, torch.SymFloat, torch.SymBool)

#: What cannot be seen whole -> why, and what to give in its place.
_HIDDEN: dict[Any, str] = {
    _COUNTED: "is a number computed from tensors; give the tensor, without .item()",
    np.ndarray: "is a NumPy array, which no trace reaches; give a tensor",
    nn.Module: "is a module; give the tensors that it computes",
    Iterator: "can be read only once; give a list of what it yields",
}

_GIVE = "Pass tensors, or containers or plain objects of tensors."


def as_arguments(example_inputs: Any) -> tuple[Any, ...]:
    """Return example inputs as positional arguments."""
    # A named tuple, such as a packed sequence, is one argument.
    plain = type(example_inputs) in (tuple, list, torch.Size)
    return tuple(example_inputs) if plain else (example_inputs,)


def input_tensors(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return every tensor in the arguments by its place in them, each tensor once."""
    places = [(f"input {i}", value) for i, value in enumerate(args)] + [*kwargs.items()]
    found: dict[int, tuple[str, Tensor]] = {}
    for name, value in places:
        for place, tensor in _given(value, name):
            found.setdefault(id(tensor), (place, tensor))
    return dict(found.values())


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Return a copy of any value with a function of every tensor in its place.

    Containers and objects are copied, so that a forward that writes to them leaves the caller's
    alone; a tensor that occurs twice is one tensor in the copy.
    """
    new = {id(tensor): function(tensor) for _, tensor in _given(value, "inputs")}
    try:
        copied = copy.deepcopy(value, dict(new))
    except Exception as error:  # whatever the user's object does when it is copied
        raise UnsupportedModuleError(f"the inputs cannot be copied: {error}. {_GIVE}") from None
    known = {id(tensor) for tensor in new.values()}
    for place, tensor in _given(copied, "inputs"):
        if id(tensor) not in known:
            raise UnsupportedModuleError(
                f"{place} is a tensor that no other can be put in the place of. {_GIVE}"
            )
    return copied


def _given(value: Any, name: str) -> list[tuple[str, Tensor]]:
    try:
        return list(located_tensors(value, name))
    except UnsupportedModuleError as error:
        text = f"the inputs cannot be seen whole: {error}. {_GIVE}"
        raise UnsupportedModuleError(text) from None


def returned_tensors(value: Any) -> list[Tensor]:
    """Return every tensor in what a forward returned, in an order that is the same for each run.

    What occurs twice inside one container counts twice, a container that occurs twice once.
    """
    try:
        return [tensor for _, tensor in located_tensors(value, "output")]
    except UnsupportedModuleError as error:
        text = f"what the forward returns cannot be seen whole: {error}."
        raise UnsupportedModuleError(text) from None


def located_tensors(value: Any, place: str) -> Iterator[tuple[str, Tensor]]:
    """Iterate over the tensors in any value, each with its place, such as ``output[1].pred``."""
    # The values themselves are kept, so that an id stays theirs.
    seen: dict[int, Any] = {}
    waiting = [(place, value)]
    while waiting:
        place, value = waiting.pop()
        if is_kind(value, Tensor):
            _check_tensor(place, value)
            yield place, value
        elif id(value) in seen:
            continue
        seen[id(value)] = value
        waiting += reversed([(place + step, part) for step, part in _parts(place, value)])


def _check_tensor(place: str, tensor: Tensor) -> None:
    if tensor.is_nested:
        raise _hidden(place, tensor, "is nested; give its .to_padded_tensor(0.0)")
    if tensor.layout is not torch.strided:
        raise _hidden(place, tensor, f"has layout {tensor.layout}; give its .to_dense()")
    if tensor.is_quantized:
        raise _hidden(place, tensor, "is quantised; give its .dequantize()")
    own = type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__
    if own and not is_kind(tensor, (FakeTensor, FunctionalTensor, nn.Parameter)):
        raise _hidden(place, tensor, "computes in its own way; give a plain torch.Tensor")


def _parts(place: str, value: Any) -> list[Part]:
    for kind, why in _HIDDEN.items():
        if is_kind(value, kind):
            raise _hidden(place, value, why)
    if is_opaque(value):
        raise _hidden(place, value, "cannot be opened; give the tensors in it, in a tuple or dict")
    parts = held(value)
    if is_kind(value, (set, frozenset)) and sum(step == "(element)" for step, _ in parts) > 1:
        raise _hidden(place, value, "has several tensors in no order; give a list")
    return parts


def _hidden(place: str, value: Any, why: str) -> UnsupportedModuleError:
    is_traced = is_kind(value, (FakeTensor, FunctionalTensor))
    kind = Tensor if is_traced else type(value)
    return UnsupportedModuleError(f"{place} ({kind.__name__}) {why}")


# -- any value opened ------------------------------------------------------------------------------


def held(value: Any) -> list[Part]:
    """Return everything that a value holds: items, attributes, and what a function knows."""
    items = list(_opened(value) or ())
    known = {id(part) for _, part in items}
    return items + [(step, part) for step, part in _fields(value) if id(part) not in known]


def is_opaque(value: Any) -> bool:
    """Whether a value may hold more than :func:`held` shows, where no attributes show it."""
    if _opened(value) is not None or is_kind(value, (*_PLAIN, Tensor)):
        return False
    kind = type(value)
    pointers = (kind.__dictoffset__ > 0) + (kind.__weakrefoffset__ > 0) + len(slots(kind))
    shown = object.__basicsize__ + pointers * struct.calcsize("P")
    return bool(kind.__itemsize__) or kind.__basicsize__ > shown


def is_kind(value: Any, kinds: Any) -> bool:
    """``isinstance`` by the true type: an object may answer what it likes for its class."""
    return issubclass(type(value), kinds)


def _opened(value: Any) -> list[Part] | None:
    return next((parts(value) for kind, parts in _OPENED if is_kind(value, kind)), None)


def _numbered(iterate: Callable[[Any], Iterable[Any]]) -> Callable[[Any], list[Part]]:
    return lambda value: [(f"[{i}]", part) for i, part in enumerate(iterate(value))]


def _unordered(items: Iterable[Any]) -> list[Part]:
    return [("(element)", item) for item in items if not is_kind(item, _PLAIN)]


def _mapped(value: Any) -> list[Part]:
    # The dict's own method: that of a subclass may show something else.
    items = list(dict.items(value) if is_kind(value, dict) else value.items())
    keys = [(f"(key {i})", key) for i, (key, _) in enumerate(items) if not is_kind(key, str)]
    short = [repr(k)[:40] if is_kind(k, (str, int)) else type(k).__name__ for k, _ in items]
    return keys + [(f"[{key}]", part) for key, (_, part) in zip(short, items, strict=True)]


def _named(*names: str) -> Callable[[Any], list[Part]]:
    return lambda value: [(f".{name}", getattr(value, name, None)) for name in names]


def _scope(function: Any) -> list[Part]:
    """Return what a function written in Python knows beside its arguments and its module."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return [
        *((f"(closure {name})", _content(cell)) for name, cell in cells),
        *_named("__defaults__", "__kwdefaults__")(function),
    ]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that is not bound yet
        return None


def _made_here(kind: type) -> list[Part]:
    """Return what a class holds if it is not one that its module has under its name."""
    found: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    if found is kind:
        return []
    own = vars(kind).items()
    return [(f".{name}", part) for name, part in own if not name.startswith(("__", "_abc_"))]


#: The first kind that fits says what a value holds beside its attributes.
_OPENED: tuple[tuple[Any, Callable[[Any], list[Part]]], ...] = (
    (tuple, _numbered(tuple.__iter__)),
    (list, _numbered(list.__iter__)),
    (deque, _numbered(deque.__iter__)),
    (set, lambda value: _unordered(set.__iter__(value))),
    (frozenset, lambda value: _unordered(frozenset.__iter__(value))),
    (defaultdict, lambda value: _mapped(value) + _named("default_factory")(value)),
    (dict, _mapped),
    (types.MappingProxyType, _mapped),
    ((type({}.keys()), type({}.values()), type({}.items())), _numbered(iter)),
    (weakref.ref, lambda value: [("()", value())]),
    (partial, _named("func", "args", "keywords")),
    (types.FunctionType, _scope),
    (types.MethodType, _named("__func__", "__self__")),
    ((types.BuiltinFunctionType, types.MethodWrapperType), _named("__self__")),
    (property, _named("fget", "fset", "fdel")),
    ((staticmethod, classmethod), _named("__func__")),
    (type, _made_here),
)


def _fields(value: Any) -> Iterator[Part]:
    """Iterate over the attributes of an instance, and over what its class holds if it is local."""
    kind = type(value)
    if is_kind(value, (type, types.ModuleType, logging.Logger, enum.Enum)):
        return
    yield f".{kind.__name__}", kind
    is_traced = is_kind(value, (FakeTensor, FunctionalTensor))
    names = slots(kind) + [
        name for name in own(value, "__dict__") or ()
        if not (is_traced and (name in _OF_TRACING or "_memo" in name))
    ]
    for name in names:
        yield f".{name}", own(value, name)


def own(value: Any, name: str, default: Any = None) -> Any:
    """Return an attribute past what its class makes of it; a default for a slot that is empty."""
    try:
        return object.__getattribute__(value, name)
    except AttributeError:
        return default


def slots(kind: type) -> list[str]:
    """Return the names of the slots of a class and of those it inherits from."""
    return [
        name for owner in kind.__mro__ if "__slots__" in vars(owner)
        for name, entry in vars(owner).items() if isinstance(entry, types.MemberDescriptorType)
    ]
