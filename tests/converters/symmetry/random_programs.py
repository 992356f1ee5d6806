"""Random programs: operations on operands that may share their axes.

A step draws operands from what was computed so far, or parameters; a parameter of a shape that is
there already is often that same one. Sizes are small and often all equal, so that axes which must
not be confused could be.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from symmetry_programs import Recorder

from converters.symmetry.program import Ref

aten = torch.ops.aten

#: Values of more entries are used up, not built upon.
MAX_ENTRIES = 400


class RandomProgram(Recorder):
    """A program of random steps."""

    def __init__(self, seed: int, steps: int = 7) -> None:
        super().__init__()
        self.draw = random.Random(seed)
        self.torch_seed = torch.Generator().manual_seed(seed)
        self.sizes = self.draw.choice([[3], [2, 3], [1, 3], [2, 4], [2, 3, 4, 6]])
        self.pool: list[Ref] = []
        for _ in range(2):
            self.keep(self.param(*self.shape(self.draw.choice([1, 2, 3]))))
        self.names: list[str] = []
        while len(self.names) < steps:
            step = self.draw.choice(STEPS)
            try:
                results = step(self)
            except (Unfit, RuntimeError, IndexError):  # torch's own word on shapes that do not fit
                continue
            self.names.append(step.__name__)
            for ref in results if isinstance(results, list) else [results]:
                if ref is not None:
                    self.keep(ref)

    # -- operands ---------------------------------------------------------------------------------

    def keep(self, ref: Ref) -> None:
        tensor = self.tensors[ref]
        tame = tensor.is_floating_point() and 0 < tensor.numel() <= MAX_ENTRIES
        if tame and 1e-3 < float(tensor.abs().max()) < 50:
            self.pool.append(ref)

    def size(self) -> int:
        return self.draw.choice(self.sizes)

    def shape(self, rank: int) -> list[int]:
        return [self.size() for _ in range(rank)]

    def chance(self, p: float = 0.5) -> bool:
        return self.draw.random() < p

    def param(self, *shape: int) -> Ref:
        old = [r for r in self.program.parameters.values() if self.of(r) == shape]
        if old and self.chance():
            return self.draw.choice(old)
        return self.parameter(
            torch.randn(shape, generator=self.torch_seed, dtype=torch.float64)
        )

    def of(self, ref: Ref) -> tuple[int, ...]:
        return tuple(self.tensors[ref].shape)

    def any(self, *ranks: int) -> Ref:
        """Return a value of one of these ranks (any by default), preferring late ones."""
        found = [r for r in self.pool if not ranks or len(self.of(r)) in ranks]
        if not found or self.chance(0.15):
            return self.param(*self.shape(self.draw.choice(ranks or (1, 2, 3))))
        return self.draw.choice(found[-4:])

    def some(self, *shape: int) -> Ref:
        """Return a value of a shape."""
        found = [r for r in self.pool if self.of(r) == shape]
        return self.draw.choice(found) if found and self.chance(0.7) else self.param(*shape)

    def broadcastable(self, shape: Sequence[int]) -> Ref:
        kept = [1 if self.chance(0.3) else size for size in shape]
        return self.some(*kept[self.draw.randrange(len(kept) + 1) if self.chance(0.3) else 0 :])

    def table(self, *shape: int, below: int) -> Ref:
        """Return a constant of integers."""
        return self.constant(torch.randint(below, shape, generator=self.torch_seed))

    def computed(self, shape: Sequence[int], below: int) -> Ref:
        """Return integers that are computed from a value."""
        x = self.some(*shape)
        scaled = self.call(aten.mul.Tensor, self.call(aten.sigmoid.default, x), float(below))
        clamped = self.call(aten.clamp.default, scaled, 0, below - 1)
        return self.call(aten._to_copy.default, clamped, dtype=torch.int64)

    def index(self, shape: Sequence[int], below: int) -> Ref:
        make = self.draw.choice(["table", "computed", "order"])
        if make == "order" and shape and shape[-1] <= below:
            return self.call(aten.argsort.default, self.some(*shape), -1)
        return self.table(*shape, below=below) if make == "table" else self.computed(shape, below)

    def axis(self, ref: Ref) -> int:
        rank = len(self.of(ref))
        if not rank:
            raise Unfit
        return self.draw.randrange(rank)


class Unfit(Exception):
    """The operands that were drawn do not fit the step."""


Step = Callable[[RandomProgram], Any]
STEPS: list[Step] = []


def step(times: int = 1) -> Callable[[Step], Step]:
    def register(function: Step) -> Step:
        STEPS.extend([function] * times)
        return function

    return register


def divisor(net: RandomProgram, size: int) -> int:
    return net.draw.choice([d for d in range(1, size + 1) if size % d == 0])


def as_numbers(net, results):
    """Make indices among results numbers, on which the program may build."""
    return [
        ref if net.tensors[ref].is_floating_point()
        else net.call(aten._to_copy.default, ref, dtype=torch.float64) for ref in results
    ]
