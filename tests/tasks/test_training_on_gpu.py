"""Training on a GPU: it learns what it learns on the CPU, in every precision, and resumes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nngraph.tasks import TASKS, TrainSettings, build_task, load_run, train
from nngraph.zoo import Zoo

Settings = Callable[..., TrainSettings]


def losses(out: Path) -> list[float]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["train_loss"] for line in lines]


@pytest.mark.parametrize("model", ["message-passing", "symmetric", "probe", "flat"])
def test_it_learns_what_it_learns_on_the_cpu(
    model: str, settings: Settings, tmp_path: Path, gpu: str
):
    """Without chance, whose numbers are the device's own."""
    for device in ("cpu", gpu):
        chosen = settings(
            model, device=device, motion=False, options={"dropout": 0.0}, precision="float32"
        )
        train(chosen, tmp_path / device, progress=False)
    assert losses(tmp_path / gpu) == pytest.approx(losses(tmp_path / "cpu"), rel=1e-3)


@pytest.mark.parametrize("precision", ["auto", "float32", "bf16", "fp16"])
def test_learning_happens_in_every_precision(
    precision: str, settings: Settings, tmp_path: Path, zoo: Zoo, gpu: str
):
    chosen = settings(
        device=gpu, precision=precision, epochs=30, learning_rate=0.01, motion=False, ema=0.9,
        options={"dropout": 0.0},
    )  # fmt: skip
    found = train(chosen, tmp_path, progress=False)
    history = losses(tmp_path)
    assert history[-1] < 0.7 * history[0]
    # What is kept is read on the CPU, in float32 there.
    kept, _ = load_run(tmp_path)
    assert {p.device.type for p in kept.parameters()} == {"cpu"}
    again = build_task(replace(chosen, device="cpu", precision="auto"), zoo).evaluate(kept, "val")
    assert again["loss"] == pytest.approx(found.val["loss"], rel=0.1)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_trained_and_judged(
    task: str, settings: Settings, tmp_path: Path, gpu: str
):
    options = {"predict": {"fact": "psnr"}, "edit": {"added": 8, "copies": 2, "pixels": 12}}
    chosen = settings(device=gpu, task=task, task_options=options.get(task, {}), mirror=True)
    found = train(chosen, tmp_path, progress=False)
    assert found.steps == 12
    assert all(map(math.isfinite, [*losses(tmp_path), *found.val.values()]))
