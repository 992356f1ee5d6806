r"""One assertion for every layer: does it commute with relabelling the neurons?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nngraph.graph import Architecture, Relabelling, Symmetry
from nngraph.testing.networks import random_features

#: features -> features, or features -> answers: (x [B, N, C_x], edge_attr [B, E, C_e]) -> tensors
Function = Callable[[Tensor, Tensor], "Tensor | Sequence[Tensor | None]"]
Features = tuple[Tensor, Tensor]


def assert_equivariant(
    function: Function, architecture: Architecture, *, node_channels: int = 1,
    edge_channels: int = 1, features: Features | None = None, networks: int = 3,
    relabellings: int = 3, tolerance: float = 1e-10, seed: int = 0,
) -> None:  # fmt: skip
    r"""Assert that ``function`` commutes with every sampled relabelling g of the neurons.

    .. math:: f(g \cdot x, g \cdot e) = g \cdot f(x, e)

    Each network is relabelled by a relabelling of its own. The error is the largest difference
    over the largest absolute value expected, per output.

    Args:
        function: takes ``(x, edge_attr)`` and returns ``(x, edge_attr)``, stacked, with any number
            of channels; ``None`` in place of one it does not make.
        features: what it is tried on, ``(x [B, N, C_x], edge_attr [B, E, C_e])``; default:
            ``networks`` normal ones of ``node_channels`` and ``edge_channels``, in float64.
        relabellings: how often all networks are relabelled.
        tolerance: largest relative error allowed.

    Raises:
        AssertionError: with the largest error, if it is not; or if an output is not finite.

    Example:
        >>> architecture = Architecture.mlp([2, 3, 1])
        >>> assert_equivariant(lambda x, e: (torch.relu(x), e), architecture)
    """
    features = features or random_features(
        architecture, networks, node_channels, edge_channels, seed
    )
    error, where = equivariance_error(function, architecture, features, relabellings, seed)
    assert error <= tolerance, (
        f"not equivariant on {architecture}: relative error {error:.3g} in {where} "
        f"after relabelling; expected at most {tolerance:g}."
    )


def assert_invariant(
    function: Function, architecture: Architecture, *, node_channels: int = 1,
    edge_channels: int = 1, features: Features | None = None, networks: int = 3,
    relabellings: int = 3, tolerance: float = 1e-10, seed: int = 0,
) -> None:  # fmt: skip
    r"""Assert that no sampled relabelling of the neurons changes the answer of ``function``.

    .. math:: f(g \cdot x, g \cdot e) = f(x, e)

    The arguments are those of :func:`assert_equivariant`; ``function`` returns a tensor or several,
    each with one entry per network first. A model on graphs is asked as
    ``lambda x, e: model(NeuralGraphStack(architecture, x, e))``.
    """
    features = features or random_features(
        architecture, networks, node_channels, edge_channels, seed
    )
    error, where = equivariance_error(
        function, architecture, features, relabellings, seed, invariant=True
    )
    assert error <= tolerance, (
        f"not invariant on {architecture}: relative error {error:.3g} in {where} "
        f"after relabelling; expected at most {tolerance:g}."
    )


def assert_not_equivariant(
    function: Function, architecture: Architecture, *, node_channels: int = 1,
    edge_channels: int = 1, features: Features | None = None, networks: int = 3,
    relabellings: int = 3, at_least: float = 1e-3, seed: int = 0,
) -> None:  # fmt: skip
    """Assert that some sampled relabelling is noticed: the negative case of a law.

    The arguments are those of :func:`assert_equivariant`; ``at_least`` is the relative error that
    must be seen. The architecture must have a relabelling other than the identity.
    """
    assert Symmetry(architecture).log10_order() > 0, (
        f"{architecture} has no relabelling but the identity: nothing can fail on it."
    )
    features = features or random_features(
        architecture, networks, node_channels, edge_channels, seed
    )
    error, _ = equivariance_error(function, architecture, features, relabellings, seed)
    assert error >= at_least, (
        f"equivariant on {architecture}: relative error {error:.3g} after relabelling; "
        f"expected at least {at_least:g}."
    )


def equivariance_error(
    function: Function,
    architecture: Architecture,
    features: Features,
    relabellings: int = 3,
    seed: int = 0,
    *,
    invariant: bool = False,
) -> tuple[float, str]:
    """Return the largest relative error over relabellings and outputs, and where it is.

    The arguments are those of :func:`assert_equivariant`; features may be on any device.

    Args:
        invariant: whether outputs are to stay, as of :func:`assert_invariant`.
    """
    symmetry, generator = Symmetry(architecture), torch.Generator().manual_seed(seed)
    x, edge_attr = features
    worst, where = 0.0, "nothing"
    with torch.no_grad():
        before = _outputs(function(x, edge_attr))
        for _ in range(relabellings):
            moved = symmetry.sample_stack(len(x), generator).to(x.device)
            expected = before if invariant else _relabelled(moved, before)
            found = _outputs(function(moved.act_on_nodes(x), moved.act_on_edges(edge_attr)))
            assert len(found) == len(expected), "the function returns now more outputs, now fewer."
            for index, (one, other) in enumerate(zip(found, expected, strict=True)):
                if one is None or other is None:
                    assert one is other, "the function returns now a tensor, now None."
                    continue
                error = _relative_error(one, other)
                if not error <= worst:
                    worst = error
                    where = f"output {index}" if invariant else ("the nodes", "the edges")[index]
    return worst, where


def _outputs(value: Tensor | Sequence[Tensor | None]) -> list[Tensor | None]:
    return [value] if isinstance(value, Tensor) else list(value)


def _relabelled(relabelling: Relabelling, outputs: list[Tensor | None]) -> list[Tensor | None]:
    assert len(outputs) == 2, (
        f"an equivariant function returns (x, edge_attr), each a tensor or None; got "
        f"{len(outputs)} outputs."
    )
    acts = relabelling.act_on_nodes, relabelling.act_on_edges
    return [None if v is None else act(v) for act, v in zip(acts, outputs, strict=True)]


def _relative_error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape, (
        f"the function returns shape {tuple(expected.shape)} before relabelling and "
        f"{tuple(found.shape)} after it."
    )
    if expected.numel() == 0:
        return 0.0
    found, expected = found.double(), expected.double()
    finite = torch.isfinite(expected).all() & torch.isfinite(found).all()
    assert bool(finite), "the function returns NaN or infinity."
    difference = float((found - expected).abs().max())
    return difference / max(float(expected.abs().max()), torch.finfo(torch.float64).tiny)
