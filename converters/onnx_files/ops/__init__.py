"""Handlers of ONNX operators, a family per file; ``converters.onnx_files.table`` joins them."""
