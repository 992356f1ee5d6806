"""Populations of classifiers, held against torch modules that are trained one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from converters import to_graph
from nngraph.errors import ArchitectureError, DataFileError, InvalidGraphError
from nngraph.graph import Symmetry
from nngraph.graph.neural_graph import NeuralGraph
from nngraph.settings import OPTIMISERS, WEIGHT_INITS
from nngraph.zoo import (
    RECIPES,
    ClassifierSpec,
    ImageSource,
    LabelledImages,
    Recipe,
    Zoo,
    classifier_of,
    find_problems,
    load_digits_images,
    train_zoo,
)
from nngraph.zoo.classifiers.batched import BatchedClassifiers, BatchedOptimiser
from nngraph.zoo.classifiers.recipes import draw_runs, draw_specs
from nngraph.zoo.classifiers.training import _Chunk, kept_steps

SHAPE = (8, 7, 2)
SPECS = {
    "mlp": ClassifierSpec(SHAPE, 3, (6, 5)),
    "mlp with all": ClassifierSpec(SHAPE, 3, (6, 6, 4), (), "tanh", True, True),
    "cnn": ClassifierSpec(SHAPE, 3, (4, 5), (3, 1), "gelu"),
    "cnn with all": ClassifierSpec(SHAPE, 3, (4, 4, 4, 6), (3, 5, 3, 1), "silu", True, True),
    "one layer": ClassifierSpec(SHAPE, 2, (1,), (5,), "sigmoid", True),
}
spec_of_test = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def batched(spec: ClassifierSpec, count: int = 3, seed: int = 0) -> BatchedClassifiers:
    generator = torch.Generator().manual_seed(seed)
    networks = BatchedClassifiers(
        spec, torch.arange(count) % len(WEIGHT_INITS), torch.linspace(0.8, 1.2, count), generator
    )
    networks.flat = networks.flat.double()
    networks.flat += 0.1 * torch.randn(networks.flat.shape, generator=generator).double()
    networks.running = networks.running.double()
    networks.running += torch.rand(networks.running.shape, generator=generator).double()
    return networks


def module_of(networks: BatchedClassifiers, number: int) -> nn.Module:
    module = networks.spec.module().double()
    module.load_state_dict({k: v[number] for k, v in networks.parameters().items()})
    return module


def pictures(count: int, n: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, n, 2, 8, 7, generator=generator, dtype=torch.float64)


# -- the networks --------------------------------------------------------------------------------


@spec_of_test
def test_networks_at_once_are_the_modules_one_by_one(spec: ClassifierSpec):
    networks, images = batched(spec), pictures(3, 6)
    found = networks.forward(images)
    for n in range(3):
        expected = module_of(networks, n).eval()(images[n])
        torch.testing.assert_close(found[n], expected, rtol=1e-9, atol=1e-11)
    shared = networks.forward(images[0])
    torch.testing.assert_close(shared[1], module_of(networks, 1).eval()(images[0]))


@spec_of_test
def test_training_steps_are_torchs_own(spec: ClassifierSpec):
    """Gradients, the statistics of norms, and every optimiser, over some steps, in float64."""
    networks = batched(spec)
    kinds = torch.arange(3)
    rates = torch.tensor([0.1, 0.01, 0.02], dtype=torch.float64)
    decays = torch.tensor([0.0, 0.1, 0.3], dtype=torch.float64)
    optimiser = BatchedOptimiser(kinds, rates, decays, networks.flat.shape[1])
    modules = [module_of(networks, n).train() for n in range(3)]
    makers: list[Any] = [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
        lambda p: torch.optim.RMSprop(p, lr=0.02, weight_decay=0.3),
    ]
    theirs = [make(m.parameters()) for make, m in zip(makers, modules, strict=True)]
    labels = torch.arange(18).view(3, 6) % spec.classes
    for step in range(4):
        images = pictures(3, 6, step)
        flat = networks.flat.detach().requires_grad_()
        logits = networks.forward(images, flat, training=True)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / 6
        (grad,) = torch.autograd.grad(loss, flat)
        networks.flat = flat.detach() - optimiser.change(flat.detach(), grad)
        networks.steps += 1
        for n, (module, their) in enumerate(zip(modules, theirs, strict=True)):
            their.zero_grad()
            F.cross_entropy(module(images[n]), labels[n]).backward()
            their.step()
    found = networks.parameters()
    for n, module in enumerate(modules):
        for name, value in module.state_dict().items():
            torch.testing.assert_close(found[name][n], value, rtol=1e-7, atol=1e-9)


@spec_of_test
def test_the_graph_says_what_may_be_relabelled(spec: ClassifierSpec):
    """A relabelling by the architecture leaves the function of the module."""
    networks, images = batched(spec), pictures(1, 5)[0]
    architecture = spec.architecture()
    values = {k: v[1] for k, v in networks.parameters().items()}
    assert {p.name: p.shape for p in architecture.parameters} == {
        k: tuple(v.shape) for k, v in spec.module().state_dict().items()
    }
    assert [p.name for p in architecture.parameters] == list(spec.module().state_dict())
    graph = NeuralGraph.from_parameters(architecture, values)
    symmetry = Symmetry(architecture)
    # The converter derives the symmetry from the running module, and knows nothing of ours.
    derived = to_graph(spec.module().eval(), torch.randn(2, 2, 8, 7)).architecture
    mine, theirs = (
        sorted(size for size in found.spaces.values() if size > 1)
        for found in (symmetry, Symmetry(derived))
    )
    assert mine == theirs
    for seed in range(3):
        moved = symmetry.sample(seed).act_on_graph(graph)
        module = spec.module().double()
        module.load_state_dict(moved.parameters())
        expected = module_of(networks, 1).eval()(images)
        torch.testing.assert_close(module.eval()(images), expected, rtol=1e-9, atol=1e-11)
        if any(size > 1 for size in symmetry.spaces.values()):
            assert not torch.equal(moved.edge_attr, graph.edge_attr) or seed


def test_layers_are_those_of_the_description():
    spec = ClassifierSpec((28, 28, 1), 10, (8, 8, 16, 16), (3, 3, 3, 3), residual=True)
    assert [(layer.stride, layer.residual) for layer in spec.layers] == [
        (2, False), (1, True), (2, False), (1, True),
    ]  # fmt: skip
    plain = ClassifierSpec((28, 28, 1), 10, (16, 16, 16), (3, 3, 3))
    assert [layer.stride for layer in plain.layers] == [2, 2, 2]
    assert ClassifierSpec.from_dict(spec.to_dict()) == spec
    for wrong in (
        {"widths": ()}, {"kernels": (2, 2)}, {"kernels": (3,)}, {"classes": 0},
        {"activation": "none"}, {"widths": (1.5, 2)}, {"image_shape": (8, 8)},
    ):  # fmt: skip
        with pytest.raises(ArchitectureError):
            ClassifierSpec(**{"image_shape": SHAPE, "classes": 3, "widths": (4, 4), **wrong})
    with pytest.raises(ArchitectureError, match="describes no classifier"):
        ClassifierSpec.from_dict({"colour": 3})


# -- training ------------------------------------------------------------------------------------


def digits() -> tuple[ImageSource, ImageSource]:
    return load_digits_images().divide()


def hyper(count: int, **changes: Any) -> dict[str, torch.Tensor]:
    drawn = draw_runs(RECIPES["small-cnn"], count, 0)
    found = {name: torch.from_numpy(value) for name, value in drawn.items()}
    found.update(changes)
    return found


def chunk(spec: ClassifierSpec, runs: dict[str, torch.Tensor]) -> _Chunk:
    train, test = LabelledImages.pair(*digits(), 100)
    return _Chunk(spec, runs, train, test, torch.Generator().manual_seed(3), 100)


def test_networks_that_are_trained_together_do_not_touch_one_another():
    spec = ClassifierSpec((8, 8, 1), 10, (6, 6), (3, 3), norm=True)
    one = chunk(spec, hyper(4)).train([0, 12], 16)
    runs = hyper(4)
    runs["learning_rate"][2] = 1e9
    other = chunk(spec, runs).train([0, 12], 16)
    for name, value in one.parameters.items():
        for n in (0, 1, 3):
            torch.testing.assert_close(other.parameters[name][n], value[n], rtol=1e-4, atol=1e-6)
    assert other.diverged.tolist() == [[False, n == 2] for n in range(4)]
    assert not one.diverged.any()


def test_a_network_that_diverges_keeps_its_last_sound_weights():
    spec = ClassifierSpec((8, 8, 1), 10, (6,), (3,), norm=True)
    runs = hyper(3, learning_rate=torch.tensor([1e30, 1e-3, 1e5], dtype=torch.float64))
    result = chunk(spec, runs).train([0, 1, 9], 16)
    for name, value in result.parameters.items():
        assert torch.isfinite(value.double()).all(), name
    assert result.diverged[0].tolist() == [False, True, True]
    assert not result.diverged[1].any()


def test_a_network_sees_its_own_share_of_the_images():
    spec = ClassifierSpec((8, 8, 1), 10, (4,), ())
    train, test = LabelledImages.pair(*digits(), 100)
    runs = hyper(2, fraction=torch.tensor([0.01, 1.0], dtype=torch.float64))
    made = _Chunk(spec, runs, train, test, torch.Generator().manual_seed(0), 50)
    assert made.sizes.tolist() == [14, 1438]
    seen: list[torch.Tensor] = []
    real = made.networks.forward

    def look(images: torch.Tensor, *args: Any) -> torch.Tensor:
        seen.append(images)
        return real(images, *args)

    made.networks.forward = look  # type: ignore[method-assign]
    for _ in range(20):
        made.step(16)
    images = torch.cat(seen, dim=1).flatten(2)
    assert len(torch.unique(images[0], dim=0)) == 14
    assert len(torch.unique(images[1], dim=0)) > 200
    allowed = train.images[made.subset[0, :14]].flatten(1)
    both = torch.unique(torch.cat([images[0], allowed]), dim=0)
    assert len(both) == len(torch.unique(allowed, dim=0))


def test_images_are_standardised_by_the_training_images():
    train, test = LabelledImages.pair(*digits(), 50)
    assert abs(float(train.images.mean())) < 1e-5
    assert float(train.images.std()) == pytest.approx(1, abs=1e-5)
    assert test.images.shape == (50, 1, 8, 8)
    source = digits()[0]
    raw = source.targets()
    torch.testing.assert_close(
        train.images[7, 0], ((raw[7] - raw.mean()) / raw.std())[..., 0], rtol=1e-5, atol=1e-5
    )
    wrong = ImageSource("wide", torch.zeros(2, 9, 9, 1), torch.arange(2), source.class_names)
    with pytest.raises(InvalidGraphError, match="test images"):
        LabelledImages.pair(source, wrong, 10)


@pytest.mark.parametrize(("steps", "count"), [(1, 1), (1, 2), (4, 5), (9, 4), (400, 5), (10, 11)])
def test_checkpoints_are_different_and_end_with_the_run(steps: int, count: int):
    kept = kept_steps(steps, count)
    assert len(kept) == len(set(kept)) == count
    assert kept == sorted(kept)
    assert kept[-1] == steps
    assert count == 1 or kept[0] == 0


# -- the zoo -------------------------------------------------------------------------------------


SMALL: dict[str, Any] = {
    "count": 20, "steps": (4, 9), "checkpoints": 3, "shard_runs": 9, "max_test": 150,
    "progress": False, "threads": 2,
}  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


@pytest.mark.parametrize("recipe", [n for n, r in RECIPES.items() if isinstance(r, Recipe)])
def test_what_is_recorded_is_what_the_stored_network_does(tmp_path: Path, recipe: str):
    zoo = train_zoo(tmp_path / "zoo", *digits(), recipe=recipe, **SMALL)
    assert len(zoo) == 60
    assert find_problems(zoo.path) == []
    _, test = LabelledImages.pair(*digits(), 150)
    for number in (0, 17, 38, 59):
        with torch.no_grad():
            logits = classifier_of(zoo, number)(test.images)
        accuracy = float((logits.argmax(-1) == test.labels).float().mean())
        assert float(zoo.fact("test_accuracy")[number]) == pytest.approx(accuracy, abs=0.008)
        loss = float(F.cross_entropy(logits, test.labels))
        assert float(zoo.fact("test_loss")[number]) == pytest.approx(loss, rel=1e-3)
    assert zoo.manifest.target == "test_accuracy"
    assert torch.equal(zoo.target, zoo.fact("test_accuracy"))
    runs, split = zoo.fact("run"), zoo.split
    assert torch.bincount(runs).tolist() == [3] * 20
    for run in range(20):
        assert len(torch.unique(split[runs == run])) == 1
        assert zoo.fact("step")[runs == run].tolist()[0] == 0
        assert 4 <= int(zoo.fact("step")[runs == run].max()) <= 9
    assert [int((split == i).sum()) for i in range(3)] == [48, 6, 6]


def test_training_learns(tmp_path: Path):
    recipe = Recipe(
        "learns", (2, 2), (16,), (3,), optimisers=("adam",), adaptive_rate=(5e-3, 1e-2),
        fractions=(1.0,), init_scale=(1.0, 1.0), dropout=(0.0, 0.1), steps=(250, 251),
        checkpoints=2,
    )  # fmt: skip
    zoo = train_zoo(tmp_path / "zoo", *digits(), recipe=recipe, count=4, progress=False)
    accuracy = zoo.fact("test_accuracy").view(4, 2)
    assert float(accuracy[:, 0].max()) < 0.4
    assert float(accuracy[:, 1].min()) > 0.8
    assert float((zoo.fact("train_accuracy").view(4, 2)[:, 1]).min()) > 0.8


def test_the_same_call_makes_the_same_bits_and_goes_on(tmp_path: Path):
    first = train_zoo(tmp_path / "first", *digits(), **SMALL)
    whole = contents(first.path)
    assert (
        contents(train_zoo(tmp_path / "second", *digits(), **{**SMALL, "threads": 1}).path) == whole
    )
    (first.path / "shard-00001.safetensors").unlink()
    assert contents(train_zoo(tmp_path / "first", *digits(), **SMALL).path) == whole
    with pytest.raises(DataFileError, match="made with other settings: seed is 0 there and 1"):
        train_zoo(tmp_path / "first", *digits(), **SMALL, seed=1)
    assert contents(first.path) == whole


def test_two_populations_are_merged_with_their_runs_apart(tmp_path: Path):
    from nngraph.zoo import merge_zoos

    one = train_zoo(tmp_path / "one", *digits(), **SMALL)
    two = train_zoo(tmp_path / "two", *digits(), **SMALL, seed=1)
    both = merge_zoos(tmp_path / "both", [one, two])
    assert len(torch.unique(both.group_keys())) == 40
    assert len(both.architectures) == 1
    assert find_problems(both.path) == []
    assert isinstance(classifier_of(both, 100), nn.Module)


def test_recipes_vary_what_they_say():
    runs = draw_runs(RECIPES["small-cnn"], 3000, 0)
    plain = runs["optimiser"] == OPTIMISERS.index("sgd")
    assert 0.28 < plain.mean() < 0.39
    assert 3e-3 <= runs["learning_rate"][plain].min() < 3.1e-3
    assert 0.27 < runs["learning_rate"][plain].max() <= 0.3
    assert runs["learning_rate"][~plain].max() <= 2e-2
    assert set(runs["fraction"]) == {0.1, 0.25, 0.5, 1.0}
    assert set(runs["init"]) == set(range(len(WEIGHT_INITS)))
    for name, value in runs.items():
        assert np.array_equal(value, draw_runs(RECIPES["small-cnn"], 3000, 0)[name])
        assert not np.array_equal(value, draw_runs(RECIPES["small-cnn"], 3000, 1)[name])
    specs = draw_specs(RECIPES["wild"], 800, (28, 28, 1), 10, 0)
    assert len(set(specs)) == 100
    assert {spec.convolutional for spec in specs} == {True, False}
    assert {spec.norm for spec in specs} == {spec.residual for spec in specs} == {True, False}
    assert len({spec.activation for spec in specs}) == 6
    assert {len(spec.widths) for spec in specs} == {1, 2, 3, 4, 5}
    (small,) = draw_specs(RECIPES["small-cnn"], 800, (28, 28, 1), 10, 0)
    # The network of Unterthiner et al.
    assert sum(p.numel() for p in small.module().parameters()) == 4970


def test_wrong_arguments_leave_no_folder(tmp_path: Path):
    for wrong, match in (
        ({"recipe": "tame"}, "recipe is 'tame'; expected one of small-cnn"),
        ({"count": 0}, "count is 0"),
        ({"steps": (5, 3)}, "steps range from 5 to 3"),
        ({"steps": (2, 3), "checkpoints": 9}, "no more checkpoints"),
        ({"splits": (1, 1, 1)}, "sum to 1"),
    ):
        with pytest.raises(InvalidGraphError, match=match):
            train_zoo(tmp_path / "zoo", *digits(), **{**SMALL, **wrong})
    assert not (tmp_path / "zoo").exists()
    with pytest.raises(InvalidGraphError, match="cannot be divided"):
        digits()[0].take(1).divide()


def test_a_zoo_of_images_has_no_classifiers(tmp_path: Path):
    from nngraph.zoo import fit_zoo

    zoo = fit_zoo(
        tmp_path / "zoo", load_digits_images(), count=3, steps=0, widths=[2, 3, 1], progress=False
    )
    with pytest.raises(ArchitectureError, match="does not say how networks"):
        classifier_of(zoo, 0)
    assert isinstance(zoo, Zoo)
