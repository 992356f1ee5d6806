"""The commands ``train predict``, ``models`` and ``compare``, and runs on several architectures."""

import json

import pytest

from nngraph.cli import training
from nngraph.nn import MODELS
from nngraph.tasks import TASKS
from nngraph.zoo import load_digits_images, train_zoo

SMALL = '{"channels": 8, "messages": 4, "edge_channels": 0, "hidden": 8}'
QUICKLY = ("--epochs", "1", "--batch_size", "16", "--warmup_steps", "2", "--quiet")


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory):
    """Two architectures, eight runs of each, two checkpoints of each run."""
    path = tmp_path_factory.mktemp("cli") / "classifiers"
    return train_zoo(
        path, *load_digits_images().divide(), recipe="wild", count=16, steps=(3, 3), checkpoints=2,
        max_test=50, splits=(0.5, 0.25, 0.25), threads=1, progress=False,
    )  # fmt: skip


def test_any_fact_is_predicted_and_judged(classifiers, tmp_path, answer, command):
    line = ("train", "predict", "--zoo", classifiers.path, "--options", SMALL, *QUICKLY)
    for fact, score in (("test_accuracy", "kendall"), ("optimiser", "accuracy")):
        run = tmp_path / fact
        code, data = answer(*line, "--task_options.fact", fact, "--run", run)
        assert code == 0
        assert (data["task"], data["score"]) == ("predict", score)
        settings = json.loads((run / "config.json").read_text())["settings"]
        assert settings["task_options"] == {"fact": fact}
        code, judged = answer("eval", run, "--relabel")
        assert code == 0
        assert judged[score] == data["test"][score]
        assert judged["details"] == data["details"]
        assert judged["relabelled"]["unchanged"] == 1
        assert judged["networks"] == 8
    code, out, _ = command("eval", tmp_path / "test_accuracy")
    assert code == 0
    assert "decile by answer" in out
    assert "slope" in out
    code, out, err = command(*line, "--task_options.fact", "colour", "--run", tmp_path / "new")
    assert (code, out) == (2, "")
    assert "no fact 'colour'" in err
    assert not (tmp_path / "new").exists()


def test_tasks_and_their_questions_are_in_the_help(command):
    code, out, _ = command("train", "--help")
    assert code == 0
    for name in TASKS:
        assert f"{name}: " in " ".join(out.split())


def test_the_default_folder_names_zoo_task_and_model(zoo, tmp_path, monkeypatch, answer):
    monkeypatch.chdir(tmp_path)
    options = '{"hidden": 8}'
    line = ("train", "classify", "--zoo", zoo.path, "--model", "flat", "--options", options)
    code, data = answer(*line, *QUICKLY, "--curves")
    assert code == 0
    assert data["run"] == f"runs/{zoo.path.name}-classify-flat"
    assert (tmp_path / data["run"] / "curves.png").exists()


@pytest.mark.parametrize("keep", [True, False])
def test_memory_is_kept_unless_said_otherwise(keep, zoo, tmp_path, monkeypatch, answer):
    kept = []
    monkeypatch.setattr(training, "keep_memory", lambda: kept.append(True))
    said = () if keep else ("--return-memory",)
    line = ("train", "classify", "--zoo", zoo.path, "--model", "flat", "--run", tmp_path / "run")
    code, _ = answer(*line, "--options", '{"hidden": 8}', *QUICKLY, *said)
    assert code == 0
    assert kept == [True] * keep


def test_models_are_told_in_their_columns(answer, command, monkeypatch):
    line = ("models", "--widths", "2", "3", "1", "--batch_size", "2")
    code, data = answer(*line)
    assert code == 0
    assert data["threads"] == 1
    assert "2-3-1" in data["example"]
    assert [model["model"] for model in data["models"]] == list(MODELS)
    columns = {model["model"]: model["access"] for model in data["models"]}
    assert columns["probe"] == "with probes"
    monkeypatch.setattr(training, "describe_models", lambda *arguments: data["models"])
    code, out, _ = command(*line)
    assert code == 0
    table = out[out.index("with default options") :]
    column = ""
    for text in map(str.strip, table.splitlines()[1:]):
        name = text.split("  ")[0]
        if name in columns.values():
            column = name
        if name in columns:
            assert columns[name] == column
    code, _, err = command("models", "--widths", "3")
    assert code == 2
    assert "Traceback" not in err


def test_runs_are_compared_and_drawn(run, tmp_path, answer, command):
    figure = tmp_path / "curves.png"
    code, data = answer("compare", run, "--figure", figure)
    assert code == 0
    assert figure.read_bytes().startswith(b"\x89PNG")
    (table,) = data["tables"]
    assert (table["task"], table["access"]) == ("classify", "generic weights-only")
    (row,) = table["rows"]
    report = json.loads((run / "report.json").read_text())
    assert row["test"]["accuracy"] == {"mean": report["test"]["accuracy"], "deviation": None}
    assert row["runs"] == [str(run)]
    code, out, _ = command("compare", run)
    assert code == 0
    assert "generic weights-only" in out
    for bad, words in ((tmp_path, "cannot be read"), (tmp_path / "none", "cannot be read")):
        code, out, err = command("compare", bad)
        assert (code, out) == (2, "")
        assert words in err
    code, _, err = command("compare", run, "--figure", tmp_path / "curves.txt")
    assert code == 2
    assert ".png" in err
