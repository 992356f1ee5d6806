"""Matching the neurons of two networks, and the path between them."""

from nngraph.tasks.alignment.canonical import canonical_form
from nngraph.tasks.alignment.matching import Alignment, match_features, match_weights

__all__ = [
    "Alignment",
    "canonical_form",
    "match_features",
    "match_weights",
]
