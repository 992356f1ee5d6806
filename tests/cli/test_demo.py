import json

import pytest
import torch

import nngraph.cli.demo as demo
from nngraph.cli.text import duration, percent, table
from nngraph.graph import Architecture, NeuralGraphStack
from nngraph.tasks import training

QUIETLY = ("--quiet", "--threads", "1")

LABELS = {
    "symmetric message passing": "activation-structured weights-only",
    "message passing": "generic weights-only",
    "flat MLP": "generic weights-only",
    "flat MLP, augmented": "generic weights-only",
    "probes only": "with probes",
}


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    lines = []
    out = tmp_path_factory.mktemp("demo") / "out"
    result = demo.run_demo(out, quick=True, say=lines.append, progress=False)
    return out, result, "\n".join(lines)


def test_the_demo_holds_and_says_so(quick):
    out, result, said = quick
    assert result["ok"]
    assert result["graphs_run"]["weights_equal"]
    assert result["graphs_run"]["largest_relative_error"] < 1e-12
    assert {model["label"]: model["access"] for model in result["models"]} == LABELS
    for model in result["models"]:
        kinds = model["relabelled"], model["relabelled_training"]
        if model["model"] != "flat":
            assert all(found["invariant"] and found["unchanged"] == 1 for found in kinds)
    assert json.loads((out / "report.json").read_text()) == result
    assert (out / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert str(out / "demo.png") in said
    assert "changed no prediction" in said


def test_models_stand_under_the_name_of_their_column(quick):
    _, _, said = quick
    column, found = "", {}
    for line in said.split("[3/5]")[1].split("[4/5]")[0].splitlines():
        text = line.strip()
        if text in LABELS.values():
            column = text
        for label in LABELS:
            if text.startswith(f"{label}  "):
                found[label] = column
    assert found == LABELS


def test_the_demo_again_does_nothing_twice(quick, monkeypatch):
    out, result, _ = quick

    def refuse(*arguments):
        raise AssertionError("trained again")

    monkeypatch.setattr(training, "_epoch", refuse)
    again = demo.run_demo(out, quick=True, say=lambda line: None, progress=False)
    different = {"seconds"}
    assert {k: v for k, v in again.items() if k not in different} == {
        k: v for k, v in result.items() if k not in different
    }


def test_the_command_tells_the_verdict_by_its_exit_code(quick, command, monkeypatch):
    out, _, _ = quick
    code, stdout, stderr = command("demo", "--quick", "--out", out, "--json", *QUIETLY)
    assert code == 0
    assert json.loads(stdout)["ok"] is True
    assert "[5/5]" in stderr
    assert command("demo", "--quick", "--out", out, "--seed", "1")[0] == 2
    monkeypatch.setattr(demo, "check_graphs_run", lambda networks, points: (1e-3, True))
    code, stdout, _ = command("demo", "--quick", "--out", out, *QUIETLY)
    assert code == 1
    assert "FAILED: a graph does not run as its network." in stdout


def test_a_graph_that_does_not_run_as_its_network_is_noticed(monkeypatch):
    architecture = Architecture.mlp([2, 5, 4, 1], "tanh")
    parameters = {p.name: torch.randn(3, *p.shape) for p in architecture.parameters}
    stack = NeuralGraphStack.from_parameters(architecture, parameters)
    points = torch.randn(7, 2)
    error, same = demo.check_graphs_run(stack, points)
    assert error < 1e-14
    assert same

    convert = demo.to_graph

    def wrong(module):
        graph = convert(module)
        graph.edge_attr = graph.edge_attr.flip(0)
        return graph

    monkeypatch.setattr(demo, "to_graph", wrong)
    error, same = demo.check_graphs_run(stack, points)
    assert error > 0.1
    assert not same


def test_all_is_said_only_of_all():
    assert percent(1.0) == "100.0 %"
    assert percent(0.99999) == "99.9990 %"
    assert percent(0.5) == "50.0 %"


def test_times_and_tables_are_legible():
    assert (duration(3.21), duration(119.6), duration(150)) == ("3.2 s", "2 min 0 s", "2 min 30 s")
    assert table(("a", "bb"), [("long", "1"), ("x", "200")], indent="") == (
        "a      bb\nlong    1\nx     200"
    )
