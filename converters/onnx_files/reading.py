"""From a path to the message it holds, with its size bounded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from converters.containers import checked_path
from nngraph.errors import DataFileError, MissingDependencyError

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from onnx import ModelProto

#: No protobuf message is longer; larger models keep their weights in files beside them.
MAX_MESSAGE = 2**31 - 1


def read_model(path: Path, max_bytes: int) -> ModelProto:
    """Parse a file as an ONNX model, without looking at any other file.

    Raises:
        MissingDependencyError: if the package onnx is not installed.
        DataFileError: if the file is missing, too large, or no ONNX model.
    """
    try:
        from google.protobuf.message import DecodeError
        from onnx import ModelProto
    except ImportError:
        raise MissingDependencyError(
            "reading an ONNX file needs the package onnx, which is not installed. "
            "Install it with: pip install 'nngraph[onnx]'"
        ) from None
    path = checked_path(path, min(max_bytes, MAX_MESSAGE))
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataFileError(f"{path} cannot be read: {error.strerror}.") from None
    try:
        model: ModelProto = ModelProto.FromString(content)
    except (DecodeError, RuntimeError) as error:
        raise DataFileError(f"{path} is damaged or no ONNX file: {error}.") from None
    _check_text(model, path)
    if not model.HasField("graph") or not model.opset_import:
        raise DataFileError(
            f"{path} is no ONNX model: it has no "
            f"{'graph' if not model.HasField('graph') else 'operator set'}."
        )
    return model


def _check_text(message: Message, path: Path) -> None:
    """Refuse names that are no text, which protobuf hands on as bytes."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            for text in [value] if isinstance(value, str | bytes) else value:
                if not isinstance(text, str):
                    raise DataFileError(f"{path} is damaged: a name in it is no text: {text!r}.")
        elif field.type == field.TYPE_MESSAGE:
            for part in [value] if hasattr(value, "ListFields") else value:
                _check_text(part, path)
