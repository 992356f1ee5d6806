"""Matching the neurons of two networks, and the path between them."""

from nngraph.tasks.alignment.canonical import canonical_form
from nngraph.tasks.alignment.embeddings import (
    NeuronStates,
    match_activations,
    match_embeddings,
)
from nngraph.tasks.alignment.interpolation import (
    Barrier,
    Loss,
    barrier,
    data_loss,
    distance,
    interpolate,
    run,
)
from nngraph.tasks.alignment.match_task import MatchNeurons, matching_loss
from nngraph.tasks.alignment.matching import Alignment, match_features, match_weights
from nngraph.tasks.alignment.sinkhorn import match_sinkhorn, relabel_softly, sinkhorn

__all__ = [
    "Alignment",
    "Barrier",
    "Loss",
    "MatchNeurons",
    "NeuronStates",
    "barrier",
    "canonical_form",
    "data_loss",
    "distance",
    "interpolate",
    "match_activations",
    "match_embeddings",
    "match_features",
    "match_sinkhorn",
    "match_weights",
    "matching_loss",
    "relabel_softly",
    "run",
    "sinkhorn",
]
