"""The folder of a training run: what is in it, and whether it is the run that is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from nngraph.errors import DataFileError, NNGraphError
from nngraph.files import TEMPORARY
from nngraph.settings import TrainSettings
from nngraph.tasks.checkpoint import load_tensors, read_json, write_json
from nngraph.tasks.registry import build_model
from nngraph.tasks.report import Report
from nngraph.zoo import Malformed, Manifest, Zoo

CONFIG, METRICS, REPORT = "config.json", "metrics.jsonl", "report.json"
MODEL, CHECKPOINT = "model.safetensors", "checkpoint.safetensors"
_HEADER: dict[str, Any] = {"format": "nngraph.run", "version": 2}
#: A configuration holds the architectures of a zoo, of which there may be thousands.
_MAX_BYTES = 2**28


class RunFolder:
    """What says how a run was made, and that it may go on.

    Args:
        path: of the folder, which need not be there.
        settings: of the run that is asked for.

    Raises:
        DataFileError: if the folder is damaged, or holds a run with other settings.
    """

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

    The zoo of the run is not needed.

    Raises:
        DataFileError: if the folder holds no run, or a damaged one.
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
