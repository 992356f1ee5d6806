"""Metanetworks: models that read networks, on the shared primitives of :mod:`nngraph.kernels`."""

from nngraph.nn.encoders import NetworkEncoder
from nngraph.nn.end_encoder import EndEncoder
from nngraph.nn.equivariant import EquivariantLinear
from nngraph.nn.equivariant_network import EquivariantNetwork
from nngraph.nn.features import Features, Networks, input_features
from nngraph.nn.flat import FlatNetwork
from nngraph.nn.invariant import InvariantLinear
from nngraph.nn.message_passing import MessagePassingLayer, MessagePassingNetwork
from nngraph.nn.metanetwork import Metanetwork, TensorScales
from nngraph.nn.ordered_pass import OrderedPass
from nngraph.nn.pointwise import ChannelNorm, FeatureDropout, Pointwise, TensorNorm
from nngraph.nn.pooling import EdgePooling, SharedPoolingLayer, TensorNodes
from nngraph.nn.probes import ProbeNetwork, Probes
from nngraph.nn.readouts import Readout
from nngraph.nn.set_attention import SetAttentionLayer, SetAttentionNetwork, TensorAttention
from nngraph.nn.shared import SharedEquivariantLinear, SharedTensorNorm
from nngraph.nn.shared_network import SharedEquivariantNetwork
from nngraph.nn.sine import SineNetwork
from nngraph.nn.states import StateNetwork, States
from nngraph.nn.terms import Terms

#: Name on the command line -> model, built as ``Model(architecture, num_outputs, **options)``.
MODELS: dict[str, type[Metanetwork]] = {
    "message-passing": MessagePassingNetwork,
    "sine": SineNetwork,
    "flat": FlatNetwork,
    "probe": ProbeNetwork,
    "dws": EquivariantNetwork,
    "nfn-np": SharedEquivariantNetwork,
    "nft": SetAttentionNetwork,
}

__all__ = [
    "MODELS",
    "ChannelNorm",
    "EdgePooling",
    "EndEncoder",
    "EquivariantLinear",
    "EquivariantNetwork",
    "FeatureDropout",
    "Features",
    "FlatNetwork",
    "InvariantLinear",
    "MessagePassingLayer",
    "MessagePassingNetwork",
    "Metanetwork",
    "NetworkEncoder",
    "Networks",
    "OrderedPass",
    "Pointwise",
    "ProbeNetwork",
    "Probes",
    "Readout",
    "SetAttentionLayer",
    "SetAttentionNetwork",
    "SharedEquivariantLinear",
    "SharedEquivariantNetwork",
    "SharedPoolingLayer",
    "SharedTensorNorm",
    "SineNetwork",
    "StateNetwork",
    "States",
    "TensorAttention",
    "TensorNodes",
    "TensorNorm",
    "TensorScales",
    "Terms",
    "input_features",
]
