"""Networks pruned by a share or a budget, and held to the law of pruning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from converters.symmetry import TOLERANCE, PermutationSpec, permutation_spec
from nngraph.errors import ArchitectureError, UnsupportedModuleError
from nngraph.pruning.choice import Kept, keep_shares, keep_within, matching
from nngraph.pruning.law import Law
from nngraph.pruning.removal import Removal
from nngraph.pruning.resizing import Sizes
from nngraph.pruning.scores import Scores, batch_norm_scores, norm_scores

#: Draws of parameters with noise on which the law is checked at the end, beside the own ones.
DRAWS = 2


@dataclass(frozen=True)
class Pruned:
    """A network without some of its neurons.

    Args:
        removal: the spec and the neurons that stay.
        state: the tensors that are left, under the same names.
        sizes: the numbers that its modules keep of sizes, as they are now.
        refused: the spaces that lost none though they were to, and why.
        error: by how much its outputs differ from those with the neurons masked, relative to the
            largest; ``None`` if that was not tried, for want of a module.
        flops: floating-point operations of a forward before and after, if they were counted.
    """

    removal: Removal
    state: Mapping[str, Tensor]
    sizes: Sizes
    refused: Mapping[str, str]
    error: float | None = None
    flops: tuple[int, int] | None = None

    @property
    def parameters(self) -> tuple[int, int]:
        """Numbers in parameters before and after, each tensor once."""
        return count(self.removal.spec), count(self.removal.smaller)

    def to_dict(self) -> dict[str, Any]:
        """Return what there is to say as plain values."""
        return {
            "spaces": [
                {"name": space.name, "size": space.size, "kept": self.removal.size(space.name)}
                for space in self.removal.spec.free_spaces
            ],
            "refused": dict(self.refused),
            "parameters": list(self.parameters),
            "flops": None if self.flops is None else list(self.flops),
            "error": self.error,
            "shapes": {name: list(tensor.shape) for name, tensor in self.state.items()},
            "sizes": self.sizes,
        }


def count(spec: PermutationSpec) -> int:
    """Return how many numbers there are in the parameters of a network."""
    total = 0
    for name in spec.parameters:
        if name not in spec.buffers:
            numbers = 1
            for size in spec.shape(name):
                numbers *= size
            total += numbers
    return total


def prune_state(
    state: Mapping[str, Tensor], spec: PermutationSpec,
    keep: float | Mapping[str, float] | None = None, *, parameters: float | None = None,
    scores: Literal["norm", "batch_norm"] | Scores = "norm", exclude: Sequence[str] = (),
) -> Pruned:  # fmt: skip
    """Remove neurons from tensors by a spec alone, without the module.

    It is not known then for which spaces removing is masking: those that a layer normalises, such
    as the width of a transformer, are for the caller to leave out.

    Args:
        state: tensors of the spec by its names, or under all of their names.
        spec: of the network.
        keep, parameters, scores, exclude: see :func:`prune`.
    """
    _check_one(keep=keep, parameters=parameters)
    groups = tuple((space.name,) for space in spec.free_spaces if space.size > 1)
    shares = _shares(groups, keep, exclude)
    every = _scores(spec, state, scores)
    taken = [group for group in groups if group[0] in shares and group[0] in every]
    if parameters is None:
        kept = keep_shares(taken, every, shares)
    else:
        kept = _within(taken, every, lambda kept: count(Removal(spec, kept).smaller), parameters)
    removal = Removal(spec, kept)
    return Pruned(removal, removal.remove(state), {}, _unscored(groups, shares, every))


def prune(
    module: nn.Module, example_inputs: Any, *, kwargs: Mapping[str, Any] | None = None,
    keep: float | Mapping[str, float] | None = None, parameters: float | None = None,
    flops: float | None = None, scores: Literal["norm", "batch_norm"] | Scores = "norm",
    exclude: Sequence[str] = (), anyway: Sequence[str] = (), spec: PermutationSpec | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> Pruned:  # fmt: skip
    r"""Remove neurons, channels, heads or groups from a network wherever the spec ties them.

    The law is held first to each space, and then to the result: neurons masked and neurons removed
    give the same function. Spaces for which it does not hold, as those that a layer norm takes a
    mean over, stay whole and are reported with the reason.

    Args:
        module: the network; it is left as it was. :func:`load_pruned` makes it smaller.
        example_inputs: one tensor, or a tuple of positional arguments.
        kwargs: keyword arguments of its forward.
        keep: share of the neurons of each space that stay, or a share for each name or pattern of
            names, such as ``{"layer4.*": 0.3}``.
        parameters, flops: in place of ``keep`` a budget: the share of the parameters, or of the
            floating-point operations of a forward, that may stay; above 1 a number of them. The
            neurons of all spaces are ordered together.
        scores: ``"norm"`` (:func:`norm_scores`), ``"batch_norm"`` (:func:`batch_norm_scores`), or
            scores of the neurons of spaces, as :func:`first_order_scores` and :func:`read_scores`
            return. A space without scores stays whole.
        exclude: names or patterns of spaces that stay whole.
        anyway: names or patterns of spaces that are pruned though removing is not masking there,
            if the module then runs at all.
        spec: of the module; derived by default.
        state: its tensors, if others than the module's own are pruned.

    Raises:
        ArchitectureError: if not one of ``keep``, ``parameters`` and ``flops`` is given, a share is
            not in (0, 1], a name fits no space, or a budget cannot be met.
        UnsupportedModuleError: if the module cannot be traced or made smaller.

    Example:
        >>> pruned = prune(module, torch.randn(1, 3, 32, 32), flops=0.5)
        >>> save_pruned(pruned, "pruned.safetensors")
        >>> load_pruned(module, "pruned.safetensors", torch.randn(1, 3, 32, 32))
    """
    _check_one(keep=keep, parameters=parameters, flops=flops)
    spec = spec or permutation_spec(module, example_inputs, kwargs=kwargs)
    law = Law(module, example_inputs, kwargs, spec)
    own = law.network.tensors if state is None else state
    every = _scores(spec, own, scores)
    singles = tuple((space.name,) for space in spec.free_spaces if space.size > 1)
    shares = _shares(singles, keep, exclude)
    if keep is not None:
        shares = {name: share for name, share in shares.items() if share < 1}
    forced = matching(anyway, [name for (name,) in singles])
    tried = [
        spec.by_name[name] for (name,) in singles
        if name in shares and name in every and name not in forced
    ]
    found = law.prunable(tried)
    groups = (*found.groups, *((name,) for name in sorted(forced)))
    groups = tuple(group for group in groups if all(name in every for name in group))
    if flops is not None:
        kept = _within(groups, every, lambda kept: law.flops(Removal(spec, kept)), flops)
    elif parameters is not None:
        kept = _within(groups, every, lambda kept: count(Removal(spec, kept).smaller), parameters)
    else:
        kept = keep_shares(groups, every, shares)
    removal = Removal(spec, kept, tuple(name for name in found.rescaled if name in kept))
    error, sizes = law.error(removal, law.states(DRAWS))
    if error > TOLERANCE and not forced:
        raise UnsupportedModuleError(
            f"the network with neurons removed and with neurons masked differ by {error:.1e}, "
            f"though the spaces alone do not; expected at most {TOLERANCE:.0e}. Exclude some."
        )
    refused = {**found.refused, **_unscored(singles, shares, every)}
    counted = None if flops is None else (law.flops(Removal(spec, {})), law.flops(removal))
    return Pruned(removal, removal.remove(own), sizes, refused, error, counted)


def _check_one(**given: Any) -> None:
    if sum(value is not None for value in given.values()) != 1:
        raise ArchitectureError(
            f"expected exactly one of {', '.join(given)}: how many neurons are to stay."
        )


def _within(
    groups: Sequence[tuple[str, ...]], scores: Scores, cost: Callable[[Kept], float], budget: float
) -> Kept:
    if budget <= 0:
        raise ArchitectureError(f"the budget is {budget}; expected a share or a number above 0.")
    return keep_within(groups, scores, cost, budget * cost({}) if budget <= 1 else budget)


def _scores(
    spec: PermutationSpec, state: Mapping[str, Tensor], scores: str | Scores
) -> Mapping[str, Tensor]:
    if not isinstance(scores, str):
        return scores
    known = {"norm": norm_scores, "batch_norm": batch_norm_scores}
    if scores not in known:
        raise ArchitectureError(f"scores are {scores!r}; expected one of {', '.join(known)}.")
    return known[scores](spec, state)


def _shares(
    groups: Sequence[tuple[str, ...]], keep: float | Mapping[str, float] | None,
    exclude: Sequence[str],
) -> dict[str, float]:
    """Return the share of each space that is to lose neurons."""
    names = [name for group in groups for name in group]
    asked = keep if isinstance(keep, Mapping) else {"*": 1.0 if keep is None else keep}
    shares: dict[str, float] = {}
    for pattern, share in asked.items() if names else ():
        if not 0 < share <= 1:
            raise ArchitectureError(
                f"the share to keep of {pattern!r} is {share}; expected one above 0, at most 1."
            )
        shares |= dict.fromkeys(matching([pattern], names), share)
    left = matching(exclude, names)
    return {name: share for name, share in shares.items() if name not in left}


def _unscored(
    groups: Sequence[tuple[str, ...]], shares: Mapping[str, float], scores: Scores
) -> dict[str, str]:
    return {
        name: "it has no scores" for group in groups for name in group
        if name in shares and name not in scores
    }
