"""Tensors that are written slice by slice: the symmetry of the same by ``cat``, in linear time."""

from typing import Any

import pytest
import torch
from symmetry_cases import check, described
from torch import Tensor, nn

from converters import verify
from converters.from_modules import build_architecture
from converters.symmetry import derive, permutation_spec
from converters.symmetry.dims import atom
from converters.symmetry.engine import Engine
from converters.symmetry.program import Operation, Program, Ref
from converters.symmetry.rules import RULES, fallback

aten = torch.ops.aten


class Body(nn.Module):
    """A function of 8 neurons between two layers."""

    def __init__(self, body: Any, width: int = 8) -> None:
        super().__init__()
        self.a, self.b, self.body = nn.Linear(3, width), nn.Linear(width, 2), body

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.body(self.a(x)))


def halves(h: Tensor, out: Tensor) -> Tensor:
    out[:, :4], out[:, 4:] = h[:, 4:].tanh(), h[:, :4]
    return out


def interleaved(h: Tensor, out: Tensor) -> Tensor:
    out[..., ::2], out[..., 1::2] = h[:, :4], h[:, 4:].relu()
    return out


def rows(h: Tensor, out: Tensor) -> Tensor:
    for i, row in enumerate(h.unbind(0)):
        out[i] = row.tanh() if i == 0 else out[i - 1] * 0.5 + row
    return out


def middle(h: Tensor, out: Tensor) -> Tensor:
    out.narrow(1, 2, 4).copy_(h[:, :4])
    return out


def whole(h: Tensor, out: Tensor) -> Tensor:
    out[:] = h.relu()
    return out


def running(h: Tensor) -> Tensor:
    found = [h[0].tanh()]
    for row in h[1:]:
        found.append(found[-1] * 0.5 + row)
    return torch.stack(found)


EIGHT = {"a": (8, "a.weight[0] a.bias[0] b.weight[1]")}
TWO_FOURS = dict.fromkeys(("a", "a.2"), (4, "a.weight[0] a.bias[0] b.weight[1]"))
TIED = {"a": TWO_FOURS["a"]}
WRITTEN = {
    "halves": (halves, lambda h: torch.cat([h[:, 4:].tanh(), h[:, :4]], 1), TWO_FOURS),
    "every second": (
        interleaved, lambda h: torch.stack([h[:, :4], h[:, 4:].relu()], -1).flatten(-2), TIED,
    ),
    "rows of rows": (rows, running, EIGHT),
    "all at once": (whole, torch.relu, EIGHT),
}
MAKERS = {
    "new_empty": lambda h: h.new_empty(h.shape),
    "zeros_like": torch.zeros_like,
    "empty": lambda h: torch.empty(h.shape, dtype=h.dtype),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_is_what_is_concatenated(name: str):
    write, concatenated, expected = WRITTEN[name]
    inputs = torch.randn(4, 3)
    made = dict(zip(WRITTEN, [*MAKERS.values(), MAKERS["empty"]], strict=True))[name]
    derivation = check(Body(lambda h: write(h, made(h))), inputs, expected)
    assert described(permutation_spec(Body(concatenated), inputs)) == described(derivation.spec)


def test_what_is_not_written_is_alike_in_zeros_and_unknown_in_empty():
    inputs = torch.randn(4, 3)
    zeros = derive(Body(lambda h: middle(h, torch.zeros_like(h))), inputs, strict=True)
    # Neurons that are dropped, and weights of zeros, are relabelled; that proves nothing of them.
    report = verify(zeros, Body(lambda h: middle(h, torch.zeros_like(h))), inputs)
    assert report.error < 1e-9
    assert report.checks[0].status == "holds"
    assert described(zeros.spec) == {
        "a": (4, "a.bias[0] a.weight[0] b.weight[1]"), "a.2": (4, "a.bias[0] a.weight[0]"),
        "b": (2, "b.weight[1]"), "b.2": (2, "b.weight[1]"),
    }
    unknown = permutation_spec(Body(lambda h: middle(h, torch.empty_like(h))), inputs)
    assert "b" not in described(unknown)
    assert [report.reason for report in unknown.reports] == [
        "a constant differs from index to index"
    ]


def test_what_is_written_is_seen_on_the_meta_device_too():
    with torch.device("meta"):
        spec = permutation_spec(Body(lambda h: halves(h, torch.empty_like(h))), torch.randn(4, 3))
    assert {name: space[0] for name, space in described(spec).items()} == {"a": 4, "a.2": 4}


def test_one_row_that_is_never_written_fixes_what_is_read_with_it():
    def some(h: Tensor) -> Tensor:
        return rows(h[:3], h.new_empty(4, 8))

    assert permutation_spec(Body(some), torch.randn(4, 3)).free_spaces == ()


def test_what_is_subtracted_from_a_slice_is_tied_to_it():
    def shifted(h: Tensor) -> Tensor:
        h = h.clone()
        h[:, 4:] -= h[:, :4]
        return h

    check(Body(shifted), torch.randn(4, 3), TIED)


def test_every_third_index_has_no_structure_and_is_reported():
    def third(h: Tensor) -> Tensor:
        h = h.clone()
        h[:, ::3] = h[:, 1::3].sum(1, keepdim=True)
        return h

    spec = permutation_spec(Body(third), torch.randn(4, 3))
    assert spec.free_spaces == ()
    assert "aten.slice_scatter" in {report.op for report in spec.reports}


class Heads(nn.Module):
    """Two layers whose features are never brought together, written into one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 4), nn.Linear(3, 4)
        self.of_one, self.of_two = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        both = x.new_empty(x.shape[0], 2, 4)
        both[:, 0], both[:, 1] = self.one(x), self.two(x)
        both = both.tanh()
        return self.of_one(both[:, 0]) + self.of_two(both[:, 1])


def test_slices_that_are_never_read_together_are_not_tied():
    check(Heads(), torch.randn(5, 3), {
        "one": (4, "one.weight[0] one.bias[0] of_one.weight[1]"),
        "two": (4, "two.weight[0] two.bias[0] of_two.weight[1]"),
    })


@pytest.mark.parametrize(("count", "free"), [(64, 64), (66, 63)])
def test_more_parts_than_64_are_given_up_and_reported(count: int, free: int):
    def reversed_parts(h: Tensor) -> Tensor:
        return torch.cat(h.chunk(count, 1)[::-1], 1)

    spec = permutation_spec(Body(reversed_parts, 2 * count), torch.randn(2, 3))
    assert len(spec.free_spaces) == free
    assert [(r.op, r.reason) for r in spec.reports] == (
        [] if free == count else [("cut", "is cut into more than 64 parts")]
    )


# -- time, as work that is done: no clock ----------------------------------------------------------


class Loop:
    """A program that writes a tensor in place step by step, as tracing gives it."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.program = Program()
        self.program.parameters["w"] = self.new((shape[-1], 3))
        self.program.inputs["x"] = self.new((*shape[:-1], 3))
        self.tensor = self.call(
            aten.linear.default, self.program.inputs["x"], self.program.parameters["w"]
        )

    def new(self, shape: tuple[int, ...]) -> Ref:
        return self.program.new(shape, torch.float32)

    def call(self, target: Any, *args: Any) -> Ref:
        def empty(argument: Any) -> Any:
            if isinstance(argument, Ref):
                return torch.empty(self.program.results[argument].shape, device="meta")
            return [empty(item) for item in argument] if isinstance(argument, list) else argument

        ref = self.new(tuple(target(*map(empty, args)).shape))
        self.program.operations.append(Operation(target, args, {}, (ref,)))
        return ref

    def work(self) -> tuple[int, int]:
        """Run the rules; return the numbers of terms made and of records kept."""
        self.program.outputs = [self.tensor]
        engine = Engine(self.program, RULES, fallback)
        before = atom(1).serial
        engine.run()
        assert not engine.unruled
        return atom(1).serial - before, len(engine.records)


def entries(loop: Loop, count: int, axis: int) -> None:
    """``h[:, i] = h[:, i] + h[:, i - 1]``."""
    for i in range(1, count):
        one, other = (loop.call(aten.select.int, loop.tensor, axis, j) for j in (i, i - 1))
        both = loop.call(aten.add.Tensor, one, other)
        loop.tensor = loop.call(aten.select_scatter.default, loop.tensor, both, axis, i)


def growing(loop: Loop, count: int, axis: int) -> None:
    """``h = cat([h, f(h[-1:])])``."""
    for _ in range(count):
        last = loop.call(aten.slice.Tensor, loop.tensor, axis, -1, 2**63 - 1)
        new = loop.call(aten.relu.default, last)
        loop.tensor = loop.call(aten.cat.default, [loop.tensor, new], axis)


LOOPS = {
    "neurons": (lambda n: (2, n), entries, -1),
    "batch": (lambda n: (n, 5), entries, 0),
    "sequence": (lambda n: (2, n, 5), entries, 1),
    "cache": (lambda n: (2, 1, 5), growing, 1),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_takes_work_in_proportion_to_its_steps(name: str):
    shape, body, axis = LOOPS[name]
    found = []
    for count in (64, 128):
        loop = Loop(shape(count))
        body(loop, count, axis)
        found.append(loop.work())
    for small, large in zip(*found, strict=True):
        assert large <= 2.1 * small


class Accumulated(nn.Module):
    """A loop over rows that adds to each what the one before it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.mix, self.b = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        for i in range(1, x.shape[1]):
            h[:, i] = h[:, i] + torch.tanh(self.mix(h[:, i - 1]))
        return self.b(h)


def test_a_loop_over_rows_has_a_group_for_each_step():
    module, steps = Accumulated(), 8
    derivation = derive(module, torch.randn(2, steps, 3), strict=True)
    assert described(derivation.spec) == {
        "a": (5, "a.bias[0] a.weight[0] b.weight[1] mix.bias[0] mix.weight[0] mix.weight[1]"),
    }
    assert len(build_architecture(derivation, module.state_dict()).groups) <= 4 + steps
