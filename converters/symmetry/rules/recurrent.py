"""Recurrent layers: gates are told apart, the units of a layer are relabelled in all of them."""

from __future__ import annotations

from converters.symmetry.blocks import blocked, take
from converters.symmetry.call import Call, Unruled
from converters.symmetry.dims import Dim, atom, concatenate, cut, factor, find, unify
from converters.symmetry.rules.common import align, broadcast, table
from converters.symmetry.values import Constant, Value

__all__ = ["RECURRENT"]

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def _gates(axis: Dim, count: int) -> Dim:
    """Return the units of an axis of gates x units."""
    if count == 1:
        return axis
    gates, units = factor(axis, (count, axis.size // count))
    cut(gates, [1] * count)
    return units


def _layer(
    call: Call, source: Dim, weights: list[Value], gates: int
) -> tuple[Dim, Dim]:
    """Tie the weights of one layer in one direction; return its output and its units."""
    weight_ih, weight_hh, *rest = weights
    align([source, weight_ih.dims[1]])
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
    unify(output, weight_hh.dims[1])
    return find(output), find(units)


def recurrent(call: Call) -> list[Value]:
    """Run an LSTM, GRU or plain recurrent network over a sequence."""
    name = call.operation.name.removeprefix("aten.")
    gates = _GATES[name]
    if "batch_first" not in call.arguments:
        raise Unruled("runs over a packed sequence")
    value, weights = call.value("input"), list(call["params"])
    states = call["hx"] if isinstance(call["hx"], list) else [call["hx"]]
    layers, directions = int(call["num_layers"]), 2 if call["bidirectional"] else 1
    per = len(weights) // (layers * directions)
    source = value.dims[-1]
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
        source = concatenate(output for output, _ in found)
    lead = list(value.dims[:-1])
    sequence = lead[1] if call["batch_first"] and len(lead) > 1 else lead[0]
    batch = [dim for dim in lead if dim is not sequence][:1]
    call.fix([sequence], "is a sequence")
    final: list[Value] = []
    for state, units in zip(states, (outputs, cells), strict=False):
        final.append(blocked(0, [Value((atom(1), *batch, unit)) for unit in units]))
        for i, unit in enumerate(units):
            _start(take(state, 0, i, i + 1), state.constant, unit)
    inputs = [v for v in (value, *states) if v.constant is None]
    roles: dict[str, Value | None] = {str(i): weight for i, weight in enumerate(weights)}
    first = call.enter(
        "recurrent", inputs, Value((*lead, source)), roles, cell=name, layers=layers,
        directions=directions, gates=gates,
    )
    return [first] + [state.made_by(first.sources[0]) for state in final]


def _start(state: Value, constant: Constant | None, units: Dim) -> None:
    """Tie an initial state to the units, unless it is the same number everywhere."""
    if constant is None or constant.varies(len(constant.shape) - 1):
        unify(state.dims[-1], units)


def cell(call: Call) -> list[Value]:
    """Run one step of a recurrent cell."""
    name = call.operation.name.removeprefix("aten.").removesuffix("_cell")
    gates = _GATES[name]
    states = call["hx"] if isinstance(call["hx"], list) else [call["hx"]]
    named = {"weight_ih": call["w_ih"], "weight_hh": call["w_hh"]}
    named |= {"bias_ih": call.get("b_ih"), "bias_hh": call.get("b_hh")}
    weights = [value for value in named.values() if value is not None]
    _, units = _layer(call, call.value("input").dims[-1], weights, gates)
    for state in states:
        _start(state, state.constant, units)
    lead = broadcast([call.value("input").dims[:-1], *(state.dims[:-1] for state in states)])
    inputs = [v for v in (call.value("input"), *states) if v.constant is None]
    first = call.enter("recurrent", inputs, Value((*lead, units)), named, cell=name, gates=gates)
    return [first] + [Value((*lead, units), first.sources) for _ in call.shapes[1:]]


RECURRENT = {
    **table(recurrent, *_GATES),
    **table(cell, "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"),
}
