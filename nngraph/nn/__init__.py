"""Metanetworks: models that read networks, on the shared primitives of :mod:`nngraph.kernels`."""

from nngraph.kernels.equivariant.terms import Terms
from nngraph.nn.added_neurons import AddedNeurons
from nngraph.nn.editing import EditingNetwork
from nngraph.nn.encoders import FourierFeatures, NetworkEncoder
from nngraph.nn.end_encoder import EndEncoder
from nngraph.nn.equivariant import EquivariantLinear
from nngraph.nn.equivariant_network import EquivariantNetwork
from nngraph.nn.features import Features, Networks, input_features
from nngraph.nn.film import FilmLayer, FilmNetwork
from nngraph.nn.flat import FlatNetwork
from nngraph.nn.graph_metanetwork import GraphLayer, GraphMetanetwork
from nngraph.nn.invariant import InvariantLinear
from nngraph.nn.layered import EdgeStep, LayeredNetwork
from nngraph.nn.message_passing import MessagePassingLayer, MessagePassingNetwork
from nngraph.nn.metanetwork import Metanetwork
from nngraph.nn.ordered_pass import OrderedPass
from nngraph.nn.outputs import output_networks
from nngraph.nn.pointwise import ChannelNorm, FeatureDropout, Pointwise, TensorNorm
from nngraph.nn.pooling import EdgePooling, SharedPoolingLayer, TensorNodes
from nngraph.nn.probes import ProbeNetwork, Probes
from nngraph.nn.probing import probing
from nngraph.nn.readouts import Readout
from nngraph.nn.relational import RelationalLayer, RelationalNetwork
from nngraph.nn.running import ChainRunner, ModuleRunner, Runner
from nngraph.nn.scales import TensorScales
from nngraph.nn.set_attention import SetAttentionLayer, SetAttentionNetwork, TensorAttention
from nngraph.nn.shared import SharedEquivariantLinear, SharedTensorNorm
from nngraph.nn.shared_network import SharedEquivariantNetwork
from nngraph.nn.sites import Site
from nngraph.nn.states import StateNetwork, States
from nngraph.nn.statistics_network import StatisticsNetwork
from nngraph.nn.symmetric import SymmetricNetwork
from nngraph.nn.weight_readout import WeightReadout

#: Name on the command line -> model, built as ``Model(architecture, num_outputs, **options)``.
MODELS: dict[str, type[Metanetwork]] = {
    "message-passing": MessagePassingNetwork,
    "symmetric": SymmetricNetwork,
    "flat": FlatNetwork,
    "probe": ProbeNetwork,
    "ng-gnn": FilmNetwork,
    "ng-t": RelationalNetwork,
    "gmn": GraphMetanetwork,
    "dws": EquivariantNetwork,
    "nfn-np": SharedEquivariantNetwork,
    "nft": SetAttentionNetwork,
    "statistics": StatisticsNetwork,
}

__all__ = [
    "MODELS",
    "AddedNeurons",
    "ChainRunner",
    "ChannelNorm",
    "EdgePooling",
    "EdgeStep",
    "EditingNetwork",
    "EndEncoder",
    "EquivariantLinear",
    "EquivariantNetwork",
    "FeatureDropout",
    "Features",
    "FilmLayer",
    "FilmNetwork",
    "FlatNetwork",
    "FourierFeatures",
    "GraphLayer",
    "GraphMetanetwork",
    "InvariantLinear",
    "LayeredNetwork",
    "MessagePassingLayer",
    "MessagePassingNetwork",
    "Metanetwork",
    "ModuleRunner",
    "NetworkEncoder",
    "Networks",
    "OrderedPass",
    "Pointwise",
    "ProbeNetwork",
    "Probes",
    "Readout",
    "RelationalLayer",
    "RelationalNetwork",
    "Runner",
    "SetAttentionLayer",
    "SetAttentionNetwork",
    "SharedEquivariantLinear",
    "SharedEquivariantNetwork",
    "SharedPoolingLayer",
    "SharedTensorNorm",
    "Site",
    "StateNetwork",
    "States",
    "StatisticsNetwork",
    "SymmetricNetwork",
    "TensorAttention",
    "TensorNodes",
    "TensorNorm",
    "TensorScales",
    "Terms",
    "WeightReadout",
    "input_features",
    "output_networks",
    "probing",
]
