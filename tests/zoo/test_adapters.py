"""Populations of adapters: what is told of one is what the transformer does with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nngraph.errors import InvalidGraphError
from nngraph.graph import low_rank_pairs
from nngraph.zoo import (
    RECIPES,
    STYLES,
    AdapterRecipe,
    ImageSource,
    LabelledImages,
    TransformerSpec,
    Zoo,
    find_problems,
    load_digits_images,
    styled,
    train_base,
    train_zoo,
)

RECIPE = AdapterRecipe(
    "few", ranks=(1, 3), layers=(("q", "v"), ("up", "down")), width=8, heads=2, blocks=1,
    steps=(15, 25), checkpoints=2, base_steps=60,
)  # fmt: skip


@pytest.fixture(scope="module")
def images() -> tuple[ImageSource, ImageSource]:
    whole = load_digits_images()
    order = np.random.default_rng(0).permutation(len(whole))

    def part(chosen: np.ndarray, name: str) -> ImageSource:
        return ImageSource(name, whole.images[chosen], whole.labels[chosen], whole.class_names)

    return part(order[:1400], "digits train"), part(order[1400:], "digits test")


@pytest.fixture(scope="module")
def zoo(images: tuple[ImageSource, ImageSource], tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    path = tmp_path_factory.mktemp("adapters") / "zoo"
    return train_zoo(path, *images, recipe=RECIPE, count=6, threads=1, progress=False)


def test_what_is_told_of_an_adapter_is_what_it_does(
    zoo: Zoo, images: tuple[ImageSource, ImageSource]
):
    assert (len(zoo), find_problems(zoo.path)) == (12, [])
    seen, test = LabelledImages.pair(*images, 2000)
    spec = TransformerSpec((8, 8, 1), 10, 8, 2, 1)
    base = train_base(spec, seen.images, seen.labels, 60, 0)
    for number in range(12):
        graph = zoo.network(number)
        pairs = low_rank_pairs(graph.architecture)
        layers = RECIPE.layers[int(zoo.fact("layers")[number])]
        assert sorted(p.down.split(".")[2] for p in pairs) == sorted(layers)
        assert {p.rank for p in pairs} == {int(zoo.fact("rank")[number])}
        bits = int(zoo.fact("classes")[number])
        assert bits.bit_count() == int(zoo.fact("num_classes")[number]) in range(2, 6)
        rows = torch.tensor([i for i, y in enumerate(test.labels.tolist()) if bits >> y & 1][:250])
        shown = styled(test.images[rows], int(zoo.fact("style")[number]))
        adapter = {name: value[None] for name, value in graph.parameters().items()}
        logits, labels = spec.run(base, adapter, shown[None])[0], test.labels[rows]
        accuracy = float((logits.argmax(-1) == labels).float().mean())
        assert float(zoo.fact("test_accuracy")[number]) == pytest.approx(accuracy, abs=0.01)
        loss = float(F.cross_entropy(logits, labels))
        assert float(zoo.fact("test_loss")[number]) == pytest.approx(loss, rel=1e-3)
    last, first = zoo.fact("step") > 0, zoo.fact("step") == 0
    for number in torch.nonzero(first).flatten().tolist():  # B starts as 0
        values = zoo.network(number).parameters()
        assert not any(bool(v.any()) for n, v in values.items() if "lora_B" in n)
    assert zoo.fact("test_loss")[last].mean() < zoo.fact("test_loss")[first].mean() - 0.1
    runs = zoo.fact("run")
    assert all(len(zoo.split[runs == run].unique()) == 1 for run in range(6))


def test_styles_differ_and_the_recipe_is_shipped():
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = [styled(images, style) for style in range(len(STYLES))]
    assert torch.equal(found[0], images)
    assert all(not torch.equal(a, b) for i, a in enumerate(found) for b in found[:i])
    assert isinstance(RECIPES["lora"], AdapterRecipe)
    with pytest.raises(InvalidGraphError, match="steps range from 5 to 2"):
        RECIPE.with_steps((5, 2), None)


def test_a_transformer_of_patches_has_a_row_of_each():
    spec = TransformerSpec((6, 9, 2), 3, 4, 2, 1)
    assert spec.side == 3
    base = spec.base(torch.Generator().manual_seed(0))
    images = torch.zeros(1, 1, 2, 6, 9)
    assert spec.run(base, {}, images.expand(4, 5, 2, 6, 9)).shape == (4, 5, 3)
