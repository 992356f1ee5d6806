"""Neuron groups: the ordered sets of neurons that an architecture is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeGuard

from nngraph.errors import ArchitectureError
from nngraph.graph.activations import Activation
from nngraph.graph.spaces import Factor

#: What a neuron group is to its network; a node's role is its index here.
ROLES = ("input", "hidden", "output")
#: More neurons or edges than this are refused when a description is read: no int64 index overflows.
MAX_SIZE = 2**40


_IDENTITY = Activation("identity")


def is_count(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class NeuronGroup:
    """An ordered set of neurons that the architecture treats alike, such as one layer's units.

    Args:
        name: unique within the architecture.
        size: number of neurons, at least 1.
        role: ``"input"``, ``"hidden"`` or ``"output"``.
        activation: what the neurons of the group apply to their pre-activation.
        space: neuron space of the group. Groups of one space are relabelled together; ``None``
            means fixed, as the inputs and outputs of a network are. A group whose neurons are a
            product, such as heads by dimensions, names its factors, the first outermost.
    """

    name: str
    size: int
    role: str
    activation: Activation = _IDENTITY
    space: str | tuple[Factor, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ArchitectureError(
                f"a neuron group's name is {self.name!r}; expected a string that is not empty."
            )
        if not is_count(self.size) or not 1 <= self.size <= MAX_SIZE:
            raise ArchitectureError(
                f"group {self.name!r} has size {self.size!r}; expected an integer of at least 1."
            )
        if self.role not in ROLES:
            raise ArchitectureError(
                f"group {self.name!r} has role {self.role!r}; expected one of {', '.join(ROLES)}."
            )
        if not isinstance(self.activation, Activation):
            raise ArchitectureError(
                f"group {self.name!r} has activation {self.activation!r}; expected an Activation."
            )
        if isinstance(self.space, tuple):
            if math.prod(factor.size for factor in self.space) != self.size or not self.space:
                raise ArchitectureError(
                    f"group {self.name!r} of {self.size} neurons has the factors {self.space}; "
                    "expected sizes that multiply to it."
                )
        elif self.space is not None and (not isinstance(self.space, str) or not self.space):
            raise ArchitectureError(
                f"group {self.name!r} has space {self.space!r}; expected a name, or None for fixed."
            )

    @property
    def factors(self) -> tuple[Factor, ...]:
        """The factors of the neurons; one for all but products."""
        return self.space if isinstance(self.space, tuple) else (Factor(self.size, self.space),)
