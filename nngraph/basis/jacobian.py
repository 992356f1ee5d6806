r"""How many directions of a network's parameters leave its function as it is, by linear algebra.

At generic parameters :math:`\theta` the continuous symmetries of a function are exactly the
directions in which no output changes, for any input: the null space of the Jacobian
:math:`J = \partial f(x_1, \dots, x_N) / \partial \theta` for enough generic inputs. A derived
group that is complete has its dimension; one that is too large would have more.
"""

from __future__ import annotations

from collections.abc import Collection
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian as _jacobian
from torch.func import functional_call

from nngraph.errors import ArchitectureError, NonFiniteError


@dataclass(frozen=True)
class NullSpace:
    """What the Jacobian of a network says.

    Args:
        parameters: number of entries of all tensors that were varied.
        outputs: number of outputs that were watched, over all inputs.
        idle: entries that no output depends on; they are counted apart.
        rank: of the Jacobian.
        gap: smallest singular value that counts over the largest that does not; infinite if none
            is dropped. Near 1 the rank is in doubt.
    """

    parameters: int
    outputs: int
    idle: int
    rank: int
    gap: float

    @property
    def dimension(self) -> int:
        """Dimension of the continuous symmetry: of the null space without what is idle."""
        return self.parameters - self.idle - self.rank


def null_space(
    module: nn.Module, inputs: Any, *, buffers: Collection[str] = (), tolerance: float = 1e-9
) -> NullSpace:
    """Count the directions in which parameters may move and no output does.

    Args:
        module: in evaluation mode, with generic parameters; it is copied, and run in float64.
        inputs: a tensor or a tuple of arguments: enough of them, so that there are more outputs
            than parameters.
        buffers: names of buffers that are varied, too.
        tolerance: relative size below which a singular value, or a column, is rounding.

    Raises:
        ArchitectureError: if there are fewer outputs than parameters, or a buffer is unknown.
        NonFiniteError: if the Jacobian has NaN or infinities.

    Example:
        >>> null_space(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1)), x).dimension
        8
    """
    module = deepcopy(module).double().eval()
    known = dict(module.named_buffers())
    if unknown := [name for name in buffers if name not in known]:
        raise ArchitectureError(f"{unknown[0]!r} is no buffer; expected one of {[*known]}.")
    varied = {n: p.detach().clone() for n, p in module.named_parameters()}
    varied |= {name: known[name].detach().clone() for name in buffers}
    given = tuple(
        a.double() if isinstance(a, Tensor) and a.is_floating_point() else a
        for a in (inputs if isinstance(inputs, tuple) else (inputs,))
    )

    def outputs(*values: Tensor) -> Tensor:
        made = functional_call(module, dict(zip(varied, values, strict=True)), given)
        first: Tensor = made[0] if isinstance(made, tuple) else made
        return first.reshape(-1)

    columns = _jacobian(  # type: ignore[no-untyped-call]
        outputs, tuple(varied.values()), vectorize=True
    )
    jacobian = torch.cat([part.flatten(1) for part in columns], 1)
    rows, size = jacobian.shape
    if rows < size:
        raise ArchitectureError(
            f"{rows} outputs cannot tell {size} parameters apart; give more inputs."
        )
    if not bool(jacobian.isfinite().all()):
        raise NonFiniteError("the Jacobian has NaN or infinities; expected finite parameters.")
    norms = jacobian.norm(dim=0)
    used = norms > tolerance * norms.max()
    # Columns of one size: how large a parameter is, is not how much it matters.
    values = torch.linalg.svdvals(jacobian[:, used] / norms[used])
    kept = values > tolerance * values[0]
    rank = int(kept.sum())
    gap = float(values[rank - 1] / values[rank]) if rank < len(values) else float("inf")
    return NullSpace(size, rows, int((~used).sum()), rank, gap)
