r"""The permutation symmetry of a network as data: spaces, and what each axis of each tensor counts.

Each axis of a parameter is a concatenation of segments, each segment a row-major product of
factors, each factor fixed or one neuron space::

    fc1.weight   [512 (fc1)] [flatten: 16 (conv2) x 49]

A space may lie *within* others: then its neurons are relabelled independently for each neuron of
those (a wreath product). With heads :math:`h` and features :math:`j` within heads, a relabelling
:math:`(\sigma, \tau)` takes old neuron :math:`(\sigma(h), \tau_h(j))` to the new place
:math:`(h, j)`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from converters.symmetry.axes import (
    Axis,
    axis_from_list,
    axis_size,
    factors_of,
    products_of,
    segment_text,
)
from converters.symmetry.relabelling import is_free, permuted
from nngraph.errors import ArchitectureError
from nngraph.graph import Factor, Indices, Permutations, Space, TensorPiece


@dataclass(frozen=True)
class FixedReport:
    """Freedom that was lost, and why.

    Args:
        op: the operation.
        module_path: the module whose forward holds it.
        parameters: parameters with an axis that is fixed because of it and of nothing else.
        reason: what it does, for people.
        unknown: whether that is for want of a rule (a sound answer that may be too small).
    """

    op: str
    module_path: str
    parameters: tuple[str, ...]
    reason: str
    unknown: bool = False

    def __str__(self) -> str:
        where = f" in {self.module_path!r}" if self.module_path else ""
        return f"{self.op}{where}: {self.reason}; fixes {', '.join(self.parameters)}"


@dataclass(frozen=True)
class PermutationSpec:
    """Which relabellings of neurons leave the function of a network unchanged.

    Args:
        spaces: every neuron space, in the order of computation.
        parameters: name -> its axes; parameters and persistent buffers, shared ones once.
        aliases: name -> other names of the same tensor.
        buffers: those of the names that are buffers.
        unused: names that the function does not depend on; their axes are fixed.
        reports: freedom that was lost, and why.

    Raises:
        ArchitectureError: if a factor names no space or has another size than its space.

    Example:
        >>> spec = permutation_spec(mlp, torch.randn(1, 2))
        >>> other = spec.permute(mlp.state_dict(), spec.sample(0))   # the same function
    """

    spaces: tuple[Space, ...]
    parameters: Mapping[str, tuple[Axis, ...]]
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    buffers: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    reports: tuple[FixedReport, ...] = ()

    def __post_init__(self) -> None:
        sizes = {space.name: space.size for space in self.spaces}
        if len(sizes) < len(self.spaces):
            raise ArchitectureError("two neuron spaces have one name; names are unique.")
        for space in self.spaces:
            for outer in space.within:
                if outer not in sizes:
                    raise ArchitectureError(
                        f"space {space.name!r} is within {outer!r}, which is no space."
                    )
        for name, axes in self.parameters.items():
            for place, axis in enumerate(axes):
                for factor in factors_of(axis):
                    if factor.space is not None and sizes.get(factor.space) != factor.size:
                        raise ArchitectureError(
                            f"axis {place} of {name!r} counts {factor.size} neurons of "
                            f"{factor.space!r}, which has {sizes.get(factor.space, 'no place')} "
                            "in the list of spaces."
                        )

    # -- what follows -----------------------------------------------------------------------------

    @cached_property
    def by_name(self) -> dict[str, Space]:
        """Every space by its name."""
        return {space.name: space for space in self.spaces}

    @cached_property
    def first_names(self) -> dict[str, str]:
        """The name that counts, by each other name of a tensor."""
        return {other: name for name, others in self.aliases.items() for other in others}

    @property
    def free_spaces(self) -> tuple[Space, ...]:
        """The spaces that may be relabelled."""
        return tuple(space for space in self.spaces if not space.fixed)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return tuple(map(axis_size, self.parameters[name]))

    def ties(self, space: str) -> tuple[tuple[str, int], ...]:
        """Return the (parameter, axis) pairs that count a space."""
        return tuple(
            (name, place)
            for name, axes in self.parameters.items()
            for place, axis in enumerate(axes)
            if any(factor.space == space for factor in factors_of(axis))
        )

    def pieces(self, name: str) -> tuple[TensorPiece, ...]:
        """Return a tensor as parts that products of factors count; they cover it once.

        Raises:
            ArchitectureError: if it is not one of this spec's.
        """
        found = []
        for products in itertools.product(*map(products_of, self.parameters[self._own(name)])):
            own = [(axis, f, step) for axis, (_, p) in enumerate(products) for f, step in p]
            found.append(
                TensorPiece(
                    tuple(Factor(factor.size, factor.space) for _, factor, _ in own),
                    tuple(axis for axis, _, _ in own), tuple(step for _, _, step in own),
                    tuple(start for start, _ in products),
                )
            )  # fmt: skip
        return tuple(found)

    def is_free(self, axis: Axis) -> bool:
        """Whether some neurons of an axis may be relabelled."""
        return is_free(self.by_name, axis)

    @property
    def log10_order(self) -> float:
        """log10 of the number of relabellings."""
        return self.permutations.log10_order()

    @cached_property
    def permutations(self) -> Permutations:
        """The group of permutations of the spaces."""
        return Permutations(self.by_name)

    # -- relabelling ------------------------------------------------------------------------------

    def identity(self) -> Indices:
        """Return the relabelling that moves nothing."""
        return self.permutations.identity()

    def sample(
        self, generator: torch.Generator | int | None = None, spaces: tuple[str, ...] | None = None
    ) -> Indices:
        """Return a relabelling drawn uniformly, of some spaces or all.

        The generator may be a seed; ``None`` uses torch's global one.
        """
        return self.permutations.sample(generator, names=spaces)

    def permute(self, state: Mapping[str, Tensor], relabelling: Indices) -> dict[str, Tensor]:
        """Return the tensors of a network relabelled: another network with the same function.

        Args:
            state: such as ``module.state_dict()``; the names of this spec, aliases with them.
            relabelling: as :meth:`sample` gives it.

        Raises:
            ArchitectureError: if a tensor is unknown, or has another shape, or the relabelling does
                not fit this spec.
        """
        count = self.permutations.check(relabelling)
        if count is not None:
            raise ArchitectureError(f"a stack of {count} relabellings; expected a single one.")
        done: dict[str, Tensor] = {}
        result: dict[str, Tensor] = {}
        for name, tensor in state.items():
            own = self._own(name)
            if own not in done:
                if tuple(tensor.shape) != self.shape(own):
                    raise ArchitectureError(
                        f"tensor {name!r} has shape {tuple(tensor.shape)}; this spec has "
                        f"{self.shape(own)} for it."
                    )
                done[own] = permuted(self.by_name, self.parameters[own], tensor, relabelling)
            result[name] = done[own]
        return result

    def _own(self, name: str) -> str:
        """Return the name that counts of a tensor."""
        own = self.first_names.get(name, name)
        if own not in self.parameters:
            raise ArchitectureError(
                f"tensor {name!r} is not one of this spec's; expected {sorted(self.parameters)}."
            )
        return own

    # -- reading and writing ----------------------------------------------------------------------

    def to_json(self, indent: int | None = None) -> str:
        """Return the spec as JSON text."""

        def record(value: object) -> dict[str, Any]:
            left_out = "space" if getattr(value, "parts", ()) else "parts"
            return {key: entry for key, entry in vars(value).items() if key != left_out}

        data = {field.name: getattr(self, field.name) for field in fields(self)}
        mappings = {key: dict(data[key]) for key in ("parameters", "aliases")}
        return json.dumps(data | mappings, indent=indent, default=record)

    @classmethod
    def from_json(cls, text: str) -> PermutationSpec:
        """Read what :meth:`to_json` wrote; any other text is an ``ArchitectureError``."""
        try:
            data = json.loads(text)
            return cls(
                tuple(Space(**s | {"within": tuple(s["within"])}) for s in data["spaces"]),
                {n: tuple(map(axis_from_list, axes)) for n, axes in data["parameters"].items()},
                {name: tuple(others) for name, others in data["aliases"].items()},
                tuple(data["buffers"]), tuple(data["unused"]),
                tuple(
                    FixedReport(**r | {"parameters": tuple(r["parameters"])})
                    for r in data["reports"]
                ),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, ArchitectureError):
                raise
            raise ArchitectureError(
                f"the text is no permutation spec ({type(error).__name__}: {error}); expected what "
                "PermutationSpec.to_json wrote."
            ) from error

    def __str__(self) -> str:
        lines = [f"{len(self.spaces)} neuron spaces, 10^{self.log10_order:.1f} relabellings"]
        width = max((len(space.name) for space in self.spaces), default=0)
        for space in self.spaces:
            notes = ["fixed"] if space.fixed else []
            notes += [f"within {', '.join(space.within)}"] if space.within else []
            lines.append(f"  {space.name:<{width}} {space.size:>7}  {'; '.join(notes)}".rstrip())
        lines.append(f"{len(self.parameters)} tensors")
        width = max((len(name) for name in self.parameters), default=0)
        for name, axes in self.parameters.items():
            text = " ".join(f"[{' | '.join(map(segment_text, axis))}]" for axis in axes)
            notes = [f"also {', '.join(self.aliases[name])}"] if name in self.aliases else []
            notes += ["unused"] if name in self.unused else []
            lines.append(f"  {name:<{width}}  {text}  {'; '.join(notes)}".rstrip())
        if self.reports:
            lines.append("fixed")
            lines += [f"  {report}" for report in self.reports]
        return "\n".join(lines)


def count_free(spec: PermutationSpec) -> tuple[int, int]:
    """Return how many axes of parameters are free in part, and how many there are (size > 1)."""
    axes = [
        axis for name, all_axes in spec.parameters.items() if name not in spec.buffers
        for axis in all_axes if axis_size(axis) > 1
    ]
    return sum(spec.is_free(axis) for axis in axes), len(axes)
