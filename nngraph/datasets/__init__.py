"""Data sets of networks in PyG's interface, and transforms of networks."""

from nngraph.datasets.neural_graphs import NeuralGraphDataset
from nngraph.datasets.transforms import CanonicaliseSines, InputMotion, Relabel

__all__ = ["CanonicaliseSines", "InputMotion", "NeuralGraphDataset", "Relabel"]
