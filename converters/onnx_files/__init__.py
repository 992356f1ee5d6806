"""Networks of other tools, from ONNX files (extra ``onnx``)."""

from converters.onnx_files.loading import load_onnx
from converters.onnx_files.module import OnnxModule, onnx_name
from converters.onnx_files.tensors import ELEMENTS

__all__ = ["ELEMENTS", "OnnxModule", "load_onnx", "onnx_name"]
