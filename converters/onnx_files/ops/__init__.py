"""Handlers of ONNX operators: one table, joined of a table for each family.

A new operator is one function of a :class:`~converters.onnx_files.node.NodeCall` in the file of its
family and one entry in that file's table.
"""

from converters.onnx_files.node import Handler
from converters.onnx_files.ops import (
    indexing,
    linear,
    normalisation,
    pointwise,
    recurrent,
    reduction,
    resampling,
    shape,
    windows,
)

__all__ = ["HANDLERS", "LEARN"]

#: those of the domain ai.onnx.ml, which stand around the networks of scikit-learn
LEARN = frozenset({"Scaler", "ZipMap"})

#: operator, by its name in ONNX -> what runs it on tensors
HANDLERS: dict[str, Handler] = {
    **pointwise.HANDLERS, **linear.HANDLERS, **windows.HANDLERS, **normalisation.HANDLERS,
    **shape.HANDLERS, **reduction.HANDLERS, **indexing.HANDLERS, **recurrent.HANDLERS,
    **resampling.HANDLERS,
}  # fmt: skip
