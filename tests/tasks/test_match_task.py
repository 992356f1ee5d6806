"""The task "match": a model learns states by which neurons are found again in other networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nngraph.alignment import match_embeddings
from nngraph.errors import DataFileError
from nngraph.graph import Activation, Architecture, NeuralGraphStack, Symmetry, sample_moves
from nngraph.tasks import Task, TrainSettings, build_model, build_task, load_run
from nngraph.tasks import train as train_run
from nngraph.tasks.matching import matching_loss
from nngraph.zoo import Zoo

Settings = Callable[..., TrainSettings]
Batch = list[tuple[Tensor, NeuralGraphStack]]


@pytest.fixture(scope="module")
def mixed(make_zoo: Callable[..., Zoo]) -> Zoo:
    """Networks of several architectures."""
    sine = Activation("sine", w0=10)
    kinds = [Architecture.mlp(widths, sine) for widths in ([2, 4, 1], [2, 3, 5, 1])]
    return make_zoo(architecture=kinds, widths=None, w0=None, steps=1)


def in_double(task: Task, split: str) -> Batch:
    """Let a task hold the networks of a split in float64; return them."""
    held = [(numbers, stack.to(torch.float64)) for numbers, stack in task.networks(split)]
    task._held[split] = held
    return held


def test_training_finds_more_neurons_again(zoo: Zoo, settings: Settings, tmp_path: Path):
    chosen = settings(
        task="match", task_options={"noise": 0.3}, epochs=12, learning_rate=0.01, batch_size=12
    )
    report = train_run(chosen, tmp_path, progress=False)
    assert (report.task, report.score) == ("match", "matched")
    task = build_task(chosen, zoo)
    fresh = build_model(chosen, task)
    task.fit_statistics(fresh)
    before = task.evaluate(fresh, "test")
    assert report.test["loss"] < 0.8 * before["loss"]
    assert report.test["matched"] > before["matched"]
    # The copies follow from the seed, and the model of the run is the one that was judged.
    model, _ = load_run(tmp_path)
    assert task.evaluate(model, "test") == report.test
    assert not model.training


def test_neurons_without_noise_are_found_however_they_are_relabelled(
    mixed: Zoo, settings: Settings
):
    chosen = settings(zoo=str(mixed.path), task="match", task_options={"noise": 0.0})
    task = build_task(chosen, mixed)
    batch = in_double(task, "train")
    assert len(batch) == 2
    model = build_model(chosen, task).double().eval()
    task.fit_statistics(model)
    assert task.evaluate(model, "train")["matched"] == 1

    # All architectures in one call: the mean over networks of what each alone gives.
    calls: list[Any] = []
    model.register_forward_hook(lambda *args: calls.append(args))
    found = task.loss(model, batch)
    assert len(calls) == 1
    expected = []
    for _, stack in batch:
        for network in range(len(stack)):
            x = model(task.prepare(stack[network : network + 1], model))
            nodes = torch.arange(x.shape[1])[None]
            expected.append(matching_loss(stack.architecture, x, x, nodes))
    torch.testing.assert_close(found, torch.stack(expected).mean(), rtol=1e-10, atol=1e-12)


def test_signs_and_phases_are_brought_to_one_form_first(zoo: Zoo, settings: Settings):
    chosen = settings(task="match")
    task = build_task(chosen, zoo)
    ((_, stack),) = in_double(task, "val")
    model = build_model(chosen, task).double()
    a = stack[0]
    planted = Symmetry(a.architecture).sample(1)
    signs = sample_moves(
        a.architecture, a.parameters(), symmetries=["phase"],
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    b = planted.act_on_graph(a.with_parameters(signs))
    found = match_embeddings(model, a, b, canonicalise=True)
    assert found.relabelling == planted.invert()
    assert match_embeddings(model, a, b).relabelling != planted.invert()


class Straight:
    """A zoo of affine maps."""

    path, architectures = "straight", [Architecture.mlp([2, 3, 1]), Architecture.mlp([2, 1])]


def test_what_cannot_be_matched_is_refused(zoo: Zoo, settings: Settings):
    with pytest.raises(ValueError, match=r"'flat', which gives neurons no states.*message-passing"):
        build_model(settings("flat", task="match"), zoo)
    with pytest.raises(ValueError, match="cannot be built with the options"):
        build_model(settings(task="match", options={"colour": 1}), zoo)
    with pytest.raises(ValueError, match="temperature is 0"):
        build_task(settings(task="match", task_options={"temperature": 0}), zoo)
    with pytest.raises(DataFileError, match="without neurons that may be relabelled"):
        build_task(settings(task="match"), Straight())  # type: ignore[arg-type]
