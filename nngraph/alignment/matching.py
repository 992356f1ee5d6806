"""Matching the neurons of two graphs by assignment: by their weights, or by features."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nngraph.alignment.canonical import flip_signs, signed_spaces
from nngraph.alignment.descent import descend
from nngraph.alignment.terms import PairTerm, check_pair, feature_terms, terms_of
from nngraph.errors import InvalidGraphError, NonFiniteError
from nngraph.graph import Architecture, NeuralGraph, Relabelling


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
    return _aligned(architecture, terms_of(a, b), "weights", signed, starts, generator)


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
    return _aligned(architecture, terms, method, signed, 1, 0)


def _units(features: Tensor, centre: bool) -> Tensor:
    if centre:
        features = features - features.mean(-1, keepdim=True)
    length = features.norm(dim=-1, keepdim=True)
    return features / torch.where(length > 0, length, 1.0)


def _aligned(
    architecture: Architecture, terms: Sequence[PairTerm], method: str, signed: Collection[str],
    starts: int, generator: torch.Generator | int,
) -> Alignment:  # fmt: skip
    found = descend(architecture.permutations, terms, signed, starts, generator)
    relabelling = Relabelling(architecture, found.placed.indices)
    return Alignment(relabelling, dict(found.placed.signs), method, found.history)
