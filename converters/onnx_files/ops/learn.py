"""Operators of ``ai.onnx.ml`` that stand around the networks of scikit-learn."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from converters.onnx_files.call import Handler, NodeCall


def _scaler(call: NodeCall) -> Tensor:
    """Standardise features: ``(x - offset) * scale``, of one number or one for each feature."""
    x = call.tensor(0)
    offset, scale = (
        call.as_tensor(np.asarray(call.node.listed(name) or [default], dtype=np.float32))
        for name, default in (("offset", 0.0), ("scale", 1.0))
    )
    return (x.to(offset.dtype) - offset) * scale


def _zip_map(call: NodeCall) -> Tensor:
    """Return the numbers that it gives as dictionaries by class, as the tensor that they are."""
    return call.tensor(0)


HANDLERS: dict[str, Handler] = {"Scaler": _scaler, "ZipMap": _zip_map}
