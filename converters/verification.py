r"""The proof of a graph on the network itself: its relabellings, and how it is converted.

Beside the law of a spec, :math:`f(g \theta, x) = f(\theta, x)` for relabellings :math:`g` of the
graph's own symmetry, two laws hold for a graph :math:`G`: the network with the graph's numbers
computes what the module does; and relabelling commutes with the conversion,
:math:`G(g \theta) = g \, G(\theta)`, bit for bit, where the left side relabels the parameters by
the spec and converts them, and the right side relabels nodes and edges. Where a graph can be run,
it is: what it computes then is what the module does.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from converters.agreement import run_change
from converters.chains.program import spec_spaces
from converters.placement.convert import build_architecture, state_of
from converters.symmetry.arguments import as_arguments
from converters.symmetry.checking import SpaceCheck, Status, check_space
from converters.symmetry.derive import Derivation, derive
from converters.symmetry.memory import widen
from converters.symmetry.missed import search_missed
from converters.symmetry.running import Draw, Network
from converters.symmetry.shaking import Draws
from converters.symmetry.spec import PermutationSpec
from converters.symmetry.spec_ties import Tie
from converters.symmetry.verification import TOLERANCE, Verification, unruled
from converters.symmetry.verification import verify as verify_spec
from nngraph.errors import ArchitectureError
from nngraph.graph import NeuralGraph, Relabelling, Symmetry


@dataclass(frozen=True)
class GraphVerification(Verification):
    """The result of :func:`verify` for a graph.

    Args:
        computes: relative change of the module's outputs with the graph's numbers in it.
        differs: where the graph of the relabelled module and the relabelled graph differ; nothing
            if they are one, bit for bit.
        runs: relative difference between what the graph computes when it is run
            (:func:`nngraph.graph.forward`) and the module, over several inputs; ``None`` if the
            graph cannot be run.
    """

    computes: float = float("inf")
    differs: tuple[str, ...] = ()
    runs: float | None = None

    @property
    def ran(self) -> bool:
        """Whether the graph was run."""
        return self.runs is not None

    @property
    def status(self) -> Status:
        """``fails`` also where the graph computes another function, or is converted otherwise."""
        another = max(self.computes, self.runs or 0.0) > self.tolerance
        return "fails" if another or self.differs else super().status

    @property
    def worst(self) -> float:
        """Largest relative change of all."""
        return max(self.computes, self.runs or 0.0, super().worst)

    def __str__(self) -> str:
        computes = "as the module" if self.computes <= self.tolerance else "another function"
        converts = (
            f"differs in {', '.join(self.differs)}" if self.differs else "is the relabelled graph"
        )
        if self.runs is None:
            ran = "was not run: it is no chain of affine maps and activations that are known"
        else:
            what = "as the module" if self.runs <= self.tolerance else "another function"
            ran = f"computes, when run, {what} ({self.runs:.1e})"
        return (
            f"{super().__str__()}\n"
            f"the graph's numbers compute {computes} ({self.computes:.1e})\n"
            f"the graph {ran}\n"
            f"the graph of the relabelled module {converts}"
        )


def verify(
    subject: NeuralGraph | PermutationSpec | Derivation,
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
    """Prove on a network that relabellings do not change its function; of a graph, more than that.

    Random relabellings of each space alone and of all together are applied to the parameters, in
    float64. A graph must also compute what the module does, with relabelled neurons or as it is,
    and the graph of the relabelled module must be the relabelled graph. The report lists for each
    space its size and the parameter axes that it ties.

    Args:
        subject: a graph of the module, or a spec.
        module: the network; it is run in float64 and evaluation mode, and left as it was.
        example_inputs: one tensor, or a tuple of positional arguments.
        kwargs: keyword arguments of its forward.
        samples: relabellings per check, each on parameters that are shaken differently.
        seed: seed of the relabellings and of the shaking.
        shake: run on parameters with noise added, since zeros and ones hide mistakes.
        maximal: also search for symmetry that was missed; for small networks, as it runs the
            network a few times for each pair of neurons it tries.
        alone: number of spaces, drawn at random, to check alone; every one by default. All
            together are checked in any case.
        tolerance: largest change of the outputs, relative to their largest entry, that counts as
            none.

    Returns:
        what was found, which prints as a table; ``.holds`` says whether all of it is as it should.

    Raises:
        ArchitectureError: if the graph or the spec has other tensors than the module.
        NonFiniteError: if the outputs are not finite, so that nothing can be compared.
        UnsupportedModuleError: if the forward fails with noise added to the parameters.

    Example:
        >>> report = verify(to_graph(module, x), module, x)
        >>> assert report.holds, report
    """
    if not isinstance(subject, NeuralGraph):
        return verify_spec(
            subject, module, example_inputs, kwargs=kwargs, samples=samples, seed=seed,
            shake=shake, maximal=maximal, alone=alone, tolerance=tolerance,
        )  # fmt: skip
    derivation = derive(module, example_inputs, kwargs=kwargs)
    graph, spec = subject, derivation.spec
    _check_names(graph, spec)
    network = Network(module, as_arguments(example_inputs), kwargs or {}, spec)
    proof = _Proof(graph, spec, Draws(network, spec, seed, shake), samples, tolerance, seed)
    values = {k: widen(v) for k, v in graph.parameters().items()}
    missed = None
    differs = proof.differs(derivation, state_of(module))
    if maximal:
        if differs:
            raise ArchitectureError(
                f"the graph is not the one of the module ({differs[0]}); symmetry that it misses "
                "is searched for once it is. Pass maximal=False to see the whole report."
            )
        further = Draws(network, spec, seed + 1000, shake)
        missed = search_missed(
            spec, proof.draws.first(samples), lambda: further.first(2 * samples), proof.generator,
            tolerance,
        )  # fmt: skip
    return GraphVerification(
        tuple(proof.checks(alone)),
        max(proof.change(draw, None) for draw in proof.draws.first(samples)),
        tolerance,
        missed,
        unruled(spec),
        computes=Draw(network, network.state).change(_with_aliases(values, spec)),
        differs=differs,
        runs=run_change(graph, network, spec),
    )


@dataclass
class _Proof:
    """Relabellings of a graph's own symmetry, on networks with shaken parameters."""

    graph: NeuralGraph
    spec: PermutationSpec
    draws: Draws
    samples: int
    tolerance: float
    seed: int

    def __post_init__(self) -> None:
        self.architecture = self.graph.architecture
        self.symmetry = Symmetry(self.architecture)
        self.generator = torch.Generator().manual_seed(self.seed)

    def checks(self, count: int | None) -> Iterator[SpaceCheck]:
        """Check spaces alone: every one, or so many of them."""
        sizes = self.symmetry.spaces
        order = torch.randperm(len(sizes), generator=self.generator).tolist()
        chosen = set(order[: len(sizes) if count is None else count])
        for number, (space, size) in enumerate(sizes.items()):
            if number in chosen:
                claim = _GraphClaim(self, space, size)
                yield check_space(
                    claim, self.draws, self.samples, self.tolerance, self.generator
                )

    def change(self, draw: Draw, space: str | None) -> float:
        """Change of the outputs when one space is relabelled, or all are."""
        return draw.change(self.relabelled(draw, space))

    def relabelled(self, draw: Draw, space: str | None) -> dict[str, Tensor]:
        """Return the tensors with one space relabelled, or all."""
        own = {p.name: draw.state[p.name] for p in self.architecture.parameters}
        return _with_aliases(self._sample(space).act_on_parameters(own), self.spec)

    def _sample(self, space: str | None) -> Relabelling:
        drawn = self.symmetry.sample(self.generator)
        if space is None:
            return drawn
        still = self.symmetry.identity().indices
        return Relabelling(self.architecture, {**still, space: drawn.indices[space]})

    def differs(self, derivation: Derivation, state: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Return in what the graph of the relabelled module is not the relabelled graph."""
        if build_architecture(derivation, dict(state)) != self.architecture:
            return ("its architecture",)
        relabelling = self.symmetry.sample(self.generator)
        values = self.graph.parameters()
        of_spec = spec_spaces(self.architecture, self.spec)
        by_spec = self.spec.permute(
            values,
            {
                space.name: index.reshape(*(self.spec.by_name[o].size for o in space.within), -1)
                for name, index in relabelling.indices.items() if name in of_spec
                for space in (self.spec.by_name[of_spec[name]],)
            },
        )
        again = NeuralGraph.from_parameters(self.architecture, by_spec)
        held = self.graph.with_parameters(values)
        _ = held.x  # made, so that nodes and edges are relabelled, and not parameters
        moved = relabelling.act_on_graph(held)
        names = ["x", "edge_attr", *(["integers"] if self.architecture.integers else [])]
        return tuple(name for name in names if not torch.equal(again[name], moved[name]))


class _GraphClaim:
    """What a graph claims of one space, read off its own action on parameters."""

    def __init__(self, proof: _Proof, space: str, size: int) -> None:
        self.proof, self.space, self.size = proof, space, size
        # A cyclic shift moves every neuron.
        still = proof.symmetry.identity().indices
        shifted = {**still, space: still[space].roll(1, -1)}
        self.old = _old_places(Relabelling(proof.architecture, shifted))
        self.axes = tuple(self.old)
        self.ties: Sequence[Hashable] = tuple(Tie(*place) for place in self.old)

    def relabelled(self, draw: Draw) -> Mapping[str, Tensor]:
        """Relabel the space."""
        return self.proof.relabelled(draw, self.space)

    def broken(self, draw: Draw, tie: Hashable) -> Mapping[str, Tensor]:
        """Move one axis of one parameter, and no other."""
        assert isinstance(tie, Tie)
        value = draw.state[tie.name]
        places = list(_places(value.shape))
        places[tie.axis] = self.old[tie.name, tie.axis]
        moved = value[tuple(place.to(value.device) for place in places)]
        return _with_aliases({tie.name: moved}, self.proof.spec)

    def touched(self, draw: Draw, tie: Hashable) -> tuple[str, Tensor]:
        """Return the parameter of a tie, and which of its entries one tie relabels."""
        assert isinstance(tie, Tie)
        shape = draw.state[tie.name].shape
        return tie.name, self.old[tie.name, tie.axis] != _places(shape)[tie.axis]

    def named(self, name: str, value: Tensor) -> Mapping[str, Tensor]:
        """Return a parameter under all of its names."""
        return _with_aliases({name: value}, self.proof.spec)


def _places(shape: Sequence[int]) -> tuple[Tensor, ...]:
    """Return the index of each entry along each axis."""
    return torch.unravel_index(torch.arange(math.prod(shape)).reshape(shape), shape)


def _old_places(relabelling: Relabelling) -> dict[tuple[str, int], Tensor]:
    """Return the old index at each place for each axis of each parameter that has moved."""
    tags = {
        p.name: torch.zeros(p.shape, dtype=getattr(torch, p.integer)) if p.integer
        else torch.arange(p.numel, dtype=torch.float64).reshape(p.shape)
        for p in relabelling.architecture.parameters
    }
    found: dict[tuple[str, int], Tensor] = {}
    for name, moved in relabelling.act_on_parameters(tags).items():
        if not moved.is_floating_point() or torch.equal(moved, tags[name]):
            continue
        here, old = _places(moved.shape), torch.unravel_index(moved.long(), moved.shape)
        found |= {
            (name, axis): old[axis] for axis in range(moved.dim())
            if not torch.equal(here[axis], old[axis])
        }
    return found


def _with_aliases(values: Mapping[str, Tensor], spec: PermutationSpec) -> dict[str, Tensor]:
    """Give shared tensors under all of their names."""
    others = {
        other: values[name] for name, names in spec.aliases.items() if name in values
        for other in names
    }
    return {**values, **others}


def _check_names(graph: NeuralGraph, spec: PermutationSpec) -> None:
    found = {p.name: p.shape for p in graph.architecture.parameters}
    expected = {name: spec.shape(name) for name in spec.parameters}
    wrong: Sequence[str] = [
        name for name in (*found, *expected) if found.get(name) != expected.get(name)
    ]
    if wrong:
        name = wrong[0]
        raise ArchitectureError(
            f"tensor {name!r} has shape {found.get(name, 'none')} in the graph and "
            f"{expected.get(name, 'none')} in the module; expected a graph of this module. Make "
            "it with to_graph(module, example_inputs)."
        )
