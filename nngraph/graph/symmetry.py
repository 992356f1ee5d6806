r"""The symmetry of an architecture: the group of relabellings of its hidden neurons.

What a relabelling is, and which neuron goes where, is stated in :mod:`nngraph.graph.relabelling`.
"""

from __future__ import annotations

import math

import torch

from nngraph.graph.architecture import Architecture
from nngraph.graph.relabelling import Relabelling


class Symmetry:
    r"""The group of neuron relabellings of an architecture, :math:`\prod_s S_{d_s}`.

    One factor per neuron space: groups of one space are relabelled together. A space within
    others, as the dimensions inside of attention heads, has a factor for each neuron of these.

    Example:
        >>> symmetry = Symmetry(Architecture.mlp([2, 4, 3, 1]))
        >>> symmetry.order()
        144
    """

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture

    @property
    def spaces(self) -> dict[str, int]:
        """Size of each neuron space that is permuted."""
        return dict(self.architecture.spaces)

    def order(self) -> int:
        """Return the number of relabellings, exactly: the product of the factorials.

        Python refuses to print integers of more than 4,300 digits; see :meth:`log10_order`.
        """
        return math.prod(
            math.factorial(size) ** self.architecture.copies(space)
            for space, size in self.architecture.spaces.items()
        )

    def log10_order(self) -> float:
        """Return the decimal logarithm of :meth:`order`, without computing that number."""
        total = sum(
            math.lgamma(size + 1) * self.architecture.copies(space)
            for space, size in self.architecture.spaces.items()
        )
        return total / math.log(10)

    def identity(self) -> Relabelling:
        """Return the relabelling that moves nothing."""
        indices = {s: torch.arange(shape[-1]).expand(shape) for s, shape in self._shapes().items()}
        return Relabelling._of(self.architecture, indices)

    def sample(self, generator: torch.Generator | int | None = None) -> Relabelling:
        """Return a relabelling drawn uniformly.

        Args:
            generator: source of randomness, or a seed; ``None`` uses torch's global one.
        """
        return self.sample_stack(1, generator)[0]

    def sample_stack(
        self, count: int, generator: torch.Generator | int | None = None
    ) -> Relabelling:
        """Return ``count`` independent relabellings, one per network of a stack: ``[B, d]``.

        They live on the generator's device (CPU for a seed).
        """
        if isinstance(generator, int):
            generator = torch.Generator().manual_seed(generator)
        device = None if generator is None else generator.device
        # Sorting uniform numbers makes all permutations at once; ties in float64 are negligible.
        indices = {
            space: torch.rand(
                count, *shape, generator=generator, dtype=torch.float64, device=device
            ).argsort(dim=-1)
            for space, shape in self._shapes().items()
        }
        return Relabelling._of(self.architecture, indices, count)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of the index of each space."""
        spaces = self.architecture.all_spaces
        return {
            s: (self.architecture.copies(s), d) if spaces[s].within else (d,)
            for s, d in self.architecture.spaces.items()
        }

    def __repr__(self) -> str:
        factors = " x ".join(
            f"S_{shape[-1]}" + (f"^{shape[0]}" if len(shape) > 1 else "")
            for shape in self._shapes().values()
        )
        return f"Symmetry({factors or 'trivial'} of {self.architecture})"
