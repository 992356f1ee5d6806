"""Matching by features of neurons: their activations, and the states that a model gives them.

A model whose states commute with relabelling gives neurons that do the same thing in two networks
like states, wherever they stand. One forward pass embeds both networks; the assignment of most
cosine similarity matches them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nngraph.alignment.interpolation import run
from nngraph.alignment.matching import Alignment, match_features
from nngraph.alignment.terms import check_pair
from nngraph.datasets import CanonicaliseSines
from nngraph.graph import NeuralGraph, to_batch
from nngraph.nn import NetworkModel, Networks, StateNetwork, evaluating


def match_activations(
    a: NeuralGraph, b: NeuralGraph, inputs: Tensor, *, signs: bool = False
) -> Alignment:
    """Match the neurons of two chains by the correlation of their activations.

    Args:
        inputs: ``[P, d_0]``, what both networks are run on.
        signs: whether neurons of odd activation may be matched with the other sign.

    Raises:
        InvalidGraphError: if the networks have not one architecture, or the inputs do not fit it.
        ArchitectureError: if they are no chains of affine maps. Of others take the activations
            by hooks, and match them with :func:`match_features`.
    """
    architecture = check_pair(a, b)
    with torch.no_grad():
        seen = [run(network, inputs, return_activations=True).T for network in (a, b)]
    return match_features(
        architecture, seen[0], seen[1], centre=True, signs=signs, method="activations"
    )


class NeuronStates(NetworkModel):
    """A metanetwork whose answer is the states of the neurons: what neurons are matched by.

    Args:
        encoder: any model with states; its read-out, if it has one, is not used.

    Shape:
        networks -> ``[*, N, C]``.
    """

    def __init__(self, encoder: StateNetwork) -> None:
        super().__init__()
        self.encoder, self.traits = encoder, encoder.traits

    def forward(self, networks: Networks) -> Tensor:
        """Return the states of the neurons of networks."""
        return self.encoder.states(networks).x


def match_embeddings(
    model: StateNetwork | NeuronStates,
    a: NeuralGraph,
    b: NeuralGraph,
    *,
    canonicalise: bool = False,
) -> Alignment:
    """Match the neurons of two networks by the states that a model gives them, in one pass.

    Args:
        model: its states commute with relabelling, as those of every ``StateNetwork`` do;
            :class:`~nngraph.tasks.MatchNeurons` trains one for it.
        canonicalise: bring sine neurons to canonical sign and phase for the model, as in a training
            run with that setting; the relabelling is of the networks as they are.

    Raises:
        InvalidGraphError: if the networks have not one architecture.
    """
    architecture = check_pair(a, b)
    states = model if isinstance(model, NeuronStates) else NeuronStates(model)
    pair = [a, b]
    sines = any(group.activation.symmetry == "phase" for group in architecture.groups)
    if canonicalise and sines and states.traits.reads_signs:
        pair = [CanonicaliseSines()(network) for network in pair]
    with evaluating(model):
        x = states(to_batch(pair))
    # Two networks of one architecture stand as a stack.
    return match_features(architecture, x[0], x[1], method="embeddings")
