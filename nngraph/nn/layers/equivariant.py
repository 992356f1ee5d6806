"""The complete affine maps that commute with relabelling, and those that it leaves unchanged."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nngraph.errors import InvalidGraphError
from nngraph.graph import Architecture
from nngraph.kernels import DenseMixing, MixedTensor, PermuteIO, ScatterMixing, Terms, pool_globally

#: Share of an entry's variance, at the start, from the finest term that reaches it: the edge's own
#: product, or its neuron's table. Coarser terms carry what entries have in common; given as much
#: weight they would wash differences between entries out within a few layers.
_FINEST = 0.75


class EquivariantLinear(nn.Module):
    r"""The general affine map on parameters that commutes with relabelling neurons.

    .. math::
        y_A = \Theta_A A \,[\text{if it is on edges between permuted groups}]
        + \sum_{k \in A} \Theta_{k,A} \big[\mathrm{mean}_{B \to k} B\big]_{B \ni k}
        + \Theta_A^0 \big[\mathrm{mean}\, B\big]_B + \beta_A

    Every tensor is pooled into one global table and into a table at the neurons of each permuted
    group that it has as an axis; free axes (inputs, outputs) count as channels; each table is mixed
    and broadcast back. These terms are data (:class:`~nngraph.kernels.equivariant.terms.Terms`) and
    together are all of the DWS basis: each weight is one coefficient of it. O(E) time.

    The global table has S slots, S = d_0 + 2 d_L + 2 L - 3, and the first hidden group's d_0 + 2:
    for images as inputs they explode. ``permute_io="input"`` treats the inputs as relabelled too,
    so that they are pooled instead (784-h-h-10: 1,269,190 coefficients become 732). Mixing that
    tells one input from another is then lost; give it back as features, such as a code of the
    input's place on the edges of the first weight.

    Args:
        architecture: of the networks; fixes the symmetry. One group per neuron space.
        in_channels, out_channels: C_in and C_out per parameter.
        permute_io: treat ``"input"``, ``"output"`` or both (``True``) groups as relabelled.
        bias: whether there are constants, one per free coordinate and channel.
        backend: ``"dense"`` reads blocks as arrays; ``"scatter"`` passes messages over
            ``edge_index`` with torch-scatter. Same parameters, same values.

    Shape:
        x ``[*, N, C_in]``, edge_attr ``[*, E, C_in]`` -> the same with C_out. Flat features
        ``[B N, C]``, ``[B E, C]`` of a PyG ``Batch`` of networks of the architecture are taken too.
        x of neurons without parameters is not read and is 0 in the output.

    Raises:
        ArchitectureError: if groups share a neuron space (residual connections).
        InvalidGraphError: if features do not fit the architecture.
        MissingDependencyError: if the backend is ``"scatter"`` and torch-scatter is not installed.

    Source:
        the space of maps: Navon et al., ICML 2023; one table per group is ours.

    Example:
        >>> architecture = Architecture.mlp([2, 32, 32, 1])
        >>> layer = EquivariantLinear(architecture, 1, 8)
        >>> x, edge_attr = layer(torch.randn(5, 67, 1), torch.randn(5, 1120, 1))
        >>> x.shape, edge_attr.shape
        (torch.Size([5, 67, 8]), torch.Size([5, 1120, 8]))
    """

    def __init__(
        self, architecture: Architecture, in_channels: int, out_channels: int,
        permute_io: PermuteIO = False, bias: bool = True, backend: str = "dense",
    ) -> None:
        super().__init__()
        if backend not in ("dense", "scatter"):
            raise ValueError(f"backend is {backend!r}; expected 'dense' or 'scatter'.")
        self.terms = Terms.of(architecture, permute_io)
        self.architecture = architecture
        self.in_channels, self.out_channels = in_channels, out_channels
        self.backend = backend
        slots = self.terms.num_slots
        self.global_weight = nn.Parameter(torch.empty(slots * out_channels, slots * in_channels))
        self.node_weights = nn.ParameterList(
            torch.empty(table.slots * out_channels, table.slots * in_channels)
            for table in self.terms.tables
        )
        self.edge_weights = nn.ParameterList(
            torch.empty(out_channels, in_channels) for _ in self.terms.edge_mixing
        )
        self.bias = nn.Parameter(torch.empty(slots * out_channels)) if bias else None
        self.messages = (ScatterMixing if backend == "scatter" else DenseMixing)(self.terms)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, gain: float = 1.0) -> None:
        r"""Draw the weights so that the variance of features is kept, at any depth and width.

        Of the variance of an entry the finest term gives 3/4 and the others share the rest; within
        a term all inputs count alike. Means do not grow with the width, so no weight depends on it.

        ``gain`` makes a nonlinearity that follows good, as in ``torch.nn.init.calculate_gain``.
        """
        terms, fan_in = self.terms, self.in_channels
        tables = [(terms.num_slots, terms.slots, 0)]
        tables += [(table.slots, table.parts, 1) for table in terms.tables]
        for (size, slots, level), weight in zip(
            tables, (self.global_weight, *self.node_weights), strict=True
        ):
            rows = weight.view(size, -1)
            for slot in slots:
                share = _share(terms.tensors[slot.tensor], level) / (size * fan_in)
                rows[slot.start : slot.stop].normal_(0, gain * math.sqrt(share))
        for tensor, weight in zip(terms.edge_mixing, self.edge_weights, strict=True):
            share = _share(terms.tensors[tensor], 2) / fan_in
            weight.normal_(0, gain * math.sqrt(share))
        if self.bias is not None:
            self.bias.zero_()

    def forward(
        self, x: Tensor, edge_attr: Tensor, edge_index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map node and edge features.

        With ``edge_index [2, B E]`` of a PyG batch edges may stand in any order, for
        ``backend="scatter"``; the dense backend expects the architecture's own order.
        """
        nodes, edges = stacked_features(self.architecture, x, edge_attr, self.in_channels)
        weights = (self.global_weight, *self.node_weights, *self.edge_weights)
        order = {} if isinstance(self.messages, DenseMixing) else {"edge_index": edge_index}
        out_x, out_edges = self.messages(nodes, edges, self.bias, *weights, **order)
        return (
            out_x.reshape(*x.shape[:-1], self.out_channels),
            out_edges.reshape(*edge_attr.shape[:-1], self.out_channels),
        )

    def extra_repr(self) -> str:
        return (
            f"{self.architecture}, in_channels={self.in_channels}, "
            f"out_channels={self.out_channels}, permute_io={self.terms.permute_io!r}, "
            f"backend={self.backend!r}"
        )


def stacked_features(
    architecture: Architecture, x: Tensor, edge_attr: Tensor, channels: int
) -> tuple[Tensor, Tensor]:
    """Return features of one network, a stack or a flat batch as ``[B, N, C]``, ``[B, E, C]``."""
    nodes, edges = architecture.num_nodes, architecture.num_edges
    fits = (
        x.dim() >= 2
        and edge_attr.dim() >= 2
        and x.shape[-1] == edge_attr.shape[-1] == channels
        and x.shape[:-2] == edge_attr.shape[:-2]
        and x.shape[-2] % nodes == 0
        and edge_attr.shape[-2] == edges * (x.shape[-2] // nodes)
    )
    if not fits:
        raise InvalidGraphError(
            f"x has shape {tuple(x.shape)} and edge_attr {tuple(edge_attr.shape)}; the "
            f"architecture {architecture} expects (*, {nodes}, {channels}) and "
            f"(*, {edges}, {channels}), or (B * {nodes}, {channels}) and "
            f"(B * {edges}, {channels}) of a flat batch of B networks."
        )
    batch = math.prod(x.shape[:-1]) // nodes
    return x.reshape(batch, nodes, channels), edge_attr.reshape(batch, edges, channels)


def _share(tensor: MixedTensor, level: int) -> float:
    """Share of a tensor's variance from its edge (2), from each neuron table (1), global (0)."""
    finest = len(tensor.permuted_axes)
    if level == finest:
        return _FINEST if finest else 1.0
    return (1 - _FINEST) / (3 if finest == 2 else 1)


class InvariantLinear(nn.Module):
    r"""The general affine function of parameters that relabelling neurons leaves unchanged.

    .. math:: y = \Theta \big[\mathrm{mean}_{\text{permuted axes}} A\big]_A + \beta

    Each tensor is averaged over its permuted axes and keeps its free ones: S numbers per channel,
    and one weight for each. Reads every edge once. Arguments and errors are those of the
    :class:`~nngraph.nn.EquivariantLinear`.

    Shape:
        x ``[*, N, C_in]``, edge_attr ``[*, E, C_in]`` -> ``[*, out_features]``; flat features of a
        PyG batch of B networks -> ``[B, out_features]``.
    """

    def __init__(
        self,
        architecture: Architecture,
        in_channels: int,
        out_features: int,
        permute_io: PermuteIO = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.terms = Terms.of(architecture, permute_io)
        self.in_channels, self.out_features = in_channels, out_features
        self.weight = nn.Parameter(torch.empty(out_features, self.terms.num_slots * in_channels))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw normal weights of variance one over the number of pooled inputs; constants 0."""
        self.weight.normal_(0, 1 / math.sqrt(max(self.weight.shape[1], 1)))
        if self.bias is not None:
            self.bias.zero_()

    def forward(self, x: Tensor, edge_attr: Tensor) -> Tensor:
        nodes, edges = stacked_features(self.architecture, x, edge_attr, self.in_channels)
        pooled = pool_globally(self.terms, nodes, edges)
        out = nn.functional.linear(pooled, self.weight, self.bias)
        is_flat = x.shape[-2] != self.architecture.num_nodes
        lead = (*x.shape[:-2], -1) if is_flat else x.shape[:-2]
        return out.reshape(*lead, self.out_features)

    def extra_repr(self) -> str:
        return (
            f"{self.architecture}, in_channels={self.in_channels}, "
            f"out_features={self.out_features}, permute_io={self.terms.permute_io!r}"
        )
