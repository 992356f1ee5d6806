"""Result files: every row says what was measured and by which command, and harness keeps them."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark_scripts import FOLDER, SCRIPTS, rows

from nngraph.cli.parsers import build_parser
from nngraph.graph import Activation, Architecture
from nngraph.nn import MODELS
from nngraph.tasks import TrainSettings

FILES = sorted((FOLDER / "results").glob("*.csv"))


def parsed(load: Any, command: str) -> tuple[str, argparse.Namespace]:
    """Read a command by today's parser of the script that it names."""
    python, script, *arguments = shlex.split(command, comments=True)
    path = Path(script)
    assert (python, str(path.parent), path.stem in SCRIPTS) == ("python", "benchmarks", True), (
        script
    )
    try:
        return path.stem, load(path.stem).parser().parse_args(arguments)
    except SystemExit as error:
        raise AssertionError(f"{command} is no command of today") from error


def models_of(texts: list[str]) -> list[str]:
    """Models with their options as rows hold them, one JSON."""
    named = (text.partition(":") for text in texts)
    return [json.dumps([name, json.loads(options or "{}")]) for name, _, options in named]


#: What the options of a command say of its rows: columns, each with the values that it may have.
SAID: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "accuracy": lambda a: {
        "task": a.task, "seed": a.seed, "settings": a.settings, "epochs_given": a.epochs,
        "cpu_seconds_budget": None if a.epochs else a.cpu_seconds, "model": models_of(a.model),
    },
    "against": lambda a: {"group": a.group, "beside": a.beside, "repeats": a.repeats},
    "alignment": lambda a: {
        "widths": "-".join(map(str, a.widths)), "activation": a.activation, "images": a.images,
        "steps": a.steps, "seeds": a.pairs,
    },
    "conversion": lambda a: {"threads": a.threads},
    "conversion_coverage": lambda a: {"library": a.library, "threads": a.threads},
    "editing": lambda a: {
        "edit": a.edit, "expansion": a.expansion, "cpu_seconds_budget": a.cpu_seconds,
        "learning_rate": a.learning_rate, "batch_size": a.batch_size, "ema": a.ema,
        "seed": a.seed, "model": models_of([f"{a.model}:{a.options}"]),
    },
    "equivariant": lambda a: {
        "width": a.widths, "depth": a.depths, "channels": a.channels, "threads": a.threads,
    },
    "fit": lambda a: {"networks": a.count, "threads": a.threads},
    "gpu": lambda a: {
        "channels": a.channels, "dtype": a.dtype, "backend": a.backend, "repeats": a.repeats,
    },
    "completeness": lambda a: {"network": a.network},
    "group_coverage": lambda a: {"library": a.library, "threads": a.threads},
    "hostile": lambda a: {},
    "initialisation": lambda a: {
        "network_layers": a.layers, "stack_depth": a.stack, "draws": a.draws,
    },
    "large": lambda a: {
        "width": a.width, "channels": a.channels, "rounds": a.rounds, "threads": a.threads,
    },
    "lora": lambda a: {
        "adapters": a.count, "epochs": a.epochs, "condition": a.condition, "seed": a.seed,
    },
    "matching": lambda a: {
        "library": [*a.library, *["large"] * bool(a.large)], "starts": a.starts,
    },
    "models": lambda a: {
        "model": models_of(a.model), "layout": [*a.layout, *["apart"] * ("mixed" in a.layout)],
        "repeats": a.repeats, "threads": a.threads,
    },
    "primitives": lambda a: {
        "channels": [*a.channels, *[8] * bool(a.width)], "repeats": a.repeats,
        "threads": a.threads,
    },
    "pruning": lambda a: {
        "width": a.width, "seed": a.seed, "flops": a.flops, "images": a.images, "steps": a.steps,
        "more_steps": a.more_steps, "threads": a.threads,
    },
    "pruning_coverage": lambda a: {
        "library": a.library, "keep": a.keep, "threads": a.threads,
    },
    "reading": lambda a: {"networks": a.count, "threads": a.threads},
    "soundness": lambda a: {"threads": a.threads},
    "scans": lambda a: {"family": a.family, "steps": a.steps, "threads": a.threads},
    "train": lambda a: {"recipe": a.recipe, "runs": a.count, "threads": a.threads},
    "width_transfer": lambda a: {
        "width": a.widths, "trained_width": a.widths[0], "epochs": a.epochs,
    },
}  # fmt: skip


def plain(value: Any) -> Any:
    """Return a cell or the value of an option as what it stands for: numbers and JSON as such."""
    text = "" if value is None else str(value)
    try:
        return json.loads(text)
    except ValueError:
        return text


def disagreements(script: str, arguments: argparse.Namespace, row: dict[str, str]) -> list[str]:
    """Return the columns whose value in a row is none that its command asks for."""
    cells = dict(row)
    if "options" in cells and "model" in cells:
        cells["model"] = json.dumps([cells["model"], json.loads(cells["options"])])
    said = SAID[script](arguments).items()
    return [
        column
        for column, values in said
        if plain(cells[column])
        not in [plain(value) for value in (values if isinstance(values, list) else [values])]
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_todays_parsers_read_the_command_of_every_row(file: Path, load: Any):
    known: dict[str, tuple[str, argparse.Namespace]] = {}
    for row in rows(file):
        command = row["command"]
        if command not in known:
            known[command] = parsed(load, command)
        script, arguments = known[command]
        assert not disagreements(script, arguments, row), row
        assert load(script).parser().get_default("out").name == file.name
    assert known


@pytest.mark.parametrize(
    "command",
    [
        "python benchmarks/models.py --model sine",
        "python benchmarks/accuracy.py --zoo ZOO --model 'sine:{}'",
        "python benchmarks/accuracy.py --zoo ZOO --model 'probe:{'",
        "python benchmarks/accuracy.py --zoo ZOO --task guess",
        "python benchmarks/editing.py --zoo ZOO --model sine",
        "python benchmarks/models.py --layers 3",
        "python benchmarks/gpu.py --dtype float64",
        "python benchmarks/train.py --recipe tame",
        "python benchmarks/gone.py",
        "python benchmarks/harness.py",
        "python3 benchmarks/models.py",
    ],
)
def test_what_is_no_command_of_today_is_noticed(command: str, load: Any):
    with pytest.raises(AssertionError):
        parsed(load, command)


def test_a_row_of_another_command_is_noticed(load: Any):
    row = rows(FOLDER / "results" / "models.csv")[0]
    script, arguments = parsed(load, row["command"])
    for column, other in (("repeats", "3"), ("model", "flat"), ("options", '{"channels": 1}')):
        changed = disagreements(script, arguments, row | {column: other})
        assert changed == ["model" if column == "options" else column]


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_every_row_carries_the_commit_it_was_measured_at(file: Path):
    for row in rows(file):
        assert re.fullmatch(r"[0-9a-f]{7,40}\+?", row.get("commit", "")), row


def test_models_of_the_rows_can_be_built():
    built = set()
    architecture = Architecture.mlp([2, 4, 4, 1], Activation("sine", w0=30))
    for name in ("accuracy", "models"):
        for row in rows(FOLDER / "results" / f"{name}.csv"):
            settings = json.loads(row.get("settings", "{}"))
            options = json.loads(row["options"])
            TrainSettings("ZOO", row["model"], options, **settings)
            if (row["model"], row["options"]) not in built:
                built.add((row["model"], row["options"]))
                MODELS[row["model"]](architecture, 10, **options)
    assert len(built) > len(MODELS) // 2


def commands_of_the_readme() -> list[str]:
    """Return the indented lines of commands, joined where they go on."""
    text = (FOLDER / "README.md").read_text().replace("\\\n", " ")
    return re.findall(r"^ {4}((?:python benchmarks/|nngraph ).*)$", text, re.M)


def test_the_readme_names_every_script_by_commands_of_today(load: Any):
    named = set()
    for command in commands_of_the_readme():
        if command.startswith("nngraph "):
            words = shlex.split(command, comments=True)[1:]
            build_parser(words[0]).parse_args(words)
        else:
            named.add(parsed(load, command)[0])
    assert named == set(SCRIPTS)


@pytest.mark.parametrize(
    ("folder", "least"), [(FOLDER, 50), (FOLDER.parent, 3)], ids=["benchmarks", "first page"]
)
def test_accuracies_of_the_readme_are_those_of_the_rows(folder: Path, least: int):
    groups: dict[tuple[str, ...], list[float]] = {}
    unlike = ("zoo", "task", "model", "options", "settings", "cpu_seconds_budget", "epochs_given")
    for row in rows(FOLDER / "results" / "accuracy.csv"):
        groups.setdefault(tuple(row[name] for name in unlike), []).append(float(row["test"]))
    found = [(statistics.mean(v), statistics.stdev(v)) for v in groups.values() if len(v) > 1]
    known = {f"{100 * mean:.1f} ± {100 * deviation:.1f} %" for mean, deviation in found}
    known |= {f"{mean:.3f} ± {deviation:.3f}" for mean, deviation in found}
    text = (folder / "README.md").read_text()
    told = set(re.findall(r"[0-9.]+ ± [0-9.]+(?: %)?", text))
    assert len(told) > least
    assert not told - known


# -- the harness ----------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_the_commit_is_that_of_the_code(load: Any, tmp_path: Path):
    harness, code = load("harness"), tmp_path / "package"

    def git(*words: str) -> str:
        who = ("-c", "user.name=n", "-c", "user.email=e")
        command = ["git", "-C", str(tmp_path), *who, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    code.mkdir()
    (code / "__init__.py").write_text("one = 1")
    assert harness.commit_of(code) == ""
    git("init")
    assert harness.commit_of(code) == ""
    git("add", ".")
    git("commit", "-m", "One")
    clean = git("rev-parse", "--short", "HEAD").strip()
    assert harness.commit_of(code) == clean
    (tmp_path / "rows.csv").write_text("1")  # what benchmarks write is no change of the code
    assert harness.commit_of(code) == clean
    (tmp_path / "more.py").write_text("two = 2")
    assert harness.commit_of(code) == f"{clean}+"
    (tmp_path / "more.py").unlink()
    (code / "__init__.py").write_text("one = 2")
    assert harness.commit_of(code) == f"{clean}+"


def test_rows_that_could_not_say_what_was_measured_are_refused(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    harness = load("harness")
    monkeypatch.setattr(harness, "COMMIT", "")
    with pytest.raises(SystemExit, match=r"rows.csv could not say what was measured. Nothing"):
        harness.write_rows(tmp_path / "rows.csv", [{"a": 1}], ("a",))
    assert not (tmp_path / "rows.csv").exists()


def test_rows_of_before_stay_as_they_are(load: Any, tmp_path: Path):
    harness, path = load("harness"), tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n")
    harness.write_rows(path, [{"a": 2, "b": 3}], ("a",))
    assert [row["commit"] for row in harness.read_rows(path)] == ["", "0123abc"]


def test_the_command_leaves_out_what_changes_no_row(load: Any):
    for script, given, said in (
        ("width_transfer", ["--figure", "a.png", "--out", "b.csv", "--epochs", "3"], "--epochs 3"),
        ("conversion_coverage", ["--resume", "--library", "forms"], "--library forms"),
        ("primitives", ["--tf32", "--device", "cuda"], "--device cuda --tf32"),
    ):
        made = load(script).parser()
        command = load("harness").command_line(made, made.parse_args(given))
        assert command == f"python benchmarks/{script}.py {said}"


def test_rows_are_replaced_by_their_keys(load: Any, tmp_path: Path):
    harness = load("harness")
    path = tmp_path / "sub" / "rows.csv"
    assert harness.read_rows(path) == []
    harness.write_rows(path, [{"a": 1, "b": {"y": 1, "x": '|,"'}, "c": 2.5}], ("a", "b"))
    harness.write_rows(path, [{"a": 2, "b": {}, "d": None}], ("a", "b"))
    harness.write_rows(path, [{"a": 1, "b": {"x": '|,"', "y": 1}, "c": 3}], ("a", "b"))
    assert harness.read_rows(path) == [
        {"a": "1", "b": '{"x": "|,\\"", "y": 1}', "c": "3", "commit": "0123abc", "d": ""},
        {"a": "2", "b": "{}", "c": "", "commit": "0123abc", "d": ""},
    ]
    table = harness.markdown(harness.read_rows(path), ("a", "b"))
    assert table.splitlines()[2] == '| 1 | {"x": "\\|,\\"", "y": 1} |'


def test_measures(load: Any):
    harness = load("harness")
    calls: list[int] = []
    timing = harness.measure(lambda: calls.append(1), repeats=4, warmup=2)
    assert len(calls) == 6
    assert set(timing.to_dict()) == {"cpu_ms", "cpu_ms_q10", "cpu_ms_q90", "wall_ms"}
    assert harness.matmul_gflops(64, 2) > 0
    grown = harness.peak_growth_mib(lambda: torch.ones(2**24).sum())  # 64 MiB
    assert 64 <= grown < 65
    assert harness.machine()["threads"] == torch.get_num_threads()
