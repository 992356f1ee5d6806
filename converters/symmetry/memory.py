"""The memory that the tensors of a module lie in, and twins of it in double precision.

Tensors may share memory in whole or in part: a weight under two names, a transposed or sliced view,
an alias in a plain attribute or a closure. A twin is taken of each stretch of memory, not of each
tensor, so that what shares memory goes on sharing it.
"""

from __future__ import annotations

import bisect
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nngraph.errors import UnsupportedModuleError

#: narrow type -> the type in which the proof computes
WIDE = {
    torch.float32: torch.float64, torch.float16: torch.float64, torch.bfloat16: torch.float64,
    torch.complex64: torch.complex128, torch.complex32: torch.complex128,
}


class Contradiction(Exception):
    """Tensors that share memory were given values that differ there."""


def widen(tensor: Tensor) -> Tensor:
    """Return a tensor in double precision; itself if it is no narrow floating-point one."""
    wide = WIDE.get(tensor.dtype)
    return tensor if wide is None else tensor.to(wide)


def has_memory(tensor: Tensor) -> bool:
    """Whether a tensor has memory of its own kind: not on meta, not empty, not wrapped."""
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(tensor)  # inside of vmap or grad
    if tensor.layout is not torch.strided or tensor.is_meta or not tensor.numel() or wrapped:
        return False
    try:
        return tensor.data_ptr() != 0
    except RuntimeError:  # subclasses without a storage
        return False


# -- one tensor ------------------------------------------------------------------------------------


def storage_key(tensor: Tensor) -> Any:
    """Return what two tensors have in common exactly when they are one tensor."""
    if tensor.device.type == "meta" or tensor.numel() == 0:
        return id(tensor)
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def shared_names(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """Return the first name of every tensor, and its other names."""
    names: dict[Any, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(storage_key(tensor), []).append(name)
    return {first: tuple(others) for first, *others in names.values()}


def extent(tensor: Tensor) -> int:
    """Return how many entries of memory a tensor reaches over."""
    return 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))


def overlaps_itself(tensor: Tensor) -> bool:
    """Whether two entries of a tensor may be one place of memory, as in an expanded one."""
    reach = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride < reach:
                return True
            reach = stride * (size - 1) + reach
    return False


def dense_axes(tensor: Tensor) -> tuple[int, ...] | None:
    """Return the axes from the outermost in memory to the innermost; ``None`` if it has gaps."""
    if overlaps_itself(tensor) or extent(tensor) != tensor.numel():
        return None
    return tuple(sorted(range(tensor.dim()), key=lambda axis: -tensor.stride()[axis]))


# -- stretches of memory ---------------------------------------------------------------------------


@dataclass
class Stretch:
    """Consecutive bytes that some tensors lie in."""

    start: int
    stop: int
    tensors: list[Tensor] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    #: whether it is just one tensor, under all of its names
    whole: bool = False

    def flat(self) -> Tensor:
        """Return the memory as a vector."""
        first = self.tensors[0]
        size = (self.stop - self.start) // first.element_size()
        start = (self.start - first.untyped_storage().data_ptr()) // first.element_size()
        empty = torch.empty(0, dtype=first.dtype, device=first.device)
        return empty.set_(first.untyped_storage(), start, (size,), (1,))


def stretches(tensors: Iterable[Tensor]) -> list[Stretch]:
    """Return the stretches of memory that tensors lie in, from the first to the last."""
    found = [(t.data_ptr(), extent(t) * t.element_size(), t) for t in tensors]
    result: list[Stretch] = []
    for start, size, tensor in sorted(found, key=lambda entry: entry[:2]):
        if not result or start >= result[-1].stop:
            result.append(Stretch(start, start + size))
        result[-1].stop = max(result[-1].stop, start + size)
        result[-1].tensors.append(tensor)
    return result


def shared_stretches(tensors: Iterable[Tensor]) -> list[Stretch]:
    """Return the stretches of memory in which tensors lie that are several views of it."""
    return [
        stretch for stretch in stretches(t for t in tensors if has_memory(t))
        if len({(t.data_ptr(), t.shape, t.stride()) for t in stretch.tensors}) > 1
    ]


class Memory:
    """The stretches of memory of some tensors, and of those that a state names."""

    def __init__(self, tensors: Iterable[Tensor], named: Mapping[str, Tensor]) -> None:
        self.named = {name: tensor.detach() for name, tensor in named.items()}
        every = [*tensors, *self.named.values()]
        self.stretches = stretches(t.detach() for t in every if has_memory(t))
        self._starts = [stretch.start for stretch in self.stretches]
        for name, tensor in self.named.items():
            if (place := self.find(tensor)) is not None:
                stretch = self.stretches[place]
                if any(other.dtype != tensor.dtype for other in stretch.tensors):
                    raise UnsupportedModuleError(
                        f"tensor {name!r} shares memory with one of another type; expected tensors "
                        "of one type where they share memory. Give it memory of its own."
                    )
                entries = (stretch.stop - stretch.start) // tensor.element_size()
                first = self.named[(stretch.names or [name])[0]]
                stretch.whole = (
                    (stretch.whole or not stretch.names)
                    and (tensor.shape, tensor.stride()) == (first.shape, first.stride())
                    and entries == extent(tensor) and not overlaps_itself(tensor)
                )
                stretch.names.append(name)

    def find(self, tensor: Tensor) -> int | None:
        """Return the number of the stretch that holds a tensor, if one does."""
        if not has_memory(tensor):
            return None
        start = tensor.data_ptr()
        place = bisect.bisect_right(self._starts, start) - 1
        stop = start + extent(tensor) * tensor.element_size()
        return place if place >= 0 and stop <= self.stretches[place].stop else None


class Twins:
    """Memory in double precision, for one run.

    Args:
        memory: whose twins they are.
        state: values by name. Tensors that no state names have the values that they have now.
        shared: names whose values may stand in the twins themselves, as nothing writes to them.
        check: whether values that share memory must agree; else the last one given counts.
    """

    def __init__(
        self, memory: Memory, state: Mapping[str, Tensor], shared: Collection[str] = (),
        check: bool = True,
    ) -> None:  # fmt: skip
        self.memory = memory
        self.flat: dict[int, Tensor] = {}
        self.named: dict[str, Tensor] = {}
        self._lone: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}
        for place, stretch in enumerate(memory.stretches):
            values = {name: state[name] for name in stretch.names}
            if not values:
                continue
            name, first = next(iter(values.items()))
            same = stretch.whole and all(value is first for value in values.values())
            laid_out = first.stride() == memory.named[name].stride()
            if same and laid_out and all(name in shared for name in values):
                self.flat[place] = first.as_strided((extent(first),), (1,))
                self.named |= values
                continue
            self.flat[place] = widen(stretch.flat().clone())
            views = {name: self._view(place, memory.named[name]) for name in values}
            for name, value in values.items():
                _write(views[name], value)
            self.named |= views
            for name, value in values.items() if check and not same else ():
                if not torch.equal(views[name].nan_to_num(), value.nan_to_num()):
                    raise Contradiction(name)
        for name in memory.named.keys() - self.named.keys():  # empty ones
            self.named[name] = state[name].clone()

    def of(self, tensor: Tensor) -> Tensor:
        """Return the twin of a tensor; itself if it was made in this run and is not narrow."""
        place = self.memory.find(tensor)
        if place is not None and tensor.dtype == self.memory.stretches[place].tensors[0].dtype:
            if place not in self.flat:
                self.flat[place] = widen(self.memory.stretches[place].flat().clone())
            return self._view(place, tensor)
        if tensor.dtype not in WIDE:
            return tensor
        if not has_memory(tensor):
            return widen(tensor)
        # What was made narrow past this library's eyes is written to and read again as one tensor.
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        return self._lone.setdefault(key, (tensor, widen(tensor)))[1]

    def given(self, value: Any) -> Any:
        """Return an input for this run, which may be written to."""
        if not isinstance(value, Tensor):
            return value
        return self.of(value) if self.memory.find(value) is not None else widen(value.clone())

    def _view(self, place: int, tensor: Tensor) -> Tensor:
        flat, start = self.flat[place], self.memory.stretches[place].start
        offset = flat.storage_offset() + (tensor.data_ptr() - start) // tensor.element_size()
        return flat.as_strided(tensor.shape, tensor.stride(), offset)


def _write(view: Tensor, value: Tensor) -> None:
    if overlaps_itself(view):
        reach = extent(view)
        places = torch.arange(reach).as_strided(view.shape, view.stride(), 0)
        view.as_strided((reach,), (1,))[places.flatten()] = value.flatten()
    else:
        view.copy_(value)
