"""What a forward may write to beside its results, kept and put back.

While a network is traced its tensors stand for numbers that nobody has. A forward or a hook may
store them: on the module, in its caches, in a list outside. None of them may stay there.
"""

from __future__ import annotations

import random
import sys
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import InitVar, dataclass, field
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.modules import module as _modules
from torch.nn.utils import parametrize

from converters.symmetry.located import held, is_kind, own, slots

_Entries: TypeAlias = "list[tuple[Any, Any]]"

_MISSING = object()

#: Folders of installed packages.
_INSTALLED = {"site-packages", "dist-packages"}

#: What ``functools.cache`` makes of a function; what it holds cannot be put back, only forgotten.
_CACHED = type(cache(len))


@dataclass
class _Place:
    """Something that can be written to: how its entries are read and written, and what they are."""

    read: Callable[[], _Entries]
    write: Callable[[_Entries], None]
    before: _Entries
    is_register: bool = False

    def __post_init__(self) -> None:
        # ``before`` keeps what it names alive, so that these numbers stay theirs.
        self.numbers = _numbers(self.before)

    def put_back(self) -> None:
        """Write the entries that were there, if others are."""
        if _numbers(self.read()) != self.numbers:
            self.put(self.before)

    def put(self, entries: _Entries) -> None:
        """Write entries where they differ from those that are there."""
        if list(map(_identity, self.read())) != list(map(_identity, entries)):
            self.write(entries)


@dataclass
class Snapshot:
    """All that a module's forward and its hooks can write to, but the tensors ``given`` to it.

    These are the attributes of the module and of its submodules, the containers and objects that
    they hold, and what functions among them know: variables around them, globals that they name,
    the objects and classes whose methods they are. Code of installed packages is not looked into.
    """

    module: nn.Module
    given: InitVar[Iterable[Tensor]]
    places: list[_Place] = field(default_factory=list)
    seen: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self, given: Iterable[Tensor]) -> None:
        known = *self.module.parameters(), *self.module.buffers(), *given
        self.known = {id(tensor) for tensor in known}
        children = list(self.module.modules())
        registers = {id(d) for child in children for d in (child._parameters, child._buffers)}
        waiting: list[Any] = [
            self.module, _modules._global_forward_hooks, _modules._global_forward_pre_hooks
        ]
        while waiting:
            value = waiting.pop()
            if id(value) in self.seen:
                continue
            self.seen[id(value)] = value
            self.places += [
                _Place(read, write, read(), id(value) in registers)
                for read, write in _writable(value)
            ]
            waiting += _reached(value)

    def put_back(self) -> None:
        """Let everything hold what it held."""
        for place in self.places:
            place.put_back()

    def set_apart(self) -> None:
        """Put copies in the place of tensors that are neither inputs nor the module's own.

        A forward that writes to them then writes to the copies.
        """
        copies: dict[int, Tensor] = {}
        for place in self.places:
            entries = [] if place.is_register else place.read()
            if any(self._is_loose(value) for _, value in entries):
                place.put([
                    (key, copies.setdefault(id(value), value.clone()))
                    if self._is_loose(value) else (key, value) for key, value in entries
                ])  # fmt: skip
        for child in self.module.modules():
            if isinstance(child, nn.DataParallel):
                child.device_ids = []  # it then calls its module, and no copies of it

    def _is_loose(self, value: Any) -> bool:
        return type(value) is Tensor and id(value) not in self.known


def _numbers(entries: _Entries) -> list[int]:
    """Return what is equal only where keys and values are the same objects, told fast."""
    return list(map(id, chain.from_iterable(entries)))


def _identity(entry: tuple[Any, Any]) -> tuple[Any, int]:
    key, value = entry
    return (key if isinstance(key, (str, int)) else id(key)), id(value)


# -- what is reached -------------------------------------------------------------------------------


def _reached(value: Any) -> Iterator[Any]:
    """Iterate over what code may get at from a value."""
    if is_kind(value, (types.FunctionType, type)) and _is_library(value):
        return
    if is_kind(value, type):
        yield from value.__mro__
        yield from vars(value).values()
    else:
        yield from (part for _, part in held(value))
    if is_kind(value, types.FunctionType):
        yield from (value.__globals__.get(name) for name in _globals_of(value.__code__))


def _is_library(value: Any) -> bool:
    """Whether a function or class is Python's or a package's, which keep nothing of a forward."""
    root = str(getattr(value, "__module__", "")).partition(".")[0]
    if root in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(root), "__file__", None)
    return file is not None and not _INSTALLED.isdisjoint(Path(file).parts)


def _globals_of(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals_of(constant)


# -- what can be written to ------------------------------------------------------------------------


def _writable(value: Any) -> Iterator[tuple[Callable[[], _Entries], Callable[[_Entries], None]]]:
    """Iterate over the ways in which a value can be written to."""
    if is_kind(value, dict):
        yield _of_dict(value)
    elif is_kind(value, list):
        yield (
            lambda: list(enumerate(list.__iter__(value))),
            lambda entries: list.__setitem__(value, slice(None), [item for _, item in entries]),
        )
    elif is_kind(value, deque):
        yield lambda: list(enumerate(deque.__iter__(value))), lambda e: _refill(deque, value, e)
    elif is_kind(value, set):
        yield lambda: [(i, i) for i in set.__iter__(value)], lambda e: _refill(set, value, e)
    elif is_kind(value, _CACHED):
        yield lambda: [("misses", value.cache_info().misses)], lambda _: value.cache_clear()
    elif is_kind(value, types.FunctionType) and not _is_library(value):
        yield from (_of_names(cell, ["cell_contents"]) for cell in value.__closure__ or ())
        yield _of_globals(value)
    elif is_kind(value, type) and not _is_library(value):
        yield _of_class(value)
    if not is_kind(value, type):
        attributes = own(value, "__dict__")
        if type(attributes) is dict:
            yield _of_dict(attributes)
        if names := slots(type(value)):
            yield _of_names(value, names)


def _of_dict(value: dict[Any, Any]) -> Any:
    # An ordered dict keeps its order apart, which only its own methods maintain.
    kind: Any = OrderedDict if is_kind(value, OrderedDict) else dict

    def write(entries: _Entries) -> None:
        kind.clear(value)
        for key, item in entries:
            kind.__setitem__(value, key, item)

    return lambda: list(dict.items(value)), write


def _refill(kind: Any, value: Any, entries: _Entries) -> None:
    kind.clear(value)
    fill = kind.extend if kind is deque else kind.update
    fill(value, [item for _, item in entries])


def _of(names: list[str], get: Callable[[str], Any], put: Any, remove: Any) -> Any:
    """Entries by name, of which some may be missing."""

    def write(entries: _Entries) -> None:
        for name, item in entries:
            if item is not _MISSING:
                put(name, item)
            elif get(name) is not _MISSING:
                remove(name)

    return lambda: [(name, get(name)) for name in names], write


def _of_names(value: Any, names: list[str]) -> Any:
    """Entries of an object with slots, or of a variable that functions share."""

    def get(name: str) -> Any:
        try:
            return own(value, name, _MISSING)
        except ValueError:  # a variable that is not bound yet
            return _MISSING

    put, remove = partial(object.__setattr__, value), partial(object.__delattr__, value)
    return _of(names, get, put, remove)


def _of_globals(function: types.FunctionType) -> Any:
    names = list(dict.fromkeys(_globals_of(function.__code__)))
    values = function.__globals__
    put, remove = values.__setitem__, values.__delitem__
    return _of(names, lambda name: values.get(name, _MISSING), put, remove)


def _of_class(kind: type) -> Any:
    def read() -> _Entries:
        return [(n, item) for n, item in vars(kind).items() if not n.startswith(("__", "_abc_"))]

    def write(entries: _Entries) -> None:
        now, before = dict(read()), dict(entries)
        for name in now.keys() - before.keys():
            type.__delattr__(kind, name)
        for name, item in before.items():
            if now.get(name, _MISSING) is not item:
                type.__setattr__(kind, name, item)

    return read, write


# -- settings --------------------------------------------------------------------------------------


@contextmanager
def settings_kept() -> Iterator[None]:
    """Put back what of torch's settings a forward may change, and its random state.

    Meanwhile compiled functions run as they were written, no cache of parametrizations is read, and
    distributions do not look at the values of their parameters.
    """
    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    dtype, gradients = torch.get_default_dtype(), torch.is_grad_enabled()
    enabled, computed = parametrize._cache_enabled, parametrize._cache
    parametrize._cache_enabled, parametrize._cache = 0, {}
    validates = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        with torch.random.fork_rng([]), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        Distribution.set_default_validate_args(validates)
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)
        parametrize._cache_enabled, parametrize._cache = enabled, computed
