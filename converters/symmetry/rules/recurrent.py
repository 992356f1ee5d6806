"""Recurrent layers: gates are told apart, the units of a layer are relabelled in all of them."""

from __future__ import annotations

from collections.abc import Sequence

from converters.symmetry.blocks import blocked, take
from converters.symmetry.call import Call, Unruled
from converters.symmetry.dims import Dim, atom, concatenate, cut, factor, find, unify
from converters.symmetry.rules.common import table
from converters.symmetry.rules.linear import product
from converters.symmetry.values import Constant, Value

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def _gates(axis: Dim, count: int) -> Dim:
    """Return the units of an axis of gates x units."""
    if count == 1:
        return axis
    gates, units = factor(axis, (count, axis.size // count))
    cut(gates, [1] * count)
    return units


def _layer(call: Call, source: Value, weights: list[Value], gates: int) -> tuple[Dim, Dim]:
    """Tie the weights of one layer in one direction; return its output and its units."""
    weight_ih, weight_hh, *rest = weights
    units = _gates(weight_ih.dims[0], gates)
    unify(units, _gates(weight_hh.dims[0], gates))
    call.name(units, "units")
    biases = [value for value in rest if len(value.dims) == 1]
    projections = [value for value in rest if len(value.dims) == 2]
    for bias in biases:
        unify(units, _gates(bias.dims[0], gates))
    output = units
    if projections:
        unify(units, projections[0].dims[1])
        output = projections[0].dims[0]
    state = Value((*source.dims[:-1], output))
    for values, weight in ((source, weight_ih), (state, weight_hh)):
        call.record(product(call, values, Value((weight.dims[1], weight.dims[0]))))
    return find(output), find(units)


def recurrent(call: Call) -> list[Value]:
    """Run an LSTM, GRU or plain recurrent network over a sequence."""
    name = call.operation.short_name
    gates = _GATES[name]
    if "batch_first" not in call.arguments:
        raise Unruled("runs over a packed sequence")
    value, weights = call.value("input"), list(call["params"])
    states = call["hx"] if isinstance(call["hx"], list) else [call["hx"]]
    layers, directions = int(call["num_layers"]), 2 if call["bidirectional"] else 1
    per = len(weights) // (layers * directions)
    source = value
    outputs: list[Dim] = []
    cells: list[Dim] = []
    # Weights that are the same tensor in several layers are tied by being one value.
    for layer in range(layers):
        found = [
            _layer(call, source, weights[i * per : (i + 1) * per], gates)
            for i in range(layer * directions, (layer + 1) * directions)
        ]
        outputs += [output for output, _ in found]
        cells += [units for _, units in found]
        source = Value((*value.dims[:-1], concatenate(output for output, _ in found)))
    lead = list(value.dims[:-1])
    place = 1 if call["batch_first"] and len(lead) > 1 else 0
    batch = [dim for i, dim in enumerate(lead) if i != place]
    call.fix([lead[place]], "is a sequence")
    call.mixes(value, [place, value.rank - 1])
    results = range(len(call.shapes))
    call.drops(value.dims[-1], *(dim for w in weights for dim in w.dims), results=results)
    final: list[Value] = []
    for state, units in zip(states, (outputs, cells), strict=False):
        final.append(blocked(0, [Value((atom(1), *batch, unit)) for unit in units]))
        for i, unit in enumerate(units):
            _start(take(state, 0, i, i + 1), state.constant, [*batch, unit])
    call.drops(*(state.dims[0] for state in states), results=results)
    inputs = [v for v in (value, *states) if v.constant is None]
    roles: dict[str, Value | None] = {str(i): weight for i, weight in enumerate(weights)}
    first = call.enter(
        "recurrent", inputs, source, roles, cell=name, layers=layers,
        directions=directions, gates=gates,
    )
    return [first] + [state.made_by(first.sources[0]) for state in final]


def _start(state: Value, constant: Constant | None, dims: Sequence[Dim]) -> None:
    """Tie an initial state to batch and units, unless it is the same number everywhere."""
    for place in range(-len(dims), 0):
        if constant is None or constant.varies(len(constant.shape) + place):
            unify(state.dims[place], dims[place])


def cell(call: Call) -> list[Value]:
    """Run one step of a recurrent cell."""
    name = call.operation.short_name.removesuffix("_cell")
    gates = _GATES[name]
    states = call["hx"] if isinstance(call["hx"], list) else [call["hx"]]
    named = {"weight_ih": call["w_ih"], "weight_hh": call["w_hh"]}
    named |= {"bias_ih": call.get("b_ih"), "bias_hh": call.get("b_hh")}
    weights = [value for value in named.values() if value is not None]
    value = call.value("input")
    _, units = _layer(call, value, weights, gates)
    lead = value.dims[:-1]
    call.mixes(value, [value.rank - 1])
    dropped = [value.dims[-1], *(dim for weight in weights for dim in weight.dims)]
    call.drops(*dropped, results=range(len(call.shapes)))
    for state in states:
        _start(state, state.constant, [*lead, units])
    inputs = [v for v in (value, *states) if v.constant is None]
    first = call.enter("recurrent", inputs, Value((*lead, units)), named, cell=name, gates=gates)
    return [first] + [Value((*lead, units), first.sources) for _ in call.shapes[1:]]


RECURRENT = {
    **table(recurrent, *_GATES),
    **table(cell, "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"),
}
