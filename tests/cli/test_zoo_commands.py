"""``nngraph zoo``: verify, merge, filter, export, import and show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from nngraph.datasets import load_ogb
from nngraph.zoo import Zoo

FIT = ("--count", "30", "--widths", "2", "4", "1", "--steps", "2", "--quiet")


@pytest.fixture
def small(tmp_path, command):
    assert command("zoo", "fit", tmp_path / "small", *FIT)[0] == 0
    return tmp_path / "small"


def test_the_command_is_recorded_without_paths(small, monkeypatch, command, tmp_path):
    monkeypatch.setattr("sys.argv", ["nngraph", "zoo", "fit", "/home/someone/zoo", "--seed", "3"])
    code, _, err = command("zoo", "fit", tmp_path / "b", *FIT, "--seed", "3")
    assert code == 0, err
    (origin,) = Zoo.open(tmp_path / "b").manifest.origins
    assert origin.command == "nngraph zoo fit zoo --seed 3"


def test_verify_names_everything_and_says_so_by_its_exit_code(small, command, answer):
    assert answer("zoo", "verify", small) == (
        0, {"path": str(small), "sound": True, "problems": []}
    )  # fmt: skip
    shard = small / "shard-00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-100] ^= 1
    shard.write_bytes(bytes(data))
    (small / "shard-00009.safetensors").write_bytes(b"")
    code, out, err = command("zoo", "verify", small)
    assert (code, err) == (1, "")
    assert out.count("\n") == 2
    assert "shard-00000.safetensors has" in out
    assert "shard-00009.safetensors is not in the manifest" in out
    code, out, err = command("zoo", "verify", small / "nothing")
    assert (code, out) == (2, "")


def test_merge_and_filter(small, tmp_path, answer, command):
    other = tmp_path / "other"
    assert command("zoo", "fit", other, *FIT, "--w0", "5")[0] == 0
    code, info = answer("zoo", "merge", tmp_path / "both", small, other)
    assert (code, info["networks"], info["groups"]) == (0, 60, 30)
    assert len(info["architectures"]) == 2
    code, info = answer(
        "zoo", "filter", tmp_path / "both", tmp_path / "some", "--where", "architecture=1",
        "label!=3",
    )  # fmt: skip
    assert code == 0
    assert str(Zoo.open(tmp_path / "some").architecture) == "2-4-1 sine(w0=5)"
    assert info["facts"]["label"]["3"] == 0
    code, out, err = command("zoo", "info", tmp_path / "both")
    assert code == 0
    assert "psnr" in out
    assert "###" in out
    for line, word in (
        (("filter", small, tmp_path / "x", "--where", "mood=good"), "no fact 'mood'"),
        (("merge", tmp_path / "x", small, small), "same networks"),
    ):
        code, out, err = command("zoo", *line)
        assert (code, out) == (2, "")
        assert word in err


def test_export_and_import(small, tmp_path, answer, command):
    code, meta = answer("zoo", "export", small, tmp_path / "tiny-digits", "--format", "ogb")
    assert (code, meta["eval metric"], meta["num classes"]) == (0, "acc", 10)
    assert len(load_ogb(tmp_path / "tiny-digits")) == 30
    values = Zoo.open(small).stack().parameters()
    torch.save({**values, "labels": Zoo.open(small).labels}, tmp_path / "all.pt")
    code, info = answer(
        "zoo", "import", tmp_path / "all.pt", tmp_path / "back", "--activation", "sine",
        "--w0", "10",
    )  # fmt: skip
    assert (code, info["networks"]) == (0, 30)
    again = Zoo.open(tmp_path / "back")
    assert torch.equal(again.stack().edge_attr, Zoo.open(small).stack().edge_attr)
    assert again.architecture == Zoo.open(small).architecture
    code, out, err = command("zoo", "export", small, tmp_path / "again", "--metric", "luck")
    assert (code, out) == (2, "")
    assert "luck" in err


def test_show_draws_pictures(small, tmp_path, answer, command):
    code, drawn = answer("zoo", "show", small, "--out", tmp_path / "pictures", "--count", "5")
    assert code == 0
    for name in ("weights", "contact_sheet"):
        with Image.open(Path(drawn[name])) as image:
            assert image.format == "PNG"
    code, out, err = command("zoo", "show", small, "--count", "0")
    assert (code, out) == (2, "")
    assert "--count is 0" in err


def test_fit_understands_its_new_options(tmp_path, answer, command):
    code, info = answer(
        "zoo", "fit", tmp_path / "mixed", "--count", "20", "--architectures", "3", "--depth", "1",
        "2", "--width", "4", "8", "--views", "2", "--augment", "10", "0.1", "0.1", "--psnr", "12",
        "--init", "shared", "--quiet",
    )  # fmt: skip
    assert (code, info["networks"], len(info["architectures"])) == (0, 40, 3)
    assert info["facts"]["steps"]["min"] < 150
    code, info = answer(
        "zoo", "fit", tmp_path / "relu", "--count", "4", "--features", "5", "--steps", "3",
        "--quiet",
    )  # fmt: skip
    assert info["architectures"][0]["architecture"] == "2-10-32-32-1 sine(w0=1), relu"
    assert json.dumps(info)
    for wrong, word in (
        (("--architectures", "3", "--widths", "2", "4", "1"), "expected at least 1, and no widths"),
        (("--features", "3", "--w0", "10"), "have no w0"),
        (("--psnr", "-3"), "psnr is -3"),
        (("--augment", "1", "2", "-3"), "scale is -3"),
        (("--data", "png", tmp_path), "no PNG images"),
    ):
        code, out, err = command("zoo", "fit", tmp_path / "wrong", *wrong, "--quiet")
        assert (code, out) == (2, "")
        assert word in err


def test_train_makes_a_population_and_says_how_good_it_is(tmp_path, answer, command):
    line = (
        "zoo", "train", tmp_path / "zoo", "--count", "9", "--steps", "3", "5", "--checkpoints",
        "2", "--max_test", "50", "--quiet",
    )  # fmt: skip
    code, info = answer(*line, "--recipe", "wild")
    assert (code, info["networks"], info["groups"], info["target"]) == (
        0, 18, 9, "test_accuracy",
    )  # fmt: skip
    assert set(info["facts"]["optimiser"]) == {"sgd", "adam", "rmsprop"}
    code, out, err = command("zoo", "info", tmp_path / "zoo")
    assert (code, err) == (0, "")
    assert "test_accuracy\n" in out
    assert "specs" not in out
    code, out, err = command(*line, "--recipe", "small-cnn")
    assert (code, out) == (2, "")
    assert "made with other settings" in err
    for wrong, word in (
        (("--recipe", "tame"), "--recipe: expected one of"),
        (("--steps", "0", "5"), "steps range from 0 to 5"),
        (("--count", "0"), "count is 0"),
        (("--data", "mnist", tmp_path / "absent"), "absent"),
    ):
        code, out, err = command("zoo", "train", tmp_path / "other", *wrong, "--quiet")
        assert (code, out) == (2, "")
        assert word in err
    # All that is made for populations works on these networks, too.
    assert command("zoo", "verify", tmp_path / "zoo")[0] == 0
    code, meta = answer("zoo", "export", tmp_path / "zoo", tmp_path / "accuracies")
    assert (code, meta["eval metric"], meta["target"]) == (0, "kendall", "test_accuracy")
    code, drawn = answer("zoo", "show", tmp_path / "zoo", "--out", tmp_path / "pictures")
    assert (code, list(drawn)) == (0, ["path", "weights"])
