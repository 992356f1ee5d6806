import gzip
import json
import math
import os
import struct
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
from safetensors.torch import save_file

import nngraph.cli.inspecting as inspecting
import nngraph.cli.training as training
import nngraph.cli.zoos as zoos
from converters import load_graph
from nngraph.cli import main
from nngraph.cli.parsers import COMMANDS
from nngraph.graph import forward
from nngraph.zoo import ImageSource, Zoo, fit_zoo

LINES = [tuple(name.split()) for name in COMMANDS]


def mlp(hidden=torch.nn.Tanh):
    return torch.nn.Sequential(torch.nn.Linear(2, 4), hidden(), torch.nn.Linear(4, 3))


@pytest.fixture
def weights(tmp_path):
    module = mlp()
    file = tmp_path / "mlp.safetensors"
    save_file(module.state_dict(), file)
    return module, file


def assert_mistake(result, *words):
    """One line on stderr, nothing on stdout, exit code 2."""
    code, out, err = result
    assert code == 2
    assert out == ""
    assert err.startswith("nngraph: error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err


# -- help and mistakes ---------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_each_command_has_its_function_with_its_options(command):
    module, _, name = command.function.partition(":")
    function = getattr(import_module(f"nngraph.cli.{module}"), name)
    assert get_type_hints(function) == {"options": command.options, "return": int}


@pytest.mark.parametrize("line", [(), ("zoo",), *LINES], ids=" ".join)
def test_help_is_complete(line, command):
    code, out, err = command(*line, "--help")
    assert (code, err) == (0, "")
    words = " ".join(out.split())  # wherever the lines are broken
    for kind in ("float | null", "int | null", "{true,false,null}", "bool | null"):
        words = words.replace(kind, "")
    assert "null" not in words
    assert "lambda" not in out


def test_help_and_version_do_not_wait_for_torch():
    script = (
        "import sys; from nngraph.cli import main; "
        "assert main(['--help']) == 0 and main(['--version']) == 0; "
        "assert main(['zoo', 'fit', '--help']) == 0; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_module_runs_and_tells_mistakes_without_a_traceback():
    # One that is told before torch is imported, which takes seconds; the others are told below.
    line = [sys.executable, "-m", "nngraph.cli", "eval", "run", "--split", "most"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("nngraph: error: ")
    assert "got most" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ((), ["expected one of demo"]),
        (("frobnicate",), ["'frobnicate'", "nngraph --help"]),
        (("zoo",), ["fit, train, info, verify"]),
        (("train",), ["missing: task", "zoo", "nngraph train --help"]),
        (("train", "classify"), ["missing: zoo", "nngraph train --help"]),
        (("train", "--zoo", "z"), ["missing: task", "nngraph train --help"]),
        (("train", "my/run", "--zoo", "z"), ["'my/run' is no task", "classify, predict", "--run"]),
        (("train", "classify", "--zoo", "z", "--epochs", "many"),
         ["--epochs: expected int, got many"]),
        (("train", "classify", "--zoo", "z", "--epochs", "0"), ["epochs is 0"]),
        (("train", "classify", "--zoo", "z", "--device", "abacus"), ["abacus"]),
        (("train", "classify", "--zoo", "no/such/zoo"), ["no/such/zoo", "nngraph zoo fit"]),
        (("eval", "no/such/run"), ["no/such/run"]),
        (("eval", "r", "--split", "most"), ["--split", "'train'", "got most"]),
        (("zoo", "fit", "--nonsense", "3"), ["--nonsense", "nngraph zoo fit --help"]),
        (("zoo", "fit", "--data", "digits", "folder"), ["before --data"]),
        (("zoo", "fit", "--data", "mnist"), ["0 folders"]),
        (("zoo", "fit", "--data", "mnist", "no/such/folder"), ["no/such/folder"]),
        (("zoo", "info", "no/such/zoo"), ["no/such/zoo"]),
        (("demo", "--seed", "-1"), ["--seed"]),
        (("demo", "--threads", "0"), ["--threads"]),
        (("inspect", "no/such/file.pt"), ["no/such/file.pt"]),
    ],
    ids=lambda value: " ".join(value) or "nothing",
)
def test_mistakes_are_told_in_one_line(line, words, command):
    assert_mistake(command(*line), *words)


def test_an_interruption_says_how_to_go_on(monkeypatch, command):
    def stop(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train_model", stop)
    monkeypatch.setattr(inspecting, "inspect", stop)
    code, _, err = command("train", "classify", "--zoo", "z")
    assert code == 130
    assert "same command again" in err
    code, _, err = command("inspect", "f")
    assert code == 130
    assert "again" not in err


def test_a_file_system_that_refuses_is_told(monkeypatch, command):
    def refuse(options):
        raise PermissionError(13, "Permission denied", "/somewhere")

    monkeypatch.setattr(inspecting, "inspect", refuse)
    assert_mistake(command("inspect", "f"), "/somewhere: Permission denied")


def test_a_bug_is_not_taken_for_a_mistake_of_the_user(monkeypatch):
    def bug(options):
        raise ValueError("ours")

    monkeypatch.setattr(inspecting, "inspect", bug)
    with pytest.raises(ValueError, match="ours"):
        main(["inspect", "f"])


def test_threads_are_put_back(monkeypatch, command):
    before, seen = torch.get_num_threads(), []

    def look(options):
        seen.append(torch.get_num_threads())
        return 0

    monkeypatch.setattr(zoos, "info", look)
    monkeypatch.setattr(training, "judge", look)
    assert command("eval", "r", "--threads", before + 1)[0] == 0
    assert command("zoo", "info", "z")[0] == 0
    assert seen[0] == before + 1
    assert torch.get_num_threads() == before


def test_waiting_threads_do_not_spin(monkeypatch, command):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    command("--version")
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    command("--version")
    assert os.environ["OMP_WAIT_POLICY"] == "active"


# -- zoo -----------------------------------------------------------------------------------------


FIT = ("--count", "20", "--steps", "2", "--widths", "2", "4", "1", "--quiet")


def test_zoo_fit_makes_what_it_says(tmp_path, answer):
    path = tmp_path / "zoo"
    code, info = answer("zoo", "fit", path, *FIT, "--views", "2", "--w0", "7", "--seed", "3")
    assert code == 0
    zoo = Zoo.open(path)
    assert str(zoo.architecture) == "2-4-1 sine(w0=7)"
    assert (info["path"], info["networks"], info["groups"]) == (str(path), 40, 20)
    assert info["facts"]["view"]["max"] == 1
    (origin,) = info["origins"]
    assert origin["recipe"]["fit"]["seed"] == 3
    assert {key: info[key] for key in zoo.info()} == json.loads(json.dumps(zoo.info()))


def test_zoo_fit_again_continues_and_refuses_other_settings(tmp_path, command):
    line = ("zoo", "fit", tmp_path / "zoo", *FIT)
    first = command(*line)
    assert first[0] == 0
    assert command(*line) == first
    assert_mistake(command(*line, "--seed", "1"), "other settings", "seed")
    assert_mistake(command(*line, "--steps", "-2"), "steps is -2")


def test_zoo_fit_reads_idx_folders_and_has_a_default_place(tmp_path, monkeypatch, command, answer):
    images = bytes(range(256)) * 3
    for name, magic, shape, data in (
        ("train-images-idx3-ubyte", 3, (12, 8, 8), images),
        ("train-labels-idx1-ubyte", 1, (12,), bytes([0, 1, 2] * 4)),
    ):
        head = struct.pack(f">{1 + len(shape)}I", 0x800 + magic, *shape)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(head + data))
    monkeypatch.chdir(tmp_path)
    code, info = answer(
        "zoo", "fit", "--data", "mnist", tmp_path, "--steps", "2", "--widths", "2", "4", "1",
        "--splits", "0.5", "0.25", "0.25",
    )  # fmt: skip
    assert code == 0
    assert Path(info["path"]) == Path("zoos/mnist")
    assert info["splits"] == {"train": 6, "val": 3, "test": 3}
    code, out, _ = command("zoo", "info", "zoos/mnist", "--verify")
    assert code == 0
    assert "12, by image" in out


def test_zoo_info_finds_damage(tmp_path, command):
    path = tmp_path / "zoo"
    assert command("zoo", "fit", path, *FIT)[0] == 0
    shard = path / "shard-00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert_mistake(command("zoo", "info", path, "--verify"), "shard-00000.safetensors")


# -- convert and inspect -------------------------------------------------------------------------


def test_convert_keeps_every_bit_and_the_function(tmp_path, weights, answer):
    module, file = weights
    out = tmp_path / "graph.safetensors"
    code, data = answer("convert", file, out, "--activation", "tanh")
    assert code == 0
    assert data["architecture"] == "2-4-3 tanh"
    assert data["activations_assumed"] is False
    graph = load_graph(out)
    for name, value in module.state_dict().items():
        assert torch.equal(graph.parameters()[name], value)
    inputs = torch.randn(5, 2)
    assert torch.allclose(forward(graph, inputs), module(inputs), atol=1e-6)


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_convert_takes_sine_layers_and_both_kinds_of_files(tmp_path, ending, command):
    file, out = tmp_path / f"siren.{ending}", tmp_path / "out.safetensors"
    state = mlp().state_dict()
    if ending == "pt":
        torch.save(state, file)
    else:
        save_file(state, file)
    assert_mistake(command("convert", file, out, "--activation", "sine"), "--w0")
    assert_mistake(command("convert", file, out, "--w0", "30"), "--w0")
    assert not out.exists()
    code, text, _ = command("convert", file, out, "--activation", "sine", "--w0", "30")
    assert code == 0
    assert "2-4-3 sine(w0=30)" in text
    assert load_graph(out).architecture.groups[1].activation["w0"] == 30


def test_convert_says_that_it_assumes_relu(tmp_path, weights, command):
    _, out, _ = command("convert", weights[1], tmp_path / "out.safetensors")
    assert "ReLU is assumed" in out


def test_convert_refuses_its_own_input_and_graph_files(tmp_path, weights, command):
    _, file = weights
    before = file.read_bytes()
    assert_mistake(command("convert", file, file), "another name")
    assert file.read_bytes() == before
    graph = tmp_path / "graph.safetensors"
    assert command("convert", file, graph)[0] == 0
    assert_mistake(command("convert", graph, tmp_path / "b.safetensors"), "graph file already")
    assert_mistake(command("inspect", graph, "--activation", "tanh"), "its own activations")


def test_convert_refuses_nonfinite_weights_unless_asked(tmp_path, command, answer):
    state = mlp().state_dict()
    state["0.weight"][1, 1] = math.nan
    state["2.bias"][:] = math.inf
    file, out = tmp_path / "bad.safetensors", tmp_path / "out.safetensors"
    save_file(state, file)
    assert_mistake(command("convert", file, out), "bad.safetensors", "'0.weight'")
    assert command("convert", file, out, "--allow_nonfinite")[0] == 0
    code, data = answer("inspect", out)
    assert code == 0
    tensors = {tensor["name"]: tensor for tensor in data["tensors"]}
    assert tensors["0.weight"]["nonfinite"] == 1
    assert tensors["2.bias"] == {
        "name": "2.bias", "shape": [3], "mean": None, "std": None, "min": None, "max": None,
        "zeros": 0, "nonfinite": 3,
    }  # fmt: skip


def test_inspect_counts_by_hand(tmp_path, answer, command):
    state = {
        "a.weight": torch.tensor([[1.0, -1.0], [0.0, 2.0], [4.0, 0.0]]),
        "a.bias": torch.tensor([1.0, 2.0, 3.0]),
        "b.weight": torch.tensor([[1.0, 1.0, 1.0]]),
    }
    file = tmp_path / "net.safetensors"
    save_file(state, file)
    code, data = answer("inspect", file)
    assert code == 0
    assert data["kind"] == "state dict"
    assert data["activations_assumed"] is True
    assert (data["neurons"], data["edges"], data["parameters"]) == (6, 9, 12)
    assert data["symmetry"]["order"] == 6
    assert data["symmetry"]["log10_order"] == pytest.approx(math.log10(6))
    first = data["tensors"][0]
    assert (first["mean"], first["min"], first["max"], first["zeros"]) == (1.0, -1.0, 4.0, 2)
    assert first["std"] == pytest.approx(math.sqrt(16 / 6))
    _, out, _ = command("inspect", file)
    assert "S_3: 6 relabellings" in out
    assert "ReLU is assumed" in out


def test_inspect_describes_a_zoo_and_large_groups_by_their_logarithm(zoo, answer, command):
    code, data = answer("inspect", zoo.path)
    assert code == 0
    assert (data["kind"], data["networks"], data["networks_in_statistics"]) == ("zoo", 120, 120)
    assert data["symmetry"]["sine_neurons"] == 11
    weight = zoo.stack().parameters()["0.weight"].double()
    assert data["tensors"][0]["mean"] == pytest.approx(float(weight.mean()))
    wide = {"0.weight": torch.ones(400, 2), "1.weight": torch.ones(1, 400)}
    file = zoo.path.parent / "wide.safetensors"
    save_file(wide, file)
    assert answer("inspect", file)[1]["symmetry"]["order"] is None
    assert "about 10^868.8 relabellings" in command("inspect", file)[1]


# -- train and eval ------------------------------------------------------------------------------


def test_train_writes_a_run_and_reports_it_again(run, zoo, answer):
    report = json.loads((run / "report.json").read_text())
    options = "--epochs 2 --batch-size 16 --warmup-steps 2 --quiet"
    small = '{"channels": 8, "messages": 4, "hidden": 8, "edge_channels": 0}'
    line = ("train", "classify", "--run", run, "--zoo", zoo.path, "--options", small)
    code, data = answer(*line, *options.split())
    assert code == 0
    assert data == {"run": str(run), **report}
    assert data["access"] == "generic weights-only"


def test_train_refuses_other_settings_and_options_that_do_not_fit(run, zoo, tmp_path, command):
    line = ("train", "classify", "--run", run, "--zoo", zoo.path)
    assert_mistake(command(*line, "--epochs", "9"), str(run))
    line = ("train", "classify", "--run", tmp_path / "new", "--zoo", zoo.path)
    assert_mistake(command(*line, "--model", "oracle"), "oracle", "message-passing")
    assert_mistake(command(*line, "--options.colour", "red"), "colour")
    assert not (tmp_path / "new").exists()


def test_train_takes_its_settings_from_a_file_and_later_options_win(zoo, tmp_path, answer):
    config = tmp_path / "run.yaml"
    config.write_text(
        f"zoo: {zoo.path}\nmodel: probe\noptions: {{probes: 4, hidden: 8}}\nepochs: 7\n"
        "batch_size: 32\n"
    )
    line = ("train", "classify", "--run", tmp_path / "run", "--config", config)
    code, data = answer(*line, "--epochs", "1", "--quiet")
    assert code == 0
    assert (data["model"], data["epochs"], data["access"]) == ("probe", 1, "with probes")
    assert json.loads((tmp_path / "run/config.json").read_text())["settings"]["batch_size"] == 32


def test_eval_agrees_with_the_report_of_the_run(run, command, answer):
    report = json.loads((run / "report.json").read_text())
    code, data = answer("eval", run)
    assert code == 0
    assert data["accuracy"] == report["test"]["accuracy"]
    assert data["details"] == report["details"]
    code, data = answer("eval", run, "--split", "all", "--batch_size", "7")
    assert code == 0
    assert data["networks"] == 120
    code, out, _ = command("eval", run, "--split", "val")
    assert code == 0
    assert "of class, taken for" in out


def test_eval_relabels_and_fails_if_a_claim_does_not_hold(run, zoo, answer, monkeypatch):
    code, data = answer("eval", run, "--relabel", "--split", "all")
    assert code == 0
    assert data["relabelled"]["unchanged"] == 1
    assert 0 < data["relabelled"]["largest_change"] < 1e-12

    flat = run.parent / "flat"
    options = '{"hidden": 8}'
    line = ("--model", "flat", "--options", options, "--epochs", "1", "--quiet")
    assert answer("train", "classify", "--run", flat, "--zoo", zoo.path, *line)[0] == 0
    code, data = answer("eval", flat, "--relabel", "--split", "all")
    assert code == 0, "a model that claims nothing fails no check"
    assert data["relabelled"]["largest_change"] > 1e-3

    from nngraph.nn import FlatNetwork

    monkeypatch.setattr(FlatNetwork, "traits", replace(FlatNetwork.traits, invariant=True))
    monkeypatch.setattr(FlatNetwork, "forward", lambda self, networks: networks.x[:, 2:12, 0])
    code, data = answer("eval", flat, "--relabel", "--split", "all")
    assert code == 1
    assert data["relabelled"]["holds"] is False


def test_eval_refuses_a_zoo_of_other_classes(run, tmp_path, command):
    images = ImageSource("dots", torch.rand(12, 8, 8, 1), torch.arange(12) % 3, ("a", "b", "c"))
    other = fit_zoo(tmp_path / "zoo", images, widths=(2, 4, 1), steps=1, progress=False)
    assert_mistake(command("eval", run, "--zoo", other.path), "3 numbers", "10", str(other.path))
