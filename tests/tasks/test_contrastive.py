"""Self-supervised pre-training: its loss, its views, and the linear probe that judges it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nngraph.graph import forward
from nngraph.nn import MODELS
from nngraph.tasks import TrainSettings
from nngraph.tasks.contrastive import Contrast, ContrastiveNetwork, contrastive_loss
from nngraph.tasks.linear_probe import linear_probe
from nngraph.zoo import Zoo, fit_zoo, load_digits_images

SMALL: dict[str, dict[str, Any]] = {
    "message-passing": {"channels": 8, "messages": 4, "edge_channels": 0, "hidden": 8},
    "symmetric": {"channels": (24, 32), "messages": 12, "hidden": 64, "dropout": 0.0},
}


def task(zoo: Zoo, model: str = "message-passing", **options: Any) -> Contrast:
    settings = TrainSettings(str(zoo.path), model, SMALL[model], "contrast", relabel=True)
    return Contrast(zoo, settings, **{"embedding": 16, "projection": 8, **options})


class TestLoss:
    def test_against_loops(self):
        first, second = torch.randn(5, 3).double(), torch.randn(5, 3).double()
        views = torch.cat([first, second])
        total = 0.0
        for i in range(10):
            likeness = [torch.cosine_similarity(views[i], views[j], 0) / 0.3 for j in range(10)]
            others = torch.stack([likeness[j] for j in range(10) if j != i])
            total += float(others.logsumexp(0) - likeness[(i + 5) % 10]) / 10
        assert float(contrastive_loss(first, second, 0.3)) == pytest.approx(total, rel=1e-5)

    def test_equal_views_of_unlike_networks_cost_least(self):
        views = torch.eye(6)
        assert contrastive_loss(views, views) < contrastive_loss(views, views.flip(0))
        log = float(torch.log(torch.tensor(11.0)))
        assert float(contrastive_loss(torch.ones(6, 2), torch.ones(6, 2))) == pytest.approx(log)


class TestViews:
    def test_exact_views_leave_the_function_and_move_the_weights(self, zoo):
        contrast = task(zoo, noise=0.0)
        stack = zoo.stack("val").to(torch.float64)
        view = contrast.view(stack)
        points = torch.rand(9, 2, dtype=torch.float64)
        torch.testing.assert_close(forward(view, points), forward(stack, points))
        assert not torch.equal(view.edge_attr, stack.edge_attr)

    @pytest.mark.parametrize("change", [{"noise": 0.1}, {"noise": 0.0, "drop": 0.2}])
    def test_others_change_it_a_little_each_time_anew(self, zoo, change):
        contrast = task(zoo, exact=False, **change)
        stack, points = zoo.stack("val"), torch.rand(50, 2)
        before = forward(stack, points)
        changes = [forward(contrast.view(stack), points) - before for _ in range(2)]
        assert all(float(c.abs().max()) > 0 for c in changes)
        assert not torch.equal(*changes)

    def test_both_views_are_read_in_one_call(self, zoo):
        contrast = task(zoo)
        model = contrast.build_model()
        seen: list[int] = []
        model.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
        contrast.loss(model, contrast.networks("val")).backward()
        assert seen == [2 * len(zoo.indices("val"))]
        assert all(p.grad is not None for p in model.parameters())


class TestLinearProbe:
    def data(self, n: int = 90, classes: int = 3) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(n) % classes
        return torch.randn(n, 5, generator=generator) + 2 * torch.eye(classes, 5)[labels], labels

    def test_is_where_the_gradient_vanishes(self):
        x, labels = self.data()
        probe = linear_probe(x, labels, penalty=0.01)
        standard = (x.double() - x.double().mean(0)) / x.double().std(0, correction=0)
        weight, bias = (p.clone().requires_grad_() for p in (probe.weight, probe.bias))
        loss = torch.nn.functional.cross_entropy(standard @ weight.mT + bias, labels)
        (loss + 0.005 * weight.square().sum()).backward()
        assert max(float(weight.grad.abs().max()), float(bias.grad.abs().max())) < 1e-5
        torch.testing.assert_close(probe.scores(x), standard @ probe.weight.mT + probe.bias)

    def test_against_scikit_learn(self):
        linear_model = pytest.importorskip("sklearn.linear_model")
        x, labels = self.data()
        standard = ((x - x.mean(0)) / x.std(0, correction=0)).double().numpy()
        # Its penalty is 1 / (C n) on the mean loss.
        other = linear_model.LogisticRegression(C=1 / (0.01 * len(x)), tol=1e-8, max_iter=1000)
        other.fit(standard, labels.numpy())
        probe = linear_probe(x, labels, penalty=0.01)
        np.testing.assert_allclose(probe.weight.numpy(), other.coef_, atol=1e-3)

    def test_scales_and_idle_features_say_nothing(self):
        x, labels = self.data()
        probe = linear_probe(x, labels)
        moved = torch.cat([1e3 * x + 7, torch.full((len(x), 1), 0.1)], dim=1)
        other = linear_probe(moved, labels)
        torch.testing.assert_close(other.scores(moved), probe.scores(x), rtol=1e-2, atol=1e-2)
        assert probe.accuracy(x, labels) > 0.8

    def test_mistakes_are_refused(self):
        with pytest.raises(ValueError, match=r"expected \(n, D\)"):
            linear_probe(torch.zeros(3, 2), torch.zeros(4))


def trained(contrast: Contrast, model: ContrastiveNetwork, steps: int) -> None:
    """Train by a loop that knows no labels."""
    ((numbers, stack),) = contrast.networks("train")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        chosen = torch.randint(len(numbers), (64,))
        loss = contrast.loss(model, [(numbers[chosen], stack[chosen])])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def nearer_than_others(contrast: Contrast, model: ContrastiveNetwork) -> float:
    """Return how often a view is nearer to the other view of its network than to another's."""
    ((_, stack),) = contrast.networks("val")
    first, second = (model(contrast.prepare(contrast.view(stack), model)) for _ in range(2))
    likeness = torch.cosine_similarity(first.unsqueeze(1), second, dim=-1)
    nearer = likeness.diagonal().unsqueeze(1) > likeness
    return float(nearer.sum() / (len(stack) * (len(stack) - 1)))


def test_views_of_networks_never_seen_are_alike_after_training(tmp_path):
    zoo = fit_zoo(
        tmp_path / "digits", load_digits_images().take(400), widths=[2, 12, 12, 1], w0=10.0,
        steps=100, threads=1, splits=(0.7, 0.3, 0.0), progress=False,
    )  # fmt: skip
    contrast = task(zoo, "symmetric", noise=0.2, embedding=64, projection=32)
    torch.manual_seed(0)
    model = contrast.build_model()
    contrast.fit_statistics(model)
    before, nearer = contrast.evaluate(model, "val"), nearer_than_others(contrast, model)
    trained(contrast, model, 80)
    after = contrast.evaluate(model, "val")
    # Views that tell nothing cost the logarithm of their number.
    nothing = math.log(2 * len(zoo.indices("val")) - 1)
    assert after["loss"] < min(nothing, before["loss"]) - 1
    assert nearer_than_others(contrast, model) > max(0.8, nearer)
    # Chance is a tenth. No claim is made against random parameters.
    assert after["probe_accuracy"] > 0.2
    embeddings, labels = contrast.embeddings(model, "val")
    assert embeddings.shape == (len(zoo.indices("val")), 64)
    assert torch.equal(labels, zoo.labels[zoo.indices("val")])


def test_mistakes_are_refused(zoo):
    with pytest.raises(ValueError, match="temperature is 0"):
        task(zoo, temperature=0)
    assert set(SMALL) <= set(MODELS)
