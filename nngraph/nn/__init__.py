"""Metanetworks: models that read networks, on the shared primitives of :mod:`nngraph.kernels`."""

from nngraph.kernels import Terms
from nngraph.nn.common.mlp import mlp
from nngraph.nn.common.pointwise import ChannelNorm, FeatureDropout, Pointwise, TensorNorm
from nngraph.nn.common.scales import Standardised, TensorScales, Units
from nngraph.nn.encoders.network import EncoderOptions, EndEncoder, FourierFeatures, NetworkEncoder
from nngraph.nn.encoders.ordered_pass import OrderedPass
from nngraph.nn.features import Features, Networks, States, input_features, output_networks
from nngraph.nn.layers.equivariant import EquivariantLinear, InvariantLinear
from nngraph.nn.layers.pooling import EdgePooling, SharedPoolingLayer, TensorNodes
from nngraph.nn.layers.shared import SharedEquivariantLinear, SharedTensorNorm
from nngraph.nn.layers.symmetric_pass import SymmetricPass
from nngraph.nn.models.base import (
    Access,
    Metanetwork,
    NetworkModel,
    StateNetwork,
    Traits,
    evaluating,
    traits_of,
)
from nngraph.nn.models.dws import EquivariantNetwork
from nngraph.nn.models.editing import AddedNeurons, EditingNetwork
from nngraph.nn.models.flat import FlatNetwork
from nngraph.nn.models.gmn import GraphLayer, GraphMetanetwork
from nngraph.nn.models.layered import EdgeStep, LayeredNetwork
from nngraph.nn.models.low_rank import LowRankNetwork
from nngraph.nn.models.message_passing import MessagePassingLayer, MessagePassingNetwork
from nngraph.nn.models.nfn_np import SharedEquivariantNetwork
from nngraph.nn.models.nft import SetAttentionLayer, SetAttentionNetwork, TensorAttention
from nngraph.nn.models.ng_gnn import FilmLayer, FilmNetwork
from nngraph.nn.models.ng_t import RelationalLayer, RelationalNetwork
from nngraph.nn.models.probe import ProbeNetwork
from nngraph.nn.models.registry import MODELS, model_named
from nngraph.nn.models.statistics import StatisticsNetwork
from nngraph.nn.models.symmetric import SymmetricNetwork, plane_wave_r2
from nngraph.nn.probes.hooks import Hook
from nngraph.nn.probes.probes import Probes
from nngraph.nn.probes.running import ChainRunner, ModuleRunner, Runner
from nngraph.nn.readouts.readout import Readout, ReadoutOptions
from nngraph.nn.readouts.weights import WeightReadout

__all__ = [
    "MODELS", "Access", "AddedNeurons", "ChainRunner", "ChannelNorm", "EdgePooling", "EdgeStep",
    "EditingNetwork", "EncoderOptions", "EndEncoder", "EquivariantLinear", "EquivariantNetwork",
    "FeatureDropout", "Features", "FilmLayer", "FilmNetwork", "FlatNetwork", "FourierFeatures",
    "GraphLayer", "GraphMetanetwork", "Hook", "InvariantLinear", "LayeredNetwork",
    "LowRankNetwork", "MessagePassingLayer", "MessagePassingNetwork", "Metanetwork",
    "ModuleRunner", "NetworkEncoder", "NetworkModel", "Networks", "OrderedPass", "Pointwise",
    "ProbeNetwork", "Probes", "Readout", "ReadoutOptions", "RelationalLayer", "RelationalNetwork",
    "Runner", "SetAttentionLayer", "SetAttentionNetwork", "SharedEquivariantLinear",
    "SharedEquivariantNetwork",
    "SharedPoolingLayer", "SharedTensorNorm", "Standardised", "StateNetwork", "States",
    "StatisticsNetwork", "SymmetricNetwork", "SymmetricPass", "TensorAttention", "TensorNodes",
    "TensorNorm", "TensorScales", "Terms", "Traits", "Units", "WeightReadout", "evaluating",
    "input_features", "mlp", "model_named", "output_networks", "plane_wave_r2", "traits_of",
]
