"""The folder of a training run: its files, and whether it is the run that is asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from nngraph.errors import DataFileError, NNGraphError
from nngraph.files import TEMPORARY, write_atomically
from nngraph.settings import TrainSettings
from nngraph.tasks.registry import build_model
from nngraph.tasks.report import Report
from nngraph.zoo import Malformed, Manifest, Zoo

CONFIG, METRICS, REPORT = "config.json", "metrics.jsonl", "report.json"
MODEL, CHECKPOINT = "model.safetensors", "checkpoint.safetensors"
_HEADER: dict[str, Any] = {"format": "nngraph.run", "version": 2}
#: A configuration holds the architectures of a zoo, of which there may be thousands.
_MAX_BYTES = 2**28


class RunFolder:
    """What says how a run was made, and that it may go on; else refused: damage, other settings."""

    def __init__(self, path: Path, settings: TrainSettings) -> None:
        self.path = path
        self.settings = settings
        self.begun = (path / CONFIG).exists()
        if self.begun:
            self._found = read_config(path)
            self._check({"settings": settings.to_dict()})
        elif orphans := [name for name in (CHECKPOINT, REPORT, MODEL) if (path / name).exists()]:
            raise DataFileError(
                f"{path} holds {orphans[0]} but no {CONFIG} that says how it was made. Choose "
                "another folder, or delete that one."
            )

    def report(self) -> Report | None:
        """Return the report of a run that is done, else ``None``."""
        path = self.path / REPORT
        if not self.begun or not path.exists():
            return None
        return Report.from_json(path.read_bytes(), str(path))

    def begin(self, zoo: Zoo) -> None:
        """Write the configuration, and remove what a killed process left half-written."""
        self.path.mkdir(parents=True, exist_ok=True)
        for leftover in self.path.glob(f"{TEMPORARY}*"):
            leftover.unlink(missing_ok=True)
        write_json(self.path / CONFIG, self._config(zoo))

    def check(self, zoo: Zoo) -> None:
        """Check that the run, if there is one, was begun on these networks."""
        if self.begun:
            self._check(self._config(zoo))

    def _config(self, zoo: Zoo) -> dict[str, Any]:
        kind = {**zoo.manifest.to_plain(), "shards": []}
        digests = [shard.sha256 for shard in zoo.manifest.shards]
        return {**_HEADER, "settings": self.settings.to_dict(), "zoo": kind, "shards": digests}

    def _check(self, wanted: dict[str, Any]) -> None:
        found, wanted = self._found, json.loads(json.dumps(wanted))
        settings, expected = found["settings"], wanted["settings"]
        for name in sorted(set(settings) | set(expected)):
            if settings.get(name) != expected.get(name):
                raise DataFileError(
                    f"{self.path} holds a run with {name} = {settings.get(name)!r}; this one has "
                    f"{expected.get(name)!r}. Choose another folder, or delete that one."
                )
        for name, words in (("shards", "shards"), ("zoo", "architectures or facts")):
            if name in wanted and found.get(name) != wanted[name]:
                raise DataFileError(
                    f"{self.path} holds a run on other networks: their {words} differ from those "
                    f"now in {expected['zoo']}. Choose another folder, or delete that one."
                )


def read_config(path: Path) -> dict[str, Any]:
    """Read how the run in a folder was made."""
    file = path / CONFIG
    config = read_json(file, _MAX_BYTES)
    for name, expected in _HEADER.items():
        if config.get(name) != expected:
            raise DataFileError(
                f"{file} has {name} {config.get(name)!r:.80}; expected {expected!r}, that of a "
                "training run."
            )
    if not isinstance(config.get("settings"), dict):
        raise DataFileError(f"{file} has no settings; expected those of a training run.")
    return config


def read_settings(path: Path) -> tuple[TrainSettings, dict[str, Any]]:
    """Return the settings of the run in a folder, and all of its configuration."""
    config = read_config(path)
    try:
        return TrainSettings(**config["settings"]), config
    except (TypeError, ValueError) as error:
        raise DataFileError(f"{path / CONFIG} does not describe a run: {error}.") from None


def load_run(out: str | Path) -> tuple[nn.Module, TrainSettings]:
    """Return the model of a finished or unfinished run, with its best parameters, and its settings.

    The zoo of the run is not needed. A DataFileError says that there is no run, or a damaged one.
    """
    out = Path(out)
    settings, config = read_settings(out)
    try:
        # A zoo of the same kind without networks: architectures and facts are what models need.
        zoo = Zoo(Path(settings.zoo), Manifest.from_plain(config["zoo"]))
        model = build_model(settings, zoo)
    except (KeyError, TypeError, ValueError, Malformed, NNGraphError) as error:
        raise DataFileError(f"{out / CONFIG} does not describe a run: {error}.") from None
    tensors, _ = load_tensors(out / MODEL, model.state_dict())
    model.load_state_dict(tensors)
    return model.eval(), settings


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
    """Return the optimiser's state by parameter number and name: ``"optimizer.3.exp_avg"``."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{i}.{k}": v for i, entry in state.items() for k, v in entry.items()}


def optimizer_forms(optimizer: torch.optim.Optimizer) -> list[dict[str, Tensor]]:
    """Return tensors of the forms of AdamW's state of each parameter, named as above.

    A parameter that no step has used yet has no state.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return [
        {
            f"optimizer.{i}.{name}": form
            for name, form in (("step", torch.zeros(())), ("exp_avg", p), ("exp_avg_sq", p))
        }
        for i, p in enumerate(parameters)
    ]


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Take what :func:`optimizer_tensors` returned out of tensors, and put it back."""
    state: dict[int, dict[str, Tensor]] = {}
    for key in [key for key in tensors if key.startswith("optimizer.")]:
        _, number, name = key.split(".", 2)
        state.setdefault(int(number), {})[name] = tensors.pop(key)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
