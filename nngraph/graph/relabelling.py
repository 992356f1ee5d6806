r"""Relabellings of hidden neurons, and what they do to weights.

A relabelling carries one permutation :math:`p_s` per neuron space, as the index tensor of the
**old** neuron that stands at each **new** place::

    new neuron i of the space is old neuron p[i]:    (g W)[i, j] = W[p_target[i], p_source[j]]
                                                     (g b)[i]    = b[p[i]]

With the matrix :math:`P` that has a 1 at ``[i, p[i]]`` this is :math:`W \to P_t W P_s^T` and
:math:`b \to P_t b`, a **left** action: ``g.compose(h)``, also ``g @ h``, is "first h, then g",

.. math:: (g \circ h) \cdot W = g \cdot (h \cdot W), \qquad p_{g \circ h}[i] = p_h[p_g[i]].

Groups of neurons without a space (inputs and outputs) stay where they are. A space within others
has a permutation for each neuron of these, taken by its **new** place; see
:mod:`nngraph.graph.spaces`.

Permutation is the first kind of generator and holds for every element-wise activation. Others
depend on the activation (scale, sign, phase); each such kind is a value of its own with these same
``act_on_...`` methods, so that code written against the methods takes any of them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor
from torch_geometric.data import Batch

from nngraph.errors import ArchitectureError, InvalidGraphError
from nngraph.graph.architecture import Architecture
from nngraph.graph.layout import Block, read_slab, write_slab
from nngraph.graph.neural_graph import NeuralGraph, check_readable
from nngraph.graph.parameters import check_parameters
from nngraph.graph.permutations import take
from nngraph.graph.spaces import group_permutation
from nngraph.graph.stack import NeuralGraphStack


class Relabelling:
    """One relabelling of the hidden neurons of an architecture, or one for each of B networks.

    The convention is stated at the top of this module. Do not change the index tensors in place.

    Args:
        indices: for every neuron space of the architecture its permutation, an integer tensor
            ``[d]``, or ``[copies, d]`` for a space within others; with a leading axis B in all.

    Raises:
        ArchitectureError: if a space is missing or unknown, or an index is not a permutation of it.
    """

    architecture: Architecture
    indices: dict[str, Tensor]
    #: B for a stack of relabellings, ``None`` for a single one.
    count: int | None

    def __init__(self, architecture: Architecture, indices: Mapping[str, Tensor]) -> None:
        self.count = architecture.permutations.check(indices)
        self.architecture = architecture
        self.indices = {space: indices[space] for space in architecture.spaces}

    @classmethod
    def _of(
        cls, architecture: Architecture, indices: dict[str, Tensor], count: int | None = None
    ) -> Relabelling:
        """Make one of indices that are right by construction."""
        relabelling = cls.__new__(cls)
        relabelling.architecture = architecture
        relabelling.indices = indices
        relabelling.count = count
        return relabelling

    # -- the group ----------------------------------------------------------------------------

    def compose(self, first: Relabelling) -> Relabelling:
        """Return "``first``, then this one", which acts as this one on what ``first`` gives.

        A single relabelling composes with a stack of them.
        """
        if first.architecture != self.architecture:
            raise ArchitectureError(
                f"relabellings of {self.architecture} and {first.architecture} do not compose; "
                "expected one architecture."
            )
        count = first.count if self.count is None else self.count
        if first.count not in (None, count):
            raise ArchitectureError(
                f"stacks of {self.count} and {first.count} relabellings do not compose; "
                "expected as many, or a single one."
            )
        indices = self.architecture.permutations.compose(self.indices, first.indices)
        return Relabelling._of(self.architecture, indices, count)

    def __matmul__(self, first: Relabelling) -> Relabelling:
        return self.compose(first)

    def invert(self) -> Relabelling:
        """Return the relabelling that undoes this one."""
        indices = self.architecture.permutations.invert(self.indices)
        return Relabelling._of(self.architecture, indices, self.count)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Relabelling):
            return NotImplemented
        return (
            self.architecture == other.architecture
            and self.count == other.count
            and all(torch.equal(p.cpu(), other.indices[s].cpu()) for s, p in self.indices.items())
        )

    def __getitem__(self, index: int) -> Relabelling:
        """Return relabelling ``index`` of a stack."""
        if self.count is None:
            raise ArchitectureError("a single relabelling has no entries; expected a stack.")
        if not -self.count <= index < self.count:
            raise IndexError(f"entry {index} of {self.count} relabellings.")
        return Relabelling._of(self.architecture, {s: p[index] for s, p in self.indices.items()})

    def to(self, device: torch.device | str) -> Relabelling:
        """Return the relabelling with its indices on a device (the actions move them as needed)."""
        indices = {s: p.to(device) for s, p in self.indices.items()}
        return Relabelling._of(self.architecture, indices, self.count)

    def __repr__(self) -> str:
        count = "" if self.count is None else f"{self.count} x "
        return f"Relabelling({count}{self.architecture})"

    # -- its actions --------------------------------------------------------------------------

    def act_on_parameters(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the parameters of the relabelled network, ``[*lead, *shape]``, one lead for all.

        For a stack of relabellings the first of the lead is B.
        """
        architecture = self.architecture
        lead: tuple[int, ...] = ()
        for parameter in architecture.parameters:
            value = parameters.get(parameter.name)
            if isinstance(value, Tensor):
                lead = tuple(value.shape[: max(value.dim() - len(parameter.shape), 0)])
                break
        self._check_lead(lead, "parameters")
        values = check_parameters(architecture, parameters, lead)
        for parameter in architecture.parameters:
            value = values[parameter.name]
            for axis, group in enumerate(parameter.axes):
                if group is not None:
                    value = self._move(value, group, axis - len(parameter.axes))
            values[parameter.name] = value
        moved: dict[str, Tensor] = {}
        slabs = [
            *((b.parameter, b.slab, b) for b in architecture.blocks if not b.identity),
            *((c.parameter, c.slab, None) for c in architecture.columns),
        ]
        for parameter, slab, block in slabs:
            if parameter.slabs:
                entries = read_slab(values[parameter.name], parameter, slab)
                if block is not None:
                    entries = self._move_edges(entries.flatten(-4, -2), block)
                else:
                    entries = self._move(entries, slab.target, -2)
                shape = (*entries.shape[: -2], *parameter.shape)
                out = moved.setdefault(parameter.name, entries.new_empty(shape))
                write_slab(entries, out, parameter, slab)
        return {**values, **moved}

    def act_on_nodes(self, x: Tensor) -> Tensor:
        """Return node features of the relabelled network, ``[*lead, N, C]`` with any C.

        For a stack of relabellings the first of the lead is B.
        """
        nodes = self.architecture.num_nodes
        self._check_features("x", x, nodes)
        starts = self.architecture.node_starts
        parts = [
            self._move(x[..., starts[g] : starts[g + 1], :], g, -2)
            for g in range(len(self.architecture.groups))
        ]
        return torch.cat(parts, dim=-2)

    def act_on_edges(self, edge_attr: Tensor) -> Tensor:
        """Return edge features of the relabelled network, ``[*lead, E, C]`` with any C.

        For a stack of relabellings the first of the lead is B.
        """
        self._check_features("edge_attr", edge_attr, self.architecture.num_edges)
        parts = [
            self._move_edges(edge_attr[..., block.start : block.stop, :], block)
            for block in self.architecture.blocks
        ]
        return torch.cat(parts, dim=-2) if parts else edge_attr

    def act_on_graph(self, graph: NeuralGraph) -> NeuralGraph:
        """Return the graph of the relabelled network; the given one is not changed.

        The features ``x`` and ``edge_attr`` move; the structure follows from the architecture and
        stays, as further attributes, such as ``y``, do.

        Raises:
            InvalidGraphError: if the graph is of another architecture, or is a batch.
        """
        if isinstance(graph, Batch):
            raise InvalidGraphError(
                "a Batch has several architectures; relabel its graphs before batching, or use a "
                "NeuralGraphStack with act_on_stack."
            )
        self._check_carrier(graph)
        if self.count is not None:
            raise InvalidGraphError(
                f"a stack of {self.count} relabellings does not act on one graph; expected a "
                "single relabelling. Pick one by its index, or act on a NeuralGraphStack."
            )
        if not graph.is_materialised:
            return graph.with_parameters(self.act_on_parameters(graph.parameters()))
        if "edge_index" in graph:  # features alone, without indices, move by their place
            check_readable(graph)
        assert isinstance(graph.x, Tensor)
        assert isinstance(graph.edge_attr, Tensor)
        out = copy.copy(graph)
        out.x, out.edge_attr = self.act_on_nodes(graph.x), self.act_on_edges(graph.edge_attr)
        return out

    def act_on_stack(self, stack: NeuralGraphStack) -> NeuralGraphStack:
        """Return the relabelled networks: each by its own relabelling, or all by one."""
        self._check_carrier(stack)
        x, edge_attr = self.act_on_nodes(stack.x), self.act_on_edges(stack.edge_attr)
        return NeuralGraphStack(stack.architecture, x, edge_attr, stack.y, stack.integers)

    def _of_group(self, group: int) -> Tensor | None:
        """Old neuron at each new place of a group: ``[n]``, ``[B, n]``, or ``None`` if fixed."""
        space = self.architecture.groups[group].space
        if isinstance(space, str):
            return self.indices.get(space)
        if space is None or not any(factor.space in self.indices for factor in space):
            return None
        return group_permutation(self.architecture.all_spaces, space, self.indices)

    def _move(self, value: Tensor, group: int, axis: int) -> Tensor:
        index = self._of_group(group)
        return value if index is None else take(value, index.to(value.device), axis)

    def _move_edges(self, value: Tensor, block: Block) -> Tensor:
        """Relabel the edges of a block, ``[*, edges, C]``."""
        if block.parts == 1:
            value = value.reshape(*value.shape[:-2], *block.shape, value.shape[-1])
            value = self._move(self._move(value, block.target, -3), block.source, -2)
            return value.flatten(-3, -2)
        ends = []
        for group, size in ((block.target, block.rows), (block.source, block.columns)):
            index = self._of_group(group)
            if index is None:
                index = torch.arange(block.parts * size)
            ends.append(torch.unflatten(index.to(value.device), -1, (block.parts, size)))
        # The parts move whole, so that the old target tells the old part.
        rows = ends[0].unsqueeze(-1) * block.columns
        edges = rows + ends[1].remainder(block.columns).unsqueeze(-2)
        return take(value, edges.flatten(-3), -2)

    def _check_lead(self, lead: tuple[int, ...], what: str) -> None:
        if self.count is not None and lead[:1] != (self.count,):
            raise InvalidGraphError(
                f"{what} have leading shape {lead}; expected ({self.count}, ...), one network for "
                f"each of the {self.count} relabellings."
            )

    def _check_features(self, what: str, value: Tensor, rows: int) -> None:
        if value.dim() < 2 or value.shape[-2] != rows:
            raise InvalidGraphError(
                f"{what} has shape {tuple(value.shape)}; the architecture {self.architecture} "
                f"expects (..., {rows}, C)."
            )
        self._check_lead(tuple(value.shape[:-2]), f"features {what}")

    def _check_carrier(self, carrier: NeuralGraph | NeuralGraphStack) -> None:
        if carrier.architecture != self.architecture:
            raise InvalidGraphError(
                f"a relabelling of {self.architecture} does not act on a network of "
                f"{carrier.architecture}; expected the same groups and parameters."
            )


class Symmetry:
    r"""The group of neuron relabellings of an architecture, :math:`\prod_s S_{d_s}`.

    One factor per neuron space: groups of one space are relabelled together. A space within
    others, as the dimensions inside of attention heads, has a factor for each neuron of these.

    Example:
        >>> symmetry = Symmetry(Architecture.mlp([2, 4, 3, 1]))
        >>> symmetry.order()
        144
    """

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture

    @property
    def spaces(self) -> dict[str, int]:
        """Size of each neuron space that is permuted."""
        return dict(self.architecture.spaces)

    def order(self) -> int:
        """Return the number of relabellings, exactly: the product of the factorials.

        Python refuses to print integers of more than 4,300 digits; see :meth:`log10_order`.
        """
        return self.architecture.permutations.order()

    def log10_order(self) -> float:
        """Return the decimal logarithm of :meth:`order`, without computing that number."""
        return self.architecture.permutations.log10_order()

    def identity(self) -> Relabelling:
        """Return the relabelling that moves nothing."""
        return Relabelling._of(self.architecture, self.architecture.permutations.identity())

    def sample(self, generator: torch.Generator | int | None = None) -> Relabelling:
        """Return one drawn uniformly, by a generator, a seed, or torch's global generator."""
        return self.sample_stack(1, generator)[0]

    def sample_stack(
        self, count: int, generator: torch.Generator | int | None = None
    ) -> Relabelling:
        """Return B independent ones, ``[B, d]``, on the generator's device (CPU for a seed)."""
        indices = self.architecture.permutations.sample(generator, count)
        return Relabelling._of(self.architecture, indices, count)

    def __repr__(self) -> str:
        factors = " x ".join(
            f"S_{shape[-1]}" + (f"^{shape[0]}" if len(shape) > 1 else "")
            for shape in self.architecture.permutations.shapes.values()
        )
        return f"Symmetry({factors or 'trivial'} of {self.architecture})"
