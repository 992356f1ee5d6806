"""Matching the neurons of two networks, and the path between them."""

from nngraph.alignment.canonical import canonical_form
from nngraph.alignment.comparing import (
    Mixture,
    StateComparison,
    TensorDifference,
    compare_states,
    mixture_of,
)
from nngraph.alignment.embeddings import (
    NeuronStates,
    match_activations,
    match_embeddings,
)
from nngraph.alignment.gains import space_gains
from nngraph.alignment.interpolation import (
    Barrier,
    Loss,
    barrier,
    data_loss,
    distance,
    interpolate,
    run,
)
from nngraph.alignment.matching import Alignment, match_features, match_weights
from nngraph.alignment.merging import Merged, match_all, merge_states
from nngraph.alignment.modules import (
    StateLoss,
    measured_statistics,
    module_loss,
    state_barrier,
)
from nngraph.alignment.sinkhorn import match_sinkhorn, relabel_softly, sinkhorn
from nngraph.alignment.states import (
    Products,
    StateAlignment,
    TensorSymmetry,
    match_states,
    state_terms,
    states_apart,
)
from nngraph.alignment.terms import check_pair, terms_of

__all__ = [
    "Alignment", "Barrier", "Loss", "Merged", "Mixture", "NeuronStates", "Products",
    "StateAlignment", "StateComparison", "StateLoss", "TensorDifference", "TensorSymmetry",
    "barrier", "canonical_form", "check_pair", "compare_states", "data_loss", "distance",
    "interpolate", "match_activations", "match_all", "match_embeddings", "match_features",
    "match_sinkhorn", "match_states", "match_weights", "measured_statistics", "merge_states",
    "mixture_of", "module_loss", "relabel_softly", "run", "sinkhorn", "space_gains",
    "state_barrier", "state_terms", "states_apart", "terms_of",
]
