"""What a rule does not account for is fixed: careless rules lose symmetry and invent none."""

import pytest
import torch
from symmetry_programs import Recorder, run_rules, spec_of, worst_break

from converters.symmetry.call import Call
from converters.symmetry.dims import atom, is_fixed
from converters.symmetry.rules import RULES
from converters.symmetry.rules.common import entrywise
from converters.symmetry.values import Value

aten = torch.ops.aten


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def applied(target, *args, rule):
    """Apply an operation to parameters of 3 x 4, by a rule of one's own."""
    recorder = Recorder()
    recorder.call(target, *(recorder.parameter(double(3, 4)) if a == "p" else a for a in args))
    name = recorder.operations[0].name
    engine = run_rules(recorder, {**RULES, name: rule}, whole=True)
    assert worst_break(recorder, engine)[0] < 1e-12
    return engine, spec_of(recorder, engine)[0]


def dims_of(engine, name="p0"):
    return engine.values[engine.program.parameters[name]].dims


def forgets_an_axis(call: Call):
    value = call.value("self")
    return [value.like(value.dims[:1]), value.like(value.dims[:1])]


def forgets_it_in_the_second(call: Call):
    call.drops(call.value("self").dims[1])
    return forgets_an_axis(call)


def invents_axes(call: Call):
    call.fix(call.value("self").dims, "is accumulated")
    return Value(tuple(atom(size) for size in call.shape))


def forgets_how_it_runs(call: Call):
    value = call.value("self")
    return value.like(value.dims)


def takes_the_first(call: Call):
    return call.value("self")


@pytest.mark.parametrize(("rule", "target", "args"), [
    (forgets_an_axis, aten.max.dim, ("p", 1)),
    (forgets_it_in_the_second, aten.max.dim, ("p", 1)),
    (entrywise(forgets_an_axis), aten.max.dim, ("p", 1)),
    (takes_the_first, aten.add.Tensor, ("p", "p")),
    (invents_axes, aten.cumsum.default, ("p", 1)),
], ids=["axis", "axis in the second", "axis, entrywise", "operand", "new axis"])
def test_all_that_an_axis_may_have_met_is_fixed_where_it_is_not_accounted_for(rule, target, args):
    engine, _ = applied(target, *args, rule=rule)
    values = [engine.values[ref] for ref in engine.program.operations[0].outputs]
    assert all(is_fixed(dim) for value in values for dim in value.dims)
    assert all(map(is_fixed, dims_of(engine)))
    assert engine.unruled


def test_an_axis_does_not_hide_behind_another_that_is_relabelled_with_it():
    # Both axes of a square are one space; its rule loses one of them.
    recorder = Recorder()
    square = recorder.parameter(double(4, 4))
    both = recorder.call(aten.add.Tensor, square, recorder.call(aten.t.default, square))
    recorder.call(aten.max.dim, both, 1)
    engine = run_rules(recorder, {**RULES, "aten.max": forgets_an_axis}, whole=True)
    assert all(map(is_fixed, dims_of(engine)))


@pytest.mark.parametrize("declared", [True, False])
def test_nothing_lies_within_anything_where_a_rule_does_not_say_how_it_runs(declared):
    rule = forgets_how_it_runs
    _, spec = applied(aten.tanh.default, "p", rule=entrywise(rule) if declared else rule)
    assert any(space.within for space in spec.spaces) is declared


@pytest.mark.parametrize("error", [AssertionError, IndexError, KeyError, TypeError])
def test_a_rule_that_fails_fixes_what_it_was_given(error):
    def fails(call: Call):
        raise error("not foreseen")

    engine, _ = applied(aten.tanh.default, "p", rule=fails)
    assert all(map(is_fixed, dims_of(engine)))
    reason, = dims_of(engine)[0].reasons
    assert reason.unknown
    assert "not foreseen" in reason.text
    assert engine.unruled
