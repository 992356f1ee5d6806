"""The command that proves the library on an architecture."""

import json
from pathlib import Path

import pytest
import torch

from nngraph import validation
from nngraph.cli import main
from nngraph.validation import Validation


def test_it_prints_the_table_and_the_verdict(capsys: pytest.CaptureFixture[str]):
    assert main(["validate", "2", "5", "5", "3"]) == 0
    out = capsys.readouterr().out
    assert "163 equivariant linear maps, 11 constants" in out
    assert "0.weight -> 0.weight" in out
    assert out.rstrip().endswith("verdict: everything holds")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of the layers and models that are judged: the first test meets them all."""
    for name, kept in (("LAYERS", "EquivariantLinear"), ("MODELS", "probe")):
        monkeypatch.setattr(validation, name, {kept: getattr(validation, name)[kept]})


@pytest.mark.usefixtures("few")
def test_json_is_one_document(capsys: pytest.CaptureFixture[str]):
    assert main(["validate", "2", "3", "2", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["passed"] is True
    assert data["linear"] == 74


@pytest.mark.usefixtures("few")
def test_a_file_and_its_activation_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "mlp.pt"
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1)).state_dict(), path)
    assert main(["validate", str(path), "--activation", "tanh"]) == 0
    assert "2-3-1 tanh" in capsys.readouterr().out


@pytest.mark.usefixtures("few")
def test_exit_code_1_when_something_falls_short(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Validation, "passed", property(lambda _: False))
    assert main(["validate", "2", "3", "1"]) == 1


@pytest.mark.usefixtures("few")
def test_the_basis_is_drawn(tmp_path: Path):
    path = tmp_path / "basis.png"
    assert main(["validate", "2", "8", "1", "--figure", str(path)]) == 0
    assert path.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["2"], "at least two numbers"),
        (["2", "x"], "no list of layer sizes"),
        (["nofile.pt"], "nofile.pt"),
        (["2", "3", "1", "--seed", "-1"], "--seed is -1"),
    ],
)
def test_mistakes_are_told(words: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert main(["validate", *words]) == 2
    assert message in capsys.readouterr().err
