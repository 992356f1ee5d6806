"""Terms of the basis: one set partition of the indices of a pair of tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nngraph.basis.weight_space import WeightTensor, checked


@dataclass(frozen=True)
class IndexClass:
    """Axes that a term ties to one index: neurons of a space, on either side."""

    space: str
    size: int
    target_axes: tuple[int, ...]
    source_axes: tuple[int, ...]


@dataclass(frozen=True)
class Term:
    r"""A way to read one tensor and write another that commutes with every relabelling.

    The axes of the source and of the target that belong to neuron spaces are partitioned, space by
    space, into classes. With one index i_c per class c,

    .. math:: y[t(i)] = \sum_{i_c,\; c \text{ without target axes}} x[s(i)]

    so a class with axes on both sides is *kept*, one on the source side alone is *pooled*, one on
    the target side alone is *spread* over, and several axes of one tensor in one class are its
    *diagonal*. Sums, not means; zero off the target's diagonals. Free axes are not part of it: a
    term stands for one basis element per pair of free coordinates, ``free_numel`` in all.

    ``distinct=True`` asks instead for the indicator of an orbit: different classes of one space
    then have different indices. Both kinds are a basis of the same space (`zeta` in ``block.py``
    goes from one to the other). The plain kind has the names, because it is what layers compute:
    a layer that lacks one pooling lacks one plain element, but several orbits. The orbits are
    disjoint, hence orthogonal, and serve projection. (Navon et al. 2023, section 5; with several
    axes of a space in a tensor: Maron et al. 2019, Zhou et al. 2024.)
    """

    target: WeightTensor
    source: WeightTensor
    classes: tuple[IndexClass, ...]

    @property
    def free_numel(self) -> int:
        """Number of elements: pairs of a target's and a source's free coordinates."""
        return self.target.free_numel * self.source.free_numel

    @property
    def name(self) -> str:
        """Such as ``"1.weight -> 2.weight: pool over the input side, keep ..."``."""
        return self.name_at(None, None)

    def name_at(
        self, target_free: Sequence[object] | None, source_free: Sequence[object] | None
    ) -> str:
        """Name at given free coordinates; ``None`` writes ``*`` for all of them."""
        source, target = self.source.at(source_free), self.target.at(target_free)
        return f"{source} -> {target}: {self.action}"

    @cached_property
    def action(self) -> str:
        """What the term does, in words."""
        pool, keep, spread = [], [], []
        shared = {c.space for c in self.classes if c.target_axes and c.source_axes}
        alone = len(shared) == 1 and all(
            sum(axis.space in shared for axis in tensor.axes) == 1
            for tensor in (self.source, self.target)
        )
        for c in self.classes:
            source = _side(self.source, c.source_axes)
            target = _side(self.target, c.target_axes)
            if not c.target_axes:
                pool.append(source)
            elif not c.source_axes:
                spread.append(target)
            elif source == target:
                keep.append(f"keep {source}")
            elif alone:
                keep.append("keep the shared neurons")
            else:
                keep.append(f"take {source} to {target}")
        parts = [f"pool over {' and '.join(pool)}"] if pool else []
        parts += keep
        parts += [f"spread over {' and '.join(spread)}"] if spread else []
        return ", ".join(parts) or "copy"

    @property
    def short(self) -> str:
        """The action without the axes, such as ``"pool keep spread"``."""
        words = [part.split()[0] for part in self.action.split(", ")]
        return " ".join(dict.fromkeys(words))

    @cached_property
    def code(self) -> int:
        """One bit per pair of axes of one space: whether the term ties them.

        A partition is finer than another exactly when its bits are among the other's.
        """
        label: dict[int, int] = {}
        shift = len(self.target.axes)
        for number, c in enumerate(self.classes):
            label.update(dict.fromkeys(c.target_axes, number))
            label.update(dict.fromkeys((shift + a for a in c.source_axes), number))
        pairs = enumerate(axis_pairs(self.target, self.source))
        return sum(1 << bit for bit, (a, b) in pairs if label[a] == label[b])

    def entries(
        self, target_free: Sequence[int], source_free: Sequence[int], distinct: bool = False
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and columns of the ones in the matrix ``[target.numel, source.numel]``."""
        grids = [
            np.arange(c.size).reshape(-1, *[1] * (len(self.classes) - 1 - i))
            for i, c in enumerate(self.classes)
        ]
        places: list[NDArray[np.int64]] = []
        for tensor, free, side in (
            (self.target, target_free, "target_axes"), (self.source, source_free, "source_axes")
        ):
            number = np.zeros([c.size for c in self.classes], np.int64)
            values = dict(zip(tensor.free_axes, free, strict=True))
            for axis in range(len(tensor.axes)):
                stride = math.prod(tensor.shape[axis + 1 :])
                if axis in values:
                    number += stride * values[axis]
                for grid, c in zip(grids, self.classes, strict=True):
                    if axis in getattr(c, side):
                        number += stride * grid
            places.append(number)
        keep = np.ones(places[0].shape, bool)
        if distinct:
            for i, c in enumerate(self.classes):
                for j in range(i):
                    if self.classes[j].space == c.space:
                        keep &= grids[i] != grids[j]
        return places[0][keep], places[1][keep]

    def read(self, values: Mapping[str, Tensor], free: Sequence[int] | None = None) -> Tensor:
        """Diagonals and pools of the source: ``[..., free coordinates, *kept classes]``."""
        value = checked(self.source, values)
        lead = value.dim() - len(self.source.axes)
        classes = [c for c in self.classes if c.source_axes]
        value = value[
            _grids(self.source, free, [(c.size, c.source_axes) for c in classes], value.device)
        ]
        dims = len(self.source.free_axes) if free is None else 0
        pooled = [lead + dims + i for i, c in enumerate(classes) if not c.target_axes]
        if pooled:
            value = value.sum(pooled)
        return value.reshape((*value.shape[:lead], -1, *value.shape[lead + dims :]))

    def write(self, value: Tensor, lead: int, free: Sequence[int] | None = None) -> Tensor:
        """Broadcast what :meth:`read` gave into a new target tensor ``[..., *shape]``."""
        classes = [c for c in self.classes if c.target_axes]
        batch = value.shape[:lead]
        frees = self.target.free_shape if free is None else ()
        value = value.reshape((*batch, *frees, *(c.size if c.source_axes else 1 for c in classes)))
        out = value.new_zeros((*batch, *self.target.shape))
        axes = [(c.size, c.target_axes) for c in classes]
        out[_grids(self.target, free, axes, value.device)] = value
        return out

    def apply(self, values: Mapping[str, Tensor], weight: Tensor) -> Tensor:
        """Sum of the term's elements with these coefficients, without making a matrix.

        Shape:
            values ``{source: [..., *shape]}``; weight ``[c(target), c(source)]``, one coefficient
            per pair of free coordinates; result ``[..., *target.shape]``.
        """
        value = self.read(values)
        lead = values[self.source.name].dim() - len(self.source.axes)
        kept = value.shape[lead + 1 :]
        mixed = weight @ value.reshape((*value.shape[: lead + 1], math.prod(kept)))
        return self.write(mixed.reshape((*mixed.shape[: lead + 1], *kept)), lead)

    def coarser(self) -> Iterator[tuple[int, Term]]:
        r"""The terms that tie at least as much, each with its Möbius coefficient.

        The orbit indicator is :math:`\sum_{\sigma \ge \pi} \mu(\pi, \sigma) T_\sigma`, where
        :math:`\mu = \prod (-1)^{m-1} (m-1)!` over the classes of sigma, each made of m of pi's.
        """
        for term in terms(self.target, self.source):
            if self.code & term.code == self.code:
                factor = 1
                for c in term.classes:
                    merged = sum(
                        set(d.target_axes) <= set(c.target_axes)
                        and set(d.source_axes) <= set(c.source_axes)
                        for d in self.classes
                        if d.space == c.space
                    )
                    factor *= (-1) ** (merged - 1) * math.factorial(merged - 1)
                yield factor, term


def terms(target: WeightTensor, source: WeightTensor) -> Iterator[Term]:
    """All terms from one tensor to another, from the most pooled to the most tied, each once."""
    by_space = _axes_by_space(target, source)
    choices = [
        # Reversed: restricted growth strings start with everything tied.
        reversed(list(set_partitions(len(places), size)))
        for (_, size), places in by_space.items()
    ]
    shift = len(target.axes)
    for partitions in product(*choices):
        classes = []
        for ((space, size), places), partition in zip(by_space.items(), partitions, strict=True):
            for label in range(max(partition) + 1):
                members = [p for p, m in zip(places, partition, strict=True) if m == label]
                target_axes = tuple(p for p in members if p < shift)
                source_axes = tuple(p - shift for p in members if p >= shift)
                classes.append(IndexClass(space, size, target_axes, source_axes))
        yield Term(target, source, tuple(classes))


def count_terms(target: WeightTensor, source: WeightTensor) -> int:
    """Number of :func:`terms` in closed form: a product over spaces of bounded Bell numbers."""
    return math.prod(
        count_partitions(len(places), size)
        for (_, size), places in _axes_by_space(target, source).items()
    )


def axis_pairs(target: WeightTensor, source: WeightTensor) -> list[tuple[int, int]]:
    """Pairs of axes of one space; the source's axes are numbered after the target's."""
    return [
        (a, b)
        for places in _axes_by_space(target, source).values()
        for i, b in enumerate(places)
        for a in places[:i]
    ]


def _axes_by_space(target: WeightTensor, source: WeightTensor) -> dict[tuple[str, int], list[int]]:
    by_space: dict[tuple[str, int], list[int]] = {}
    for place, axis in enumerate((*target.axes, *source.axes)):
        if axis.space is not None:
            by_space.setdefault((axis.space, axis.size), []).append(place)
    return by_space


def _side(tensor: WeightTensor, axes: tuple[int, ...]) -> str:
    labels = [tensor.axes[axis].label for axis in axes]
    return f"the {labels[0]}" if len(labels) == 1 else f"the diagonal ({' = '.join(labels)})"


def _grids(
    tensor: WeightTensor,
    free: Sequence[int] | None,
    classes: Sequence[tuple[int, tuple[int, ...]]],
    device: torch.device,
) -> tuple[Any, ...]:
    """``...`` and index tensors, one per axis, that broadcast to ``[*free axes, *classes]``."""
    index: dict[int, Tensor] = {}
    dims: list[tuple[int, tuple[int, ...]]] = list(classes)
    if free is None:
        dims = [(tensor.axes[a].size, (a,)) for a in tensor.free_axes] + dims
    else:
        for axis, value in zip(tensor.free_axes, free, strict=True):
            index[axis] = torch.tensor(value, device=device)
    for place, (size, axes) in enumerate(dims):
        grid = torch.arange(size, device=device).reshape(-1, *[1] * (len(dims) - 1 - place))
        index.update(dict.fromkeys(axes, grid))
    return (..., *(index[axis] for axis in range(len(tensor.axes))))


# -- set partitions with a bounded number of classes -----------------------------------------------


def set_partitions(items: int, most: int) -> Iterator[tuple[int, ...]]:
    """All partitions of ``range(items)`` into at most ``most`` classes, each exactly once.

    A partition is its restricted growth string: entry i is the class of item i, and classes are
    numbered in order of first occurrence. Indices of a space of size d take at most d different
    values, so partitions into more than d classes describe no index at all.
    """

    def extend(prefix: tuple[int, ...], classes: int) -> Iterator[tuple[int, ...]]:
        if len(prefix) == items:
            yield prefix
            return
        for label in range(min(classes + 1, most)):
            yield from extend((*prefix, label), max(classes, label + 1))

    return extend((), 0)


@cache
def _stirling(items: int, classes: int) -> int:
    if items == classes:
        return 1
    if classes == 0 or classes > items:
        return 0
    return classes * _stirling(items - 1, classes) + _stirling(items - 1, classes - 1)


def count_partitions(items: int, most: int) -> int:
    r""":math:`\sum_{k \le most} S(items, k)` in closed form; the Bell number if ``most >= items``.

    S are the Stirling numbers of the second kind: S(n, k) = k S(n-1, k) + S(n-1, k-1).
    """
    return sum(_stirling(items, classes) for classes in range(min(items, most) + 1))
