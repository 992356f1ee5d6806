r"""Matching by assignment: coordinate descent over neuron spaces, from several starts.

One space after another takes the relabelling of most gain, all others held, until none gains any
more (Ainsworth et al., "Git Re-Basin", ICLR 2023, for chains). A step is taken only if the inner
product grows, so that it never falls. Spaces within others are assigned with them, pair by pair of
the outer space; a space at both ends of a term is a quadratic problem, and is relaxed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nngraph.alignment.canonical import flip_signs, signed_spaces
from nngraph.alignment.gains import children, touched
from nngraph.alignment.steps import Step, propose, propose_quadratic, propose_together
from nngraph.alignment.terms import (
    PairTerm,
    check_pair,
    feature_terms,
    inner_product,
    moved,
    terms_of,
)
from nngraph.errors import InvalidGraphError, NonFiniteError
from nngraph.graph import Architecture, NeuralGraph, Relabelling, Symmetry

#: A step counts as better if it gains more than this share of what is there: rounding is less.
_TOLERANCE = 1e-12


@dataclass(frozen=True)
class Alignment:
    """How the neurons of a second network stand for those of a first.

    Attributes:
        relabelling: of the second network: neuron i of the first is its neuron ``index[i]``.
        signs: space -> ``[d]`` of 1 and -1, where neurons were matched up to their sign; they are
            applied after the relabelling.
        method: what found it.
        history: the inner product that was maximised, at the start and after each step.
    """

    relabelling: Relabelling
    signs: dict[str, Tensor] = field(default_factory=dict)
    method: str = ""
    history: tuple[float, ...] = ()

    def apply(self, network: NeuralGraph) -> NeuralGraph:
        """Return the second network with its neurons in the order of the first."""
        relabelled = self.relabelling.act_on_graph(network)
        return flip_signs(relabelled, self.signs) if self.signs else relabelled


def match_weights(
    a: NeuralGraph,
    b: NeuralGraph,
    *,
    signs: bool = False,
    starts: int = 3,
    generator: torch.Generator | int = 0,
) -> Alignment:
    r"""Find the relabelling of network b whose parameters are closest to those of a.

    .. math:: \max_g \langle A, g B \rangle \quad (= \min_g \|A - g B\|)

    The statistics of norms move with their neurons, and do not count in the product.

    Args:
        a, b: networks of one architecture; of any kind, with residual additions, heads, groups.
        signs: whether neurons of odd activation (tanh, sine) may change their sign too; chains
            only. Of sines take the canonical phases first: :func:`canonical_form`.
        starts: how many times the descent starts, the best is kept: first from what inputs,
            outputs and the spaces matched before say of each space, in the order of computation,
            which does not depend on how b is labelled; then from b as it is, so that the result is
            never farther; then from relabellings drawn at random.
        generator: source of randomness, or a seed.

    Raises:
        InvalidGraphError: if the networks have not one architecture.
        NonFiniteError: if a weight is NaN or infinite.
        ArchitectureError: if signs are asked for and the architecture is no chain.
    """
    architecture = check_pair(a, b)
    signed = signed_spaces(architecture) if signs else ()
    return _descend(architecture, terms_of(a, b), "weights", signed, starts, generator)


def match_features(
    architecture: Architecture,
    a: Tensor,
    b: Tensor,
    *,
    centre: bool = False,
    signs: bool = False,
    method: str = "features",
) -> Alignment:
    r"""Match neurons by the cosine similarity of what is known of each of them.

    .. math:: \max_p \sum_i \frac{\langle a_i, b_{p(i)} \rangle}{\|a_i\| \|b_{p(i)}\|}

    such as activations on some inputs, or states that a model gives them. Each space is matched on
    its own, summed over its groups.

    Args:
        a, b: features ``[N, K]`` of the neurons of two networks of the architecture, in the order
            of its nodes. A neuron whose features are all 0 is like no other.
        centre: take the mean of each neuron's features off first: correlations.
        signs: whether neurons of odd activation may be matched with the other sign.
        method: name in the result.

    Raises:
        InvalidGraphError: if the features do not fit the architecture.
        NonFiniteError: if one is NaN or infinite.
    """
    shapes = tuple(a.shape), tuple(b.shape)
    if a.dim() != 2 or shapes[0] != shapes[1] or len(a) != architecture.num_nodes:
        raise InvalidGraphError(
            f"features of the neurons have shapes {shapes[0]} and {shapes[1]}; expected "
            f"({architecture.num_nodes}, K) for both, of the architecture {architecture}."
        )
    if not bool(torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise NonFiniteError(
            "features of the neurons are NaN or infinite, which nothing is like; expected finite "
            "numbers. Look for the network, or the model, that gave them."
        )
    units = [_units(value.detach().to(torch.float64), centre) for value in (a, b)]
    terms = feature_terms(architecture, *units)
    signed = signed_spaces(architecture) if signs else ()
    return _descend(architecture, terms, method, signed, 1, 0)


def _units(features: Tensor, centre: bool) -> Tensor:
    if centre:
        features = features - features.mean(-1, keepdim=True)
    length = features.norm(dim=-1, keepdim=True)
    return features / torch.where(length > 0, length, 1.0)


# -- descent -------------------------------------------------------------------------------------


class _State:
    """Network b as it is relabelled so far."""

    def __init__(self, terms: Sequence[PairTerm], start: Relabelling) -> None:
        self.architecture = start.architecture
        self.relabelling = start
        self.signs: dict[str, Tensor] = {}
        self.terms = moved(terms, start)
        self.history = [inner_product(self.terms)]
        first = sum(float(term.a.square().sum()) for term in terms)
        second = sum(float(term.b.square().sum()) for term in terms)
        self.least = _TOLERANCE * math.sqrt(first * second)

    def take(self, step: Step, force: bool = False) -> bool:
        """Take a step if it makes the product larger, or if it must; return whether it did."""
        indices, signs = step
        relative = Relabelling(
            self.architecture, {**Symmetry(self.architecture).identity().indices, **indices}
        )
        places = touched(self.architecture, self.terms, indices)
        old = [self.terms[place] for place in places]
        new = moved(old, relative, signs)
        gain = inner_product(new) - inner_product(old)
        if gain <= self.least and not force:
            return False
        for place, term in zip(places, new, strict=True):
            self.terms[place] = term
        self.relabelling = relative @ self.relabelling
        for space, flips in signs.items():
            before = self.signs.get(space)
            self.signs[space] = flips if before is None else flips * before[indices[space]]
        self.history.append(self.history[-1] + gain)
        return True


def _descend(
    architecture: Architecture,
    terms: list[PairTerm],
    method: str,
    signed: Collection[str],
    starts: int,
    generator: torch.Generator | int,
) -> Alignment:
    if starts < 1:
        raise ValueError(f"starts is {starts!r}; expected at least 1.")
    if isinstance(generator, int):
        generator = torch.Generator().manual_seed(generator)
    symmetry = Symmetry(architecture)
    best = _informed(symmetry, terms, signed)
    _climb(best, signed, None)
    for number in range(1, starts):
        start = symmetry.identity() if number == 1 else symmetry.sample(generator)
        state = _State(terms, start)
        _climb(state, signed, generator)
        if state.history[-1] > best.history[-1] + state.least:
            best = state
    return Alignment(best.relabelling, best.signs, method, tuple(best.history))


def _informed(symmetry: Symmetry, terms: list[PairTerm], signed: Collection[str]) -> _State:
    """Match space by space, by what is known of each by then, however the second is labelled."""
    architecture = symmetry.architecture
    state = _State(terms, symmetry.identity())
    known: list[str] = []
    for space in architecture.spaces:
        if space in known:
            continue
        if inner := children(architecture, space):
            step = propose_together(architecture, state.terms, space, known)
        else:
            step, _ = propose(architecture, state.terms, space, signed, known)
        state.take(step, force=True)
        known += [space, *inner]
    state.history = [inner_product(state.terms)]
    return state


def _climb(state: _State, signed: Collection[str], generator: torch.Generator | None) -> None:
    """Take steps until none gains; spaces in the order of computation, or in a random one."""
    architecture = state.architecture
    spaces = list(architecture.spaces)
    better = True
    while better:
        better = False
        if generator is not None:
            spaces = [spaces[i] for i in torch.randperm(len(spaces), generator=generator)]
        for space in spaces:
            if children(architecture, space):
                better |= state.take(propose_together(architecture, state.terms, space))
            step, exact = propose(architecture, state.terms, space, signed)
            better |= state.take(step)
            for undecided in () if exact else (False, True):
                step = propose_quadratic(architecture, state.terms, space, undecided)
                better |= state.take(step)
