from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tqdm import tqdm

from nngraph.errors import DataFileError, NonFiniteError
from nngraph.tasks import Classify, TrainSettings, build_model, build_task, load_run, train
from nngraph.tasks.loop import Progress, Run
from nngraph.tasks.optimiser import learning_rate, new_optimizer
from nngraph.tasks.run_folder import optimizer_tensors
from nngraph.tasks.seeding import seeded
from nngraph.zoo import Zoo

Settings = Callable[..., TrainSettings]
#: One of every kind of model; see OPTIONS in conftest.py.
KINDS = ("message-passing", "symmetric", "flat", "probe")
TIMES = ("seconds", "cpu_seconds")


def rows(out: Path) -> list[dict[str, Any]]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def report(out: Path) -> dict[str, Any]:
    data = json.loads((out / "report.json").read_text())
    return {k: v for k, v in data.items() if k not in TIMES}


def new_run(settings: TrainSettings, out: Path) -> Run:
    return Run(build_task(settings, Zoo.open(settings.zoo)), out)


def same(one: Path, other: Path) -> None:
    """Assert that two runs are the same but for the time they took."""
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert rows(one) == rows(other)
    assert report(one) == report(other)


class Interrupt(Exception):
    pass


@pytest.fixture
def interrupt_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, str], None]:
    """Raise at call ``n`` of a method of the run; later calls pass."""

    def arrange(n: int, name: str) -> None:
        calls = 0
        real = getattr(Run, name)

        def interrupted(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == n:
                raise Interrupt
            return real(*args, **kwargs)

        monkeypatch.setattr(Run, name, interrupted)

    return arrange


# -- the same bits ------------------------------------------------------------------------------


@pytest.mark.parametrize("model", KINDS)
@pytest.mark.parametrize(
    ("call", "name"), [(2, "evaluate"), (8, "step"), (3, "save")], ids=str
)  # after an epoch, within one, before a checkpoint
def test_an_interrupted_run_ends_with_the_same_bits(
    model: str, call: int, name: str, settings: Settings, tmp_path: Path, interrupt_after: Any
):
    chosen = settings(model, relabel=True, motion=True, ema=0.5 if name == "step" else None)
    train(chosen, tmp_path / "whole", progress=False)
    interrupt_after(call, name)
    with pytest.raises(Interrupt):
        train(chosen, tmp_path / "parts", progress=False)
    assert not (tmp_path / "parts" / "report.json").exists()
    done = len(rows(tmp_path / "parts"))
    assert done in (1, 2)
    train(chosen, tmp_path / "parts", progress=False)
    same(tmp_path / "whole", tmp_path / "parts")
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == [
        "config.json", "metrics.jsonl", "model.safetensors", "report.json",
    ]  # fmt: skip


def test_a_killed_process_is_continued_by_another(settings: Settings, tmp_path: Path):
    # The other process has other string hashes: nothing may hang on them.
    chosen = settings(epochs=2000)
    out = tmp_path / "killed"
    code = (
        "import json, sys, torch; torch.set_num_threads(1)\n"
        "from nngraph.tasks import TrainSettings, train\n"
        "train(TrainSettings(**json.loads(sys.argv[1])), sys.argv[2], progress=False)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(chosen.to_dict()), str(out)],
        env={**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"},
    )
    try:
        until = time.monotonic() + 60
        while not (out / "checkpoint.safetensors").exists() and time.monotonic() < until:
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = len(rows(out))
    assert done >= 1
    run = new_run(chosen, out)
    state, history = run.resume()
    assert state.epoch == len(history) <= done
    # What it had learned is what this process learns by itself.
    own = new_run(chosen, tmp_path)
    ours = Progress(state.total_steps)
    with tqdm(disable=True) as bar:
        for _ in range(state.epoch):
            own.train_epoch(ours, bar)
    for name, value in own.model.state_dict().items():
        assert torch.equal(value, run.model.state_dict()[name]), name
    assert ours.step == state.step


def test_the_seed_decides_and_nobody_elses_numbers_change(settings: Settings, tmp_path: Path):
    state = torch.get_rng_state()
    first = train(settings(seed=3), tmp_path / "a", progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    train(settings(seed=3), tmp_path / "b", progress=False)
    same(tmp_path / "a", tmp_path / "b")
    train(settings(seed=4), tmp_path / "c", progress=False)
    a, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ac")
    assert a != c
    assert train(settings(seed=3), tmp_path / "a", progress=False) == first  # done: read, not made
    state = torch.get_rng_state()
    load_run(tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), state)


def test_streams_of_randomness_differ():
    drawn = []
    for parts in ((0,), (1,), (0, -1), (0, -2), (0, 0), (0, 1), (1, 0), (-1,), (-2,)):
        with seeded(*parts):
            drawn.append(float(torch.rand((), dtype=torch.float64)))
    assert len(set(drawn)) == len(drawn)


# -- what is written ------------------------------------------------------------------------------


@pytest.mark.parametrize("model", KINDS)
def test_the_report_is_what_the_saved_model_does(
    model: str, settings: Settings, tmp_path: Path, zoo: Zoo
):
    found = train(settings(model), tmp_path, progress=False)
    loaded, chosen = load_run(tmp_path)
    assert not loaded.training
    task = build_task(chosen, zoo)
    assert task.evaluate(loaded, "val") == found.val
    assert task.evaluate(loaded, "test") == found.test
    assert task.details(loaded, "test") == found.details
    assert sum(map(sum, found.details["confusion"])) == 8
    assert (found.task, found.model, found.access) == ("classify", model, loaded.traits.access)
    assert found.details["class_names"] == ["left", "middle", "right"]
    assert found.parameters == sum(p.numel() for p in loaded.parameters())
    assert (found.epochs, found.steps) == (4, 12)  # 24 networks, ten at a time
    assert found.score == "accuracy"
    assert found.val["accuracy"] == max(row["val_accuracy"] for row in rows(tmp_path))


def test_metrics_have_a_line_per_epoch(settings: Settings, tmp_path: Path):
    train(settings(epochs=3, warmup_steps=2, learning_rate=0.01), tmp_path, progress=False)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [set(line) for line in lines] == [
        {"epoch", "step", "train_loss", "val_loss", "val_accuracy", "learning_rate", *TIMES}
    ] * 3
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 3), (2, 6), (3, 9)]
    assert all(0 <= line["val_accuracy"] <= 1 and line["train_loss"] > 0 for line in lines)
    # Steps 2, 5 and 8 of 9, along half a cosine.
    expected = [0.01 * 0.5 * (1 + torch.pi * 0 + float(torch.cos(torch.tensor(torch.pi * s / 9))))
                for s in (2, 5, 8)]  # fmt: skip
    assert [line["learning_rate"] for line in lines] == pytest.approx(expected)
    for name in TIMES:
        values = [line[name] for line in lines]
        assert values == sorted(values)


def test_the_warm_up_rises(settings: Settings):
    chosen = settings(warmup_steps=4, learning_rate=1.0)
    rates = [learning_rate(chosen, step, 10**9) for step in range(6)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])
    # Of a run of 20 steps two, or it would never learn at its rate.
    short = [learning_rate(settings(warmup_steps=100, learning_rate=1.0), i, 20) for i in (0, 1)]
    assert short == pytest.approx([0.5, 0.5 * (1 + math.cos(math.pi / 20))])


@pytest.mark.parametrize("model", ["probe", "symmetric"])
def test_learning_happens(model: str, make_zoo: Any, settings: Settings, tmp_path: Path):
    networks = make_zoo(steps=200, w0=5.0)
    chosen = settings(
        model, zoo=str(networks.path), epochs=40, learning_rate=0.01, motion=False,
        options={"dropout": 0.0},
    )  # fmt: skip
    found = train(chosen, tmp_path, progress=False)
    assert found.val["accuracy"] + found.test["accuracy"] > 1.2  # by chance: 0.67
    lines = rows(tmp_path)
    assert lines[-1]["train_loss"] < 0.1 * lines[0]["train_loss"]


class TestGradientsThatAreNotFinite:
    @staticmethod
    def spoil(monkeypatch: pytest.MonkeyPatch, which: Callable[[int], bool]) -> None:
        real, calls = Classify.loss, itertools.count(1)

        def loss(task: Classify, model: Any, batch: Any) -> Any:
            found = real(task, model, batch)
            return found * math.inf if which(next(calls)) else found

        monkeypatch.setattr(Classify, "loss", loss)

    @pytest.mark.parametrize("clip", [1.0, None])
    def test_one_is_left_out_and_told(
        self, clip: float | None, settings: Settings, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ):  # fmt: skip
        self.spoil(monkeypatch, lambda call: call == 5)  # the second step of the second epoch
        with pytest.warns(UserWarning, match=r"of the 3 steps of epoch 2, 1 had gradients that"):
            found = train(settings(clip=clip), tmp_path, progress=False)
        assert math.isfinite(found.val["loss"])
        assert all(math.isfinite(row["train_loss"]) for row in rows(tmp_path))

    def test_a_run_of_nothing_else_ends(
        self, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        self.spoil(monkeypatch, lambda call: call > 3)
        with pytest.raises(NonFiniteError, match=r"epoch 2, 3 had gradients .* zoo verify"):
            train(settings(), tmp_path, progress=False)


def constant(accuracies: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let validation find these accuracies, one after the other, then the last one for ever."""
    left = list(accuracies)

    real = Run.evaluate

    def judged(run: Run, split: str) -> dict[str, float]:
        accuracy = left.pop(0) if len(left) > 1 else left[0]
        return {**real(run, split), "accuracy": accuracy}

    monkeypatch.setattr(Run, "evaluate", judged)


@pytest.mark.parametrize(
    ("accuracies", "patience", "epochs"),
    [
        pytest.param([0.5], 1, 2, id="an equal one is no better"),
        pytest.param([0.5], 3, 4, id="three"),
        pytest.param([0.5, 0.6, 0.4, 0.7, 0.1], 2, 6, id="starts again when it gets better"),
        pytest.param([0.5], None, 10, id="never"),
    ],
)
def test_patience(
    accuracies: list[float], patience: int | None, epochs: int, settings: Settings,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    constant(accuracies, monkeypatch)
    found = train(settings("flat", epochs=10, patience=patience), tmp_path, progress=False)
    assert found.epochs == epochs
    assert found.val["accuracy"] == max(a for a in accuracies if a == a)


def test_of_equal_accuracies_the_later_parameters_are_kept(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saved: list[bytes] = []
    real = Run.save_best

    def spied(run: Any) -> None:
        real(run)
        saved.append((run.out / "model.safetensors").read_bytes())

    monkeypatch.setattr(Run, "save_best", spied)
    constant([0.5, 0.4, 0.5, 0.3], monkeypatch)
    train(settings("flat"), tmp_path, progress=False)
    assert len(saved) == 2
    assert (tmp_path / "model.safetensors").read_bytes() == saved[1] != saved[0]


def test_a_budget_of_cpu_seconds_decides_the_steps(settings: Settings, tmp_path: Path):
    chosen = settings("flat", cpu_seconds=0.4, epochs=1, warmup_steps=2)
    before = new_run(chosen, tmp_path / "plan")
    parameters = {name: value.clone() for name, value in before.model.state_dict().items()}
    assert before.planned_steps() > 3
    for name, value in before.model.state_dict().items():
        assert torch.equal(value, parameters[name])  # timing leaves no trace
    assert optimizer_tensors(before.optimizer) == {}
    found = train(chosen, tmp_path / "run", progress=False)
    assert found.steps > 3  # more than its one epoch
    assert 0.1 < found.cpu_seconds < 1.6
    lines = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["cpu_seconds"] == round(found.cpu_seconds, 3)
    assert lines[-1]["step"] == found.steps


# -- settings and models --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0), ("epochs", 1.5), ("epochs", True), ("batch_size", -1), ("seed", -1),
        ("accumulate", 0), ("per_architecture", 0), ("ema", 1.0), ("ema", -0.1),
        ("precision", "int8"),
        ("learning_rate", float("nan")), ("learning_rate", "fast"), ("weight_decay", -0.1),
        ("clip", float("inf")), ("patience", 0), ("cpu_seconds", -1.0), ("warmup_steps", None),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(name: str, value: Any):
    with pytest.raises(ValueError, match=f"{name} is .*expected"):
        TrainSettings("zoo", **{name: value})


def test_half_precision_is_for_gpus():
    with pytest.raises(ValueError, match=r"precision is 'fp16' on the device 'cpu'.*Use 'bf16'"):
        TrainSettings("zoo", precision="fp16")
    assert TrainSettings("zoo", precision="fp16", device="cuda:1").precision == "fp16"


def test_settings_are_plain_data(tmp_path: Path):
    chosen = TrainSettings(tmp_path, options={"probes": 3})  # type: ignore[arg-type]
    assert TrainSettings(**json.loads(json.dumps(chosen.to_dict()))) == chosen
    assert chosen.zoo == str(tmp_path)


def test_models_are_asked_for_by_name_and_with_options_they_have(settings: Settings, zoo: Zoo):
    with pytest.raises(ValueError, match=r"expected one of .*symmetric"):
        build_model(TrainSettings("zoo", model="transformer"), zoo)
    with pytest.raises(ValueError, match=r"cannot be built with the options.*'heads'"):
        build_model(settings(options={"heads": 3}), zoo)
    with pytest.raises(ValueError, match="channels is -3; expected an integer of at least 1"):
        build_model(settings(options={"channels": -3}), zoo)


def test_a_zoo_without_test_networks_is_refused_at_the_start(
    make_zoo: Any, settings: Settings, tmp_path: Path
):
    chosen = settings(zoo=str(make_zoo(splits=(0.8, 0.2, 0.0), steps=1).path))
    with pytest.raises(DataFileError, match="has no test networks"):
        train(chosen, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_modules_may_learn_at_their_own_rates(settings: Settings):
    slow, within = torch.nn.Linear(2, 3), torch.nn.Linear(3, 3)
    model = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.Sequential(slow, within))
    model[1].rate, within.rate = 0.5, 0.1
    groups = new_optimizer(model, settings()).param_groups
    found = {id(p): group["rate"] for group in groups for p in group["params"]}
    expected = {model[0]: 1.0, slow: 0.5, within: 0.05}
    assert found == {id(p): rate for module, rate in expected.items() for p in module.parameters()}
    assert all(("weight_decay" in g and g["weight_decay"] == 0) == (g["params"][0].dim() == 1)
               for g in groups)  # fmt: skip
