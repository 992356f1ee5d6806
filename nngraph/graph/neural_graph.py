"""A network's weights on its architecture, as a PyG ``Data``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
import torch_geometric.data.data as pyg_data
from torch import Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.data.storage import GlobalStorage

from nngraph.errors import InvalidGraphError
from nngraph.graph.activations import Activation
from nngraph.graph.architecture import Architecture
from nngraph.graph.groups import NeuronGroup
from nngraph.graph.layout import Parameter, Slab, read_slab
from nngraph.graph.own_indices import STRUCTURE, are_own, is_same_edges, note_own
from nngraph.graph.parameters import check_parameters, pack, pack_integers, unpack
from nngraph.graph.spaces import Factor, Space

#: Of these, what says which parameter an edge or node bears.
_READ_BY = ("edge_index", "edge_block", "node_group", "node_position")
_LAZY = frozenset({"x", "edge_attr", "integers", *STRUCTURE})


class NeuralGraph(Data):  # type: ignore[misc]
    r"""A network as a graph: neurons are nodes, weights edge features, biases node features.

    Made by the converters or by :meth:`from_parameters`. Attributes, with N neurons, E edges and F
    columns of node features (one, the bias, for an MLP):

    ================= =========== ==============================================================
    ``architecture``              the :class:`Architecture`
    ``x``             ``[N, F]``  node features; 0 where no parameter is
    ``x_mask``        ``[N, F]``  whether a parameter is there
    ``edge_index``    ``[2, E]``  from the earlier neuron to the later one
    ``edge_attr``     ``[E, C]``  edge features; channel 0 is the weight, or the taps
    ``edge_block``    ``[E]``     index into ``architecture.blocks``
    ``node_group``    ``[N]``     index into ``architecture.groups``
    ``node_role``     ``[N]``     input 0, hidden 1, output 2
    ``node_position`` ``[N]``     place within the group
    ``integers``      ``[I]``     buffers of whole numbers, where the network has such
    ================= =========== ==============================================================

    The tensors are made when one of them is first asked for; until then the graph holds the
    network's own parameters, uncopied, and :meth:`parameters` returns them. From then on
    :meth:`parameters` returns views of ``x`` and ``edge_attr``: there is one copy of the numbers at
    any time. Everything a ``Data`` does works: ``Batch``, loaders, transforms, ``to``, pickling.
    """

    architecture: Architecture
    #: Names of the attributes in the table above.
    OWN_ATTRIBUTES: ClassVar[frozenset[str]] = _LAZY | {"architecture"}

    @classmethod
    def from_parameters(
        cls,
        architecture: Architecture,
        parameters: Mapping[str, Tensor],
        *,
        allow_nonfinite: bool = True,
        **attributes: Any,
    ) -> NeuralGraph:
        """Put parameters on an architecture, without a copy.

        Args:
            parameters: every parameter of the architecture by its name.
            allow_nonfinite: whether NaN and infinity pass.
            attributes: further attributes of the graph, such as ``y``.

        Raises:
            InvalidGraphError: if the parameters do not fit the architecture.
            NonFiniteError: if one is NaN or infinite, and they are not allowed.
        """
        graph = cls()
        graph.architecture = architecture
        for name, value in attributes.items():
            setattr(graph, name, value)
        graph.__dict__["_parameters"] = check_parameters(
            architecture, parameters, allow_nonfinite=allow_nonfinite
        )
        return graph

    def parameters(self) -> dict[str, Tensor]:
        """Return every parameter by its name, as views of what the graph holds.

        Raises:
            InvalidGraphError: if the edges or nodes are no longer those of the architecture; see
                :func:`check_readable`.
        """
        if (held := self.__dict__.get("_parameters")) is not None:
            return dict(held)
        check_readable(self)
        held = self._held
        return unpack(self.architecture, held["x"], held["edge_attr"], held.get("integers"))

    @property
    def is_materialised(self) -> bool:
        """Whether ``x``, ``edge_attr`` and the indices have been made."""
        return self.__dict__.get("_parameters") is None

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> NeuralGraph:
        """Return a graph of the same architecture and further attributes with other parameters."""
        return self.from_parameters(self.architecture, parameters, **self.further_attributes())

    def further_attributes(self) -> dict[str, Any]:
        """Return what the graph carries beside its network, such as ``y``."""
        return {k: v for k, v in self._held.items() if k not in self.OWN_ATTRIBUTES}

    def block(self, index: int) -> Tensor:
        """Return the entries of block ``index`` as ``[targets, sources]``, a view for an MLP.

        A block with taps or parts is ``[parts, targets, sources, taps]``; an identity is made of 1.
        """
        block = self.architecture.blocks[index]
        if block.identity:
            check_readable(self)
            return cast(Tensor, self.edge_attr)[block.start : block.stop, :1].view(-1, 1, 1, 1)
        value = self.parameters()[block.parameter.name]
        entries = read_slab(value, block.parameter, block.slab)
        return entries[0, ..., 0] if block.parts == block.taps == 1 else entries

    def validate(self, raise_on_error: bool = True) -> bool:
        """Check every tensor against the architecture.

        Raises:
            InvalidGraphError: if one is missing or does not follow from it; or the answer is False.
        """
        try:
            self._validate()
        except InvalidGraphError:
            if raise_on_error:
                raise
            return False
        return True

    def _validate(self) -> None:
        architecture = self._held.get("architecture", None)
        if not isinstance(architecture, Architecture):
            raise InvalidGraphError(
                f"the graph's architecture is {architecture!r}; expected an Architecture. Make the "
                "graph with a converter or NeuralGraph.from_parameters; for a Batch, validate its "
                "graphs one by one."
            )
        if self.__dict__.get("_parameters") is not None:
            check_parameters(architecture, self.parameters())
            return
        for name in _LAZY if architecture.integers else _LAZY - {"integers"}:
            if not isinstance(self._held.get(name), Tensor):
                raise InvalidGraphError(f"the graph has no tensor {name!r}; expected one.")
        for name, rows, columns in (
            ("x", architecture.num_nodes, len(architecture.column_names)),
            ("edge_attr", architecture.num_edges, None),
        ):
            value = self[name]
            if value.dim() != 2 or value.shape[0] != rows or columns not in (None, value.shape[1]):
                raise InvalidGraphError(
                    f"{name} has shape {tuple(value.shape)}; the architecture {architecture} "
                    f"expects ({rows}, {'C' if columns is None else columns})."
                )
            if not value.dtype.is_floating_point:
                raise InvalidGraphError(f"{name} has dtype {value.dtype}; expected floating point.")
        for name, derive in STRUCTURE.items():
            expected = derive(architecture)
            if self[name].shape != expected.shape or not torch.equal(self[name].cpu(), expected):
                raise _foreign(name, architecture)

    # -- tensors made when first asked for ----------------------------------------------------

    @property
    def _store(self) -> GlobalStorage:
        # Every access of PyG to the attributes of a Data passes through here.
        if (parameters := self.__dict__.pop("_parameters", None)) is not None:
            held = self._held
            held["x"], held["edge_attr"] = pack(held["architecture"], parameters)
            if held["architecture"].integers:
                held["integers"] = pack_integers(held["architecture"], parameters)
            for name, derive in STRUCTURE.items():
                held[name] = derive(held["architecture"]).to(held["x"].device)
                note_own(held[name], (held["architecture"],))
        return self._held

    @property
    def _held(self) -> GlobalStorage:
        """The attributes that are there already."""
        return cast(GlobalStorage, self.__dict__["_store"])

    @property
    def y(self) -> Any:
        """What the graph is labelled with; ``None`` if it is not. Makes no tensors."""
        return self._held.get("y", None)

    def __reduce_ex__(self, protocol: Any) -> Any:
        if isinstance(self, Batch):
            # PyG's own way makes the class of a batch from a callable object, which weights_only
            # loading cannot allow.
            return _new_batch, (), self.__dict__
        return super().__reduce_ex__(protocol)

    def __copy__(self) -> NeuralGraph:
        # Made first, so that a shallow copy shares the tensors as that of any Data does.
        _ = self._store
        return cast(NeuralGraph, super().__copy__())

    def __getattr__(self, key: str) -> Any:
        if key in self.__dict__.get("_store", ()):
            return self._held[key]
        return super().__getattr__(key)

    def __setattr__(self, key: str, value: Any) -> None:
        if key in _LAZY:
            super().__setattr__(key, value)
        else:
            setattr(self._held, key, value)


def check_readable(graph: object, any_order: bool = False) -> None:
    """Check that weights and biases stand where the architecture says, of a graph or a ``Batch``.

    They are read by their place among the edges and nodes, which operations of PyG that sort, add
    or drop edges or nodes change (``coalesce``, ``ToUndirected``, ``AddSelfLoops``, ``subgraph``).
    The indices are compared exactly, and again only after they were replaced or written to.

    Args:
        any_order: whether the edges may stand in another order, for what reads ``edge_index``.

    Raises:
        InvalidGraphError: naming the first tensor that is missing or does not fit.
    """
    if not isinstance(graph, NeuralGraph):
        raise InvalidGraphError(
            f"a {type(graph).__name__} was given; expected a NeuralGraph, as to_graph makes it of "
            "a module, load_graph of a file and NeuralGraph.from_parameters of tensors."
        )
    if graph.__dict__.get("_parameters") is not None:
        return
    held = graph._held
    found = held.get("architecture")
    architectures = found if isinstance(graph, Batch) else [found]
    if not isinstance(architectures, list) or not all(
        isinstance(architecture, Architecture) for architecture in architectures
    ):
        raise InvalidGraphError(
            f"the graph's architecture is {found!r}; expected an Architecture. Make graphs with a "
            "converter or NeuralGraph.from_parameters, and a Batch of them with from_data_list."
        )
    for name in _READ_BY:
        index = held.get(name)
        if not isinstance(index, Tensor):
            raise InvalidGraphError(
                f"the graph has no tensor {name!r}; expected the one of its architecture, by which "
                "weights are read. Take them from the graph before it was changed."
            )
        if any_order and name == "edge_block":
            continue
        if not are_own(name, index, architectures) and not (
            any_order and name == "edge_index" and is_same_edges(index, architectures[0])
        ):
            raise _foreign(name, architectures[0])
    nodes = [(a.num_nodes, len(a.column_names)) for a in architectures]
    edges = [(a.num_edges, a.num_taps) for a in architectures]
    for name, sizes in (("x", nodes), ("edge_attr", edges)):
        rows, least = sum(n for n, _ in sizes), max(c for _, c in sizes)
        value = held.get(name)
        shape = tuple(value.shape) if isinstance(value, Tensor) else None
        if shape is None or len(shape) != 2 or shape[0] != rows or shape[1] < least:
            raise InvalidGraphError(
                f"{name} is {f'of shape {shape}' if shape else f'a {type(value).__name__}'}; the "
                f"architecture{'s of the batch expect' if len(architectures) > 1 else ' expects'} "
                f"({rows}, C) with C at least {least}, parameters first."
            )


def _foreign(name: str, architecture: Architecture) -> InvalidGraphError:
    return InvalidGraphError(
        f"{name} is not the one of the architecture {architecture}; edges, nodes and masks come "
        "from the architecture, and weights are read by their place among them. Operations that "
        "sort, add or drop edges or nodes (coalesce, ToUndirected, subgraph) make a graph for "
        "other purposes: take weights from the graph before it, or change the architecture."
    )


def _new_batch() -> Batch:
    """Return an empty batch of neural graphs, for unpickling."""
    return Batch(_base_cls=NeuralGraph)


torch.serialization.add_safe_globals([
    NeuralGraph, type(_new_batch()), _new_batch, Architecture, NeuronGroup, Parameter, Slab, Space,
    Factor, Activation, GlobalStorage, pyg_data.DataEdgeAttr, pyg_data.DataTensorAttr,
])  # fmt: skip
