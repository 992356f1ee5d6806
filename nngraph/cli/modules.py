"""Networks that can be run, by the words of a command line: modules of the user, ONNX files."""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from jsonargparse import ArgumentError
from torch import Tensor, nn

from converters.onnx_files import ELEMENTS, load_onnx
from nngraph.errors import ArchitectureError, DataFileError, NNGraphError, UnsupportedModuleError
from nngraph.graph import Architecture

_FACTORY = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_][\w.]*)")
_INPUT = re.compile(r"(\d+(?:x\d+)*|)(?::(\w+)(?::(\d+))?)?")
#: Size of an input that an ONNX file leaves open.
_OPEN = 2


def is_runnable(word: str) -> bool:
    """Whether a word names a network that can be run: an ONNX file, or ``package.module:factory``.

    A file of that name comes first.
    """
    return word.endswith(".onnx") or (
        _FACTORY.fullmatch(word) is not None and not Path(word).exists()
    )


def read_module(
    word: str, inputs: Sequence[str], outputs: Sequence[str] | None = None
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Return the network that a word names, in evaluation mode, and inputs for it.

    Args:
        outputs: of an ONNX file, the values that the network returns; default its outputs.

    Raises:
        NNGraphError: if it cannot be read, imported or made.
        ArgumentError: if inputs are missing or malformed.
    """
    torch.manual_seed(0)
    if not word.endswith(".onnx"):
        if outputs is not None:
            raise ArgumentError(None, "--output names a value of an .onnx file; leave it out")
        module = _made(word)
        if not inputs:
            raise ArgumentError(
                None, "missing: --inputs, the shape of each input, such as 1x3x64x64 or 1x16:int64"
            )
        return module.eval(), example_inputs(inputs)
    network = load_onnx(word, outputs=outputs)
    if not inputs:
        inputs = []
        for declared in network.inputs:
            if declared.dims is None:
                raise ArgumentError(
                    None, f"missing: --inputs; the file does not say the shape of {declared.name!r}"
                )
            sizes = "x".join(str(_OPEN if size is None else size) for size in declared.dims)
            inputs.append(f"{sizes}:{str(ELEMENTS[declared.element].torch).split('.')[1]}")
    return network.eval(), example_inputs(inputs)


def _made(word: str) -> nn.Module:
    match = _FACTORY.fullmatch(word)
    assert match is not None
    # As python -m does: modules of the folder in which the command is given are found.
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        found: object = importlib.import_module(match[1])
        for name in match[2].split("."):
            found = getattr(found, name)
        if not isinstance(found, nn.Module) and callable(found):
            found = found()
    except NNGraphError:
        raise
    except Exception as error:  # code of the user, which fails in its own ways
        raise UnsupportedModuleError(
            f"{word} cannot be made: {type(error).__name__}: {error}. Expected a module in a "
            "Python module that can be imported from here, or a function without arguments that "
            "returns one."
        ) from error
    finally:
        sys.path.remove(here)
    if not isinstance(found, nn.Module):
        raise UnsupportedModuleError(
            f"{word} gave a {type(found).__name__}; expected a torch.nn.Module."
        )
    return found


def example_inputs(words: Sequence[str]) -> tuple[Tensor, ...]:
    """Return an input for each word ``SHAPE[:DTYPE[:BELOW]]``.

    Floating-point ones are standard normal, whole numbers are drawn from 0 to below BELOW (2).

    Raises:
        ArgumentError: if a word is none.
    """
    generator = torch.Generator().manual_seed(0)
    found = []
    for word in words:
        match = _INPUT.fullmatch(word)
        dtype = getattr(torch, match[2] or "float32", None) if match else None
        if match is None or not isinstance(dtype, torch.dtype) or dtype.is_complex:
            raise ArgumentError(
                None,
                f"--inputs is {word!r}; expected a shape, and a dtype if it is not float32, such "
                "as 1x3x224x224, 1x16:int64 or 1x16:int64:50257 (whole numbers below that)",
            )
        shape = [int(size) for size in match[1].split("x") if size]
        if math.prod(shape) > 2**31:
            raise ArgumentError(None, f"--inputs is {word!r}, of more than 2^31 numbers")
        if dtype.is_floating_point:
            found.append(torch.randn(shape, generator=generator).to(dtype))
        else:
            below = int(match[3] or 2)
            if below < 1:
                raise ArgumentError(None, f"--inputs is {word!r}; expected a bound of at least 1")
            found.append(torch.randint(below, shape, generator=generator).to(dtype))
    return tuple(found)


def read_architecture(path: str) -> Architecture:
    """Read an architecture from JSON: its own, or what ``inspect`` and ``convert`` say with --json.

    Raises:
        DataFileError: if it is no JSON file.
        ArchitectureError: if there is no architecture in it.
    """
    try:
        data = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataFileError(f"{path} is no JSON file: {error}.") from None
    if isinstance(data, dict) and "definition" in data:
        data = data["definition"]
    try:
        return Architecture.from_dict(data)
    except ArchitectureError as error:
        raise ArchitectureError(f"{path}: {error}") from None
