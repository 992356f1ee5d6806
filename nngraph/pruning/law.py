"""The law of pruning on a network itself: neurons masked and neurons removed are one function."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from converters.symmetry import (
    TOLERANCE,
    Draws,
    Network,
    PermutationSpec,
    Space,
    as_arguments,
    relative_change,
)
from nngraph.errors import UnsupportedModuleError
from nngraph.pruning.removal import Removal
from nngraph.pruning.resizing import Resizing, Sizes, fit_sizes, resized

#: Shares of the neurons of a space that stay when it is tried, so that no two are alike by chance.
_SHARES = (0.5, 0.75, 0.6, 0.4)


#: Spaces that keep equally many neurons.
Group: TypeAlias = "tuple[Space, ...]"


@dataclass(frozen=True)
class Fault:
    """Why spaces may not lose neurons, and whether that is for want of sizes that fit."""

    reason: str
    unfit: bool = False


@dataclass(frozen=True)
class Prunable:
    """The spaces of a network that may lose neurons.

    Args:
        groups: the spaces that keep equally many each; most are alone.
        refused: every other space, and why.
        rescaled: those of the first that a removal has to rescale.
    """

    groups: tuple[tuple[str, ...], ...]
    refused: Mapping[str, str]
    rescaled: tuple[str, ...] = ()


class Law:
    """A module and its spec, to be run in float64 with neurons masked and with neurons removed.

    Args:
        module: left as it was after each run.
        example_inputs: one tensor, or a tuple of positional arguments.
        kwargs: keyword arguments of its forward.
        spec: of the module.
        seed: of the noise that is added to its parameters, since zeros and ones hide mistakes.
    """

    def __init__(
        self, module: nn.Module, example_inputs: Any, kwargs: Mapping[str, Any] | None,
        spec: PermutationSpec, seed: int = 0,
    ) -> None:  # fmt: skip
        self.module, self.spec = module, spec
        self.args, self.kwargs = as_arguments(example_inputs), dict(kwargs or {})
        self.network = Network(module, self.args, self.kwargs, spec)
        self.draws = Draws(self.network, spec, seed)
        #: spaces that were found to hold if they are rescaled
        self._rescaled: set[str] = set()

    def states(self, draws: int) -> list[dict[str, Tensor]]:
        """Return so many states with noise, and then the module's own."""
        return [draw.state for draw in self.draws.first(draws)] + [self.network.state]

    def error(
        self, removal: Removal, states: Sequence[Mapping[str, Tensor]], sizes: Sizes | None = None
    ) -> tuple[float, Sizes]:  # fmt: skip
        """Return by how much the outputs differ, relative to their largest, and the new sizes.

        Raises:
            UnsupportedModuleError: if the module cannot be made smaller; names the place.
        """
        masked = [self.network.run(removal.mask(state)) for state in states]
        with resized(self.module, removal, removal.remove(self.network.tensors)) as resizing:
            error = self.fit(resizing, masked, [removal.remove(state) for state in states], sizes)
            return error, resizing.sizes

    def fit(
        self, resizing: Resizing, masked: Sequence[list[Tensor]],
        states: Sequence[Mapping[str, Tensor]], sizes: Sizes | None = None,
    ) -> float:  # fmt: skip
        """Set the sizes of a module with small tensors; return by how much its outputs differ.

        Args:
            resizing: of the module.
            masked: the outputs with neurons masked, for each state.
            states: small ones.
            sizes: as they were found before; searched for by default.
        """
        run = self._runner(resizing)
        if sizes is None:
            fit_sizes(resizing, lambda: run(states[0]), lambda found: _change(masked[0], found))
        else:
            resizing.put_sizes(sizes)
        error = max(_change(*pair) for pair in zip(masked, map(run, states), strict=True))
        resizing.put_sizes_again()
        return error

    def flops(self, removal: Removal) -> int:
        """Return the floating-point operations of a forward without the neurons."""
        with resized(self.module, removal, removal.remove(self.network.tensors)) as resizing:
            state = removal.remove(self.network.state)
            run = self._runner(resizing)
            fit_sizes(resizing, lambda: run(state))
            with FlopCounterMode(display=False) as counter:
                run(state)
            return int(counter.get_total_flops())

    def _runner(self, resizing: Resizing) -> Callable[[Mapping[str, Tensor]], list[Tensor]]:
        network = Network(self.module, self.args, self.kwargs, resizing.removal.smaller)
        network.prepare = resizing.put_sizes_again
        return network.run

    # -- which spaces may lose neurons ------------------------------------------------------------

    def prunable(self, spaces: Iterable[Space]) -> Prunable:
        """Return which spaces may lose neurons: those for which the law holds.

        Spaces that are alike but for numbers in their names are tried together, and one by one
        where that fails. Those that cannot be made smaller alone, as the features of queries and of
        values where a module has one size for both, are tried with equally many. What holds alone
        must hold together, too.
        """
        kinds: dict[Any, list[Group]] = {}
        for space in spaces:
            ties = (f"{name}[{axis}]" for name, axis in self.spec.ties(space.name))
            key = _pattern(space.name), *sorted(set(map(_pattern, ties)))
            kinds.setdefault(key, []).append((space,))
        refused: dict[str, Fault] = {}
        allowed: list[list[Group]] = []
        for kind in kinds.values():
            good, bad = self._split(kind)
            allowed += [good] if good else []
            refused |= bad
        for kind in self._alike(refused):
            good, _ = self._split([g for g in kind if all(s.name in refused for s in g)])
            allowed += [good] if good else []
            for group in good:
                for space in group:
                    del refused[space.name]
        held = [group for good in allowed for group in good]
        if len(allowed) > 1 and self._fault(held):
            held = []
            for good in allowed:
                fault = self._fault(held + good)
                if fault:
                    refused |= {space.name: fault for group in good for space in group}
                else:
                    held += good
        return Prunable(
            tuple(tuple(space.name for space in group) for group in held),
            {name: fault.reason for name, fault in refused.items()},
            tuple(space.name for group in held for space in group if space.name in self._rescaled),
        )

    def _alike(self, refused: Mapping[str, Fault]) -> Iterator[list[Group]]:
        """Iterate over spaces that may have one size in the code of the module.

        First pairs of one module, then all that are alike but for numbers in their names; spaces
        that no longer are among the refused ones by then are left out.
        """
        left = [self.spec.by_name[name] for name, fault in refused.items() if fault.unfit]
        owners = {s.name: {name.rpartition(".")[0] for name, _ in self.spec.ties(s.name)}
                  for s in left}
        paths = {
            name: found | {path.rpartition(".")[0] for path in found}
            for name, found in owners.items()
        }
        pairs: dict[Any, list[Group]] = {}
        for one, other in itertools.combinations(left, 2):
            same = (one.size, one.within) == (other.size, other.within)
            if same and paths[one.name] & paths[other.name]:
                key = tuple(_pattern(space.name) for space in (one, other))
                taken = {s.name for group in pairs.get(key, ()) for s in group}
                if not taken & {one.name, other.name}:
                    pairs.setdefault(key, []).append((one, other))
        yield from pairs.values()
        kinds: dict[Any, list[Space]] = {}
        for space in left:
            if space.name in refused:
                kinds.setdefault((_pattern(space.name), space.size), []).append(space)
        yield from ([tuple(kind)] for kind in kinds.values() if len(kind) > 1)

    def _split(self, groups: list[Group]) -> tuple[list[Group], dict[str, Fault]]:
        """Return the groups that hold together, and why each space of the others does not."""
        fault = self._fault(groups) if groups else None
        if not fault:
            return groups, {}
        if len(groups) == 1:
            return [], {space.name: fault for space in groups[0]}
        first, last = self._fault(groups[:1]), self._fault(groups[-1:])
        if first and last:
            # All of a kind: what holds for neither end is refused in between, which is safe.
            return [], {space.name: first for group in groups for space in group}
        half = len(groups) // 2
        (one, bad), (other, more) = self._split(groups[:half]), self._split(groups[half:])
        fault = self._fault(one + other) if one and other else None
        if fault:
            more |= {space.name: fault for group in other for space in group}
            other = []
        return one + other, bad | more

    def _error(self, kept: Mapping[str, tuple[int, ...]], rescaled: Iterable[str]) -> float:
        removal = Removal(self.spec, kept, tuple(sorted(rescaled)))
        return self.error(removal, self.states(1)[:1])[0]

    def _fault(self, groups: Sequence[Group]) -> Fault | None:
        """Return why spaces may not lose neurons together; ``None`` if they may."""
        kept = {s.name: _part(s, i) for i, group in enumerate(groups) for s in group}
        try:
            error = self._error(kept, self._rescaled & kept.keys())
            # Features inside of heads may be those of queries, which one of each group then are.
            inner = [[s.name for s in group if s.within] for group in groups]
            for place in range(max(map(len, inner), default=0)):
                if error <= TOLERANCE:
                    break
                tried = {names[place] for names in inner if place < len(names)}
                if self._error(kept, tried) <= TOLERANCE:
                    self._rescaled |= tried
                    return None
        except UnsupportedModuleError as failure:
            return Fault(str(failure), unfit=True)
        if error <= TOLERANCE:
            return None
        return Fault(
            f"removing neurons is not masking them: outputs change by {error:.1e}, as they do "
            "where a layer takes a mean, a norm or a softmax over the neurons, or scales by their "
            "number"
        )


def _pattern(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _part(space: Space, number: int) -> tuple[int, ...]:
    share = _SHARES[number % len(_SHARES)]
    count = min(max(round(space.size * share), 1), space.size - 1)
    generator = torch.Generator().manual_seed(space.size + number)
    return tuple(sorted(torch.randperm(space.size, generator=generator)[:count].tolist()))


def _change(masked: list[Tensor], small: list[Tensor]) -> float:
    finite = all(bool(output.isfinite().all()) for output in (*masked, *small))
    return relative_change(masked, small) if finite else math.inf
