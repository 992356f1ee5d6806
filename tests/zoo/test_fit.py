from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from nngraph.errors import ArchitectureError, InvalidGraphError, NonFiniteError
from nngraph.graph import Activation, Architecture
from nngraph.zoo import FitSettings, fit_images, pixel_coordinates, render, siren_architecture
from nngraph.zoo.fitting.chunk import BETAS, Chunk
from nngraph.zoo.fitting.fit import _pixel_order
from nngraph.zoo.fitting.inits import fitted_layers, initial_parameters

SPECS = [
    pytest.param([2, 5, 1], 30.0, id="one hidden layer"),
    pytest.param([2, 6, 4, 1], 30.0, id="two"),
    pytest.param([2, 3, 5, 4, 3], 10.0, id="three, colour"),
    pytest.param([2, 1, 1, 1], 20.0, id="width one"),
]


def images(n: int, height: int, width: int, channels: int) -> torch.Tensor:
    return torch.rand(n, height, width, channels, generator=torch.Generator().manual_seed(1))


def test_pixels_are_at_their_centres_x_first_row_by_row():
    expected = [[-2 / 3, -0.5], [0, -0.5], [2 / 3, -0.5], [-2 / 3, 0.5], [0, 0.5], [2 / 3, 0.5]]
    torch.testing.assert_close(pixel_coordinates(2, 3), torch.tensor(expected))


def test_first_weights_fill_the_bounds_of_the_paper():
    parameters = initial_parameters(
        siren_architecture([2, 32, 32, 1], 30.0), 200, torch.Generator().manual_seed(0)
    )
    bounds = {
        "0.weight": 1 / 2,
        "1.weight": math.sqrt(6 / 32) / 30,
        "2.weight": math.sqrt(6 / 32) / 30,
        "0.bias": 1 / math.sqrt(2),
        "1.bias": 1 / math.sqrt(32),
        "2.bias": 1 / math.sqrt(32),
    }
    assert set(parameters) == set(bounds)
    for name, bound in bounds.items():
        value = parameters[name]
        assert value.abs().max() <= bound * (1 + 1e-6)
        assert value.max() > 0.97 * bound
        assert value.min() < -0.97 * bound
        assert len(value.reshape(200, -1).unique(dim=0)) == 200


@pytest.mark.parametrize(("widths", "w0"), SPECS)
def test_the_written_gradient_is_autograds(widths: list[int], w0: float):
    architecture = siren_architecture(widths, w0)
    drawn = initial_parameters(architecture, 3, torch.Generator().manual_seed(0))
    parameters = {name: value.double() for name, value in drawn.items()}
    targets = images(3, 4, 5, widths[-1]).double().reshape(3, 20, -1).transpose(1, 2)
    points = pixel_coordinates(4, 5).double()
    chunk = Chunk(fitted_layers(architecture), parameters, points.t(), targets.contiguous())
    leaves = [layer.clone().requires_grad_() for layer in chunk.layers]
    value = chunk.inputs.expand(3, -1, -1)
    for i, layer in enumerate(leaves):
        if i:
            value = torch.cat([value.sin(), torch.ones_like(value[:, :1])], dim=1)
        value = layer @ value
    loss = ((value - targets) ** 2).mean(dim=(1, 2)).sum()
    expected = torch.autograd.grad(loss, leaves)
    delta = chunk.forward(chunk.inputs).sub_(targets).mul_(2 / targets[0].numel())
    chunk.backward(chunk.inputs, delta)
    for found, wanted in zip(chunk.grads, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


class Sine(nn.Module):
    def __init__(self, w0: float):
        super().__init__()
        self.w0 = w0

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        return torch.sin(self.w0 * u)


@pytest.mark.parametrize("pixels", [0, 7])
@pytest.mark.parametrize(("widths", "w0"), SPECS)
def test_a_population_is_what_torch_fits_one_by_one(widths: list[int], w0: float, pixels: int):
    """The naive loop: an nn.Module, autograd and torch.optim.Adam for each network, in float64."""
    settings = FitSettings(steps=12, lr=1e-3, pixels=pixels, seed=3, chunk=2)
    architecture = siren_architecture(widths, w0)
    targets = images(3, 4, 5, widths[-1])
    result = fit_images(architecture, targets, settings, stream=5, threads=2)

    # The same first weights and pixels, drawn again.
    start = fit_images(architecture, targets, FitSettings(0, 1e-3, pixels, 3, 2), stream=5)
    order = pixel_order(architecture, settings, stream=5)
    points = pixel_coordinates(4, 5).double()
    for n in range(3):
        layers: list[nn.Module] = []
        for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
            linear = nn.Linear(inputs, outputs, dtype=torch.float64)
            linear.load_state_dict(
                {key: start.parameters[f"{i}.{key}"][n] for key in ("weight", "bias")}
            )
            layers += [linear, Sine(w0)]
        module = nn.Sequential(*layers[:-1])
        optimiser = torch.optim.Adam(module.parameters(), lr=1e-3, betas=BETAS, eps=1e-12)
        wanted = targets[n].double().reshape(20, -1)
        for step in range(12):
            optimiser.param_groups[0]["lr"] = 1e-3 * (1 + math.cos(math.pi * step / 12)) / 2
            chosen = order[step % len(order)]
            optimiser.zero_grad()
            ((module(points[chosen]) - wanted[chosen]) ** 2).mean().backward()
            optimiser.step()
        for i in range(len(widths) - 1):
            for key in ("weight", "bias"):
                found = result.parameters[f"{i}.{key}"][n].double()
                expected = getattr(module[2 * i], key).detach()
                torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
        error = ((module(points).detach() - wanted) ** 2).mean()
        assert float(result.psnr[n]) == pytest.approx(-10 * math.log10(float(error)), abs=1e-2)


def pixel_order(
    architecture: Architecture, settings: FitSettings, stream: int
) -> list[torch.Tensor]:
    import numpy as np

    seed = np.random.SeedSequence([settings.seed, stream]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(seed))
    initial_parameters(architecture, 3, generator)
    return _pixel_order(20, settings, generator)


def test_a_pass_over_the_image_sees_each_pixel_once():
    generator = torch.Generator().manual_seed(0)
    order = _pixel_order(20, FitSettings(steps=9, pixels=6), generator)
    assert len(order) == 9
    for first in range(0, 9, 3):
        assert sorted(torch.cat(order[first : first + 3]).tolist()) == list(range(20))
    assert [part.tolist() for part in _pixel_order(4, FitSettings(pixels=9), generator)] == [
        [0, 1, 2, 3]
    ]


def test_the_same_seed_gives_the_same_bits_on_any_number_of_threads():
    architecture, targets = siren_architecture([2, 8, 8, 1]), images(7, 6, 6, 1)
    settings = FitSettings(steps=20, pixels=10, chunk=2)
    before = torch.get_num_threads()
    one = fit_images(architecture, targets, settings)
    assert torch.get_num_threads() == before
    three = fit_images(architecture, targets, settings, threads=3)
    for name, value in one.parameters.items():
        assert torch.equal(value, three.parameters[name])
    assert torch.equal(one.psnr, three.psnr)
    other = fit_images(architecture, targets, settings, stream=1)
    assert not torch.equal(one.parameters["0.weight"], other.parameters["0.weight"])


def test_a_fit_represents_its_image_and_the_psnr_is_that_of_its_pixels():
    architecture, targets = siren_architecture([2, 24, 24, 3], 10.0), images(4, 6, 7, 3)
    seen: list[tuple[int, int]] = []
    result = fit_images(
        architecture,
        targets,
        FitSettings(steps=150, lr=3e-3, pixels=0, chunk=3),
        on_chunk=lambda count, psnr: seen.append((count, len(psnr))),
    )
    assert seen == [(3, 3), (1, 1)]
    assert 25 < float(result.psnr.min()) < 60
    error = (render(result.parameters, 6, 7, architecture) - targets).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(result.psnr, -10 * torch.log10(error), rtol=0, atol=1e-3)


def test_an_error_in_the_callback_ends_the_fit():
    def stop(count: int, psnr: torch.Tensor) -> None:
        raise KeyboardInterrupt

    before = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        fit_images(
            siren_architecture([2, 4, 1]), images(8, 4, 4, 1), FitSettings(steps=2, chunk=1),
            threads=2, on_chunk=stop,
        )  # fmt: skip
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("architecture", "match"),
    [
        (Architecture.mlp([3, 4, 1], Activation("sine", w0=30)), "2 inputs"),
        (Architecture.mlp([2, 4, 1], "tanh"), "'hidden.1' has the activation tanh"),
        (Architecture.mlp([2, 4, 1], Activation("sine", w0=-1)), "w0 above 0"),
        (Architecture.mlp([2, 4, 1], Activation("sine"), bias=False), "bias in every layer"),
        (Architecture.mlp([2, 4, 1], ["sine", "sigmoid"]), "linear output"),
        (Architecture.mlp([2, 1], []), "at least one sine layer"),
    ],
)
def test_only_sirens_are_fitted(architecture: Architecture, match: str):
    with pytest.raises(ArchitectureError, match=match):
        fit_images(architecture, images(1, 4, 4, 1), FitSettings())


def test_images_that_do_not_fit_are_refused():
    architecture = siren_architecture([2, 4, 1])
    with pytest.raises(InvalidGraphError, match=r"expected \(B, H, W, 1\)"):
        fit_images(architecture, torch.zeros(2, 4, 4, 3), FitSettings())
    with pytest.raises(InvalidGraphError, match=r"torch.uint8; expected floats"):
        fit_images(architecture, torch.zeros(2, 4, 4, 1, dtype=torch.uint8), FitSettings())
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        fit_images(architecture, torch.full((2, 4, 4, 1), math.nan), FitSettings())


@pytest.mark.parametrize(
    "wrong", [{"steps": -1}, {"pixels": 1.5}, {"chunk": 0}, {"lr": 0.0}, {"lr": math.nan}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
        FitSettings(**wrong)  # type: ignore[arg-type]
