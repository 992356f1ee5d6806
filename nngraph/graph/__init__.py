"""Networks as graphs: the data model, its symmetry, and running a graph as a network."""

from nngraph.graph.activations import (
    ACTIVATIONS,
    Activation,
    ActivationFunction,
    NeuronSymmetry,
)
from nngraph.graph.architecture import ROLES, Architecture, Block, Column, NeuronGroup, Parameter
from nngraph.graph.copies import join_copies, run_copies
from nngraph.graph.neural_graph import NeuralGraph, NeuralGraphStack, to_batch
from nngraph.graph.relabelling import Relabelling
from nngraph.graph.run import forward
from nngraph.graph.symmetry import Symmetry

__all__ = [
    "ACTIVATIONS",
    "ROLES",
    "Activation",
    "ActivationFunction",
    "Architecture",
    "Block",
    "Column",
    "NeuralGraph",
    "NeuralGraphStack",
    "NeuronGroup",
    "NeuronSymmetry",
    "Parameter",
    "Relabelling",
    "Symmetry",
    "forward",
    "join_copies",
    "run_copies",
    "to_batch",
]
