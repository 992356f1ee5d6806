"""Damaged, foreign and half-finished run folders: refused by name, and left as they are."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from nngraph.errors import DataFileError
from nngraph.files import TEMPORARY
from nngraph.tasks import Report, TrainSettings, load_run, train
from nngraph.tasks import training as training_module
from nngraph.tasks.loop import Run
from nngraph.tasks.run_folder import load_tensors, read_json, save_tensors

Settings = Callable[..., TrainSettings]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def chosen(settings: Settings) -> TrainSettings:
    return settings("flat")


@pytest.fixture
def half(chosen: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was interrupted in its second epoch."""
    out = tmp_path / "run"
    real, calls = Run.evaluate, []

    def interrupted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(Run, "evaluate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(chosen, out, progress=False)
    assert set(contents(out)) == {
        "config.json", "metrics.jsonl", "model.safetensors", "checkpoint.safetensors",
    }  # fmt: skip
    return out


@pytest.fixture
def whole(chosen: TrainSettings, tmp_path: Path) -> Path:
    train(chosen, tmp_path / "run", progress=False)
    return tmp_path / "run"


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def changed(**fields: Any) -> Callable[[bytes], bytes]:
    return lambda data: json.dumps({**json.loads(data), **fields}).encode()


def without(name: str) -> Callable[[bytes], bytes]:
    return lambda data: json.dumps(
        {k: v for k, v in json.loads(data).items() if k != name}
    ).encode()


def changed_zoo(**fields: Any) -> Callable[[bytes], bytes]:
    return lambda data: changed(zoo={**json.loads(data)["zoo"], **fields})(data)


GARBAGE = {
    "empty": lambda data: b"",
    "truncated": truncated,
    "noise": lambda data: bytes(range(256)) * 4,
    "not UTF-8": lambda data: b'{"a": "\xff"}',
    "a list": lambda data: b"[]",
    "deep": lambda data: b"[" * 100_000,
}
CONFIGS = {
    **GARBAGE,
    "another format": changed(format="nngraph.zoo"),
    "another version": changed(version=1),
    "no settings": without("settings"),
    "settings are a list": changed(settings=[1]),
}


def refused(out: Path, action: Callable[[], object], file: str) -> str:
    before = contents(out)
    with pytest.raises(DataFileError) as caught:
        action()
    assert contents(out) == before
    assert str(out / file) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("damage", CONFIGS.values(), ids=CONFIGS)
def test_damaged_configurations(damage: Any, half: Path, chosen: TrainSettings):
    path = half / "config.json"
    path.write_bytes(damage(path.read_bytes()))
    refused(half, lambda: train(chosen, half, progress=False), "config.json")
    refused(half, lambda: load_run(half), "config.json")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(without("zoo"), id="no zoo"),
        pytest.param(changed(zoo=3), id="zoo"),
        pytest.param(changed_zoo(architectures=[{"format": "?"}]), id="architectures"),
        pytest.param(changed_zoo(architectures=[]), id="no architectures"),
        pytest.param(changed_zoo(facts=[]), id="facts"),
        pytest.param(changed(settings={"zoo": "z", "task": "dream"}), id="task"),
        pytest.param(changed(settings={"zoo": "z", "task_options": {"x": 1}}), id="task option"),
        pytest.param(changed(settings={"zoo": "z", "model": "transformer"}), id="model"),
        pytest.param(changed(settings={"zoo": "z", "epochs": "x"}), id="epochs"),
        pytest.param(changed(settings={"zoo": "z", "colour": "x"}), id="unknown setting"),
        pytest.param(changed(settings={"zoo": "z", "options": {"x": 1}}), id="unknown option"),
        pytest.param(changed(settings={"zoo": "z", "options": [1]}), id="options"),
    ],
)
def test_configurations_that_describe_no_model(damage: Any, whole: Path):
    path = whole / "config.json"
    path.write_bytes(damage(path.read_bytes()))
    refused(whole, lambda: load_run(whole), "config.json")


@pytest.mark.parametrize("damage", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("file", ["checkpoint.safetensors", "model.safetensors"])
def test_damaged_tensors(file: str, damage: Any, half: Path, chosen: TrainSettings):
    path = half / file
    path.write_bytes(damage(path.read_bytes()))
    if file == "model.safetensors":
        refused(half, lambda: load_run(half), file)
    else:
        refused(half, lambda: train(chosen, half, progress=False), file)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        *itertools.product(
            ["checkpoint.safetensors", "model.safetensors"], ["missing", "more", "shape", "dtype"]
        ),
        ("checkpoint.safetensors", "about"),
    ],
)
def test_tensors_that_do_not_fit(file: str, name: str, half: Path, chosen: TrainSettings):
    path = half / file
    tensors = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, framework="pt") as opened:
        about = json.loads(opened.metadata()["about"])
    first = min(tensors)
    if name == "missing":
        del tensors[first]
    elif name == "more":
        tensors["further"] = torch.zeros(1)
    elif name == "shape":
        tensors[first] = torch.zeros(*tensors[first].shape, 1)
    elif name == "dtype":
        tensors[first] = tensors[first].half()
    else:
        about = {"progress": {**about["progress"], "step": "many"}, "history": []}
    save_tensors(path, tensors, about)
    if file == "model.safetensors":
        refused(half, lambda: load_run(half), file)
    else:
        refused(half, lambda: train(chosen, half, progress=False), file)


@pytest.mark.parametrize(
    "damage",
    [
        *(pytest.param(value, id=name) for name, value in GARBAGE.items()),
        pytest.param(without("test"), id="no measures"),
        pytest.param(changed(test={}), id="no accuracy"),
        pytest.param(changed(test={"accuracy": "high"}), id="accuracy of another type"),
        pytest.param(changed(val=0.5), id="measures of another type"),
        pytest.param(changed(details=3), id="details of another type"),
    ],
)
def test_damaged_reports(damage: Any, whole: Path, chosen: TrainSettings):
    path = whole / "report.json"
    path.write_bytes(damage(path.read_bytes()))
    refused(whole, lambda: train(chosen, whole, progress=False), "report.json")


def test_reports_survive_json(whole: Path, chosen: TrainSettings):
    found = train(chosen, whole, progress=False)
    assert Report.from_json(json.dumps(found.to_dict()), "here") == found


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"learning_rate": 0.1}, {"epochs": 5}, {"options": {"hidden": 17}},
     {"model": "probe"}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("folder", ["half", "whole"])
def test_other_settings_are_refused(
    folder: str, other: dict[str, Any], settings: Settings, request: pytest.FixtureRequest
):
    out = request.getfixturevalue(folder)
    message = refused(
        out, lambda: train(settings(**{"model": "flat", **other}), out, progress=False), ""
    )
    assert "Choose another folder" in message


def test_other_networks_at_the_same_place_are_refused(
    half: Path, chosen: TrainSettings, make_zoo: Any, monkeypatch: pytest.MonkeyPatch
):
    other = make_zoo(seed=1)
    monkeypatch.setattr(training_module.Zoo, "open", lambda path: other)
    assert "shards differ" in refused(half, lambda: train(chosen, half, progress=False), "")


@pytest.mark.parametrize("file", ["checkpoint.safetensors", "model.safetensors", "report.json"])
def test_files_without_a_configuration_are_refused(
    file: str, chosen: TrainSettings, tmp_path: Path
):
    out = tmp_path / "orphans"
    out.mkdir()
    (out / file).write_bytes(b"something of somebody's")
    assert file in refused(out, lambda: train(chosen, out, progress=False), "")


def test_a_missing_zoo_makes_no_folder(settings: Settings, tmp_path: Path):
    with pytest.raises(DataFileError, match="not a zoo"):
        train(settings(zoo=str(tmp_path / "nowhere")), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_an_empty_folder_is_no_run(tmp_path: Path):
    assert "cannot be read" in refused(tmp_path, lambda: load_run(tmp_path), "config.json")


def test_half_written_files_of_a_killed_process_are_removed(half: Path, chosen: TrainSettings):
    (half / f"{TEMPORARY}model.safetensors-1-ab").write_bytes(b"half")
    train(chosen, half, progress=False)
    assert not list(half.glob(f"{TEMPORARY}*"))


def test_an_unfinished_run_can_be_loaded(half: Path):
    model, found = load_run(half)
    assert found.model == "flat"
    assert not model.training


def test_files_that_are_too_large_are_not_read(tmp_path: Path):
    path = tmp_path / "big.json"
    path.write_bytes(b'{"a": 1}' + b" " * 100)
    with pytest.raises(DataFileError, match="108 bytes; expected at most 50"):
        read_json(path, max_bytes=50)


def test_tensors_survive_bit_by_bit(tmp_path: Path):
    values = {
        "a": torch.randn(3, 2).T, "b": torch.randn(2, 2).bfloat16(),
        "nan": torch.tensor([float("nan"), -0.0]),
    }  # fmt: skip
    save_tensors(tmp_path / "x.safetensors", values, {"n": 1})
    found, about = load_tensors(tmp_path / "x.safetensors", values)
    assert about == {"n": 1}
    for name, value in values.items():
        assert torch.equal(
            found[name].view(torch.uint8), value.contiguous().view(torch.uint8)
        )
