"""The one table of operators: what runs each, by its name in ONNX.

A new operator is one function of a :class:`~converters.onnx_files.call.NodeCall` in the file of its
family and one entry in that file's table.
"""

from __future__ import annotations

from converters.onnx_files.call import Handler
from converters.onnx_files.ops import (
    attention,
    convolution,
    indexing,
    learn,
    linear,
    normalisation,
    pointwise,
    pooling,
    recurrent,
    reduction,
    resampling,
    shape,
)

_FAMILIES = (
    pointwise, linear, convolution, pooling, normalisation, shape, reduction, indexing, recurrent,
    attention, resampling, learn,
)  # fmt: skip

#: those of the domain ai.onnx.ml
LEARN = frozenset(learn.HANDLERS)

#: operator -> what runs it on tensors
HANDLERS: dict[str, Handler] = {
    name: handler for family in _FAMILIES for name, handler in family.HANDLERS.items()
}

#: operator -> inputs whose floating-point numbers steer it, and are no weights
STEERING: dict[str, tuple[int, ...]] = {
    "Clip": (1, 2),
    "Dropout": (1, 2),
    "OneHot": (1,),
    "Pad": (2,),
    "Pow": (1,),
    "Range": (0, 1, 2),
    "Resize": (1, 2, 3),
    "Upsample": (1,),
}

#: operator -> inputs that are where a sequence begins; a constant written there is no weight
STATES: dict[str, tuple[int, ...]] = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
