"""Every model on a GPU: what it answers on the CPU, and its symmetry."""

from __future__ import annotations

import copy

import pytest
import torch
from test_whole_models import ARCHITECTURE, SHALLOW, SMALL, TRACED, build, gradients
from torch import Tensor

from nngraph.graph import NeuralGraphStack, to_batch
from nngraph.nn import MODELS, Features, Metanetwork, input_features
from nngraph.testing import assert_invariant, random_stack

LAYOUTS = ["stack", "ragged"]


def given(layout: str, device: str, dtype: torch.dtype = torch.float64) -> Features:
    stack = random_stack(ARCHITECTURE, 16, 0, dtype).to(device)
    return input_features(stack if layout == "stack" else to_batch(list(stack)))


def run(model: Metanetwork, features: Features) -> list[Tensor]:
    """Answers, and the gradient of a loss over all parameters."""
    answers = model(features)
    slopes = [slope.float().flatten() for slope in gradients(model, answers)]
    return [answers.detach().cpu(), torch.cat(slopes).cpu()]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", MODELS)
def test_nothing_leaves_the_device_or_waits_for_it(name: str, layout: str):
    """On torch's device without data: what is made elsewhere, or read back, is refused there."""
    model = build(name).to("meta")
    answers = model(given(layout, "meta", torch.float32))
    assert answers.is_meta
    slopes = torch.autograd.grad(answers.sum(), list(model.parameters()), materialize_grads=True)
    assert all(slope.is_meta for slope in slopes)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", MODELS)
def test_it_answers_and_learns_as_on_the_cpu(name: str, layout: str, gpu: str):
    model = build(name).double().eval()
    there = copy.deepcopy(model).to(gpu)
    assert there(given(layout, gpu)).is_cuda
    (found, slope), (expected, expected_slope) = (
        run(there, given(layout, gpu)), run(model, given(layout, "cpu"))
    )  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(slope, expected_slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "flat"])
def test_relabelling_changes_no_answer_there(name: str, gpu: str):
    model = build(name).double().eval().to(gpu)

    def answers(x: Tensor, edge_attr: Tensor) -> Tensor:
        return model(NeuralGraphStack(ARCHITECTURE, x, edge_attr).to(gpu)).cpu()

    networks = random_stack(ARCHITECTURE, 3, 0)
    assert_invariant(answers, ARCHITECTURE, features=(networks.x, networks.edge_attr))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", TRACED)
def test_compiled_to_machine_code(name: str, gpu: str):
    one = {"layers": 1} if "layers" in SMALL[name] else {}
    model = build(name, SHALLOW, **one).double().eval().to(gpu)
    features = input_features(random_stack(SHALLOW, 5, 0).to(gpu))

    def answer(x: Tensor, edge_attr: Tensor) -> Tensor:
        return model(Features(features.topology, x, edge_attr))

    found = torch.compile(answer, fullgraph=True)(features.x, features.edge_attr)
    expected = answer(features.x, features.edge_attr)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    for ours, plain in zip(gradients(model, found), gradients(model, expected), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-9)
