"""Networks of other tools, from ONNX files (extra ``onnx``)."""

from converters.onnx_files.elements import ELEMENTS
from converters.onnx_files.loading import load_onnx
from converters.onnx_files.module import OnnxModule
from converters.onnx_files.names import onnx_name

__all__ = ["ELEMENTS","OnnxModule", "load_onnx", "onnx_name"]
