"""The proof a user can run: every layer against the judge, every model against the symmetry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nngraph import basis
from nngraph.errors import ArchitectureError
from nngraph.graph import Activation, Architecture, NeuralGraphStack, Topology, chain_layers
from nngraph.nn import (
    MODELS,
    ChannelNorm,
    EquivariantLinear,
    InvariantLinear,
    MessagePassingLayer,
    Pointwise,
    SetAttentionLayer,
    SharedEquivariantLinear,
    SharedPoolingLayer,
    SharedTensorNorm,
    TensorNorm,
)
from nngraph.testing import equivariance_error, random_features

__all__ = [
    "LAYERS", "LayerCheck", "ModelCheck", "ValidatedLayer", "Validation", "at_most",
    "default_architecture", "validate",
]

#: Largest relative error of an exact layer or model, in each precision.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4}
#: The judge makes dense matrices, so widths beyond this are judged at this width. The maps of a
#: block are the same at any width of two or more, and inputs or outputs are all treated alike.
JUDGED_WIDTH = 4
_CHANNELS = 3


@dataclass(frozen=True)
class ValidatedLayer:
    """A layer to be held against the judge and against random relabellings.

    Args:
        make: ``(architecture, in_channels, out_channels) -> layer`` on stacked ``(x, edge_attr)``.
        spans: ``"all"`` if it claims the whole basis; ``"some"`` if how much of it is reported;
            ``"none"`` for a nonlinear layer, of which only relabelling is tried.
        permute_io: whether inputs and outputs are relabelled too in the basis it is held against.
        invariant: whether it makes one answer per network rather than weights.
        needs: package that it needs, if any.
    """

    make: Callable[[Architecture, int, int], nn.Module]
    spans: Literal["all", "some", "none"] = "all"
    permute_io: bool = False
    invariant: bool = False
    needs: str | None = None


class OnTopology(nn.Module):
    """A layer of any architectures, ``forward(topology, x, edge_attr)``, on the stacks of one."""

    def __init__(self, architecture: Architecture, layer: nn.Module) -> None:
        super().__init__()
        self.topology = Topology.of(architecture)
        self.layer = layer

    def forward(self, x: Tensor, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the layer."""
        topology = self.topology.to(x.device)
        if isinstance(self.layer, MessagePassingLayer):
            x, update = self.layer(topology, edge_attr[..., 0], x, edge_attr)
            return x, update.edges
        return self.layer(topology, x, edge_attr)  # type: ignore[no-any-return]


def _anywhere(
    make: Callable[[int, int], nn.Module], spans: Literal["some", "none"] = "none"
) -> ValidatedLayer:
    """A layer of any architectures; what is linear of these treats inputs and outputs alike."""
    return ValidatedLayer(
        lambda a, i, o: OnTopology(a, make(i, o)), spans, permute_io=spans == "some"
    )


LAYERS: dict[str, ValidatedLayer] = {
    "EquivariantLinear": ValidatedLayer(EquivariantLinear),
    "EquivariantLinear, scatter": ValidatedLayer(
        lambda a, i, o: EquivariantLinear(a, i, o, backend="scatter"), needs="torch_scatter"
    ),
    "EquivariantLinear, permute_io": ValidatedLayer(
        lambda a, i, o: EquivariantLinear(a, i, o, permute_io=True), permute_io=True
    ),
    "InvariantLinear": ValidatedLayer(InvariantLinear, invariant=True),
    "InvariantLinear, permute_io": ValidatedLayer(
        lambda a, i, o: InvariantLinear(a, i, o, permute_io=True), permute_io=True, invariant=True
    ),
    "SharedEquivariantLinear": _anywhere(SharedEquivariantLinear, "some"),
    "SharedPoolingLayer, max": _anywhere(lambda i, o: SharedPoolingLayer(i, o, "max")),
    "SharedPoolingLayer, attention": _anywhere(lambda i, o: SharedPoolingLayer(i, o, "attention")),
    "MessagePassingLayer": _anywhere(MessagePassingLayer),
    **{
        f"MessagePassingLayer, {pooling}": _anywhere(partial(MessagePassingLayer, pooling=pooling))
        for pooling in ("max", "attention")
    },
    "MessagePassingLayer, tensor nodes": _anywhere(partial(MessagePassingLayer, tensor_nodes=True)),
    "SetAttentionLayer": _anywhere(lambda i, _: SetAttentionLayer(i, 1, 1)),
    "Pointwise": ValidatedLayer(lambda *_: Pointwise(), "none"),
    "ChannelNorm": ValidatedLayer(lambda a, i, _: ChannelNorm(i), "none"),
    "TensorNorm": ValidatedLayer(lambda a, i, _: TensorNorm(a, i), "none"),
    "SharedTensorNorm": _anywhere(lambda i, _: SharedTensorNorm(i)),
}


@dataclass(frozen=True)
class LayerCheck:
    """What the judge and random relabellings say of a layer.

    Attributes:
        elements: of the basis, constants included, and ``spanned``: how many of them the layer
            reaches; 0 and no blocks for a nonlinear layer.
        claims_all: whether it claims to reach all.
        blocks: elements and how many are spanned, for each (from, to).
        missing: names of elements not reached.
        outside: largest part of the layer's maps outside the basis, relative.
        errors: largest relative equivariance error, by device and precision.
        passed: whether it keeps what it claims.
    """

    name: str
    elements: int
    spanned: int
    claims_all: bool
    blocks: list[dict[str, Any]]
    missing: list[str]
    outside: float
    errors: dict[str, float]
    passed: bool


@dataclass(frozen=True)
class ModelCheck:
    """Largest relative change of a model's answers under relabelling, by device and precision."""

    name: str
    errors: dict[str, float]
    passed: bool


@dataclass(frozen=True)
class Validation:
    """The whole verdict; ``judged_at`` are the widths at which spans were computed."""

    architecture: str
    judged_at: list[int]
    linear: int
    constants: int
    layers: list[LayerCheck]
    models: list[ModelCheck]
    absent: list[str]

    @property
    def passed(self) -> bool:
        """Whether everything keeps what it claims."""
        checks: list[LayerCheck | ModelCheck] = [*self.layers, *self.models]
        return all(check.passed for check in checks)

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as plain data."""
        return {**asdict(self), "passed": self.passed}

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def at_most(architecture: Architecture, width: int) -> Architecture:
    """Return the chain with no group wider than ``width``, its activations and biases kept."""
    layers = chain_layers(architecture)
    return Architecture.mlp(
        [min(size, width) for size in architecture.widths],
        [layer.activation for layer in layers],
        [layer.bias is not None for layer in layers],
    )


def validate(
    architecture: Architecture,
    layers: dict[str, ValidatedLayer] | None = None,
    devices: Sequence[str] | None = None,
    seed: int = 0,
) -> Validation:
    """Hold layers against the analytic basis, and layers and models against random relabellings.

    Spans are computed in float64 at widths of at most ``JUDGED_WIDTH``; equivariance errors at the
    architecture itself, in float64 and float32, on each device present.

    Args:
        layers: default all of the library's, ``LAYERS``.
        devices: default the CPU, and CUDA where it is.

    Raises:
        ArchitectureError: if the architecture is not a chain of affine maps.
    """
    small = at_most(architecture, JUDGED_WIDTH)
    if devices is None:
        devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    checks, absent = [], []
    for name, layer in (LAYERS if layers is None else layers).items():
        if layer.needs is not None and find_spec(layer.needs) is None:
            absent.append(f"{name}: {layer.needs} is not installed")
            continue
        checks.append(_check_layer(name, layer, architecture, small, devices, seed))
    models = [
        _check_model(name, architecture, devices, seed)
        for name, model in MODELS.items()
        if model.traits.invariant and _reads(name, architecture)
    ]
    dimension = basis.dimension(architecture)
    return Validation(
        str(architecture), list(small.widths), dimension.linear, dimension.constant, checks, models,
        absent,
    )  # fmt: skip


def _check_layer(
    name: str, layer: ValidatedLayer, architecture: Architecture, small: Architecture,
    devices: Sequence[str], seed: int,
) -> LayerCheck:  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        report = None if layer.spans == "none" else _judge(layer, small)
        module = layer.make(architecture, _CHANNELS, _CHANNELS)
        errors = _errors(module, architecture, _CHANNELS, layer.invariant, devices, seed)
    if report is None:
        return LayerCheck(name, 0, 0, False, [], [], 0.0, errors, _within(errors))
    elements = report.expected + report.expected_constants
    spanned = report.rank + report.rank_constants
    blocks = [block.to_dict() for block in (*report.blocks, *report.constants)]
    spans = report.equivariant and (report.complete or layer.spans == "some")
    return LayerCheck(
        name, elements, spanned, layer.spans == "all", blocks, list(report.missing),
        report.residual, errors, spans and _within(errors),
    )  # fmt: skip


def _judge(layer: ValidatedLayer, small: Architecture) -> basis.RankReport:
    judged = layer.make(small, 1, 1).double()
    source = basis.WeightSpace.of(small, permute_io=layer.permute_io)
    target = basis.WeightSpace.free("invariant") if layer.invariant else None
    return basis.rank_of(basis.stacked(judged, small), source, target)


def _errors(
    module: nn.Module, architecture: Architecture, channels: int, invariant: bool,
    devices: Sequence[str], seed: int,
) -> dict[str, float]:  # fmt: skip
    """Relative errors under relabelling, by device and precision."""
    errors = {}
    for device in devices:
        for dtype in TOLERANCES:
            given = random_features(architecture, 2, channels, channels, seed)
            x, e = (value.to(device, dtype) for value in given)
            errors[f"{device} {_name(dtype)}"], _ = equivariance_error(
                module.to(device, dtype), architecture, (x, e), seed=seed, invariant=invariant
            )
    return errors


class _OnStack(nn.Module):
    """A model of graphs, on the features of networks of one architecture."""

    def __init__(self, architecture: Architecture, model: nn.Module) -> None:
        super().__init__()
        self.architecture, self.model = architecture, model

    def forward(self, x: Tensor, edge_attr: Tensor) -> Tensor:
        stack = NeuralGraphStack(self.architecture, 0.1 * x, 0.1 * edge_attr)
        return self.model(stack)  # type: ignore[no-any-return]


def _check_model(
    name: str, architecture: Architecture, devices: Sequence[str], seed: int
) -> ModelCheck:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _OnStack(architecture, MODELS[name](architecture, 10).eval())
        errors = _errors(model, architecture, 1, True, devices, seed)
    return ModelCheck(name, errors, _within(errors))


def _reads(name: str, architecture: Architecture) -> bool:
    """Whether a model reads networks of this architecture; some read chains alone."""
    try:
        MODELS[name](architecture, 10)
    except ArchitectureError:
        return False
    return True


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _within(errors: dict[str, float]) -> bool:
    limits = {_name(dtype): tolerance for dtype, tolerance in TOLERANCES.items()}
    return all(error <= limits[key.split()[-1]] for key, error in errors.items())


def _lines(result: Validation) -> Iterator[str]:
    judged = "-".join(map(str, result.judged_at))
    counts = f"{result.linear} equivariant linear maps, {result.constants} constants"
    yield f"{result.architecture}: {counts}"
    yield f"spans are computed at {judged}; errors are the largest relative ones at the full widths"
    yield ""
    for checks in _by_basis(result.layers):
        names = [f"{b['from']} -> {b['to']}" for b in checks[0].blocks]
        width = max(map(len, names))
        yield "  ".join([f"{'block':{width}}", "elements", *(check.name for check in checks)])
        for i, name in enumerate(names):
            row = [f"{name:{width}}", f"{checks[0].blocks[i]['expected']:8}"]
            row += [f"{check.blocks[i]['rank']:{len(check.name)}}" for check in checks]
            yield "  ".join(row)
        yield ""
    width = max((len(check.name) for check in result.layers), default=0)

    def line(check: LayerCheck | ModelCheck, what: str) -> str:
        errors = ", ".join(f"{key} {error:.1e}" for key, error in check.errors.items())
        return f"{'  ok' if check.passed else 'FAIL'} {check.name:{width}}  {what:24} {errors}"

    for check in result.layers:
        span = f"{check.spanned} of {check.elements} elements" if check.blocks else "equivariant"
        yield line(check, span)
        if check.claims_all:
            yield from (f"       missing: {name}" for name in check.missing[:10])
    yield from (line(model, "invariant") for model in result.models)
    yield from (f"  --  {reason}" for reason in result.absent)
    yield ""
    yield "verdict: " + ("everything holds" if result.passed else "something falls short")


def _by_basis(checks: list[LayerCheck]) -> list[list[LayerCheck]]:
    """Bring together the layers that are held against the same basis elements."""
    tables: dict[tuple[tuple[str, str, int], ...], list[LayerCheck]] = {}
    for check in checks:
        if key := tuple((b["from"], b["to"], b["expected"]) for b in check.blocks):
            tables.setdefault(key, []).append(check)
    return list(tables.values())


def default_architecture(widths: Sequence[int]) -> Architecture:
    """Return a SIREN of these widths, which every model of the library reads."""
    return Architecture.mlp(widths, Activation("sine", w0=30.0))
