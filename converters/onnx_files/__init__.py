"""Networks of other tools, from ONNX files (extra ``onnx``)."""

from converters.onnx_files.loading import load_onnx
from converters.onnx_files.module import OPEN, OnnxModule, onnx_name

__all__ = ["OPEN", "OnnxModule", "load_onnx", "onnx_name"]
