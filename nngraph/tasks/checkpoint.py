"""Files of a training run: parameters and optimiser state as safetensors, the rest as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from nngraph.errors import DataFileError
from nngraph.files import write_atomically


def write_json(path: Path, data: object) -> None:
    """Write a JSON file atomically."""
    write_atomically(path, (json.dumps(data, indent=2) + "\n").encode())


def read_json(path: Path, max_bytes: int = 2**24) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise DataFileError(f"{path} has {size} bytes; expected at most {max_bytes}.")
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise DataFileError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise DataFileError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(data, dict):
        raise DataFileError(f"{path} holds a {type(data).__name__}; expected a JSON object.")
    return data


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write tensors, and plain data about them, as one safetensors file, atomically."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_atomically(path, safetensors.torch.save(plain, {"about": json.dumps(about)}))


def load_tensors(
    path: Path, expected: dict[str, Tensor], optional: Sequence[dict[str, Tensor]] = ()
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_tensors` wrote: tensors of the names, shapes and dtypes expected.

    Of the optional sets each is there whole or not at all.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            found = set(file.keys())
            for part in optional:
                if found & part.keys():
                    expected = {**expected, **part}
            if differing := sorted(found ^ set(expected)):
                state = "an unknown" if differing[0] in found else "no"
                raise DataFileError(f"{path} has {state} tensor {differing[0]!r}.")
            tensors = {}
            for name, like in expected.items():
                shape = tuple(file.get_slice(name).get_shape())
                if shape != tuple(like.shape):
                    raise DataFileError(
                        f"{path}: tensor {name!r} has shape {shape}; expected {tuple(like.shape)}."
                    )
                tensors[name] = file.get_tensor(name)
                if tensors[name].dtype != like.dtype:
                    raise DataFileError(
                        f"{path}: tensor {name!r} is {tensors[name].dtype}; expected {like.dtype}."
                    )
    except (OSError, SafetensorError, ValueError) as error:
        if isinstance(error, DataFileError):
            raise
        raise DataFileError(f"{path} cannot be read as safetensors: {error}.") from None
    if not isinstance(about, dict):
        raise DataFileError(f"{path}: its description is not a JSON object.")
    return tensors, about


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state by parameter number and name: ``"3.exp_avg"``."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": value for i, entry in state.items() for name, value in entry.items()}


def optimizer_forms(optimizer: torch.optim.Optimizer) -> list[dict[str, Tensor]]:
    """Return tensors of the forms that AdamW's state of each parameter has, named as above.

    A parameter that no step has used yet, such as a map of layers deeper than any network so far,
    has no state.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return [
        {f"{i}.step": torch.zeros(()), f"{i}.exp_avg": p, f"{i}.exp_avg_sq": p}
        for i, p in enumerate(parameters)
    ]


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what :func:`optimizer_tensors` returned; the groups stay as they are."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
