r"""The proof of a spec or a graph on the network itself: relabelled parameters, the same outputs.

For each free space alone, and for all together, random relabellings :math:`g` are applied to the
parameters and the outputs compared, :math:`f(g \theta, x) = f(\theta, x)`, in float64, on
parameters that are shaken first. And for each space it is shown that the check could have failed.

For a graph :math:`G` these are the relabellings of its own symmetry, and two more laws hold: the
network with the graph's numbers computes what the module does; and relabelling commutes with the
conversion, :math:`G(g \theta) = g \, G(\theta)`, bit for bit, where the left side relabels the
parameters by the spec and converts them, and the right side relabels nodes and edges. Where a graph
can be run, it is: what it computes then is what the module does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from converters.chains.program import spec_spaces
from converters.from_modules import build_architecture
from converters.inspection import named_tensors
from converters.symmetry import checking
from converters.symmetry.checking import TOLERANCE, Claims, SpaceCheck, Status, Tie, check_space
from converters.symmetry.derive import Derivation, derive
from converters.symmetry.groups.checking import MapCheck, check_maps
from converters.symmetry.groups.spec import SymmetrySpec
from converters.symmetry.located import as_arguments
from converters.symmetry.memory import shared_stretches, widen
from converters.symmetry.missed import Missed, search_missed
from converters.symmetry.running import Draw, Draws, ForwardFailed, Network, relative_change
from converters.symmetry.spec import PermutationSpec
from nngraph.errors import ArchitectureError
from nngraph.graph import (
    Indices,
    NeuralGraph,
    NeuralGraphStack,
    Relabelling,
    forward,
    sample_scales,
    scale_parameters,
)


@dataclass(frozen=True)
class Verification:
    """The result of :func:`verify`.

    Args:
        checks: one per free space.
        error: largest relative change of the outputs when all spaces are relabelled together, of a
            graph or a symmetry spec with all its scales and signs.
        tolerance: what counts as unchanged.
        missed: symmetry that was not claimed; ``None`` if it was not searched for.
        incomplete: operators without a rule, which fixed what they touch, so that a search that
            finds nothing says little.
        computes: relative change of the outputs with the graph's numbers; ``None`` for a spec.
        differs: where the graph of the relabelled module and the relabelled graph differ.
        runs: relative difference between the graph when it is run (:func:`nngraph.graph.forward`)
            and the module, over several inputs; ``None`` if it cannot be run.
        maps: one per generator of a symmetry spec.
    """

    checks: tuple[SpaceCheck, ...]
    error: float
    tolerance: float
    missed: tuple[Missed, ...] | None = None
    incomplete: tuple[str, ...] = ()
    computes: float | None = None
    differs: tuple[str, ...] = ()
    runs: float | None = None
    maps: tuple[MapCheck, ...] = ()

    @property
    def _all(self) -> list[SpaceCheck | MapCheck]:
        return [*self.checks, *self.maps]

    @property
    def status(self) -> Status:
        """``holds``, ``fails``, or ``not proven``: nothing changed, but a mistake could hide.

        ``fails`` also where a graph computes another function, or is converted otherwise.
        """
        found = {check.status for check in self._all}
        if self.worst > self.tolerance or self.differs or "fails" in found:
            return "fails"
        return "not proven" if "not proven" in found else "holds"

    @property
    def holds(self) -> bool:
        """Whether no relabelling changes the outputs, and every mistake would have been seen."""
        return self.status == "holds"

    @property
    def ran(self) -> bool:
        """Whether a graph was run."""
        return self.runs is not None

    @property
    def power(self) -> float | None:
        """Smallest change of all when one axis alone is moved: what a mistake would show."""
        powers = [check.power for check in self._all if check.power is not None]
        return min(powers, default=None)

    @property
    def condition(self) -> float:
        """Largest condition number of the maps that were drawn alone."""
        return max((check.condition for check in self.maps), default=1.0)

    @property
    def worst(self) -> float:
        """Largest relative change of all."""
        errors = (check.error for check in self._all)
        return max(self.error, self.computes or 0.0, self.runs or 0.0, *errors)

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
        lines += [f"  {check}" for check in self.maps]
        if self.maps:
            lines.append(f"  condition of the maps that were drawn: at most {self.condition:.1f}")
        if self.missed is not None:
            more = (
                f" found; there may be more, as {', '.join(self.incomplete)} without a rule fixed "
                "what they touch" if self.incomplete else ""
            )
            lines.append(f"missed symmetry: {len(self.missed)}{more}")
            lines += [f"  {missed}" for missed in self.missed]
        if self.computes is not None:
            computes, runs = (
                "as the module" if error <= self.tolerance else "another function"
                for error in (self.computes, self.runs or 0.0)
            )
            ran = (
                "was not run: it is no chain of affine maps and activations that are known"
                if self.runs is None else f"computes, when run, {runs} ({self.runs:.1e})"
            )
            differs = f"differs in {', '.join(self.differs)}"
            lines += [
                f"the graph's numbers compute {computes} ({self.computes:.1e})",
                f"the graph {ran}",
                "the graph of the relabelled module "
                f"{differs if self.differs else 'is the relabelled graph'}",
            ]
        return "\n".join(lines)


def verify(
    subject: NeuralGraph | PermutationSpec | SymmetrySpec | Derivation,
    module: nn.Module,
    example_inputs: Any,
    *,
    kwargs: Mapping[str, Any] | None = None,
    samples: int = 3, seed: int = 0, shake: bool = True, maximal: bool = False,
    alone: int | None = None, tolerance: float = TOLERANCE,
) -> Verification:  # fmt: skip
    """Prove on a network that relabellings do not change its function; of a graph, more than that.

    The laws are those of :mod:`converters.verification`. The report lists for each space its size
    and the parameter axes that it ties.

    Args:
        subject: a graph of the module, or a spec; of a symmetry spec each kind of map is drawn
            alone, too, and all of them together with the relabellings.
        module: the network; it is run in float64 and evaluation mode, and left as it was.
        example_inputs: one tensor, or a tuple of positional arguments.
        kwargs: keyword arguments of its forward.
        samples: relabellings per check, each on parameters that are shaken differently.
        seed: of the relabellings and of the shaking.
        shake: run on parameters with noise added, since zeros and ones hide mistakes.
        maximal: also search for symmetry that was missed; for small networks, as it runs the
            network a few times for each pair of neurons it tries.
        alone: how many spaces, and how many kinds of maps, drawn at random, to check alone; every
            one by default.
        tolerance: largest relative change of the outputs that counts as none.

    Raises:
        ArchitectureError: if the graph or the spec has other tensors than the module.
        NonFiniteError: if the outputs are not finite, so that nothing can be compared.
        UnsupportedModuleError: if the forward fails with noise added to the parameters, or its
            sizes then grow without bound; with ``shake=False`` it may be run.

    Example:
        >>> report = verify(to_graph(module, x), module, x)
        >>> assert report.holds, report
    """
    derivation = None
    if isinstance(subject, NeuralGraph):
        derivation = derive(module, example_inputs, kwargs=kwargs)
        apart = not shared_stretches(named_tensors(module).values())
        claimed: Claims = _OfGraph(subject, derivation.spec, apart)
    elif isinstance(subject, SymmetrySpec):
        claimed = _OfSymmetry(subject)
    else:
        claimed = Claims(subject.spec if isinstance(subject, Derivation) else subject)
    spec = claimed.spec
    network = Network(module, as_arguments(example_inputs), kwargs or {}, spec)
    draws = Draws(network, spec, seed, shake)
    generator = torch.Generator().manual_seed(seed)
    laws: dict[str, Any] = {}
    if isinstance(subject, NeuralGraph) and derivation is not None:
        laws["differs"] = _differs(subject, derivation, named_tensors(module), generator)
        if maximal and laws["differs"]:
            raise ArchitectureError(
                f"the graph is not the one of the module ({laws['differs'][0]}); symmetry that it "
                "misses is searched for once it is. Pass maximal=False to see the whole report."
            )
        values = {name: widen(value) for name, value in subject.parameters().items()}
        values = checking.under_all_names(spec, values)
        laws["computes"] = Draw(network, network.state).change(values)
        laws["runs"] = run_change(subject, network, spec)
    checks = tuple(
        check_space(claimed, space, draws, samples, tolerance, generator)
        for space in checking.drawn(list(claimed.group.shapes), alone, generator)
    )
    if isinstance(subject, SymmetrySpec):
        laws["maps"] = tuple(
            check_maps(subject, maps, draws, samples, tolerance, generator)
            for maps in checking.drawn(subject.generators, alone, generator)
        )
    together = max(
        draw.change(claimed.all_moved(draw.state, generator))
        for draw in draws.first(samples)
    )
    missed = None
    if maximal:
        further = Draws(network, spec, seed + 1000, shake)
        missed = search_missed(
            spec, draws.first(samples), lambda: further.first(2 * samples), generator, tolerance
        )
    unruled = tuple(dict.fromkeys(report.op for report in spec.reports if report.unknown))
    return Verification(checks, together, tolerance, missed, unruled, **laws)


class _OfSymmetry(Claims):
    """What a symmetry spec claims: with all relabellings, all scales and signs."""

    def __init__(self, symmetry: SymmetrySpec) -> None:
        super().__init__(symmetry.permutations)
        self.symmetry = symmetry

    def all_moved(
        self, state: Mapping[str, Tensor], generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        """Move everything that may be moved."""
        return self.symmetry.act(state, self.symmetry.sample(generator))


class _OfGraph(Claims):
    """What a graph claims, read off its own action on parameters.

    A module whose tensors share memory cannot hold the scaled tensors of its graph (``apart``).
    """

    def __init__(self, graph: NeuralGraph, spec: PermutationSpec, apart: bool = True) -> None:
        _check_names(graph, spec)
        self.apart = apart
        self.spec, self.architecture = spec, graph.architecture
        self.group = self.architecture.permutations
        self._old: dict[str, dict[Tie, Tensor]] = {}

    def relabel(self, state: Mapping[str, Tensor], indices: Indices) -> Mapping[str, Tensor]:
        """Relabel the graph's tensors."""
        own = {p.name: state[p.name] for p in self.architecture.parameters}
        relabelled = Relabelling(self.architecture, indices).act_on_parameters(own)
        return checking.under_all_names(self.spec, relabelled)

    def all_moved(
        self, state: Mapping[str, Tensor], generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        """Multiply everything by scales and signs, and relabel it."""
        if not self.apart:
            return super().all_moved(state, generator)
        own = {p.name: state[p.name] for p in self.architecture.parameters}
        factors = sample_scales(self.architecture, generator=generator)
        scaled = scale_parameters(self.architecture, own, factors)
        return super().all_moved({**state, **scaled}, generator)

    def old(self, space: str) -> dict[Tie, Tensor]:
        """Return the old index at each place of each axis, under a shift of all neurons."""
        if space not in self._old:
            shift = checking.moved(self.group.identity(), space)
            self._old[space] = _old_places(Relabelling(self.architecture, shift))
        return self._old[space]

    def ties(self, space: str) -> tuple[Tie, ...]:
        """Return every axis of every parameter that the space moves."""
        return tuple(self.old(space))

    def broken(self, state: Mapping[str, Tensor], space: str, tie: Tie, indices: Indices) -> Tensor:
        """Return a parameter with one axis shifted."""
        value = state[tie.name]
        places = list(_places(value.shape))
        places[tie.axis] = self.old(space)[tie]
        return value[tuple(place.to(value.device) for place in places)]

    def touched(self, space: str, tie: Tie) -> Tensor:
        """Return which entries of its parameter the axis moves."""
        old = self.old(space)[tie]
        return old != _places(old.shape)[tie.axis]


def _differs(
    graph: NeuralGraph, derivation: Derivation, state: dict[str, Tensor], generator: torch.Generator
) -> tuple[str, ...]:
    """Return in what the graph of the relabelled module is not the relabelled graph."""
    architecture, spec = graph.architecture, derivation.spec
    # Of scales and signs it is shown that they change nothing.
    if build_architecture(derivation, state) != replace(architecture, scales=()):
        return ("its architecture",)
    indices = architecture.permutations.sample(generator)
    values = graph.parameters()
    of_spec = spec_spaces(architecture, spec)
    known = {of_spec[name]: index for name, index in indices.items() if name in of_spec}
    again = NeuralGraph.from_parameters(architecture, spec.permute(values, known))
    held = graph.with_parameters(values)
    _ = held.x  # made, so that nodes and edges are relabelled, and not parameters
    relabelled = Relabelling(architecture, indices).act_on_graph(held)
    names = ["x", "edge_attr", *(["integers"] if architecture.integers else [])]
    return tuple(name for name in names if not torch.equal(again[name], relabelled[name]))


def _places(shape: Sequence[int]) -> tuple[Tensor, ...]:
    """Return the index of each entry along each axis."""
    return torch.unravel_index(torch.arange(math.prod(shape)).reshape(shape), shape)


def _old_places(relabelling: Relabelling) -> dict[Tie, Tensor]:
    """Return the old index at each place for each axis of each parameter that has moved."""
    tags = {
        p.name: torch.zeros(p.shape, dtype=getattr(torch, p.integer)) if p.integer
        else torch.arange(p.numel, dtype=torch.float64).reshape(p.shape)
        for p in relabelling.architecture.parameters
    }
    found: dict[Tie, Tensor] = {}
    for name, tagged in relabelling.act_on_parameters(tags).items():
        if not tagged.is_floating_point() or torch.equal(tagged, tags[name]):
            continue
        here, old = _places(tagged.shape), torch.unravel_index(tagged.long(), tagged.shape)
        found |= {
            Tie(name, axis): old[axis] for axis in range(tagged.dim())
            if not torch.equal(here[axis], old[axis])
        }
    return found


def _check_names(graph: NeuralGraph, spec: PermutationSpec) -> None:
    found = {p.name: p.shape for p in graph.architecture.parameters}
    expected = {name: spec.shape(name) for name in spec.parameters}
    for name in (*found, *expected):
        if found.get(name) != expected.get(name):
            raise ArchitectureError(
                f"tensor {name!r} has shape {found.get(name, 'none')} in the graph and "
                f"{expected.get(name, 'none')} in the module; expected a graph of this module. "
                "Make it with to_graph(module, example_inputs)."
            )


# -- a graph that is run ---------------------------------------------------------------------------


def run_change(graph: NeuralGraph, network: Network, spec: PermutationSpec) -> float | None:
    """Return by how much a graph that is run differs from its network, over several inputs.

    Relative to the largest entry of the outputs; infinity if the graph gives something else than
    one tensor of as many entries; ``None`` if it cannot be run.
    """
    run = _runnable(graph)
    if run is None:
        return None
    leaves, tree = pytree.tree_flatten((network.args, network.kwargs))
    tensors = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    if len(tensors) != 1 or leaves[tensors[0]].numel() % graph.architecture.widths[0]:
        return float("inf")
    worst = 0.0
    for number, inputs in enumerate(_inputs(leaves[tensors[0]])):
        leaves[tensors[0]] = inputs
        args, kwargs = pytree.tree_unflatten(leaves, tree)
        given = Network(network.module, args, kwargs, spec)
        try:
            expected = given.run(given.state)
        except ForwardFailed:
            if number == 0:
                raise
            continue  # inputs that only we wanted
        worst = max(worst, relative_change(expected, [run(inputs)]))
    return worst


def _runnable(graph: NeuralGraph) -> Callable[[Tensor], Tensor] | None:
    """Return a function that runs a graph in float64; ``None`` if it cannot be run."""
    if not graph.architecture.is_chain:
        return None
    values = {name: value.double()[None] for name, value in graph.parameters().items()}
    width = graph.architecture.widths[0]

    def run(inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return forward(stack, inputs.double().reshape(-1, width))[0].flatten()

    try:
        stack = NeuralGraphStack.from_parameters(graph.architecture, values)
        device = next(iter(values.values())).device
        run(torch.zeros(1, width, device=device))
    except ArchitectureError:
        return None
    return run


def _inputs(example: Tensor) -> list[Tensor]:
    """The example, and others of its shape that reach further."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((2, *example.shape), generator=generator, dtype=torch.float64)
    return [example, noise[0].to(example), (3.0 * noise[1]).to(example)]
