r"""The symmetry of an architecture: the group of relabellings of its hidden neurons.

What a relabelling is, and which neuron goes where, is stated in :mod:`nngraph.graph.relabelling`.
"""

from __future__ import annotations

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
        return self.architecture.permutations.order()

    def log10_order(self) -> float:
        """Return the decimal logarithm of :meth:`order`, without computing that number."""
        return self.architecture.permutations.log10_order()

    def identity(self) -> Relabelling:
        """Return the relabelling that moves nothing."""
        return Relabelling._of(self.architecture, self.architecture.permutations.identity())

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
        indices = self.architecture.permutations.sample(generator, count)
        return Relabelling._of(self.architecture, indices, count)

    def __repr__(self) -> str:
        factors = " x ".join(
            f"S_{shape[-1]}" + (f"^{shape[0]}" if len(shape) > 1 else "")
            for shape in self.architecture.permutations.shapes.values()
        )
        return f"Symmetry({factors or 'trivial'} of {self.architecture})"
