r"""Reading products of low rank by what every matrix between their factors leaves as it is.

For an adapter's pair of factors (B, A) the group is GL(r), and all of its invariants are those of
the product :math:`B A`. They are read off the factors: no product of the size of a layer is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from nngraph.errors import ArchitectureError
from nngraph.graph import (
    Alike,
    Architecture,
    LowRankPair,
    join_networks,
    low_rank_pairs,
    split_networks,
)
from nngraph.nn.common.mlp import mlp
from nngraph.nn.common.pointwise import Dropout
from nngraph.nn.common.scales import Standardised
from nngraph.nn.encoders.statistics import tensor_statistics
from nngraph.nn.features import Architectures, Features, Fitted, Networks, input_features
from nngraph.nn.models.base import Metanetwork, Traits

#: Numbers of a tensor that is no factor.
_STATISTICS = 7


class _Layouts:
    """The low-rank products of networks, and the names of what is no factor."""

    def __init__(self, architectures: list[Architecture]) -> None:
        # Of those it is built for, so that torch.compile need not pass through a cache.
        self._known = {a: (low_rank_pairs(a), _others(a)) for a in architectures}

    def of(self, architecture: Architecture) -> tuple[tuple[LowRankPair, ...], list[str]]:
        if architecture in self._known:
            return self._known[architecture]
        return low_rank_pairs(architecture), _others(architecture)

    def parts(self, features: Features) -> Iterator[tuple[Alike, list[_Factors], list[str]]]:
        """Iterate over parts of a batch: the networks, their products, what is no factor."""
        for part in split_networks(features.topology, features.x, features.edge_attr):
            pairs, others = self.of(part.architecture)
            factors = [_Factors(p.down, *p.factors(part.parameters)) for p in pairs]
            yield part, factors, others


class _Factors(NamedTuple):
    """A product of low rank by its name: B ``[n, out, r]`` and A ``[n, r, in]``."""

    name: str
    up: Tensor
    down: Tensor


class LowRankNetwork(Metanetwork):
    r"""Reads adapters, invariant to all that may stand between the factors of a product.

    .. math:: M_p = (L_p B_p) (A_p R_p), \qquad
        y = f\Big(\frac{1}{P} \sum_p W_p \, [M_p / s_p, \sigma(B_p A_p)] + \ldots\Big)

    with learned :math:`L_p` and :math:`R_p` for each layer p, at a scale :math:`s_p` of a training
    set, and the singular values :math:`\sigma`, those of an r x r matrix. The learned maps commute
    with GL(r), as do all that are linear in a factor, and their products separate adapters that
    compute different things. A layer is told by the name of its factor A, so that adapters of other
    ranks, and of some of the layers, are read too. Of tensors that are no factors, statistics are
    read, as :class:`StatisticsNetwork` does.

    Args:
        probes_per_side: rows of L and columns of R.
        spectrum: largest singular values that are read.
        hidden, dropout: width of the layers that follow, and dropout between them.
    """

    traits = Traits(symmetry="relabelling; GL(r) of products of low rank")

    def __init__(
        self, architecture: Architectures, num_outputs: int, probes_per_side: int = 16,
        spectrum: int = 8, hidden: int = 128, dropout: float = 0.2,
    ) -> None:  # fmt: skip
        super().__init__(architecture, num_outputs)
        sizes: dict[str, tuple[int, int]] = {}
        for own in self.architectures:
            shapes = {p.name: p.shape for p in own.parameters}
            for pair in low_rank_pairs(own):
                up, down = math.prod(shapes[pair.up]), math.prod(shapes[pair.down])
                sizes[pair.down] = (up // pair.rank, down // pair.rank)
        #: (outputs, inputs) of each layer by the name of its factor A
        self.sizes = sizes
        self.place = {name: number for number, name in enumerate(sizes)}
        self.left, self.right = (
            nn.ParameterList(
                nn.Parameter(torch.randn(probes_per_side, size[side]) / size[side] ** 0.5)
                for size in sizes.values()
            )
            for side in (0, 1)
        )
        self.tokens = nn.ModuleList(nn.Linear(probes_per_side**2, hidden) for _ in sizes)
        self.layouts = _Layouts(self.architectures)
        self.scales = _ProductScales(self.layouts, self.place)
        self.numbers = _Numbers(self.layouts, self.architectures, self.place, spectrum)
        self.known = nn.Linear(self.numbers.width, hidden)
        self.readout = nn.Sequential(
            nn.SiLU(), Dropout(dropout), mlp([hidden, hidden, num_outputs], dropout)
        )

    def forward(self, networks: Networks) -> Tensor:
        features = self.read(networks)
        known, rows = self.known(self.numbers(features)), []
        for part, products, _ in self.layouts.parts(features):
            total = _zeros(part, features, known.shape[-1])
            for name, up, down in products:
                number = self._number(name, up, down)
                product = (self.left[number] @ up) @ (down @ self.right[number].T)
                unit = product / self.scales.scale[number]
                total = total + self.tokens[number](unit.flatten(1))
            rows.append(total / max(len(products), 1))
        return self.readout(join_networks(features.topology, rows) + known)  # type: ignore[no-any-return]

    def _number(self, name: str, up: Tensor, down: Tensor) -> int:
        found = (up.shape[1], down.shape[2])
        if self.sizes.get(name) != found:
            raise ArchitectureError(
                f"a network has a product of low rank {name!r} of {found[0]} x {found[1]}; the "
                f"model was built for {self.sizes.get(name, 'none of that name')}. Build it with "
                "all architectures that it shall read."
            )
        return self.place[name]


def _zeros(part: Alike, features: Features, *shape: int) -> Tensor:
    """Return a row for each network of a part."""
    count = next((len(value) for value in part.parameters.values()), 1)
    return features.x.new_zeros(count, *shape)


def _singular_values(up: Tensor, down: Tensor, count: int) -> Tensor:
    """Return the largest singular values of products ``[n, out, r] [n, r, in]``: ``[n, count]``."""
    one, other = torch.linalg.qr(up).R, torch.linalg.qr(down.mT).R
    found = torch.linalg.svdvals(one @ other.mT)[:, :count]
    return pad(found, (0, count - found.shape[1]))


class _ProductScales(Fitted):
    """The root mean square of the entries of each product, over a training set."""

    scale: Tensor

    def __init__(self, layouts: _Layouts, place: dict[str, int]) -> None:
        super().__init__()
        self.layouts, self.place = layouts, place
        self.register_buffer("scale", torch.ones(len(place)))

    @torch.no_grad()
    def fit(self, networks: Networks) -> None:
        total, entries = torch.zeros_like(self.scale), torch.zeros_like(self.scale)
        for _, products, _ in self.layouts.parts(input_features(networks)):
            for name, up, down in products:
                total[self.place[name]] += ((up.mT @ up) * (down @ down.mT)).sum()
                entries[self.place[name]] += len(up) * up.shape[1] * down.shape[2]
        rms = (total / entries.clamp(min=1)).sqrt()
        self.scale.copy_(torch.where(rms > 0, rms, torch.ones_like(rms)))


class _Numbers(Standardised):
    """Singular values of products, and statistics of other tensors, in units of their spread."""

    at_once = 1024

    def __init__(
        self, layouts: _Layouts, architectures: list[Architecture], place: dict[str, int],
        spectrum: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.layouts = layouts
        self.place, self.spectrum = place, spectrum
        names = dict.fromkeys(name for a in architectures for name in _others(a))
        self.others = {name: number for number, name in enumerate(names)}
        self.width = len(place) * spectrum + len(names) * _STATISTICS
        self.start_units(self.width)

    def forward(self, features: Features) -> Tensor:
        return self.standard(self.numbers(features))

    def numbers(self, features: Features) -> Tensor:
        rows = []
        for part, products, others in self.layouts.parts(features):
            spectra = list(_zeros(part, features, len(self.place), self.spectrum).unbind(1))
            for name, up, down in products:
                if name in self.place:
                    spectra[self.place[name]] = _singular_values(up, down, self.spectrum)
            statistics = list(_zeros(part, features, len(self.others), _STATISTICS).unbind(1))
            for name in others:
                if name not in self.others:
                    raise ArchitectureError(
                        f"a network has a tensor {name!r}, which none has that the model was built "
                        "for. Build it with all architectures that it shall read."
                    )
                statistics[self.others[name]] = tensor_statistics(part.parameters[name])
            rows.append(torch.cat([_zeros(part, features, 0), *spectra, *statistics], 1))
        return join_networks(features.topology, rows)


def _others(architecture: Architecture) -> list[str]:
    factors = {name for pair in low_rank_pairs(architecture) for name in (pair.down, pair.up)}
    return [p.name for p in architecture.parameters if p.integer is None and p.name not in factors]
