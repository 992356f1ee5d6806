"""Operations of many results, shared operands and scatters: every tensor is held to the claim."""

import pytest
import random_layers  # noqa: F401  (registers its steps)
import random_steps  # noqa: F401  (registers its steps)
import torch
from random_programs import RandomProgram
from symmetry_programs import Recorder, difference, run_rules, spec_of, worst_break
from torch import nn
from torch.nn import functional as F

from converters import verify
from converters.symmetry import derive
from converters.symmetry.dims import is_fixed
from converters.symmetry.rules import RULES
from converters.symmetry.rules.pointwise import pointwise

aten = torch.ops.aten


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def test_a_wrong_claim_is_noticed():
    # An order that counts, by a rule that goes entry by entry.
    recorder = Recorder()
    recorder.call(aten.cumsum.default, recorder.parameter(double(3, 4)), 1)
    engine = run_rules(recorder, {**RULES, "aten.cumsum": pointwise})
    assert worst_break(recorder, engine)[0] > 1e-3


@pytest.mark.parametrize("seed", range(30))
def test_what_is_claimed_of_every_tensor_of_a_random_program_holds(seed):
    program = RandomProgram(seed)
    worst, name = worst_break(program, run_rules(program))
    assert worst < 1e-9, f"tensor {name} of {program.names}"


def spaces(recorder, engine):
    """Return the free spaces of the parameters by what they count, and what they lie within."""
    spec, _ = spec_of(recorder, engine)
    names = {*recorder.program.parameters}
    counts = {
        space.name: (space.size, *sorted(tie for tie in spec.ties(space.name) if tie[0] in names))
        for space in spec.spaces
    }
    return {counts[s.name]: sorted(counts[o] for o in s.within) for s in spec.free_spaces}


def _steps(q, k, v):
    """Attention by hand, as functions of the recorder's references."""
    def run(recorder):
        refs = {name: recorder.parameter(tensor) for name, tensor in _operands().items()}
        query, key, value = refs[q], refs[k], refs[v]
        scores = recorder.call(
            aten.matmul.default, query, recorder.call(aten.transpose.int, key, -1, -2)
        )
        scaled = recorder.call(aten.mul.Tensor, scores, 4**-0.5)
        weights = recorder.call(aten.softmax.int, scaled, -1)
        return recorder.call(aten.matmul.default, weights, value)
    return run


def _fused(op, q, k, v):
    def run(recorder):
        refs = {name: recorder.parameter(tensor) for name, tensor in _operands().items()}
        found = recorder.call(op, refs[q], refs[k], refs[v])
        return found[0] if isinstance(found, list) else found
    return run


def _operands():
    torch.manual_seed(0)
    return {name: double(2, 3, 4, 4) for name in "abc"}


@pytest.mark.parametrize("shared", ["abc", "abb", "aab", "aba", "aaa"])
@pytest.mark.parametrize("op", [
    aten.scaled_dot_product_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
], ids=["fused", "flash"])
def test_fused_attention_has_the_symmetry_of_its_steps(op, shared):
    found = []
    for run in (_fused(op, *shared), _steps(*shared)):
        recorder = Recorder()
        result = run(recorder)
        engine = run_rules(recorder)
        assert worst_break(recorder, engine)[0] < 1e-9
        found.append((spaces(recorder, engine), recorder.tensors[result]))
    (fused, one), (by_hand, other) = found
    assert difference(one, other) < 1e-9
    assert fused == by_hand


#: Composite operators: letters name parameters, which may be one where shapes are equal.
COMPOSITES = {
    "linear": (aten.linear.default, ("a", "b"), {"a": (3, 3), "b": (3, 3)}),
    "addmm": (aten.addmm.default, ("a", "b", "c"), dict.fromkeys("abc", (3, 3))),
    "baddbmm": (aten.baddbmm.default, ("a", "b", "c"), dict.fromkeys("abc", (3, 3, 3))),
    "outer": (aten.outer.default, ("a", "b"), {"a": (3,), "b": (3,)}),
    "cosine": (aten.cosine_similarity.default, ("a", "b"), {"a": (3, 3), "b": (3, 3)}),
    "layer norm": (aten.native_layer_norm.default, ("a", (3, 3), "b", "c", 1e-5),
                   dict.fromkeys("abc", (3, 3))),
    "glu": (aten.glu.default, ("a",), {"a": (4, 4)}),
    "weight norm": (aten._weight_norm.default, ("a", "b"), {"a": (3, 3), "b": (3, 1)}),
}


@pytest.mark.parametrize("shared", [False, True], ids=["apart", "shared"])
@pytest.mark.parametrize("name", COMPOSITES)
def test_a_composite_rule_says_what_its_pieces_say(name, shared):
    op, arguments, shapes = COMPOSITES[name]
    found = []
    for ruled in (True, False):
        torch.manual_seed(0)
        recorder = Recorder()
        known = {}
        for letter, shape in shapes.items():
            key = shape if shared else letter
            if key not in known:
                known[key] = recorder.parameter(double(*shape))
            known[letter] = known[key]
        recorder.call(op, *(known.get(a, a) if isinstance(a, str) else a for a in arguments))
        own = recorder.operations[0].name
        rules = RULES if ruled else {key: rule for key, rule in RULES.items() if key != own}
        engine = run_rules(recorder, rules)
        assert not engine.unruled
        assert worst_break(recorder, engine)[0] < 1e-9
        found.append(spaces(recorder, engine))
    assert found[0] == found[1]


def scattered(target, *rest):
    """Return whether the axis of the source that is scattered, and the other, are fixed."""
    recorder = Recorder()
    base, source = recorder.parameter(double(3, 4)), recorder.parameter(double(3, 4))
    index = recorder.constant(torch.tensor([[0, 1, 1, 2]] * 3))
    if target in (aten.index_add.default, aten.index_copy.default, aten.index_reduce.default):
        index = recorder.constant(torch.tensor([0, 1, 1, 2]))
    recorder.call(target, base, 1, index, source, *rest)
    engine = run_rules(recorder)
    assert worst_break(recorder, engine)[0] < 1e-9
    return [is_fixed(dim) for dim in engine.values[source].dims]


@pytest.mark.parametrize(("target", "rest"), [
    (aten.scatter_add.default, ()), (aten.scatter.src, ()),
    (aten.scatter_reduce.two, ("amax",)), (aten.index_add.default, ()),
    (aten.index_copy.default, ()),
], ids=["scatter_add", "scatter", "scatter_reduce", "index_add", "index_copy"])
def test_a_scatter_fixes_the_axis_of_its_source_and_no_other(target, rest):
    assert scattered(target, *rest) == [False, True]


def test_indices_of_a_pool_follow_the_channels_that_were_pooled():
    recorder = Recorder()
    value = recorder.parameter(double(2, 3, 4, 4))
    recorder.call(aten.max_pool2d_with_indices.default, value, [2, 2], [2, 2])
    engine = run_rules(recorder)
    assert worst_break(recorder, engine)[0] < 1e-9
    assert [is_fixed(dim) for dim in engine.values[value].dims] == [False, False, True, True]
    pooled, indices = (engine.values[ref].dims for ref in engine.program.operations[0].outputs)
    assert pooled[:2] == indices[:2]


class SegNet(nn.Module):
    """Pools with indices and puts entries back where they were."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.o = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        h, where = F.max_pool2d(self.a(x).relu(), 2, return_indices=True)
        return self.o(F.max_unpool2d(self.b(h).relu(), where, 2))


class Sketch(nn.Module):
    """Adds units up by a constant table."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(4, 3)
        self.register_buffer("bucket", torch.arange(8) % 4)

    def forward(self, x):
        h = self.a(x).relu()
        return self.b(h.new_zeros(len(h), 4).scatter_add(1, self.bucket.expand_as(h), h))


class Memory(nn.Module):
    """Learned slots that are keys and values at once."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.o = nn.Linear(6, 8), nn.Linear(8, 3)
        self.slots = nn.Parameter(torch.randn(5, 8))

    def forward(self, x):
        slots = self.slots.expand(len(x), -1, -1)
        return self.o(F.scaled_dot_product_attention(self.q(x), slots, slots))


class Counts(nn.Module):
    """Leaves behind how often each unit was active."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.Linear(6, 8), nn.Linear(8, 3)
        self.register_buffer("count", torch.zeros(8, dtype=torch.int64))

    def forward(self, x):
        h = self.a(x).relu()
        self.count += (h > 0).sum(0)
        return self.o(h)


@pytest.mark.parametrize(("module", "inputs", "sizes"), [
    (SegNet(), torch.randn(1, 3, 4, 4), {4}), (Sketch(), torch.randn(4, 6), set()),
    (Memory(), torch.randn(2, 4, 6), {5, 8}),
], ids=["pooling indices", "scatter by a table", "slots as keys and values"])
def test_claims_of_networks_of_many_results_and_shared_operands_hold(module, inputs, sizes):
    derivation = derive(module, inputs, strict=True)
    assert {space.size for space in derivation.spec.free_spaces} == sizes
    assert not any(space.within for space in derivation.spec.free_spaces)
    report = verify(derivation, module, inputs)
    assert all(check.error < 1e-9 for check in report.checks), str(report)


def test_what_a_forward_leaves_behind_is_relabelled_like_what_made_it():
    spec = derive(Counts(), torch.randn(4, 6), strict=True).spec
    left, made = (spec.is_free(spec.parameters[name][0]) for name in ("count", "a.weight"))
    assert left == made
