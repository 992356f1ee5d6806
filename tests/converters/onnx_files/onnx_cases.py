"""ONNX models written by hand, and what ONNX's own reference makes of them."""

from __future__ import annotations

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from converters.onnx_files import load_onnx

OPSET = 17


def element(array):
    return helper.np_dtype_to_tensor_dtype(np.asarray(array).dtype)


def initialisers(tensors):
    return [numpy_helper.from_array(np.asarray(a), n) for n, a in tensors.items()]


def model(nodes, inputs, outputs, weights=None, *, opset=OPSET, shapes=None):
    """Return a model; ``inputs`` and ``weights`` are arrays by name, ``outputs`` names."""
    shapes = shapes or {}
    graph = helper.make_graph(
        nodes,
        "graph",
        [
            helper.make_tensor_value_info(n, element(a), shapes.get(n, list(np.shape(a))))
            for n, a in inputs.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in outputs],
        initialisers(weights or {}),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def write(proto, path):
    path.write_bytes(proto.SerializeToString())
    return path


def reference(proto, inputs):
    return ReferenceEvaluator(proto).run(None, inputs)


def run(module, inputs):
    with torch.no_grad():
        found = module(*(torch.from_numpy(np.array(a)) for a in inputs.values()))
    return [t.numpy() for t in (found if isinstance(found, tuple) else [found])]


def compare(proto, inputs, path, *, rtol=1e-10, atol=1e-12):
    """Hold a loaded model against the reference, and return it."""
    module = load_onnx(write(proto, path))
    found, expected = run(module, inputs), reference(proto, inputs)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        other = np.asarray(other)
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)
    return module


def numbers(*shape, seed=0, low=-2.0, high=2.0):
    return np.random.default_rng(seed).uniform(low, high, shape)


def integers(*values, dtype=np.int64):
    return np.array(values, dtype=dtype)
