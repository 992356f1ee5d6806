"""A bound on what a forward asks for, where its sizes depend on the numbers in its tensors.

A network that predicts how long its output is may ask for terabytes once its parameters are moved.
Sizes that depend on numbers are found while it runs; from then on each operation is tried without
memory, on the meta device, before it is run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

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
    """Measures a forward, or holds it to the sizes of another run.

    Args:
        measure: only measure.
        entries: most entries that a tensor had in a run that was measured; ``None`` if none was,
            and then :class:`UnknownSizes` is raised where sizes begin to depend on numbers.
        operations: number of operations of that run.
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
            self._check(func, args, kwargs)
        result = func(*args, **kwargs)
        if self.measure:
            for leaf in pytree.tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self.entries = max(self.entries, leaf.numel())
        return result

    def _check(self, func: Any, args: Any, kwargs: Any) -> None:
        assert self.most is not None
        if self.operations > self.most_operations:
            raise TooLarge(f"more than {self.most_operations:,} operations")
        entries = _entries(func, args, kwargs)
        if entries > self.most:
            raise TooLarge(f"{entries:,} entries for {func}, more than {self.most:,}")


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
    leaves = pytree.tree_leaves(result)
    return max((leaf.numel() for leaf in leaves if isinstance(leaf, Tensor)), default=0)


def _without_memory(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return value
