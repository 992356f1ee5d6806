"""Tensors into safetensors files, one after another, so that no more than one is in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from nngraph.errors import DataFileError
from nngraph.files import written_atomically

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.complex64: "C64",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip
#: Where the numbers of a file begin, as the format asks for.
_ALIGNMENT = 8


def write_safetensors(
    path: Path, like: Mapping[str, Tensor], read: Callable[[str], Tensor],
    metadata: Mapping[str, str],
) -> None:  # fmt: skip
    """Write a safetensors file of tensors that are made one by one; it appears whole or not at all.

    Args:
        like: what each tensor is like, in dtype and shape; such as tensors on ``meta``.
        read: returns the tensor of a name.

    Raises:
        DataFileError: if the file cannot be written, or has no form for a tensor.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    # Large numbers first, so that all are aligned; the order is that of the names otherwise.
    order = sorted(like, key=lambda name: -like[name].element_size())
    start = 0
    for name in order:
        value = like[name]
        if value.dtype not in _NAMES or name == "__metadata__":
            raise DataFileError(f"{path} cannot hold the tensor {name!r:.99} of {value.dtype}.")
        end = start + value.numel() * value.element_size()
        header[name] = {
            "dtype": _NAMES[value.dtype], "shape": list(value.shape), "data_offsets": [start, end],
        }  # fmt: skip
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    try:
        with written_atomically(path) as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in order:
                value = read(name).detach().cpu()
                # Our own bug, or the file would be another than its header says.
                assert (value.shape, value.dtype) == (like[name].shape, like[name].dtype), name
                file.write(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    except OSError as error:
        raise DataFileError(f"{path} could not be written: {error}.") from error
