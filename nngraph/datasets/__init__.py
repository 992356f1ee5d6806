"""Data sets of networks in PyG's interface, batches and streams of them, and transforms."""

from nngraph.datasets.evaluator import METRICS, Evaluator
from nngraph.datasets.neural_graphs import NeuralGraphDataset
from nngraph.datasets.ogb import export_ogb, load_ogb, ogb_meta
from nngraph.datasets.statistics import Standardise, TensorStatistics, training_statistics
from nngraph.datasets.streams import EdgeBudgetSampler, ZooStream
from nngraph.datasets.transforms import (
    CanonicaliseSines,
    DropWeights,
    InputMotion,
    Relabel,
    ScaleNeurons,
    WeightNoise,
    moved_layer,
)

__all__ = [
    "METRICS", "CanonicaliseSines", "DropWeights", "EdgeBudgetSampler", "Evaluator", "InputMotion",
    "NeuralGraphDataset", "Relabel", "ScaleNeurons", "Standardise", "TensorStatistics",
    "WeightNoise", "ZooStream", "export_ogb", "load_ogb", "moved_layer", "ogb_meta",
    "training_statistics",
]
