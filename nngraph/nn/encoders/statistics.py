"""Statistics of parameters as features: of whole tensors, and of the weights at each neuron."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nngraph import kernels
from nngraph.errors import ArchitectureError
from nngraph.graph import Alike, Architecture, Topology, join_networks, slabs_of, split_networks
from nngraph.nn.common.scales import Standardised
from nngraph.nn.features import Features

#: Quantiles that are taken: the extremes, the quartiles and the median.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
#: Mean, standard deviation and the quantiles.
_COUNT = 2 + len(SHARES)
#: Numbers told of each tensor: mean, variance, quantiles, and whether there is one.
_TENSOR_COUNT = _COUNT + 1


class ParameterStatistics(nn.Module):
    r"""Linear maps of the mean, standard deviation and quartiles of sets of parameters.

    .. math::
        x_i &= S^- s(w_{i \cdot}) + S^+ s(w_{\cdot i}) + S^0 s(b_{g(i)}) \\
        e_k &= S s(w_k)

    with s of the weights into and out of neuron i, of the columns of its group g(i), and of the
    weights of block k; each tap and each column by itself. Those of one neuron are features of it
    and move with it. Without edge channels there is no e.

    Shape:
        weights ``[*, E, taps]``, columns ``[*, N, F]`` -> x ``[*, N, C]``, and of the blocks
        ``[*, K, C_e]`` or ``None``.
    """

    def __init__(self, taps: int, columns: int, channels: int, edge_channels: int) -> None:
        super().__init__()

        def linear(size: int, out: int) -> nn.Linear:
            return nn.Linear(_COUNT * size, out, bias=False)

        self.incoming, self.outgoing = linear(taps, channels), linear(taps, channels)
        self.groups = linear(columns, channels)
        self.blocks = linear(taps, edge_channels) if edge_channels else None

    def nodes(self, topology: Topology, weights: Tensor, columns: Tensor) -> Tensor:
        """Return x."""
        own: Tensor = self.groups(group_statistics(topology, columns))
        incoming: Tensor = self.incoming(edge_statistics(topology, weights, "target"))
        outgoing: Tensor = self.outgoing(edge_statistics(topology, weights, "source"))
        return incoming + outgoing + kernels.broadcast(own, topology.nodes.group)

    def edges(self, topology: Topology, weights: Tensor) -> Tensor:
        """Return e of each block."""
        assert self.blocks is not None
        return self.blocks(edge_statistics(topology, weights, "block"))  # type: ignore[no-any-return]


def edge_statistics(topology: Topology, e: Tensor, side: kernels.Side) -> Tensor:
    """Return mean, deviation and quartiles of edges: ``[*, E, C] -> [*, N, 7 C]``, or of blocks."""
    moments = [kernels.reduce(topology, e, side, op) for op in ("mean", "std")]
    quantiles = kernels.quantiles(e, kernels.edges_at(topology, side), SHARES)
    return torch.cat([*moments, quantiles.flatten(-2)], dim=-1)


def group_statistics(topology: Topology, x: Tensor) -> Tensor:
    """Return mean, deviation and quartiles of each group: ``[*, N, C] -> [*, G, 7 C]``."""
    mean = kernels.pool(x, topology.nodes.group)
    apart = x - kernels.broadcast(mean, topology.nodes.group)
    variance = kernels.pool(apart.square(), topology.nodes.group)
    varies = variance > 0
    # Its slope is 0 where nothing varies.
    deviation = variance.where(varies, torch.ones_like(variance)).sqrt() * varies
    quantiles = kernels.quantiles(x, topology.nodes.group, SHARES).flatten(-2)
    return torch.cat([mean, deviation, quantiles], dim=-1)


class NetworkStatistics(Standardised):
    r"""Statistics of each parameter tensor of a network, at a position of its own.

    .. math::
        \frac{s(W) - \mu}{\sigma}, \qquad
        s(W) = [\mathrm{mean}, \mathrm{var}, q_0, q_{25}, q_{50}, q_{75}, q_{100}, 1](W)

    with mean and deviation of each number over the networks of :meth:`fit`.

    Relabelling moves entries within their tensor alone, and leaves them as they are. A tensor
    stands in the row of its kind (weight, factor of a norm, bias, ...) and of its level, counted
    from the inputs, and where depths are mixed also from the outputs in a second row, so that first
    and last layers have positions of their own. Levels beyond the last count as the last; tensors
    in one row are averaged; rows that a network has nothing for are 0, the last entry too.

    Shape:
        features of any batch -> ``[networks, rows * 8]``.

    Raises:
        ArchitectureError: if a network has a kind of tensor that none of the architectures has.
    """

    at_once = 1024

    def __init__(self, architectures: Sequence[Architecture]) -> None:
        super().__init__()
        # Of those it is built for, so that torch.compile need not pass through the cache.
        self._known = {architecture: _positions(architecture) for architecture in architectures}
        positions = [position for known in self._known.values() for position in known.values()]
        self.kinds = sorted({kind for kind, _, _ in positions})
        self.levels = 1 + max((level for _, level, _ in positions), default=0)
        depths = {len(Topology.of(a).levels) for a in architectures}
        self.ends = 1 if len(depths) == 1 else 2
        self.rows = len(self.kinds) * self.levels * self.ends
        self.start_units(self.width)

    @property
    def width(self) -> int:
        """Numbers per network."""
        return self.rows * _TENSOR_COUNT

    def forward(self, features: Features) -> Tensor:
        return self.standard(self.numbers(features))

    def numbers(self, features: Features) -> Tensor:
        topology = features.topology
        parts = split_networks(topology, features.x, features.edge_attr)
        return join_networks(topology, [self._of_part(part) for part in parts])

    def _of_part(self, part: Alike) -> Tensor:
        positions = self._known.get(part.architecture) or _positions(part.architecture)
        each = [tensor_statistics(part.parameters[name]) for name in positions]
        values = torch.stack(each, dim=1)
        values = torch.cat([values, torch.ones_like(values[..., :1])], dim=-1)
        tables = []
        for end in range(self.ends):
            found = [
                self._row(part.architecture, kind, (level, depth_from_output)[end])
                for kind, level, depth_from_output in positions.values()
            ]
            rows = torch.tensor(found, device=values.device)
            size = self.rows // self.ends
            count = values.new_zeros(size).index_add(0, rows, values.new_ones(len(rows)))
            table = values.new_zeros(len(values), size, _TENSOR_COUNT).index_add(1, rows, values)
            tables.append(table / count.clamp(min=1).unsqueeze(-1))
        return torch.cat(tables, dim=1).flatten(1)

    def _row(self, architecture: Architecture, kind: str, level: int) -> int:
        if kind not in self.kinds:
            raise ArchitectureError(
                f"a network of the architecture {architecture} has tensors of the kind {kind!r}; "
                f"the model was built for {', '.join(self.kinds)}. Build it with all architectures "
                "that it shall read."
            )
        return self.kinds.index(kind) * self.levels + min(level, self.levels - 1)


def _positions(architecture: Architecture) -> dict[str, tuple[str, int, int]]:
    """Return kind, and level from the inputs and from the outputs, of each tensor by its name."""
    topology = Topology.of(architecture)
    levels = topology.groups.level.tolist()
    first = list(architecture.node_starts[:-1])
    depths_from_output = topology.nodes.depth_from_output[first].tolist()
    positions = {}
    for parameter in architecture.parameters:
        if parameter.integer is not None:
            continue
        slab = slabs_of(parameter)[0]
        kind = slab.column or ("weight" if "t" in slab.axes else "factor of a norm")
        group = slab.target
        positions[parameter.name] = (kind, levels[group], depths_from_output[group])
    return positions


def tensor_statistics(values: Tensor) -> Tensor:
    """Return mean, variance and quantiles over all but the first axis: ``[n, *] -> [n, 7]``.

    Quantiles lie between two entries on the line that joins them, as ``torch.quantile``'s.
    """
    flat = values.flatten(1) if values.dim() > 1 else values.unsqueeze(1)
    if not len(flat):
        return flat.new_zeros(0, _TENSOR_COUNT - 1)
    # Not torch.quantile, which sorts once for each of them and refuses large tensors.
    ordered = flat.sort(dim=1).values
    size = torch.tensor(flat.shape[1], device=flat.device)
    below, above, part = kernels.quantile_ranks(size, SHARES)
    quantiles = torch.lerp(ordered[:, below], ordered[:, above], part.to(flat.dtype))
    moments = torch.stack([flat.mean(1), flat.var(1, correction=0)], dim=1)
    return torch.cat([moments, quantiles], dim=1)
