r"""The proof of a spec on the network itself: relabelled parameters, the same outputs.

For each free space alone, and for all together, random relabellings :math:`g` are applied to the
parameters and the outputs compared, :math:`f(g \theta, x) = f(\theta, x)`, in float64, on
parameters that are shaken first. And for each space it is shown that the check could have failed.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from converters.symmetry.arguments import as_arguments
from converters.symmetry.checking import SpaceCheck, Status, check_space
from converters.symmetry.derive import Derivation
from converters.symmetry.missed import Missed, search_missed
from converters.symmetry.running import Draw, Network
from converters.symmetry.shaking import Draws
from converters.symmetry.spec import PermutationSpec
from converters.symmetry.spec_ties import (
    Tie,
    permute_tie,
    tied_entries,
    ties_of,
    under_all_names,
)
from nngraph.graph import Space

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Verification:
    """The result of :func:`verify`.

    Args:
        checks: one per free space.
        error: largest relative change of the outputs when all spaces are relabelled together.
        tolerance: what counts as unchanged.
        missed: symmetry that the spec forbids; ``None`` if it was not searched for.
        incomplete: operators without a rule, which fixed what they touch: a search that finds
            nothing says little while there are some.
    """

    checks: tuple[SpaceCheck, ...]
    error: float
    tolerance: float
    missed: tuple[Missed, ...] | None = None
    incomplete: tuple[str, ...] = ()

    @property
    def status(self) -> Status:
        """``holds``, ``fails``, or ``not proven``: nothing changed, but a mistake could hide."""
        found = {check.status for check in self.checks}
        if self.error > self.tolerance or "fails" in found:
            return "fails"
        return "not proven" if "not proven" in found else "holds"

    @property
    def holds(self) -> bool:
        """Whether no relabelling changes the outputs, and every mistake would have been seen."""
        return self.status == "holds"

    def _errors(self) -> Iterator[float]:
        return (check.error for check in self.checks)

    @property
    def power(self) -> float | None:
        """Smallest change of all when one axis alone is relabelled: what a mistake would show."""
        powers = [check.power for check in self.checks if check.power is not None]
        return min(powers, default=None)

    @property
    def worst(self) -> float:
        """Largest relative change of all."""
        return max(self.error, *self._errors()) if self.checks else self.error

    def __str__(self) -> str:
        head = {"holds": "holds", "fails": "FAILS", "not proven": "NOT PROVEN"}[self.status]
        lines = [
            f"{head}: {len(self.checks)} spaces, all together "
            f"{self.error:.1e}, worst {self.worst:.1e} (at most {self.tolerance:.0e})"
        ]
        width = max((len(check.space) for check in self.checks), default=0)
        for check in self.checks:
            power = "" if check.power is None else f", one tie alone {check.power:.1e}"
            mark = f"  <- {check.reason}" if check.reason else ""
            ties = ", ".join(f"{name}[{axis}]" for name, axis in check.ties)
            notes = f"  without effect: {', '.join(check.idle)}" if check.idle else ""
            notes += f"  free alone: {', '.join(check.loose)}" if check.loose else ""
            lines.append(
                f"  {check.space:<{width}} {check.size:>6}  {check.error:.1e}{power}{mark}"
                f"  {ties}{notes}"
            )
        if self.missed is not None:
            lines.append(f"missed symmetry: {len(self.missed)}{self._conclusive()}")
            lines += [f"  {missed}" for missed in self.missed]
        return "\n".join(lines)

    def _conclusive(self) -> str:
        if not self.incomplete:
            return ""
        return (
            f" found; there may be more, as {', '.join(self.incomplete)} without a rule fixed what "
            "they touch"
        )


def verify(
    subject: PermutationSpec | Derivation,
    module: nn.Module,
    example_inputs: Any,
    *,
    kwargs: Mapping[str, Any] | None = None,
    samples: int = 3,
    seed: int = 0,
    shake: bool = True,
    maximal: bool = False,
    alone: int | None = None,
    tolerance: float = TOLERANCE,
) -> Verification:
    """Check on a network that a spec's relabellings do not change its function.

    Args:
        subject: the spec, or the derivation that holds it.
        module: the network; it is run in float64 and evaluation mode, and left as it was.
        example_inputs: one tensor, or a tuple of positional arguments.
        kwargs: keyword arguments of its forward.
        samples: relabellings per check, each on parameters that are shaken differently.
        seed: seed of the relabellings and of the shaking.
        shake: run on parameters with noise added, since zeros and ones hide mistakes.
        maximal: also search for symmetry that the spec misses; for small networks, as it runs the
            network a few times for each pair of neurons it tries.
        alone: number of spaces, drawn at random, to check alone; every one by default. All
            together are checked in any case.
        tolerance: largest change of the outputs, relative to their largest entry, that counts as
            none.

    Raises:
        ArchitectureError: if the spec is not of this module.
        NonFiniteError: if the outputs are not finite, so that nothing can be compared.
        UnsupportedModuleError: if the forward fails with noise added to the parameters, or its
            sizes then grow without bound; with ``shake=False`` it may be run.
    """
    spec = subject.spec if isinstance(subject, Derivation) else subject
    network = Network(module, as_arguments(example_inputs), kwargs or {}, spec)
    draws = Draws(network, spec, seed, shake)
    generator = torch.Generator().manual_seed(seed)
    checks = tuple(
        check_space(SpecClaim(spec, space, generator), draws, samples, tolerance, generator)
        for space in drawn(spec.free_spaces, alone, generator)
    )
    together = max(
        draw.change(spec.permute(draw.state, spec.sample(generator)))
        for draw in draws.first(samples)
    )
    missed = None
    if maximal:
        further = Draws(network, spec, seed + 1000, shake)
        missed = search_missed(
            spec, draws.first(samples), lambda: further.first(2 * samples), generator, tolerance
        )
    return Verification(checks, together, tolerance, missed, unruled(spec))


def unruled(spec: PermutationSpec) -> tuple[str, ...]:
    """Return the operators that fixed something for want of a rule."""
    return tuple(dict.fromkeys(report.op for report in spec.reports if report.unknown))


def drawn(
    spaces: Sequence[Space], count: int | None, generator: torch.Generator
) -> Sequence[Space]:
    """Return so many spaces, chosen at random; all of them for ``None``."""
    if count is None or count >= len(spaces):
        return spaces
    chosen = torch.randperm(len(spaces), generator=generator)[:count].sort()[0]
    return [spaces[i] for i in chosen.tolist()]


class SpecClaim:
    """What a spec claims of one space; see :class:`~converters.symmetry.checking.Claim`."""

    def __init__(self, spec: PermutationSpec, space: Space, generator: torch.Generator) -> None:
        self.spec, self.generator = spec, generator
        self.space, self.size = space.name, space.size
        self.axes = spec.ties(space.name)
        self.ties: Sequence[Hashable] = ties_of(spec, space.name)

    def relabelled(self, draw: Draw) -> Mapping[str, Tensor]:
        """Relabel the space."""
        return self.spec.permute(draw.state, self.spec.sample(self.generator, (self.space,)))

    def broken(self, draw: Draw, tie: Hashable) -> Mapping[str, Tensor]:
        """Relabel it at one tie alone."""
        assert isinstance(tie, Tie)
        relabelling = moved(self.spec.sample(self.generator, (self.space,)), self.space)
        return permute_tie(
            self.spec, draw.state, self.spec.identity() | relabelling, self.space, tie
        )

    def touched(self, draw: Draw, tie: Hashable) -> tuple[str, Tensor]:
        """Return the parameter of a tie, and which of its entries one tie relabels."""
        assert isinstance(tie, Tie)
        return tie.name, tied_entries(self.spec, self.space, tie)

    def named(self, name: str, value: Tensor) -> Mapping[str, Tensor]:
        """Return a parameter under all of its names."""
        return under_all_names(self.spec, name, value)


def moved(relabelling: dict[str, Tensor], space: str) -> dict[str, Tensor]:
    """Return the relabelling of one space, and a cyclic shift where it moves nothing by chance."""
    index = relabelling[space]
    still = torch.equal(index, torch.arange(index.shape[-1]).expand(index.shape))
    return {space: index.roll(1, -1) if still else index}
