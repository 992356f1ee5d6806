"""What a layer can express, held against the basis block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from nngraph.basis.basis import Basis
from nngraph.basis.block import BasisBlock, Matrix
from nngraph.basis.layer import LayerMap, layer_matrix, parameters_of
from nngraph.basis.report import BlockReport, RankReport
from nngraph.basis.weight_space import WeightSpace
from nngraph.errors import ArchitectureError, NonFiniteError
from nngraph.graph import Architecture

#: How a layer's parameters are varied.
METHODS = ("auto", "unit", "random")
#: Random draws beyond the number of elements: enough for full rank with probability one.
_MARGIN = 8


def rank_of(
    layer: LayerMap, source: Architecture | WeightSpace,
    target: Architecture | WeightSpace | None = None, *, permute_io: bool = False,
    parameters: Iterable[Tensor] | None = None, method: str = "auto",
    tolerance: float | None = None, seed: int = 0,
) -> RankReport:
    r"""Span of the affine maps that a layer expresses as its parameters vary.

    Every map :math:`x \mapsto M(\theta) x + b(\theta)` is split into its projection on the basis
    and the rest. The projections' coordinates span what the layer can do: their rank is held
    against the orbit count, block by block and in total, and elements outside the span are named.
    The rest must be 0, or the layer is not equivariant. Parameters are put back afterwards.

    Args:
        layer: a map on dicts of tensors; for a layer on stacked graph features wrap it in
            :func:`~nngraph.basis.stacked`. It must be affine in its input; not in its parameters.
        source: architecture or weight space of the input.
        target: of the output; default ``source``.
        permute_io: hold it against the basis in which inputs and outputs are relabelled too.
        parameters: what to vary; default ``layer.parameters()``; those that require gradients.
        method: ``"unit"`` sets one parameter entry to 1 and the others to 0, in turn, which is
            exact for layers affine in their parameters; ``"random"`` draws as many random settings
            as there are elements, and a few more; ``"auto"`` is ``"unit"`` where that applies and
            is not slower. The report says which.
        tolerance: relative size below which a singular value or remainder is rounding; default
            1e-8 in float64, 1e-3 in lower precision. Judge in float64 if you can.
        seed: of the random draws.

    Raises:
        ArchitectureError: if the layer is not affine, has no parameters, or ``method="unit"`` was
            asked of a layer that is not affine in its parameters.

    Example:
        >>> report = rank_of(stacked(layer, architecture), architecture)
        >>> report.complete, report.rank, report.expected
        (True, 75, 75)
    """
    if method not in METHODS:
        raise ArchitectureError(f"method is {method!r}; expected one of {', '.join(METHODS)}.")
    basis = Basis(source, target, permute_io=permute_io)
    varied = parameters_of(layer, parameters)
    if not varied:
        raise ArchitectureError(
            "the layer has no parameters that require gradients, so nothing varies; give the "
            "tensors to vary as parameters=..., or use Basis.coefficients(layer_matrix(...))."
        )
    if tolerance is None:
        tolerance = 1e-8 if all(p.dtype == torch.float64 for p in varied) else 1e-3

    count = sum(p.numel() for p in varied)
    draws = basis.dimension + basis.constants.dimension + _MARGIN

    def maps() -> tuple[Matrix, Matrix]:
        return layer_matrix(layer, basis.source, basis.target, like=varied[0], check=False)

    with _varying(varied) as put:
        random = torch.Generator().manual_seed(seed)

        def draw() -> Tensor:
            return torch.randn(count, generator=random, dtype=torch.float64)

        put(draw())
        layer_matrix(layer, basis.source, basis.target, like=varied[0], check=True)
        unit = method == "unit" or (method == "auto" and count <= 2 * draws)
        samples = _Samples(basis)
        if unit and not _unit_samples(samples, maps, put, draw(), tolerance):
            if method == "unit":
                raise ArchitectureError(
                    "the layer is not affine in its parameters, so unit settings do not span what "
                    "it expresses; use method='random'."
                )
            unit, samples = False, _Samples(basis)
        if not unit:
            for _ in range(draws):
                put(draw())
                samples.add(*maps())
    return _report(basis, samples, tolerance, "unit" if unit else "random")


class _Samples:
    """Coordinates of maps on the orthonormal orbit basis, and what lies outside its span."""

    def __init__(self, basis: Basis) -> None:
        self.parts: list[tuple[BasisBlock, slice]] = []
        self.rows: list[Matrix] = []
        # The matrix and, as a last column, the constant, as one: [m, n + 1].
        shape = basis.target.numel, basis.source.numel + 1
        self.labels = np.empty(shape, np.int64)
        self.block = np.empty(shape, np.int64)
        start = 0
        for one in (basis, basis.constants):
            for key, block in one.blocks.items():
                rows, columns = one.slices(key)
                if one is not basis:
                    columns = slice(basis.source.numel, None)
                self.labels[rows, columns] = start + block.labels
                self.block[rows, columns] = len(self.parts)
                self.parts.append((block, slice(start, start + block.dimension)))
                start += block.dimension
        self.size = start
        self.roots = np.sqrt(np.bincount(self.labels.ravel(), minlength=start))
        self.outside: Matrix = np.zeros(len(self.parts))

    def add(self, matrix: Matrix, constant: Matrix) -> None:
        """Add an affine map, scaled to norm one; a zero map spans nothing."""
        whole = np.concatenate([matrix, constant[:, None]], axis=1)
        norm = float(np.linalg.norm(whole))
        if norm == 0:
            return
        whole /= norm
        sums = np.bincount(self.labels.ravel(), weights=whole.ravel(), minlength=self.size)
        self.rows.append(sums / self.roots)
        rest = whole - (sums / self.roots**2)[self.labels]
        squares = np.bincount(
            self.block.ravel(), weights=rest.ravel() ** 2, minlength=len(self.parts)
        )
        self.outside = np.maximum(self.outside, np.sqrt(squares))


def _unit_samples(
    samples: _Samples, maps: Callable[[], tuple[Matrix, Matrix]], put: Callable[[Tensor], None],
    check: Tensor, tolerance: float,
) -> bool:  # fmt: skip
    """Add the map of each unit setting; false if the maps are not affine in the parameters."""
    setting = torch.zeros_like(check)
    put(setting)
    try:
        origin = maps()
    except NonFiniteError:  # such as a weight normalised by its own size
        return False
    samples.add(*origin)
    predicted = [part.copy() for part in origin]
    for i in range(len(check)):
        setting[i] = 1
        put(setting)
        setting[i] = 0
        try:
            change = [found - start for found, start in zip(maps(), origin, strict=True)]
        except NonFiniteError:
            return False
        samples.add(*change)
        for total, part in zip(predicted, change, strict=True):
            total += float(check[i]) * part
    put(check)
    found = maps()
    scale = max(float(np.abs(part).max(initial=0)) for part in found) + 1e-300
    errors = [float(np.abs(a - b).max(initial=0)) for a, b in zip(found, predicted, strict=True)]
    return max(errors) <= 100 * tolerance * scale


@contextmanager
def _varying(parameters: list[Tensor]) -> Iterator[Callable[[Tensor], None]]:
    """Give a function that sets all parameters from one vector; put them back afterwards."""
    before = [p.detach().clone() for p in parameters]

    def put(vector: Tensor) -> None:
        with torch.no_grad():
            parts = torch.split(vector, [p.numel() for p in parameters])
            for parameter, part in zip(parameters, parts, strict=True):
                parameter.copy_(part.reshape(parameter.shape))

    try:
        yield put
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)


def _span(rows: Matrix, tolerance: float) -> Matrix:
    """Orthonormal basis of the rows' span."""
    if not rows.size:
        return rows[:0]
    _, values, right = np.linalg.svd(rows, full_matrices=False)
    if values[0] <= tolerance:
        return rows[:0]
    kept: Matrix = right[values > tolerance * values[0]]
    return kept


def _report(basis: Basis, samples: _Samples, tolerance: float, method: str) -> RankReport:
    rows = np.array(samples.rows).reshape(-1, samples.size)  # one per map
    blocks: list[BlockReport] = []
    constants: list[BlockReport] = []
    for i, (block, place) in enumerate(samples.parts):
        span = _span(rows[:, place], tolerance)
        report = BlockReport(
            block.source.name, block.target.name, block.dimension, len(span),
            _missing(block, span, tolerance), float(samples.outside[i]),
        )  # fmt: skip
        (constants if i >= len(basis.blocks) else blocks).append(report)
    total = len(_span(rows, tolerance))
    return RankReport(tuple(blocks), tuple(constants), total, tolerance, method)


def _missing(block: BasisBlock, span: Matrix, tolerance: float) -> tuple[str, ...]:
    """Names of the elements at a distance from the span."""
    if len(span) == block.dimension:
        return ()
    root = np.sqrt(block.orbit_sizes).reshape(len(block.terms), block.free_numel)
    names = []
    threshold = max(1e-4, 10 * tolerance)
    # Each element is a column of zeta at one pair of free coordinates.
    for number, term in enumerate(block.terms):
        vectors = np.zeros((block.free_numel, len(block.terms), block.free_numel))
        places = np.arange(block.free_numel)
        vectors[places, :, places] = (block.zeta[:, number, None] * root).T
        flat = vectors.reshape(block.free_numel, -1)
        flat /= np.linalg.norm(flat, axis=1, keepdims=True)
        distance = np.linalg.norm(flat - (flat @ span.T) @ span, axis=1)
        if (distance > threshold).all() and block.free_numel > 1:
            names.append(f"{term.name} (all {block.free_numel})")
        else:
            names += [
                block.element(number * block.free_numel + int(place)).name
                for place in np.flatnonzero(distance > threshold)
            ]
    return tuple(names)
