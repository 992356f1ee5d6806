"""The models by name."""

from __future__ import annotations

from typing import TypeVar

from nngraph.nn.models.base import Metanetwork
from nngraph.nn.models.dws import EquivariantNetwork
from nngraph.nn.models.flat import FlatNetwork
from nngraph.nn.models.gmn import GraphMetanetwork
from nngraph.nn.models.low_rank import LowRankNetwork
from nngraph.nn.models.message_passing import MessagePassingNetwork
from nngraph.nn.models.nfn_np import SharedEquivariantNetwork
from nngraph.nn.models.nft import SetAttentionNetwork
from nngraph.nn.models.ng_gnn import FilmNetwork
from nngraph.nn.models.ng_t import RelationalNetwork
from nngraph.nn.models.probe import ProbeNetwork
from nngraph.nn.models.statistics import StatisticsNetwork
from nngraph.nn.models.symmetric import SymmetricNetwork

_Model = TypeVar("_Model", bound=Metanetwork)

#: Name on the command line -> model, built as ``Model(architecture, num_outputs, **options)``.
MODELS: dict[str, type[Metanetwork]] = {
    "message-passing": MessagePassingNetwork,
    "symmetric": SymmetricNetwork,
    "low-rank": LowRankNetwork,
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


def model_named(name: str, kind: type[_Model]) -> type[_Model]:
    """Return a model by its name, as one of a kind; a ValueError if there is none such."""
    fitting = {known: model for known, model in MODELS.items() if issubclass(model, kind)}
    if name not in fitting:
        lacks = ", which gives neurons no states" if name in MODELS else ""
        raise ValueError(f"model is {name!r}{lacks}; expected one of {', '.join(fitting)}.")
    return fitting[name]
