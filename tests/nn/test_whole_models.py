"""Laws of every model as a whole: compiled without a break, and trained in low precision."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nngraph.graph import Activation, Architecture, to_batch
from nngraph.nn import MODELS, Features, Metanetwork, input_features
from nngraph.testing import random_stack

SINE = Activation("sine", w0=10)
ARCHITECTURE = Architecture.mlp([2, 4, 3, 1], SINE)
#: For torch.compile, whose time grows with the number of blocks and of layers.
SHALLOW = Architecture.mlp([2, 4, 1], SINE)
SMALL: dict[str, dict[str, Any]] = {
    "message-passing": {"channels": 8, "messages": 4, "edge_channels": 3, "hidden": 16},
    "symmetric": {"channels": (6, 5), "messages": 4, "hidden": 16},
    "flat": {"hidden": 8},
    "low-rank": {"hidden": 8},
    "statistics": {"hidden": 8},
    "probe": {"probes": 3, "hidden": 8},
    "ng-gnn": {"channels": 8, "edge_channels": 3, "messages": 4, "layers": 2, "hidden": 8},
    "ng-t": {
        "channels": 8, "edge_channels": 3, "heads": 2, "head_channels": 2, "layers": 2,
        "hidden": 8,
    },
    "gmn": {"channels": 8, "edge_channels": 3, "layers": 2, "hidden": 8},
    "dws": {"channels": 4, "layers": 2, "hidden": 8},
    "nfn-np": {"channels": 4, "layers": 2, "hidden": 8},
    "nft": {"channels": 4, "keys": 2, "layers": 1, "hidden": 8},
}  # fmt: skip
#: Models whose graph goes through AOTAutograd too, forward and backward. Breaks are found without
#: it, in half the time; the primitives that the others are made of pass it in tests/kernels.
TRACED = ("message-passing", "symmetric", "probe")
LOW = [name for name in MODELS if name not in ("symmetric", "probe")]


def build(name: str, architecture: Architecture = ARCHITECTURE, **changes: Any) -> Metanetwork:
    torch.manual_seed(0)
    return MODELS[name](architecture, 3, **{**SMALL[name], **changes})


def gradients(model: Metanetwork, answers: Tensor) -> list[Tensor]:
    labels = torch.arange(len(answers), device=answers.device) % 3
    return list(
        torch.autograd.grad(
            F.cross_entropy(answers.float(), labels), list(model.parameters()),
            materialize_grads=True,
        )
    )  # fmt: skip


@pytest.fixture
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_every_model_is_here():
    assert set(SMALL) >= set(MODELS)


# Warnings of torch.compile about itself.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize("name", MODELS)
def test_compiled_whole_without_a_break(name: str):
    one = {"layers": 1} if "layers" in SMALL[name] else {}
    model = build(name, SHALLOW, **one).double().eval()
    features = input_features(random_stack(SHALLOW, 5, 0))

    def answer(x: Tensor, edge_attr: Tensor) -> Tensor:
        return model(Features(features.topology, x, edge_attr))

    backend = "aot_eager" if name in TRACED else "eager"
    compiled = torch.compile(answer, fullgraph=True, backend=backend)
    found = compiled(features.x, features.edge_attr)
    expected = answer(features.x, features.edge_attr)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    for one, other in zip(gradients(model, found), gradients(model, expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_which_models_bear_bfloat16():
    assert [name for name in MODELS if build(name).traits.bears_bfloat16] == LOW


@pytest.mark.parametrize("layout", ["stack", "ragged"])
@pytest.mark.parametrize("name", LOW)
def test_autocast_errs_at_most_twice_as_much_as_plain_bfloat16(
    name: str, layout: str, device: str
):
    """Forward and backward; a gradient is judged as a whole, over all parameters."""
    model = build(name).eval().to(device)
    stack = random_stack(ARCHITECTURE, 16, 0, torch.float32).to(device)
    given = input_features(stack if layout == "stack" else to_batch(list(stack)))

    def run(judged: Metanetwork, features: Features, low: bool = False) -> list[Tensor]:
        with torch.autocast(device, torch.bfloat16, enabled=low):
            answers = judged(features)
        slopes = [g.float().flatten() for g in gradients(judged, answers)]
        return [answers.detach().float(), torch.cat(slopes)]

    exact, found = run(model, given), run(model, given, low=True)
    low = Features(given.topology, given.x.bfloat16(), given.edge_attr.bfloat16())
    plain = run(copy.deepcopy(model).bfloat16(), low)
    for one, other, truth in zip(found, plain, exact, strict=True):
        assert torch.isfinite(one).all()
        assert float((one - truth).norm()) <= 2 * float((other - truth).norm())
