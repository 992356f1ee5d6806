"""What a forward is run under: double precision, whatever it asks for, and a bound on its sizes.

A network that predicts how long its output is may ask for terabytes once its parameters are moved.
Where sizes depend on numbers, each operation is first tried without memory, on the meta device.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from converters.symmetry.memory import WIDE, Twins, widen
from converters.symmetry.snapshot import settings_kept

#: Legacy names of tensor types, as ``Tensor.type`` takes them.
_NARROW_NAME = re.compile(r"torch\.(cuda\.)?(Float|Half|BFloat16)Tensor")


@contextlib.contextmanager
def in_double(twins: Twins) -> Iterator[None]:
    """Let every operation of the body have double precision, and draw the same random numbers."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with settings_kept(), torch.random.fork_rng(devices), _Widen(twins):
        torch.set_default_dtype(torch.float64)
        torch.default_generator.manual_seed(0)
        if devices:
            torch.cuda.manual_seed_all(0)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002 - what a forward draws from
        yield


class _Widen(TorchFunctionMode):
    """Gives each operation the twins of the tensors that it is given, and double types.

    Tensors that no state holds (plain attributes, lists, closures, submodules that are not
    registered, arrays of NumPy) get their twins here, when they are used.
    """

    def __init__(self, twins: Twins) -> None:
        super().__init__()
        self.twins = twins

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name == "finfo":
            return func(*args, **(kwargs or {}))
        args, kwargs = self._wide(tuple(args)), self._wide(kwargs or {})
        if name in ("float", "half", "bfloat16", "cfloat", "chalf") and isinstance(args[0], Tensor):
            wide = torch.complex128 if name.startswith("c") else torch.float64
            return args[0].to(wide)
        if name == "type":
            args = tuple(map(_wide_type, args))
            kwargs = {key: _wide_type(value) for key, value in kwargs.items()}
        result = _IN_DOUBLE.get(name, func)(*args, **kwargs)
        return widen(result) if isinstance(result, Tensor) else result

    def _wide(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.twins.of(value)
        if isinstance(value, torch.dtype):
            return WIDE.get(value, value)
        if type(value) in (list, tuple):
            return type(value)(map(self._wide, value))
        if type(value) is dict:
            return {key: self._wide(item) for key, item in value.items()}
        return value


def grouped_mm(
    one: Tensor, other: Tensor, offs: Tensor | None = None, bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """Multiply by groups of rows, of columns or of what is summed over, which end at ``offs``."""
    if offs is None:
        product = one @ other
    else:
        groups = list(itertools.pairwise([0, *offs.tolist()]))
        if one.dim() == other.dim():
            product = torch.stack([one[:, i:j] @ other[i:j] for i, j in groups])
        elif one.dim() == 2:
            product = one.new_zeros(len(one), other.shape[-1])
            for matrix, (i, j) in zip(other, groups, strict=True):
                product[i:j] = one[i:j] @ matrix
        else:
            product = one.new_zeros(one.shape[1], other.shape[1])
            for matrix, (i, j) in zip(one, groups, strict=True):
                product[:, i:j] = matrix @ other[:, i:j]
    return product if bias is None else product + bias


#: Operators whose kernels have no double precision -> the same in operators that have.
_IN_DOUBLE = {"_grouped_mm": grouped_mm}


def _wide_type(value: Any) -> Any:
    """Return the legacy type of double precision for one that is narrower."""
    is_legacy = type(value) is type(torch.FloatTensor)
    name = f"{value.__module__}.{value.__name__}" if is_legacy else value
    match = _NARROW_NAME.fullmatch(name) if isinstance(name, str) else None
    return value if match is None else f"torch.{match[1] or ''}DoubleTensor"


# -- a bound on sizes ------------------------------------------------------------------------------

#: How much larger than on its own parameters a network may become.
GROWTH = 16
#: What is never too large: entries of a tensor, operations.
ENTRIES, OPERATIONS = 2**22, 10_000

_DEPENDENT = (torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output)


class TooLarge(Exception):
    """An operation asks for more than the bound, or there are more operations than it."""


class UnknownSizes(Exception):
    """Sizes depend on numbers, and no bound is known so far."""


class SizeGuard(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Measures a forward, or holds it to the entries and operations of a run that was measured.

    Without such a run :class:`UnknownSizes` is raised where sizes begin to depend on numbers.
    """

    def __init__(
        self, measure: bool = False, entries: int | None = None, operations: int = 0
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.measure = measure
        self.most = None if entries is None else max(GROWTH * entries, ENTRIES)
        self.most_operations = max(GROWTH * operations, OPERATIONS)
        self.entries = self.operations = 0
        self.depends = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.operations += 1
        self.depends = self.depends or any(tag in func.tags for tag in _DEPENDENT)
        if self.depends and not self.measure:
            if self.most is None:
                raise UnknownSizes
            if self.operations > self.most_operations:
                raise TooLarge(f"more than {self.most_operations:,} operations")
            if (entries := _entries(func, args, kwargs)) > self.most:
                raise TooLarge(f"{entries:,} entries for {func}, more than {self.most:,}")
        result = func(*args, **kwargs)
        if self.measure:
            self.entries = max(self.entries, _largest(result))
        return result


def _entries(func: Any, args: Any, kwargs: Any) -> int:
    """Return how many entries the largest result of an operation will have."""
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    packet = str(func.overloadpacket)
    if packet == "aten.repeat_interleave":
        return int(tensors[0].sum()) if len(tensors) == 1 else 0
    if packet == "aten.bincount":
        return int(tensors[0].max()) + 1 if tensors[0].numel() else 0
    if any(tag in func.tags for tag in _DEPENDENT):
        return sum(tensor.numel() * max(tensor.dim(), 1) for tensor in tensors)
    if any(argument.name == "device" for argument in func._schema.arguments):
        kwargs = {**kwargs, "device": "meta"}
    args, kwargs = pytree.tree_map(_without_memory, (args, kwargs))
    try:
        result = func(*args, **kwargs)
    except (RuntimeError, NotImplementedError):  # operators that meta does not have
        return 0
    return _largest(result)


def _largest(value: Any) -> int:
    leaves = pytree.tree_leaves(value)
    return max((leaf.numel() for leaf in leaves if isinstance(leaf, Tensor)), default=0)


def _without_memory(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return value
