"""The user's own module made smaller in place, and put back."""

from __future__ import annotations

import math
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from converters.symmetry import TOLERANCE, ForwardFailed
from nngraph.errors import UnsupportedModuleError
from nngraph.pruning.removal import Removal
from nngraph.pruning.sizes import SizeSlot, layer_sizes, size_slots

#: path of a module -> attribute -> its new value
Sizes: TypeAlias = "dict[str, dict[str, Any]]"
#: Forwards that are tried, at most, to find numbers with which a module runs, and with which it
#: computes what it should.
MAX_TRIALS, MAX_REVERTED = 32, 8
#: Names of sizes, which are the last that should not have been changed.
_SIZE = re.compile(r"head|dim|size|chan|feat|width|hidden|group|in_|out_|embed|inner|nf|nx")


class Resizing:
    """A module with other tensors and other sizes; :meth:`undo` puts all of it back."""

    def __init__(self, module: nn.Module, removal: Removal) -> None:
        self.module, self.removal = module, removal
        self._undone: list[Callable[[], None]] = []
        #: (path, attribute) -> its value before, and now
        self._sizes: dict[tuple[str, str], tuple[Any, Any]] = {}

    @property
    def sizes(self) -> Sizes:
        """The attributes that have other values now."""
        found: Sizes = {}
        for (path, name), (before, now) in self._sizes.items():
            if before != now:
                found.setdefault(path, {})[name] = now
        return found

    def undo(self) -> None:
        """Put back what was there before."""
        for (path, name), (before, _) in self._sizes.items():
            setattr(self.module.get_submodule(path), name, before)
        while self._undone:
            self._undone.pop()()

    def put_tensors(self, state: Mapping[str, Tensor]) -> None:
        """Put tensors in the place of the module's own; what was one tensor stays one."""
        new: dict[int, Tensor] = {}
        for name, value in state.items():
            path, _, own = name.rpartition(".")
            owner = self.module.get_submodule(path)
            before = getattr(owner, own)
            if before.shape == value.shape and value is before:
                continue
            if id(before) not in new:
                value = value.detach().to(before).clone()
                is_parameter = isinstance(before, nn.Parameter)
                new[id(before)] = (
                    nn.Parameter(value, before.requires_grad) if is_parameter else value
                )
            # Not by the register: recurrent layers keep lists of their weights up to date.
            setattr(owner, own, new[id(before)])
            self._undone.append(partial(setattr, owner, own, before))

    def put_sizes(self, sizes: Sizes) -> None:
        """Set attributes of modules, by path and name."""
        for path, attributes in sizes.items():
            owner = self.module.get_submodule(path)
            for name, value in attributes.items():
                before, _ = self._sizes.get((path, name), (getattr(owner, name), None))
                self._sizes[path, name] = before, value
        self.put_sizes_again()

    def put_sizes_again(self) -> None:
        """Set all attributes anew: to run a module puts back what it was when that was prepared."""
        for (path, name), (_, now) in self._sizes.items():
            owner = self.module.get_submodule(path)
            if getattr(owner, name) != now:
                setattr(owner, name, now)

    def put_layer_sizes(self) -> None:
        """Set what torch's layers keep of the sizes of their tensors."""
        self.put_sizes({path: layer_sizes(child) for path, child in self.module.named_modules()})


def choose(resizing: Resizing, slot: SizeSlot, value: int) -> None:
    """Set the number of a slot."""
    now = getattr(resizing.module.get_submodule(slot.path), slot.attribute)
    if slot.place is not None:
        numbers = list(now)
        numbers[slot.place] = value
        value = type(now)(numbers)
    resizing.put_sizes({slot.path: {slot.attribute: value}})


def fit_sizes(
    resizing: Resizing, run: Callable[[], list[Tensor]],
    error: Callable[[list[Tensor]], float] = lambda outputs: 0.0,
) -> list[Tensor]:  # fmt: skip
    """Set the sizes that modules keep so that the forward runs; return its outputs.

    The numbers of a module that may count several things are tried where the forward fails,
    innermost module first; each change must let the forward get further. Where it runs and is
    wrong, numbers that it may run without changing are tried, all modules of a class at once.

    Args:
        resizing: of a module that has its new tensors already.
        run: the forward.
        error: by how much outputs are wrong.

    Raises:
        UnsupportedModuleError: if it does not run; names the module and its numbers.
    """
    fitting = _Fitting(resizing, run)
    fitting.let_run()
    return fitting.improve(error)


class _Fitting:
    """The search for the numbers of a module."""

    def __init__(self, resizing: Resizing, run: Callable[[], list[Tensor]]) -> None:
        self.resizing, self.run = resizing, run
        self.slots = size_slots(resizing.module, resizing.removal)
        self.chosen = {slot: slot.options[0] for slot in self.slots}
        self.trials = 0

    def attempt(self) -> _Attempt:
        """Run with the numbers that are chosen."""
        for slot, value in self.chosen.items():
            choose(self.resizing, slot, value)
        self.resizing.put_layer_sizes()
        return _attempt(self.resizing.module, self.run)

    def let_run(self) -> None:
        """Choose numbers with which it runs."""
        now = self.attempt()
        while now.failure is not None:
            better = None
            for slot, value in self._alternatives(now.inside):
                before = dict(self.chosen)
                self.chosen |= dict.fromkeys(self._alike(slot), value)
                got = self.attempt()
                if got.failure is None or got.reached > now.reached:
                    better = got
                    break
                self.chosen = before
                self.trials += 1
                if self.trials >= MAX_TRIALS:
                    break
            if better is None:
                raise self._unfit(now)
            now = better
        self.outputs = now.outputs

    def improve(self, error: Callable[[list[Tensor]], float]) -> list[Tensor]:
        """Choose numbers with which it also computes what it should, if there are any."""
        least = error(self.outputs)
        kinds: dict[tuple[type, str, int], list[SizeSlot]] = {}
        for slot in self.slots:
            if self.chosen[slot] != slot.options[-1]:
                owner = type(self.resizing.module.get_submodule(slot.path))
                kinds.setdefault((owner, slot.attribute, slot.options[-1]), []).append(slot)
        likely = sorted(kinds, key=lambda kind: bool(_SIZE.search(kind[1])))[:MAX_REVERTED]
        for kind in likely:
            if least <= TOLERANCE:
                break
            before = dict(self.chosen)
            self.chosen |= {slot: slot.options[-1] for slot in kinds[kind]}
            got = self.attempt()
            found = error(got.outputs) if got.failure is None else math.inf
            if found < least:
                least, self.outputs = found, got.outputs
            else:
                self.chosen = before
                self.attempt()
        return self.outputs

    def _alternatives(self, inside: list[str]) -> list[tuple[SizeSlot, int]]:
        return [
            (slot, value) for path in inside for slot in self.slots if slot.path == path
            for value in slot.options if value != self.chosen[slot]
        ]

    def _alike(self, slot: SizeSlot) -> list[SizeSlot]:
        """Return the slots of modules of its class that may become the same, and are chosen so."""
        kind = type(self.resizing.module.get_submodule(slot.path))
        same = (slot.attribute, slot.place, slot.options, self.chosen[slot])
        return [
            other for other in self.slots
            if (other.attribute, other.place, other.options, self.chosen[other]) == same
            and type(self.resizing.module.get_submodule(other.path)) is kind
        ]

    def _unfit(self, attempt: _Attempt) -> UnsupportedModuleError:
        path = attempt.inside[0] if attempt.inside else ""
        kind = type(self.resizing.module.get_submodule(path)).__name__
        tried = ", ".join(
            f"{slot.attribute} = {value}" for slot, value in self.chosen.items()
            if slot.path in attempt.inside[:2]
        )
        return UnsupportedModuleError(
            f"module {path or 'the root'!r} ({kind}) does not run with fewer neurons of "
            f"{', '.join(self.resizing.removal.kept)}: {attempt.failure}. Its numbers that could "
            f"be set: {tried or 'none'}; expected a forward that takes all sizes from its tensors "
            "and attributes. Leave these spaces out."
        )


@dataclass(frozen=True)
class _Attempt:
    """A forward: its outputs, or how it failed and in which modules, innermost first."""

    reached: int
    outputs: list[Tensor]
    failure: ForwardFailed | None = None
    inside: list[str] = field(default_factory=list)


def _attempt(module: nn.Module, run: Callable[[], list[Tensor]]) -> _Attempt:
    with _Operations() as operations:
        try:
            outputs = run()
        except ForwardFailed as error:
            return _Attempt(operations.count, [], error, _inside(module, error))
    return _Attempt(operations.count, outputs)


def _inside(module: nn.Module, error: BaseException) -> list[str]:
    """Return the paths of the modules in whose forwards an error was raised, innermost first."""
    paths = {id(child): path for path, child in module.named_modules()}
    frames = traceback.walk_tb((error.__cause__ or error).__traceback__)
    found = (id(frame.f_locals.get("self")) for frame, _ in frames)
    return list(dict.fromkeys(paths[own] for own in found if own in paths))[::-1]


class _Operations(TorchFunctionMode):
    """Counts the operations that begin within."""

    count = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def resized(module: nn.Module, removal: Removal, state: Mapping[str, Tensor]) -> Iterator[Resizing]:
    """Let a module have the tensors of a smaller network for the while."""
    resizing = Resizing(module, removal)
    try:
        resizing.put_tensors(state)
        yield resizing
    finally:
        resizing.undo()
