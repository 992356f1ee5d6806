"""Metanetworks: models that read networks, on the shared primitives of :mod:`nngraph.kernels`."""

from nngraph.nn.features import Features, Networks, input_features
from nngraph.nn.flat import FlatNetwork
from nngraph.nn.message_passing import MessagePassingLayer, MessagePassingNetwork, OrderedPass
from nngraph.nn.metanetwork import Metanetwork, TensorScales
from nngraph.nn.probes import ProbeNetwork, Probes
from nngraph.nn.sine import SineNetwork

#: Name on the command line -> model, built as ``Model(architecture, num_outputs, **options)``.
MODELS: dict[str, type[Metanetwork]] = {
    "message-passing": MessagePassingNetwork,
    "sine": SineNetwork,
    "flat": FlatNetwork,
    "probe": ProbeNetwork,
}

__all__ = [
    "MODELS",
    "Features",
    "FlatNetwork",
    "MessagePassingLayer",
    "MessagePassingNetwork",
    "Metanetwork",
    "Networks",
    "OrderedPass",
    "ProbeNetwork",
    "Probes",
    "SineNetwork",
    "TensorScales",
    "input_features",
]
