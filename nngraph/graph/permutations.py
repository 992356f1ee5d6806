r"""The group of permutations of neuron spaces, :math:`\prod_s S_{d_s}`, on index tensors.

An element is one index tensor for each space that is not fixed: the **old** neuron at each **new**
place, ``[d]``, or ``[copies, d]`` for a space within others, which has a permutation for each
neuron of these, by its **new** place. All may have one leading axis B, for B elements. An
architecture and a permutation spec hold the group of their spaces, and say each what an element
does to weights.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from nngraph.errors import ArchitectureError
from nngraph.graph.spaces import Space, copies, outer_permutation

#: space -> its permutations.
Indices: TypeAlias = dict[str, Tensor]


class Permutations:
    """The group of permutations of some neuron spaces.

    Args:
        spaces: every space by its name; fixed ones are there for others to lie within.

    Attributes:
        shapes: for each space that is not fixed the shape of its index.
    """

    def __init__(self, spaces: Mapping[str, Space]) -> None:
        self.spaces = spaces
        self.shapes = {
            name: (copies(spaces, name), space.size) if space.within else (space.size,)
            for name, space in spaces.items() if not space.fixed
        }

    def order(self) -> int:
        """Return the number of elements, exactly: the product of the factorials."""
        return math.prod(
            math.factorial(size) ** math.prod(outer) for *outer, size in self.shapes.values()
        )

    def log10_order(self) -> float:
        """Return the decimal logarithm of :meth:`order`, without computing that number."""
        logs = (
            math.prod(outer) * math.lgamma(size + 1) for *outer, size in self.shapes.values()
        )
        return sum(logs) / math.log(10)

    def identity(self) -> Indices:
        """Return the element that moves nothing."""
        return {name: torch.arange(shape[-1]).expand(shape) for name, shape in self.shapes.items()}

    def sample(
        self,
        generator: torch.Generator | int | None = None,
        count: int | None = None,
        names: Collection[str] | None = None,
    ) -> Indices:
        """Return an element drawn uniformly, on the generator's device (CPU for a seed).

        Args:
            generator: source of randomness, or a seed; ``None`` uses torch's global one.
            count: number B of independent ones, along a leading axis.
            names: only these spaces are permuted; all by default.

        Raises:
            ArchitectureError: if a name is not one of a space that may be permuted.
        """
        if isinstance(generator, int):
            generator = torch.Generator().manual_seed(generator)
        device = None if generator is None else generator.device
        lead = () if count is None else (count,)
        result = {name: p.expand(*lead, *p.shape) for name, p in self.identity().items()}
        for name in self.shapes if names is None else names:
            if name not in self.shapes:
                raise ArchitectureError(
                    f"{name!r} is no neuron space that may be relabelled; expected one of "
                    f"{list(self.shapes)}."
                )
            # Sorting uniform numbers permutes all at once; ties in float64 are negligible.
            uniform = torch.rand(
                *lead, *self.shapes[name], generator=generator, dtype=torch.float64, device=device
            )
            result[name] = uniform.argsort(dim=-1)
        return result

    def check(self, indices: Mapping[str, Tensor]) -> int | None:
        """Check that indices are an element, or B of them; return B, ``None`` for a single one."""
        if set(indices) != set(self.shapes):
            raise ArchitectureError(
                f"a relabelling names the neuron spaces {sorted(indices)}; expected the free "
                f"spaces {sorted(self.shapes)}."
            )
        leads = set()
        for name, own in self.shapes.items():
            index = indices[name]
            if (
                not isinstance(index, Tensor)
                or index.dtype != torch.long
                or index.dim() - len(own) not in (0, 1)
                or tuple(index.shape[-len(own) :]) != own
                or not bool((index.sort(-1)[0] == torch.arange(own[-1], device=index.device)).all())
            ):
                found = (
                    f"{index.dtype} of shape {tuple(index.shape)}"
                    if isinstance(index, Tensor) else type(index).__name__
                )
                raise ArchitectureError(
                    f"the index of neuron space {name!r} is {found} and no permutation; expected "
                    f"int64 of shape {own} or (B, {str(own)[1:]} with every neuron once in each "
                    "row."
                )
            leads.add(tuple(index.shape[: -len(own)]))
        if len(leads) > 1:
            raise ArchitectureError(
                f"the indices of a relabelling have leading shapes {sorted(leads)}; expected one "
                "(B,) for all neuron spaces, or none."
            )
        lead = leads.pop() if leads else ()
        return lead[0] if lead else None

    def compose(self, second: Indices, first: Indices) -> Indices:
        """Return "``first``, then ``second``"; either may be B elements."""
        composed = {}
        for name, p in second.items():
            before = first[name]
            if self.spaces[name].within:
                before = take(before, self.outer(name, second).to(before.device), -2)
                p = p.to(before.device)
                shape = max(before.shape, p.shape, key=len)
                composed[name] = before.expand(shape).gather(-1, p.expand(shape))
            else:
                composed[name] = take(before, p.to(before.device), -1)
        return composed

    def invert(self, indices: Indices) -> Indices:
        """Return the element that undoes one."""
        inverse = {}
        for name, p in indices.items():
            undone = p.argsort(dim=-1)
            if self.spaces[name].within:
                undone = take(undone, self.outer(name, indices).argsort(dim=-1), -2)
            inverse[name] = undone
        return inverse

    def outer(self, name: str, indices: Indices) -> Tensor:
        """What an element does to the copies of a space within others: ``[*, copies]``."""
        return outer_permutation(self.spaces, name, indices)


def take(value: Tensor, index: Tensor, axis: int) -> Tensor:
    """Return ``value`` with entry ``index[i]`` of ``axis`` at ``i``, row by row for ``[B, d]``.

    ``axis`` is counted from the end. A value without the batch axis of the index gets one.
    """
    if index.dim() == 1:
        return value.index_select(axis, index)
    if value.dim() == 1 and axis == -1:
        return value[index]
    # Not gather: on the CPU it changes the bits of some NaN in bfloat16.
    rows = torch.arange(index.shape[0], device=index.device)[:, None]
    return value.movedim(axis, 1)[rows, index].movedim(1, axis)
