"""What else is fitted: ReLU networks on Fourier features, moved views, targets, drawn shapes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nngraph.errors import ArchitectureError, InvalidGraphError
from nngraph.graph import Activation, Architecture
from nngraph.zoo import (
    Augmentation,
    FitSettings,
    ImageSource,
    Zoo,
    draw_architectures,
    find_problems,
    fit_images,
    fit_zoo,
    fourier_architecture,
    pixel_coordinates,
    render,
    siren_architecture,
)
from nngraph.zoo.fitting.chunk import Chunk
from nngraph.zoo.fitting.inits import (
    fitted_layers,
    fourier_features,
    initial_parameters,
    layer_inputs,
)

MakeZoo = Callable[..., Zoo]


def images(n: int, height: int, width: int, channels: int) -> torch.Tensor:
    return torch.rand(n, height, width, channels, generator=torch.Generator().manual_seed(1))


# -- ReLU networks on Fourier features -------------------------------------------------------------


def test_fourier_features_are_sines_and_cosines_of_the_same_phases():
    architecture = fourier_architecture([2, 6, 1], 5)
    assert architecture.widths == (2, 10, 6, 1)
    fixed = fourier_features(architecture, 3.0, 0)
    points = pixel_coordinates(4, 5)
    found = layer_inputs(architecture, points, fixed)
    phases = fixed["0.weight"][:5] @ points.t()
    expected = torch.cat([phases.sin(), phases.cos()])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    many = fourier_features(fourier_architecture([2, 3, 1], 4000), 3.0, 0)["0.weight"]
    assert float(many.std()) == pytest.approx(3 * math.pi, rel=0.05)


@pytest.mark.parametrize(
    ("architecture", "features"),
    [
        pytest.param(fourier_architecture([2, 6, 5, 3], 4), True, id="Fourier features"),
        pytest.param(Architecture.mlp([2, 7, 6, 1], "relu"), False, id="ReLU"),
        pytest.param(
            Architecture.mlp([2, 6, 5, 1], [Activation("sine", w0=9), "relu"]), False, id="both"
        ),
    ],
)
def test_the_written_gradient_is_autograds(architecture: Architecture, features: bool):
    fixed = fourier_features(architecture, 2.0, 0) if features else None
    drawn = initial_parameters(architecture, 3, torch.Generator().manual_seed(0), fixed)
    parameters = {name: value.double() for name, value in drawn.items()}
    channels = architecture.widths[-1]
    targets = images(3, 4, 5, channels).double().reshape(3, 20, -1).transpose(1, 2)
    inputs = layer_inputs(architecture, pixel_coordinates(4, 5).double(), fixed)
    layers = fitted_layers(architecture, fixed)
    chunk = Chunk(layers, parameters, inputs, targets.contiguous())
    leaves = [layer.clone().requires_grad_() for layer in chunk.layers]
    value = chunk.inputs.expand(3, -1, -1)
    for i, layer in enumerate(leaves):
        if i:
            value = value.sin() if layers[i - 1].activation == "sine" else value.relu()
            value = torch.cat([value, torch.ones_like(value[:, :1])], dim=1)
        value = layer @ value
    loss = ((value - targets) ** 2).mean(dim=(1, 2)).sum()
    expected = torch.autograd.grad(loss, leaves)
    delta = chunk.forward(chunk.inputs).sub_(targets).mul_(2 / targets[0].numel())
    chunk.backward(chunk.inputs, delta)
    for found, wanted in zip(chunk.grads, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_a_zoo_on_fourier_features_represents_its_images(make_zoo: MakeZoo):
    source = ImageSource("colour", images(6, 6, 6, 3), torch.arange(6) % 2, ("a", "b"))
    zoo = make_zoo(source=source, widths=[2, 24, 3], features=12, views=1, steps=200, lr=0.01)
    assert str(zoo.architecture) == "2-24-24-3 sine(w0=1), relu"
    assert float(zoo.psnr.min()) > 25
    error = (render(zoo.stack(), 6, 6) - source.images).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(-10 * torch.log10(error), zoo.psnr, rtol=0, atol=1e-2)
    features = zoo.stack().parameters()["0.weight"]
    assert len(torch.unique(features, dim=0)) == 1
    torch.testing.assert_close(features[0], fourier_features(zoo.architecture, 2.0, 0)["0.weight"])


def test_fixed_parameters_are_those_of_the_first_layer():
    architecture = fourier_architecture([2, 4, 1], 3)
    fixed = fourier_features(architecture, 2.0, 0)
    with pytest.raises(InvalidGraphError, match="expected those of the first"):
        fitted_layers(architecture, {"1.weight": fixed["0.weight"]})
    with pytest.raises(ArchitectureError, match="at least one ReLU layer"):
        fourier_architecture([2, 1], 3)


# -- targets, starts, views ------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [3, 4, 50])
def test_a_network_is_done_when_it_has_reached_its_target(chunk: int):
    architecture, targets = siren_architecture([2, 24, 24, 1], 10.0), images(9, 6, 7, 1)
    targets[4:] *= 0.1  # easier
    settings = FitSettings(steps=400, lr=2e-3, pixels=0, chunk=chunk, psnr=30.0, check=10)
    result = fit_images(architecture, targets, settings)
    assert float(result.psnr.min()) >= 30
    assert float(result.psnr.max()) < 45
    assert set((result.steps % 10).tolist()) == {0}
    assert int(result.steps[:4].min()) > int(result.steps[4:].max())
    error = (render(result.parameters, 6, 7, architecture) - targets).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(result.psnr, -10 * torch.log10(error), rtol=0, atol=1e-3)
    never = fit_images(architecture, targets, FitSettings(steps=20, pixels=0, psnr=90.0))
    assert never.steps.tolist() == [20] * 9


def test_a_target_that_is_not_reached_changes_nothing():
    architecture, targets = siren_architecture([2, 8, 1], 10.0), images(5, 6, 7, 1)
    one = fit_images(architecture, targets, FitSettings(steps=60, pixels=0))
    other = fit_images(architecture, targets, FitSettings(steps=60, pixels=0, psnr=80.0))
    for name, value in one.parameters.items():
        assert torch.equal(value, other.parameters[name])


def test_shared_first_weights_are_the_same_for_all_networks(make_zoo: MakeZoo):
    shared = make_zoo("shared", init="shared", steps=0).stack().parameters()
    for value in shared.values():
        assert len(torch.unique(value, dim=0)) == 1
    again = make_zoo("longer", init="shared", steps=0, shard_size=20).stack().parameters()
    assert torch.equal(again["0.weight"], shared["0.weight"])
    own = make_zoo("own", steps=0).stack().parameters()
    assert len(torch.unique(own["0.weight"], dim=0)) == 20
    other = make_zoo("other", init="shared", steps=0, seed=1).stack().parameters()
    assert not torch.equal(other["0.weight"][0], shared["0.weight"][0])


def test_views_after_the_first_are_moved(make_zoo: MakeZoo):
    augmentation = Augmentation(20, 0.2, 0.1)
    ramp = torch.linspace(0, 1, 16).view(1, 1, 16, 1).expand(10, 16, 16, 1).contiguous()
    image, view = torch.arange(10).repeat(3), torch.arange(3).repeat_interleave(10)
    moved = augmentation.apply(ramp.repeat(3, 1, 1, 1), image, view, seed=3)
    assert torch.equal(moved[:10], ramp)
    assert float((moved[10:20] - ramp).abs().mean()) > 0.02
    assert float((moved[10:20] - moved[20:]).abs().mean()) > 0.02
    # The image at R x + t, in the middle where no border is near.
    motions = augmentation.motions(image, view, 3)[10:]
    x = pixel_coordinates(16, 16).view(16, 16, 2)[5:11, 5:11]
    there = (motions[:, None, None, :, :2] @ x.unsqueeze(-1)).squeeze(-1) + motions[
        :, None, None, :, 2
    ]
    expected = ((there[..., 0] + 1) * 8 - 0.5) / 15
    torch.testing.assert_close(moved[10:, 5:11, 5:11, 0], expected, rtol=0, atol=1e-4)
    # A view does not depend on what else is asked for.
    alone = augmentation.apply(ramp[:1], torch.tensor([7]), torch.tensor([2]), seed=3)
    assert torch.equal(alone[0], moved[27])
    still = Augmentation(0, 0, 0).apply(ramp, image[10:20], view[10:20], 0)
    torch.testing.assert_close(still, ramp, rtol=0, atol=1e-5)
    zoo = make_zoo(augment=(20, 0.2, 0.1), steps=0)
    assert zoo.manifest.recipe["augmentation"] == {"rotation": 20, "shift": 0.2, "scale": 0.1}
    with pytest.raises(ValueError, match="shift is -1"):
        Augmentation(shift=-1)


# -- architectures drawn at random -----------------------------------------------------------------


def test_drawn_architectures_are_different_and_in_the_range():
    drawn = draw_architectures(20, 3, depth=(1, 3), width=(8, 24), w0=(10, 30), seed=1)
    assert len(set(drawn)) == 20
    assert drawn == draw_architectures(20, 3, depth=(1, 3), width=(8, 24), w0=(10, 30), seed=1)
    hidden = [size for a in drawn for size in a.widths[1:-1]]
    assert (min(hidden), max(hidden)) == (8, 24)
    assert {len(a.widths) - 2 for a in drawn} == {1, 2, 3}
    assert len({a.groups[1].activation["w0"] for a in drawn}) > 5
    assert len(draw_architectures(20, 1, depth=(1, 1), width=(8, 12))) == 2
    relu = draw_architectures(3, 1, features=6)
    assert all(a.widths[1] == 12 and a.groups[2].activation.name == "relu" for a in relu)
    with pytest.raises(InvalidGraphError, match="depth ranges from 3 to 1"):
        draw_architectures(2, 1, depth=(3, 1))


def test_a_mixed_zoo_gives_each_network_one_of_them(tmp_path: Path):
    source = ImageSource("noise", images(40, 6, 6, 1), torch.arange(40) % 3, ("a", "b", "c"))
    settings: dict[str, Any] = {
        "architecture": draw_architectures(5, 1, width=(4, 12), w0=10.0), "views": 3, "steps": 3,
        "shard_size": 16, "progress": False,
    }  # fmt: skip
    zoo = fit_zoo(tmp_path / "zoo", source, **settings)
    assert len(zoo) == 120
    assert find_problems(zoo.path) == []
    counts = torch.bincount(zoo.architecture_index)
    assert len(counts) == 5
    assert int(counts.min()) > 8
    jobs = zoo.view * 40 + zoo.image
    assert torch.equal(jobs.sort()[0], torch.arange(120))
    # Which architecture a network has says nothing about its image.
    assert len(torch.unique(zoo.architecture_index[zoo.image == 3])) > 1
    for numbers, stack in zoo.stacks():
        found = render(stack, 6, 6)
        error = (found - source.targets(zoo.image[numbers])).square().mean(dim=(1, 2, 3))
        torch.testing.assert_close(-10 * torch.log10(error), zoo.psnr[numbers], rtol=0, atol=1e-2)
    (zoo.path / zoo.shards[3].file).unlink()
    again = fit_zoo(tmp_path / "zoo", source, **settings)
    assert torch.equal(again.psnr, zoo.psnr)
