"""LSTM, GRU and plain recurrent layers, with torch's operators.

A weight of the file has the gates below each other, in ONNX's order. Torch has its own order; the
gates are exchanged by cutting and joining while the network runs, so that the parameter itself
keeps the bits of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from converters.onnx_files.node import Handler, NodeCall

#: For each gate of torch (input, forget, cell, output), its place in ONNX (input, output, forget,
#: cell).
_LSTM_GATES = (0, 2, 3, 1)
#: For each gate of torch (reset, update, new), its place in ONNX (update, reset, hidden).
_GRU_GATES = (1, 0, 2)

#: Takes inputs ``[T, B, in]``, states ``[directions, B, hidden]``, weights, whether there are
#: biases, the number of layers, dropout, training, whether there are two directions and whether the
#: batch comes first, as in torch; returns Y and the last states.
_Operator = Callable[..., Sequence[Tensor]]


def _run(
    call: NodeCall, gates: tuple[int, ...], activations: list[str], state_count: int,
    operator: _Operator,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Run what all kinds share; return Y ``[T, directions, B, hidden]`` and the last states."""
    node = call.node
    direction = node.get("direction", "forward")
    count = 2 if direction == "bidirectional" else 1
    given = [name.lower() for name in node.listed("activations") or activations * count]
    if given != [name.lower() for name in activations * count]:
        raise call.refuse(
            f"its activations are {given}; torch's operator has {activations} in each direction."
        )
    for attribute in ("clip", "activation_alpha", "activation_beta"):
        if attribute in node.attributes:
            raise call.refuse(f"the attribute {attribute!r} is not supported.")
    x, weight, recurrent = (call.tensor(place) for place in range(3))
    if weight.shape[0] != count or recurrent.shape[0] != count:
        raise call.refuse(
            f"its weights are for {weight.shape[0]} directions; expected {count} ({direction})."
        )
    batch_first = node.get("layout", 0)
    if batch_first:
        x = x.transpose(0, 1)
    if call.has(4):
        lengths = call.integers(4)
        if any(length != x.shape[0] for length in lengths):
            raise call.refuse(f"its sequence_lens are {lengths}; expected {x.shape[0]} for all.")
    hidden = int(recurrent.shape[-1])
    if node.get("hidden_size", hidden) != hidden:
        raise call.refuse(f"its hidden_size is not {hidden}, which its weights have.")
    bias = call.optional(3)
    weights = []
    for which in range(count):
        biases = () if bias is None else bias[which].chunk(2)
        for tensor in (weight[which], recurrent[which], *biases):
            pieces = tensor.chunk(len(gates))
            weights.append(torch.cat([pieces[g] for g in gates]) if len(gates) > 1 else tensor)
    states = []
    for place in range(5, 5 + state_count):
        state = call.optional(place)
        if state is None:
            state = x.new_zeros(count, x.shape[1], hidden)
        elif batch_first:
            state = state.transpose(0, 1)
        states.append(state)
    backwards = direction == "reverse"
    y, *last = operator(
        x.flip(0) if backwards else x, states if state_count > 1 else states[0], weights,
        bias is not None, 1, 0.0, False, count == 2, False,
    )  # fmt: skip
    y = y.flip(0) if backwards else y
    y = y.reshape(*y.shape[:2], count, hidden).transpose(1, 2)
    if batch_first:
        return y.permute(2, 0, 1, 3), *(state.transpose(0, 1) for state in last)
    return y, *last


def _lstm(call: NodeCall) -> tuple[Tensor, ...]:
    if call.has(7):
        raise call.refuse("peephole weights are not supported.")
    if call.node.get("input_forget", 0):
        raise call.refuse("input_forget is not supported.")
    return _run(call, _LSTM_GATES, ["Sigmoid", "Tanh", "Tanh"], 2, torch.lstm)


def _gru(call: NodeCall) -> tuple[Tensor, ...]:
    operator: _Operator = torch.gru if call.node.get("linear_before_reset", 0) else _gru_reset_first
    return _run(call, _GRU_GATES, ["Sigmoid", "Tanh"], 1, operator)


def _gru_reset_first(
    x: Tensor, states: Tensor, weights: list[Tensor], *options: object
) -> tuple[Tensor, Tensor]:
    outs, lasts = [], []
    per_direction = len(weights) // len(states)
    for which in range(len(states)):
        own = weights[which * per_direction : (which + 1) * per_direction]
        steps = _reset_first(x.flip(0) if which else x, own, states[which])
        lasts.append(steps[-1])
        outs.append(torch.stack(steps[::-1] if which else steps))
    return torch.cat(outs, -1), torch.stack(lasts)


def _reset_first(x: Tensor, weights: list[Tensor], state: Tensor) -> list[Tensor]:
    """Run a GRU whose reset gate is applied before the recurrent weight, which torch has not."""
    weight, recurrent, *biases = weights
    inputs = torch.matmul(x, weight.t())
    reset_r, update_r, new_r = recurrent.chunk(3)
    added: Sequence[Tensor | None] = [None, None, None]
    if biases:
        inputs = inputs + biases[0]
        added = biases[1].chunk(3)
    out = []
    for step in inputs.unbind(0):
        reset_x, update_x, new_x = step.chunk(3, -1)
        reset = torch.sigmoid(reset_x + F.linear(state, reset_r, added[0]))
        update = torch.sigmoid(update_x + F.linear(state, update_r, added[1]))
        new = torch.tanh(new_x + F.linear(reset * state, new_r, added[2]))
        state = (1 - update) * new + update * state
        out.append(state)
    return out


def _rnn(call: NodeCall) -> tuple[Tensor, ...]:
    given = call.node.listed("activations") or ["Tanh"]
    relu = given[0].lower() == "relu"
    operator = torch.rnn_relu if relu else torch.rnn_tanh
    return _run(call, (0,), ["Relu" if relu else "Tanh"], 1, operator)


HANDLERS: dict[str, Handler] = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}
