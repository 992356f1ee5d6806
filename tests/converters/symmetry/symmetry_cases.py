"""What the tests of the derivation share: expected spaces in words, and the proof."""

from collections.abc import Callable
from typing import Any

import torch
from graph_cases import check_graph
from torch import nn

from converters import verify
from converters.symmetry import Derivation, PermutationSpec, derive


def check(
    module: nn.Module,
    inputs: Any,
    expected: dict[str, tuple[Any, ...]],
    maximal: bool = True,
    **kwargs: Any,
) -> Derivation:
    """Derive; hold every space against a hand-written one; prove it; hold the graph to its laws.

    ``expected`` is: name -> (size, "parameter[axis] ..."[, "outer spaces"[, "fixed"]]).
    """
    derivation = derive(module, inputs, strict=True, kwargs=kwargs or None)
    spec = derivation.spec
    assert described(spec) == {
        name: (size, " ".join(sorted(ties.split())), *rest)
        for name, (size, ties, *rest) in expected.items()
    }
    assert set(spec.parameters) | {n for others in spec.aliases.values() for n in others} == set(
        module.state_dict()
    )
    assert PermutationSpec.from_json(spec.to_json()) == spec
    report = verify(derivation, module, inputs, maximal=maximal, kwargs=kwargs or None)
    assert report.holds, str(report)
    for space in report.checks:
        assert space.power is None or space.power > 1e-6, f"nothing could fail:\n{report}"
    assert not report.missed, str(report)
    check_graph(module, inputs, kwargs or None, derivation)
    return derivation


class Between(nn.Module):
    """A hidden layer of 6, a function of its neurons, and a layer that reads what it gives."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], width: int) -> None:
        super().__init__()
        self.a, self.function, self.b = nn.Linear(3, 6), function, nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.function(self.a(x)))


#: What is expected of :class:`Between` where all neurons may be relabelled.
FREE = {"a": (6, "a.weight[0] a.bias[0] b.weight[1]")}


def check_between(
    function: Callable[[torch.Tensor], torch.Tensor], width: int, expected: dict[str, Any]
) -> Derivation:
    """Derive the symmetry around a function of four rows of six neurons, and prove it."""
    torch.manual_seed(0)
    module, inputs = Between(function, width), torch.randn(4, 3)
    derivation = derive(module, inputs, strict=True)
    assert described(derivation.spec) == {
        name: (size, " ".join(sorted(ties.split()))) for name, (size, ties) in expected.items()
    }
    report = verify(derivation, module, inputs)
    assert report.holds, str(report)
    assert all(space.power is None or space.power > 1e-6 for space in report.checks), str(report)
    return derivation


def described(spec: PermutationSpec) -> dict[str, tuple[Any, ...]]:
    """Return the spaces of a spec in the notation of ``check``."""
    found: dict[str, tuple[Any, ...]] = {}
    for space in spec.spaces:
        ties = " ".join(sorted(f"{name}[{axis}]" for name, axis in spec.ties(space.name)))
        rest = [" ".join(space.within)] if space.within or space.fixed else []
        found[space.name] = (space.size, ties, *rest, *(["fixed"] if space.fixed else []))
    return found


def axis_text(spec: PermutationSpec, name: str) -> str:
    """Return the axes of a parameter as the table of the spec prints them."""
    line = next(line for line in str(spec).splitlines() if line.split()[:1] == [name])
    return line.split(None, 1)[1]


def double(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)
