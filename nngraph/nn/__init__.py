"""Metanetworks: models that read networks, on the shared primitives of :mod:`nngraph.kernels`."""

from nngraph.nn.encoders import NetworkEncoder
from nngraph.nn.equivariant import EquivariantLinear
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
from nngraph.nn.running import ChainRunner, ModuleRunner, Runner
from nngraph.nn.shared import SharedEquivariantLinear
from nngraph.nn.sine import SineNetwork
from nngraph.nn.sites import Site
from nngraph.nn.states import StateNetwork, States
from nngraph.nn.statistics import StatisticsNetwork
from nngraph.nn.terms import Terms

#: Name on the command line -> model, built as ``Model(architecture, num_outputs, **options)``.
MODELS: dict[str, type[Metanetwork]] = {
    "message-passing": MessagePassingNetwork,
    "sine": SineNetwork,
    "flat": FlatNetwork,
    "probe": ProbeNetwork,
}

__all__ = [
    "MODELS",
    "ChainRunner",
    "ChannelNorm",
    "EdgePooling",
    "EquivariantLinear",
    "FeatureDropout",
    "Features",
    "FlatNetwork",
    "InvariantLinear",
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
    "Runner",
    "SharedEquivariantLinear",
    "SharedPoolingLayer",
    "SineNetwork",
    "Site",
    "StateNetwork",
    "States",
    "StatisticsNetwork",
    "TensorNodes",
    "TensorNorm",
    "TensorScales",
    "Terms",
    "input_features",
]
