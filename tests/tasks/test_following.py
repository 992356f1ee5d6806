"""Averaged parameters, precision, pictures, and what is told when a package is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from nngraph.drawing import draw_curves
from nngraph.errors import ArchitectureError, DataFileError, MissingDependencyError
from nngraph.graph import Architecture
from nngraph.nn import MODELS, FlatNetwork
from nngraph.tasks import (
    TrainSettings,
    catalogue,
    compare_runs,
    describe_models,
    load_run,
    train,
)
from nngraph.tasks.optimiser import AveragedModel
from nngraph.zoo import Zoo

Settings = Callable[..., TrainSettings]


def test_the_average_is_that_of_the_formula():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).double()
    average = AveragedModel(model, 0.5)
    expected = [p.detach().clone() for p in model.parameters()]
    for step in range(1, 6):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        model(torch.randn(4, 2, dtype=torch.float64))  # moves a buffer
        average.update(model, step)
        share = 1 - min(0.5, (1 + step) / (10 + step))
        expected = [
            (1 - share) * e + share * p.detach()
            for e, p in zip(expected, model.parameters(), strict=True)
        ]
    for found, value in zip(average.model.parameters(), expected, strict=True):
        assert torch.allclose(found, value, rtol=1e-12)
        assert not found.requires_grad
    assert torch.equal(average.model[1].running_mean, model[1].running_mean)


def test_the_average_is_judged_and_kept(settings: Settings, tmp_path: Path):
    plain = settings("flat", options={"dropout": 0.0}, motion=False)
    averaged = settings("flat", options={"dropout": 0.0}, motion=False, ema=0.9)
    last = [train(s, tmp_path / str(s.ema), progress=False) for s in (plain, averaged)]
    assert last[0].val["loss"] != last[1].val["loss"]
    a, b = (load_run(tmp_path / str(s.ema))[0].state_dict() for s in (plain, averaged))
    assert a.keys() == b.keys()
    assert not torch.equal(a["readout.0.weight"], b["readout.0.weight"])


def test_an_average_of_decay_0_is_the_parameters(settings: Settings, tmp_path: Path):
    reports = [
        train(settings("flat", ema=ema), tmp_path / str(ema), progress=False) for ema in (None, 0.0)
    ]
    assert reports[0].test == reports[1].test


def test_lower_precision_learns_much_the_same(settings: Settings, tmp_path: Path):
    fixed = {"options": {"dropout": 0.0}, "motion": False, "epochs": 2}
    exact, low = (
        train(settings("flat", **fixed, precision=p), tmp_path / p, progress=False)
        for p in ("float32", "bf16")
    )
    assert exact.val["loss"] != low.val["loss"]
    assert exact.val["loss"] == pytest.approx(low.val["loss"], rel=0.05)
    auto = train(settings("flat", **fixed), tmp_path / "auto", progress=False)
    assert auto.val == exact.val  # on a CPU


def test_without_a_largest_norm_gradients_are_as_they_are(settings: Settings, tmp_path: Path):
    fixed = {"options": {"dropout": 0.0}, "motion": False, "epochs": 1}
    free, loose, tight = (
        train(settings("flat", **fixed, clip=clip), tmp_path / str(clip), progress=False)
        for clip in (None, 1e9, 1e-9)
    )
    assert free.val == loose.val != tight.val


def test_curves_and_tensorboard_are_written(settings: Settings, tmp_path: Path):
    pytest.importorskip("tensorboard")
    train(settings("flat"), tmp_path, progress=False, tensorboard=True, curves=True)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    (events,) = (tmp_path / "tensorboard").iterdir()
    data = events.read_bytes()
    assert b"val_accuracy" in data
    assert b"learning_rate" in data


@pytest.mark.parametrize(
    ("module", "asked", "words"),
    [
        ("lightning_fabric", {}, r"lightning-fabric.*nngraph\[train\]"),
        ("matplotlib.figure", {"curves": True}, r"matplotlib.*nngraph\[viz\]"),
        ("torch.utils.tensorboard", {"tensorboard": True}, r"tensorboard.*nngraph\[viz\]"),
    ],
)
def test_a_missing_package_is_told_before_anything_is_written(
    module: str, asked: dict[str, bool], words: str, settings: Settings, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=words):
        train(settings("flat"), tmp_path / "run", progress=False, **asked)
    assert not (tmp_path / "run").exists()


# -- models and runs side by side ---------------------------------------------------------------


def test_models_are_described_from_their_classes(zoo: Zoo):
    found = {row["model"]: row for row in describe_models(zoo.architecture, batch_size=2)}
    assert list(found) == list(MODELS)
    for name, row in found.items():
        model = MODELS[name](zoo.architecture, 10)
        assert row["parameters"] == sum(p.numel() for p in model.parameters())
        assert row["access"] == model.traits.access
        assert row["step_ms"] > 0
        assert row["about"] in " ".join((MODELS[name].__doc__ or "").split())
    assert found["flat"]["symmetry"] == "none"
    assert "any architecture" in found["message-passing"]["reads"]
    state = torch.get_rng_state()
    describe_models(zoo.architecture, batch_size=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_that_cannot_read_the_example_says_why(monkeypatch: pytest.MonkeyPatch):
    class Picky(FlatNetwork):
        """Reads nothing."""

        def __init__(self, architecture: Architecture, num_outputs: int) -> None:
            raise ArchitectureError("not this one")

    # Not by taking others out: put back, they would stand in another order.
    monkeypatch.setattr(catalogue, "MODELS", {"flat": FlatNetwork, "picky": Picky})
    flat, picky = describe_models(Architecture.mlp([2, 3, 1], "relu"), 2)
    assert flat["unfit"] is None
    assert (picky["parameters"], picky["unfit"]) == (None, "not this one")


@pytest.fixture(scope="module")
def runs(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs")
    for name, model, hidden, seed in (
        ("a", "flat", 8, 0), ("b", "flat", 8, 1), ("c", "flat", 9, 0), ("d", "probe", 8, 0),
    ):  # fmt: skip
        chosen = TrainSettings(
            str(zoo.path), model, {"hidden": hidden}, epochs=2, batch_size=12, seed=seed
        )
        train(chosen, path / name, progress=False)
    return path


def test_runs_that_differ_in_their_seed_are_one_row(runs: Path, tmp_path: Path):
    generic, probes = compare_runs([runs])
    assert (generic.access, probes.access) == ("generic weights-only", "with probes")
    rows = {row.label: row for row in generic.rows}
    assert set(rows) == {"flat, hidden=8", "flat, hidden=9"}
    assert [row.label for row in probes.rows] == ["probe"]
    both = rows["flat, hidden=8"]
    values = [run.report.test["accuracy"] for run in both.runs]
    mean = sum(values) / 2
    assert [run.settings.seed for run in both.runs] == [0, 1]
    assert both.spread("test", "accuracy") == (
        pytest.approx(mean), pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    )  # fmt: skip
    assert rows["flat, hidden=9"].spread("test", "accuracy")[1] is None
    scores = [row.spread("val", "accuracy")[0] for row in generic.rows]
    assert scores == sorted(scores, reverse=True)
    drawn = draw_curves(tmp_path / "curves.png", [generic.panel, probes.panel])
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_other_tasks_and_networks_have_tables_of_their_own(
    runs: Path, make_zoo: Callable[..., Zoo], tmp_path: Path
):
    other = make_zoo(seed=5, steps=1)
    for task, zoo in (("classify", other), ("predict", other)):
        chosen = TrainSettings(str(zoo.path), "flat", {"hidden": 8}, task, epochs=1)
        train(chosen, tmp_path / task, progress=False)
    tables = compare_runs([runs, tmp_path])
    assert len(tables) == 4
    assert sorted(len(table.rows) for table in tables) == [1, 1, 1, 2]


def test_what_cannot_be_compared_is_refused(runs: Path, tmp_path: Path):
    import shutil

    with pytest.raises(DataFileError, match="cannot be read"):
        compare_runs([tmp_path])
    with pytest.raises(DataFileError, match="given twice"):
        compare_runs([runs, runs / "a"])
    copied = tmp_path / "again"
    shutil.copytree(runs / "a", copied)
    with pytest.raises(DataFileError, match="one seed and equal settings"):
        compare_runs([runs / "a", copied])
    (copied / "report.json").unlink()
    with pytest.raises(DataFileError, match="not finished"):
        compare_runs([copied])
