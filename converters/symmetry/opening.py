"""Any Python value opened: what it holds, and how one reaches that from it."""

from __future__ import annotations

import enum
import logging
import numbers
import re
import struct
import sys
import types
import weakref
from collections import defaultdict, deque, namedtuple
from collections.abc import Callable, Iterable, Iterator
from datetime import date, time, timedelta
from functools import partial
from threading import Lock, RLock
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor

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


def held(value: Any) -> list[Part]:
    """Return everything that a value holds: items, attributes, and what a function knows."""
    items = list(_opened(value) or ())
    known = {id(part) for _, part in items}
    return items + [(step, part) for step, part in _fields(value) if id(part) not in known]


def is_opaque(value: Any) -> bool:
    """Whether a value may hold more than :func:`held` shows."""
    shown = _opened(value) is not None or is_kind(value, (*_PLAIN, Tensor))
    return not shown and _has_more_than_fields(value)


def is_kind(value: Any, kinds: Any) -> bool:
    """``isinstance`` by the true type: an object may answer what it likes for its class."""
    return issubclass(type(value), kinds)


def _opened(value: Any) -> list[Part] | None:
    return next((parts(value) for kind, parts in _OPENED if is_kind(value, kind)), None)


# -- containers ------------------------------------------------------------------------------------


def _numbered(iterate: Callable[[Any], Iterable[Any]]) -> Callable[[Any], list[Part]]:
    return lambda value: [(f"[{i}]", part) for i, part in enumerate(iterate(value))]


def _unordered(items: Iterable[Any]) -> list[Part]:
    return [("(element)", item) for item in items if not is_kind(item, _PLAIN)]


def _mapped(value: Any) -> list[Part]:
    # The dict's own method: that of a subclass may show something else.
    items = list(dict.items(value) if is_kind(value, dict) else value.items())
    keys = [(f"(key {i})", key) for i, (key, _) in enumerate(items) if not is_kind(key, str)]
    return keys + [(f"[{_short(key)}]", part) for key, part in items]


def _short(key: Any) -> str:
    return repr(key)[:40] if is_kind(key, (str, int)) else type(key).__name__


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


# -- attributes ------------------------------------------------------------------------------------


def _fields(value: Any) -> Iterator[Part]:
    """Iterate over the attributes of an instance, and over what its class holds if it is local."""
    kind = type(value)
    if is_kind(value, (type, types.ModuleType, logging.Logger, enum.Enum)):
        return
    yield f".{kind.__name__}", kind
    names = slots(kind) + [name for name in own(value, "__dict__") or () if _shows(value, name)]
    for name in names:
        yield f".{name}", own(value, name)


def own(value: Any, name: str, default: Any = None) -> Any:
    """Return an attribute past what its class makes of it; a default for a slot that is empty."""
    try:
        return object.__getattribute__(value, name)
    except AttributeError:
        return default


def _shows(value: Any, name: str) -> bool:
    is_traced = is_kind(value, (FakeTensor, FunctionalTensor))
    return not (is_traced and (name in _OF_TRACING or "_memo" in name))


def slots(kind: type) -> list[str]:
    """Return the names of the slots of a class and of those it inherits from."""
    return [
        name for owner in kind.__mro__ if "__slots__" in vars(owner)
        for name, entry in vars(owner).items() if isinstance(entry, types.MemberDescriptorType)
    ]


def _has_more_than_fields(value: Any) -> bool:
    """Whether an object keeps something where Python's attributes do not show it."""
    kind = type(value)
    pointers = (kind.__dictoffset__ > 0) + (kind.__weakrefoffset__ > 0) + len(slots(kind))
    shown = object.__basicsize__ + pointers * struct.calcsize("P")
    return bool(kind.__itemsize__) or kind.__basicsize__ > shown
