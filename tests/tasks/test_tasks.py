"""What each task asks, how answers are judged, and how networks reach a model."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nngraph.datasets import Relabel, moved_layer
from nngraph.errors import DataFileError, InvalidGraphError
from nngraph.graph import Architecture, NeuralGraphStack
from nngraph.nn import Metanetwork
from nngraph.tasks import TASKS, Predict, Task, TrainSettings, build_model, build_task, load_run
from nngraph.tasks import train as train_run
from nngraph.tasks.prediction import Category, Number, StandardisedTarget
from nngraph.tasks.task import batch_answers
from nngraph.zoo import (
    SPLITS,
    ImageSource,
    Zoo,
    fit_zoo,
    load_digits_images,
    merge_zoos,
    train_zoo,
)
from nngraph.zoo.store.facts import Fact

Settings = Callable[..., TrainSettings]
SMALL = {"channels": 8, "messages": 4, "edge_channels": 2, "hidden": 16}


@pytest.fixture(scope="module")
def wild(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Three architectures, eight runs of each, two checkpoints of each run."""
    path = tmp_path_factory.mktemp("wild") / "zoo"
    return train_zoo(
        path, *load_digits_images().divide(), recipe="wild", count=24, steps=(3, 3),
        checkpoints=2, max_test=50, splits=(0.6, 0.2, 0.2), threads=1, progress=False,
    )  # fmt: skip


@pytest.fixture
def predict(wild: Zoo) -> Settings:
    def make(**changes: Any) -> TrainSettings:
        arguments: dict[str, Any] = {
            "zoo": str(wild.path), "model": "message-passing", "options": SMALL, "epochs": 2,
            "task": "predict", "batch_size": 16, "warmup_steps": 2, **changes,
        }  # fmt: skip
        return TrainSettings(**arguments)

    return make


# -- judging, by hand ---------------------------------------------------------------------------


def test_choices_are_judged_by_hand():
    target = Category(Fact("kind", values=("a", "b", "c")))
    truth = torch.tensor([0, 0, 1, 2, 2])
    answers = torch.log(torch.tensor(
        [[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8], [0.5, 0.2, 0.3]]
    ))  # fmt: skip
    expected = -float(torch.tensor([0.6, 0.2, 0.7, 0.8, 0.3]).log().mean())
    assert target.measures(answers, truth) == {"loss": pytest.approx(expected), "accuracy": 3 / 5}
    assert float(target.loss(answers, truth)) == pytest.approx(expected)
    assert target.details(answers, truth) == {
        "confusion": [[1, 1, 0], [0, 1, 0], [1, 0, 1]], "class_names": ["a", "b", "c"],
    }  # fmt: skip
    assert target.same(answers, answers.flip(1)).tolist() == [False, True, True, False, False]


def test_numbers_are_judged_by_hand():
    target = Number(Fact("size", "float32"), deviation=2.0)
    found, true = [1.0, 2.0, 4.0, 3.0], [1.0, 5.0, 6.0, 8.0]
    answers, truth = torch.tensor(found).unsqueeze(-1), torch.tensor(true)
    squares = [(a - b) ** 2 for a, b in zip(found, true, strict=True)]
    agree = [
        1 if (found[i] - found[j]) * (true[i] - true[j]) > 0 else -1
        for i, j in itertools.combinations(range(4), 2)
    ]
    measures = target.measures(answers, truth)
    assert measures["loss"] == pytest.approx(sum(squares) / 4 / 4)
    assert measures["mse"] == pytest.approx(sum(squares) / 4)
    assert measures["mae"] == pytest.approx((0 + 3 + 2 + 5) / 4)
    assert measures["r2"] == pytest.approx(1 - sum(squares) / (16 + 0 + 1 + 9))
    assert measures["kendall"] == pytest.approx(sum(agree) / 6)
    # Around the means 2.5 and 5: (-1.5 * -4 + -0.5 * 0 + 1.5 * 1 + 0.5 * 3) / 5.
    assert measures["slope"] == pytest.approx(9 / 5)
    assert measures["intercept"] == pytest.approx(5 - 2.5 * 9 / 5)
    assert float(target.loss(answers, truth)) == pytest.approx(measures["loss"])


def test_deciles_are_of_the_answers():
    target = Number(Fact("size", "float32"), deviation=1.0)
    answers = torch.arange(40.0).flip(0).unsqueeze(-1)
    deciles = target.details(answers, answers.squeeze(-1) + 0.5)["deciles"]
    assert [row["networks"] for row in deciles] == [4] * 10
    assert [row["answer"] for row in deciles] == [1.5 + 4 * i for i in range(10)]
    assert all(row["truth"] == row["answer"] + 0.5 for row in deciles)
    assert all(row["absolute_error"] == 0.5 for row in deciles)


def test_answers_that_are_all_equal_have_no_correlation():
    measures = Number(Fact("size", "float32"), 1.0).measures(torch.ones(3, 1), torch.arange(3.0))
    assert all(measures[name] != measures[name] for name in ("kendall", "slope", "intercept"))


# -- predicting -----------------------------------------------------------------------------------


def test_checkpoints_of_a_run_are_in_one_split(wild: Zoo):
    split = wild.fact("split").view(-1, 2)
    runs = wild.fact("run").view(-1, 2)
    assert torch.equal(runs[:, 0], runs[:, 1])
    assert torch.equal(split[:, 0], split[:, 1])
    assert len(split.unique()) == len(SPLITS)


def test_a_number_is_told_in_its_own_units(wild: Zoo, predict: Settings, tmp_path: Path):
    chosen = predict()
    report = train_run(chosen, tmp_path, progress=False)
    assert (report.task, report.score) == ("predict", "kendall")
    assert report.details["fact"] == "test_accuracy"
    model, found = load_run(tmp_path)
    task = build_task(found, wild)
    assert isinstance(model, StandardisedTarget)
    assert task.evaluate(model, "test") == report.test
    known = wild.fact("test_accuracy")[wild.indices("train")].double()
    assert float(model.mean) == pytest.approx(float(known.mean()))
    assert float(model.deviation) == pytest.approx(float(known.std()))
    numbers, answers = batch_answers(task, model, "test")
    true = wild.fact("test_accuracy")[numbers]
    assert report.test["mae"] == pytest.approx(float((answers.squeeze(-1) - true).abs().mean()))


def test_an_interrupted_run_over_several_architectures_ends_with_the_same_bits(
    predict: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from nngraph.tasks.loop import Run

    chosen = predict(relabel=True, task_options={"fact": "optimiser"})
    whole = train_run(chosen, tmp_path / "whole", progress=False)
    assert whole.score == "accuracy"
    real, calls = Run.step, []

    def interrupted(*args: Any) -> Tensor:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(Run, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_run(chosen, tmp_path / "parts", progress=False)
    parts = train_run(chosen, tmp_path / "parts", progress=False)
    assert (parts.val, parts.test, parts.details) == (whole.val, whole.test, whole.details)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert files[0] == files[1]


def test_networks_side_by_side_are_answered_as_alone(wild: Zoo, predict: Settings):
    task = build_task(predict(), wild)
    model = build_model(task.settings, task).double().eval()
    task.batch_size = 7  # over borders of architectures
    stacks = [(numbers, stack.to(torch.float64)) for numbers, stack in task.networks("all")]
    task._held["all"] = stacks
    numbers, answers = batch_answers(task, model, "all")
    assert numbers.sort().values.tolist() == list(range(48))
    alone = {
        int(number): model(stack[i : i + 1])
        for own, stack in stacks
        for i, number in enumerate(own)
    }
    expected = torch.cat([alone[int(number)] for number in numbers])
    assert torch.allclose(answers, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("fact", "kind", "outputs"),
    [("optimiser", Category, 3), ("step", Number, 1), (None, Number, 1), ("test_loss", Number, 1)],
)
def test_any_fact_can_be_asked_for(
    fact: str | None, kind: type, outputs: int, wild: Zoo, predict: Settings
):
    task = build_task(predict(task_options={} if fact is None else {"fact": fact}), wild)
    assert isinstance(task, Predict)
    assert isinstance(task.target, kind)
    assert task.num_outputs == build_model(task.settings, task).num_outputs == outputs


def test_facts_that_cannot_be_told_are_refused(wild: Zoo, predict: Settings):
    with pytest.raises(InvalidGraphError, match="no fact 'colour'; it has run, step"):
        build_task(predict(task_options={"fact": "colour"}), wild)
    with pytest.raises(DataFileError, match="has the one value 'digits"):
        build_task(predict(task_options={"fact": "data_set"}), wild)
    with pytest.raises(ValueError, match=r"does not take the options.*'colour'"):
        build_task(predict(task_options={"colour": "red"}), wild)
    with pytest.raises(ValueError, match="expected one of classify, predict"):
        build_task(predict(task="dream"), wild)
    with pytest.raises(DataFileError, match=r"have no classes.*'test_accuracy'.*'predict'"):
        build_task(predict(task="classify"), wild)
    with pytest.raises(ValueError, match="'dws' is built for networks of one architecture"):
        build_model(predict(model="dws", options={}), wild)


def test_networks_whose_fact_is_not_known_are_left_out(wild: Zoo, predict: Settings):
    zoo = Zoo.open(wild.path)
    first, last = (int(zoo.indices("train")[i]) for i in (0, -1))
    zoo.facts["test_loss"][first], zoo.facts["test_loss"][last] = float("nan"), float("inf")
    task = build_task(predict(task_options={"fact": "test_loss"}), zoo)
    assert isinstance(task, Predict)
    held = torch.cat([numbers for numbers, _ in task.networks("train")]).tolist()
    assert sorted({first, last, *held}) == zoo.indices("train").tolist()
    assert not {first, last} & set(held)
    assert task.target.deviation > 0  # type: ignore[attr-defined]
    model = build_model(task.settings, task)
    task.fit_statistics(model)
    assert torch.isfinite(task.loss(model, task.networks("train")))


def test_where_networks_come_from_is_a_fact_of_a_merged_zoo(zoo: Zoo, tmp_path: Path):
    images = torch.rand(9, 4, 6, 1, generator=torch.Generator().manual_seed(0))
    source = ImageSource("dots", images, torch.arange(9) % 3, ("left", "middle", "right"))
    other = fit_zoo(
        tmp_path / "dots", source, widths=[2, 5, 4, 1], w0=10.0, steps=1, threads=1,
        splits=(0.6, 0.2, 0.2), progress=False,
    )  # fmt: skip
    merged = merge_zoos(tmp_path / "merged", [zoo.path, other.path])
    chosen = TrainSettings(
        str(merged.path), "flat", task="predict", task_options={"fact": "data_set"}
    )
    task = build_task(chosen, merged)
    assert isinstance(task, Predict)
    assert task.fact.values == ("bars", "dots")
    assert task.truth.tolist() == [0] * 40 + [1] * 9


# -- preparing ------------------------------------------------------------------------------------


def test_what_is_prepared_depends_on_the_model_and_on_training(zoo: Zoo, settings: Settings):
    networks = zoo.stack("val")
    message, whole = (build_model(settings(name), zoo) for name in ("message-passing", "symmetric"))

    def moved(model: nn.Module, training: bool, **changes: Any) -> bool:
        found = build_task(settings(**changes), zoo).prepare(networks, model, training)
        assert torch.equal(found.y, networks.y)
        return not torch.equal(found.edge_attr, networks.edge_attr)

    off = {"motion": False, "relabel": False, "canonicalise": False}
    for name in off:
        on = {**off, name: True}
        assert moved(message, True, **on)
        assert moved(message, False, **on) == (name == "canonicalise")
        assert moved(whole, True, **on) == (name != "canonicalise")
        assert not moved(whole, False, **on)
    assert not moved(message, True, **off)


def test_images_are_moved_where_networks_have_two_inputs(zoo: Zoo, settings: Settings):
    assert build_task(settings(), zoo).moves is True  # type: ignore[attr-defined]
    assert build_task(settings(motion=False), zoo).moves is False  # type: ignore[attr-defined]
    moved = Architecture.mlp([2, 3, 1])
    for other in (Architecture.mlp([3, 3, 1]), Architecture.mlp([2, 3, 1], bias=False)):
        assert moved_layer(moved) == ("0.weight", "0.bias")
        assert moved_layer(other) is None


def test_images_are_mirrored_where_they_are_moved(zoo: Zoo, settings: Settings):
    torch.manual_seed(0)
    task = build_task(settings("symmetric", mirror=True), zoo)
    networks, model = zoo.stack("val"), build_model(task.settings, task)
    weight = task.prepare(networks, model, training=True).parameters()["0.weight"]
    # The model is told the networks themselves, not their canonical form.
    motion = torch.linalg.lstsq(networks.parameters()["0.weight"], weight).solution
    assert set(torch.linalg.det(motion).sign().tolist()) == {-1.0, 1.0}
    with pytest.raises(ValueError, match="mirror=True was given, but the images"):
        build_task(settings(mirror=True, motion=False), zoo)


def test_prediction_never_moves_images(zoo: Zoo, settings: Settings):
    task = build_task(settings(task="predict", motion=True), zoo)
    networks = zoo.stack("val")
    found = task.prepare(networks, build_model(task.settings, task), training=True)
    plain = task.prepare(networks, build_model(task.settings, task), training=False)
    assert torch.equal(found.edge_attr, plain.edge_attr)


# -- a task of one's own ------------------------------------------------------------------------


class Norm(Task):
    """How long a network's weights are, relabelled or not.

    Args:
        power: of the norm.
    """

    name = "norm"
    score = "minus_error"

    def __init__(self, zoo: Zoo, settings: TrainSettings, power: float = 2.0) -> None:
        super().__init__(zoo, settings)
        self.power = power

    def build_model(self) -> Metanetwork:
        from nngraph.tasks.task import new_model

        return new_model(self.settings, self.zoo, 1)

    def _error(self, model: nn.Module, stack: NeuralGraphStack) -> Tensor:
        length = stack.edge_attr.abs().pow(self.power).mean((1, 2))
        return (model(stack).squeeze(-1) - length).square().mean()

    def loss(self, model: nn.Module, batch: list[tuple[Tensor, NeuralGraphStack]]) -> Tensor:
        ((_, stack),) = batch
        return self._error(model, Relabel()(stack))

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        ((_, stack),) = self.networks(split)
        return {"minus_error": -float(self._error(model.eval(), stack))}


def test_a_task_of_ones_own_needs_one_line(
    zoo: Zoo, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(TASKS, "norm", Norm)
    chosen = settings("message-passing", task="norm", task_options={"power": 1.0}, epochs=6)
    report = train_run(chosen, tmp_path, progress=False)
    assert report.score == "minus_error"
    assert report.details == {}
    model, found = load_run(tmp_path)
    assert build_task(found, zoo).evaluate(model, "test") == report.test


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("probe", {"probes": 3, "hidden": 8, "generator": True}),
        ("message-passing", {"channels": 8, "messages": 4, "rounds": 0, "hidden": 8, "probes": 2}),
    ],
)
def test_networks_that_are_no_chains_are_probed(
    wild: Zoo, predict: Settings, tmp_path: Path, model: str, options: dict[str, Any]
):
    chosen = predict(model=model, options=options, epochs=1)
    report = train_run(chosen, tmp_path, progress=False)
    assert report.access == "with probes"
    again, settings = load_run(tmp_path)
    found = build_task(settings, wild).evaluate(again, "test")
    assert found["mse"] == pytest.approx(report.test["mse"], rel=1e-5)
