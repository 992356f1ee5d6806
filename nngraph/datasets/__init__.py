"""Data sets of networks in PyG's interface."""

from nngraph.datasets.neural_graphs import NeuralGraphDataset

__all__ = ["NeuralGraphDataset"]
