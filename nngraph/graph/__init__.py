"""Networks as graphs: the data model, its symmetry, and running a graph as a network."""

from nngraph.graph.activations import (
    ACTIVATIONS,
    Activation,
    ActivationFunction,
    NeuronSymmetry,
)
from nngraph.graph.architecture import Architecture
from nngraph.graph.batching import (
    Alike,
    join_networks,
    join_nodes,
    order_edges,
    restore_edges,
    split_networks,
)
from nngraph.graph.chain import ChainLayer, chain_layers
from nngraph.graph.ensemble import join_ensemble, run_ensemble, with_widths
from nngraph.graph.groups import MAX_SIZE, ROLES, NeuronGroup
from nngraph.graph.layout import (
    INTEGERS,
    Block,
    Column,
    Parameter,
    Slab,
    read_slab,
    slabs_of,
    write_slab,
)
from nngraph.graph.low_rank import LowRankPair, low_rank_pairs, sample_gauges
from nngraph.graph.neural_graph import NeuralGraph, check_readable
from nngraph.graph.neuron_scales import MAX_POWER, NeuronScale, ScaleKind, SlabPower
from nngraph.graph.neuron_symmetry import (
    SCALED,
    SIGNED,
    HiddenNeurons,
    canonicalise_neurons,
    hidden_layers,
    move_neurons,
    sample_moves,
)
from nngraph.graph.own_indices import STRUCTURE
from nngraph.graph.parameters import DTYPES, check_parameters, check_tensor, pack, unpack
from nngraph.graph.permutations import Indices, Permutations
from nngraph.graph.pieces import TensorPiece
from nngraph.graph.relabelling import Relabelling, Symmetry
from nngraph.graph.run import forward
from nngraph.graph.scaling import (
    sample_scales,
    scale_kinds,
    scale_parameters,
    scale_places,
    scales_of,
    scales_of_values,
)
from nngraph.graph.spaces import Factor, Space, group_permutation
from nngraph.graph.stack import NeuralGraphStack, to_batch
from nngraph.graph.topology.build import BLOCK_KINDS, COLUMN_KINDS, KERNEL_AXES
from nngraph.graph.topology.tables import (
    Blocks,
    Bucket,
    Groups,
    Level,
    Meetings,
    Members,
    Neurons,
    Nodes,
)
from nngraph.graph.topology.topology import Topology

__all__ = [
    "ACTIVATIONS", "BLOCK_KINDS", "COLUMN_KINDS", "DTYPES", "INTEGERS", "KERNEL_AXES", "MAX_POWER",
    "MAX_SIZE", "ROLES", "SCALED", "SIGNED", "STRUCTURE", "Activation", "ActivationFunction",
    "Alike", "Architecture", "Block", "Blocks", "Bucket", "ChainLayer", "Column", "Factor",
    "Groups", "HiddenNeurons", "Indices", "Level", "LowRankPair", "Meetings", "Members",
    "NeuralGraph", "NeuralGraphStack", "NeuronGroup", "NeuronScale", "NeuronSymmetry", "Neurons",
    "Nodes", "Parameter", "Permutations", "Relabelling", "ScaleKind", "Slab", "SlabPower", "Space",
    "Symmetry", "TensorPiece", "Topology", "canonicalise_neurons", "chain_layers",
    "check_parameters", "check_readable", "check_tensor", "forward", "group_permutation",
    "hidden_layers", "join_ensemble", "join_networks", "join_nodes", "low_rank_pairs",
    "move_neurons", "order_edges", "pack", "read_slab", "restore_edges", "run_ensemble",
    "sample_gauges", "sample_moves", "sample_scales", "scale_kinds", "scale_parameters",
    "scale_places", "scales_of", "scales_of_values", "slabs_of", "split_networks", "to_batch",
    "unpack", "with_widths", "write_slab",
]
