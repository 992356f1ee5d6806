"""All of a module that its graph's architecture can depend on, as a key: equal keys, equal graphs.

An architecture follows from the code of a forward, the attributes that it reads, and the shapes of
the tensors, and not from the numbers in its weights. The key holds all of these: classes, functions
and what they know, attributes, buffers with their values, and where tensors lie in memory. What
cannot be told exactly, such as an object of another kind or code that reads numbers in weights, has
no key.
"""

from __future__ import annotations

import builtins
import dis
import hashlib
import sys
import types
from abc import ABCMeta
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import count
from operator import ne
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _modules

#: Packages whose code is taken to stay as it is.
_PACKAGES = frozenset({
    "torch", "torchvision", "timm", "einops", "builtins", "math", "operator", "_operator",
    "functools", "itertools", "collections", "typing", "abc", "types", "__future__",
})  # fmt: skip
#: Names by which code gets at the numbers in tensors, at what no key holds, or at what is called
#: while a module is made, of which no code is read.
_TELLING = frozenset({
    "parameters", "named_parameters", "_parameters", "buffers", "named_buffers", "_buffers",
    "state_dict", "item", "tolist", "numpy", "data_ptr", "untyped_storage", "storage", "_version",
    "__dict__", "__globals__", "__closure__", "globals", "locals", "vars", "eval", "exec", "open",
    "input", "id", "hash", "__hash__", "__import__", "__init__", "reset_parameters", "extra_repr",
    "__repr__", "_init_weights", "init_weights", "initial_seed", "get_rng_state",
})  # fmt: skip
#: Methods of making and showing, which a forward that names none of them does not call.
_ASIDE = frozenset({
    "__init__", "__repr__", "extra_repr", "reset_parameters", "_init_weights", "init_weights",
})  # fmt: skip
#: What a class holds that says nothing of its calls.
_ABOUT = frozenset({
    "__module__", "__doc__", "__dict__", "__weakref__", "__qualname__", "__annotations__",
    "__parameters__", "__orig_bases__", "__abstractmethods__", "_abc_impl", "__firstlineno__",
    "__static_attributes__",
})  # fmt: skip
#: Dictionaries of a module that change its calls or its names, and must be empty.
_HOOKS = tuple(name for name, value in vars(nn.Module()).items() if "hooks" in name)
_GLOBAL_HOOKS = tuple(
    value for name, value in vars(_modules).items()
    if name.startswith("_global_") and isinstance(value, dict)
)  # fmt: skip
_KEPT_APART = frozenset({*_HOOKS, "_parameters", "_buffers", "_modules"})
#: What these count in training is not read in evaluation mode; their code is torch's.
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_COUNTS = ("running_mean", "running_var", "num_batches_tracked")
#: Numbers of a buffer that are looked at, at the most.
_MOST = 2**14
_ATOMS = frozenset({
    bool, int, str, bytes, type(None), type(Ellipsis), torch.dtype, torch.device, torch.layout,
    torch.memory_format,
})  # fmt: skip


class _NoKeyError(Exception):
    """Something cannot be told exactly."""


def structure_of(
    module: nn.Module, given: Any, options: Hashable = None
) -> tuple[Hashable | None, dict[str, Tensor]]:
    """Return a key of a module and what it is called on, and the module's tensors by first name.

    Two modules of one key do the same on tensors of the same shapes, in evaluation mode. The key is
    ``None`` where that cannot be told.
    """
    keys = _Keys()
    try:
        own = keys.module(module, "")
        return (own, keys.given(given), keys.memory(), _settings(), options), keys.named
    except (_NoKeyError, RecursionError):
        return None, {}


def _settings() -> Hashable:
    """What of torch's state changes what a forward records."""
    if (
        any(map(len, _GLOBAL_HOOKS))
        or torch._C._len_torch_function_stack()
        or torch._C._len_torch_dispatch_stack()
    ):
        raise _NoKeyError
    return (
        torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda"),
        torch.backends.mha.get_fastpath_enabled(),
    )  # fmt: skip


class _Keys:
    """Keys of the parts of one module; what occurs again is told by where it occurred first."""

    def __init__(self) -> None:
        #: what occurred, by its id, with its number; kept, so that the id stays its own
        self.seen: dict[int, tuple[int, Any]] = {}
        self.named: dict[str, Tensor] = {}
        self.tensors: list[Tensor] = []

    def _again(self, value: Any) -> Hashable | None:
        """Return where a value occurred before, if it did; else it occurs now."""
        if (known := self.seen.get(id(value))) is not None:
            return "again", known[0]
        self.seen[id(value)] = len(self.seen), value
        return None

    # -- modules and tensors ----------------------------------------------------------------------

    def module(self, module: nn.Module, prefix: str) -> Hashable:
        """Key of a module whose tensors have names that begin with ``prefix``."""
        if (again := self._again(module)) is not None:
            return again
        held, kind = vars(module), type(module)
        if any(map(held.get, _HOOKS)):
            raise _NoKeyError
        parts: list[Hashable] = [self._class(kind)]
        for name, parameter in held["_parameters"].items():
            parts.append((name, parameter if parameter is None else self._tensor(parameter)))
            self.named[prefix + name] = parameter
        for name, buffer in held["_buffers"].items():
            self.named[prefix + name] = buffer
            own = buffer if buffer is None else self._tensor(buffer)
            counts = buffer is None or (kind in _NORMS and name in _COUNTS)
            parts.append((name, own) if counts else (name, own, _numbers(buffer)))
        for name, child in held["_modules"].items():
            own = child if child is None else self.module(child, f"{prefix}{name}.")
            parts.append((name, own))
        # Last, since attributes may hold again what has a name.
        for name, value in held.items():
            if name not in _KEPT_APART:
                own = (type(value), value) if type(value) in _ATOMS else self._value(value)
                parts.append((name, own))
        return tuple(parts)

    def _tensor(self, tensor: Tensor) -> Hashable:
        if (again := self._again(tensor)) is not None:
            return again
        kind = type(tensor)
        if kind not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided:
            raise _NoKeyError
        if tensor.__dict__:
            raise _NoKeyError
        self.tensors.append(tensor)
        return (
            kind, tensor.shape, tensor.dtype, tensor.device, tensor.stride(), tensor.requires_grad,
            tensor.is_conj(), tensor.is_neg(),
        )  # fmt: skip

    def memory(self) -> Hashable:
        """Key of which tensors share memory, and how."""
        numbers: dict[int, int] = {}
        ranges: list[tuple[int, Any]] = []
        places: list[tuple[int, Any]] = []
        for tensor in self.tensors:
            storage = tensor.untyped_storage()
            number = numbers.setdefault(storage._cdata, len(numbers))
            if number == len(ranges):
                ranges.append((storage.data_ptr(), storage.nbytes()))
            places.append((number, tensor.storage_offset()))
        end = 0
        for start, size in sorted(ranges):
            # Storages that overlap, as of arrays of other packages, are told by no number.
            if start and start < end:
                raise _NoKeyError
            end = max(end, start + size)
        return tuple(places)

    # -- values -----------------------------------------------------------------------------------

    def given(self, value: Any) -> Hashable:
        """Key of what a module is called on: of its tensors sizes count, and values do not."""
        if isinstance(value, Tensor):
            return self._tensor(value)
        if type(value) in (tuple, list):
            return type(value), *map(self.given, value)
        if type(value) is dict:
            return dict, *((self._value(k), self.given(v)) for k, v in value.items())
        return self._value(value)

    def _value(self, value: Any) -> Hashable:
        kind = type(value)
        if kind in _ATOMS:
            return kind, value
        if kind in (float, complex):  # of which 0 and -0 are equal, and nan is not
            return kind, repr(value)
        if kind in (tuple, torch.Size):
            return kind, *map(self._value, value)
        if isinstance(value, nn.Module):
            return self.module(value, "")
        for kinds, key in _KEYS:
            if kind in kinds:
                return self._again(value) or (kind, *key(self, value))
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, Tensor):
            return self._again_tensor(value)
        if _is_packaged(kind) and kind.__module__ == "torch._ops":
            return "operator", value
        raise _NoKeyError

    def _again_tensor(self, tensor: Tensor) -> Hashable:
        if id(tensor) in self.seen:
            return self._tensor(tensor)
        return self._tensor(tensor), _numbers(tensor)

    def _items(self, value: Any) -> Iterator[Hashable]:
        return map(self._value, value)

    def _pairs(self, value: Any) -> Iterator[Hashable]:
        return ((self._value(k), self._value(v)) for k, v in value.items())

    def _elements(self, value: Any) -> Iterator[Hashable]:
        if not all(type(item) in _ATOMS for item in value):
            raise _NoKeyError
        yield frozenset(map(self._value, value))

    def _method(self, value: Any) -> Iterator[Hashable]:
        yield from (self._value(value.__func__), self._value(value.__self__))

    def _partial(self, value: Any) -> Iterator[Hashable]:
        if vars(value):
            raise _NoKeyError
        yield from map(self._value, (value.func, value.args, value.keywords))

    def _wrapped(self, value: Any) -> Iterator[Hashable]:
        yield self._value(value.__func__)

    def _property(self, value: Any) -> Iterator[Hashable]:
        yield from map(self._value, (value.fget, value.fset, value.fdel))

    def _builtin(self, value: Any) -> Iterator[Hashable]:
        owner = value.__self__
        owner = owner if isinstance(owner, (type, types.ModuleType)) else type(owner)
        name = owner.__name__ if isinstance(owner, types.ModuleType) else owner.__module__
        bound = not isinstance(value.__self__, (type, types.ModuleType, type(None)))
        if bound or name.partition(".")[0] not in _PACKAGES:
            raise _NoKeyError
        yield value

    def _package(self, value: types.ModuleType) -> Iterator[Hashable]:
        if value.__name__.partition(".")[0] not in _PACKAGES:
            raise _NoKeyError
        yield value

    def _descriptor(self, value: Any) -> Iterator[Hashable]:
        if value.__objclass__.__module__.partition(".")[0] not in _PACKAGES:
            raise _NoKeyError
        yield value

    # -- code -------------------------------------------------------------------------------------

    def _function(self, value: types.FunctionType) -> Iterator[Hashable]:
        if _is_packaged(value):
            yield value
            return
        yield value.__code__
        for name in _globals_read(value.__code__):
            if name in value.__globals__:
                yield name, self._value(value.__globals__[name])
            elif not hasattr(builtins, name):
                raise _NoKeyError
        for cell in value.__closure__ or ():
            try:
                yield self._value(cell.cell_contents)
            except ValueError:  # not bound yet
                raise _NoKeyError from None
        yield from map(self._value, (value.__defaults__, value.__kwdefaults__, vars(value)))

    def _class(self, kind: type) -> Hashable:
        if _is_packaged(kind):
            return kind
        if (again := self._again(kind)) is not None:
            return again
        if type(kind) not in (type, ABCMeta):
            raise _NoKeyError
        bases = tuple(self._class(base) for base in kind.__bases__)
        own = tuple(
            (name, self._value(value)) for name, value in vars(kind).items()
            if name not in _ABOUT and name not in _ASIDE
        )
        return kind, bases, own


_KEYS: tuple[tuple[tuple[type, ...], Callable[[_Keys, Any], Iterator[Hashable]]], ...] = (
    ((list,), _Keys._items),
    ((dict, OrderedDict), _Keys._pairs),
    ((set, frozenset), _Keys._elements),
    ((types.FunctionType,), _Keys._function),
    ((types.BuiltinFunctionType,), _Keys._builtin),
    ((types.MethodType,), _Keys._method),
    ((types.ModuleType,), _Keys._package),
    ((partial,), _Keys._partial),
    ((staticmethod, classmethod), _Keys._wrapped),
    ((property,), _Keys._property),
    ((types.MethodDescriptorType, types.WrapperDescriptorType), _Keys._descriptor),
)


def _numbers(tensor: Tensor) -> Hashable:
    """Return the numbers of a buffer, which may be positions, masks, or factors, bit by bit."""
    if tensor.is_meta or tensor.numel() > _MOST:
        raise _NoKeyError
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    # Short, since keys are kept.
    return hashlib.sha256(plain.view(torch.uint8).numpy().tobytes()).digest()


def _is_packaged(value: Any) -> bool:
    """Whether a class or function is what one of the packages calls so."""
    module = getattr(value, "__module__", None)
    if not isinstance(module, str) or module.partition(".")[0] not in _PACKAGES:
        return False
    found: Any = sys.modules.get(module)
    for name in value.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is value


@lru_cache(maxsize=4096)
def _names_read(code: types.CodeType) -> tuple[str, ...] | None:
    """Return the global names that code reads; ``None`` if it may tell more than a key holds."""
    texts = {text for text in code.co_consts if isinstance(text, str)}
    if not _TELLING.isdisjoint(texts.union(code.co_names)):
        return None
    names: dict[str, None] = {}
    for step in dis.get_instructions(code):
        if step.opname.startswith(("IMPORT_", "STORE_GLOBAL", "DELETE_GLOBAL")):
            return None
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            names[step.argval] = None
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            found = _names_read(inner)
            if found is None:
                return None
            names |= dict.fromkeys(found)
    return tuple(names)


def _globals_read(code: types.CodeType) -> tuple[str, ...]:
    names = _names_read(code)
    if names is None:
        raise _NoKeyError
    return names


class Versions:
    """Tables that may change, and a number that changes when they do."""

    def __init__(self, tables: Sequence[Mapping[str, Any]]) -> None:
        self.tables, self.number = tables, 0
        self._copies = [dict(table) for table in tables]

    def current(self) -> int:
        """Return the number of the tables as they are now."""
        # Equal in all but a few: entries that are the same object are not looked into.
        if any(map(ne, self.tables, self._copies)):
            self._copies = [dict(table) for table in self.tables]
            self.number += 1
        return self.number


class Remembered:
    """What was found for some keys, the last ``most`` of them."""

    def __init__(self, most: int) -> None:
        self.most = most
        #: what was found, and when it was asked for last
        self._found: dict[Hashable, list[Any]] = {}
        self._clock = count()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._found)

    def get(self, key: Hashable | None) -> Any:
        """Return what was found for a key, else ``None``."""
        with self._lock:
            # Asked once: the hash of a key takes as long as all else here.
            entry = None if key is None else self._found.get(key)
            if entry is None:
                return None
            entry[1] = next(self._clock)
            return entry[0]

    def put(self, key: Hashable | None, value: Any) -> None:
        """Keep what was found for a key, and forget what was asked for longest ago."""
        if key is None:
            return
        with self._lock:
            self._found[key] = [value, next(self._clock)]
            while len(self._found) > self.most:
                del self._found[min(self._found, key=lambda key: self._found[key][1])]

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._found.clear()
