"""Structured pruning: neurons removed from a network wherever its permutation spec ties them."""

from nngraph.pruning.choice import keep_shares, keep_within
from nngraph.pruning.files import load_pruned, pruned_metadata, save_pruned
from nngraph.pruning.law import Law, Prunable
from nngraph.pruning.pruned import Pruned, prune, prune_state
from nngraph.pruning.removal import Removal
from nngraph.pruning.scores import (
    batch_norm_scores,
    first_order_scores,
    norm_scores,
    read_scores,
    summed_scores,
)

__all__ = [
    "Law", "Prunable", "Pruned", "Removal", "batch_norm_scores", "first_order_scores",
    "keep_shares", "keep_within", "load_pruned", "norm_scores", "prune", "prune_state",
    "pruned_metadata", "read_scores", "save_pruned", "summed_scores",
]
