"""Recipes for populations of classifiers: what is varied, and within which bounds."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from nngraph.errors import InvalidGraphError
from nngraph.zoo.classifiers.batched import INITS, OPTIMISERS
from nngraph.zoo.classifiers.spec import ClassifierSpec

__all__ = ["RECIPES", "Recipe", "draw_runs", "draw_specs"]


@dataclass(frozen=True)
class Recipe:
    """What a population of classifiers varies. Each pair is a lowest and a highest value.

    Args:
        depths: number of hidden layers.
        widths: of which each hidden layer's is drawn; ``same_width`` takes one for all.
        kernels: of which those of convolutions are drawn; ``()`` for MLPs only.
        mlps: share of MLPs among the architectures.
        activations, norms, residuals: choices for each architecture.
        optimisers, inits: choices for each network.
        sgd_rate, adaptive_rate: learning rates of SGD, and of Adam and RMSprop, log-uniform.
        weight_decay: log-uniform.
        dropout: share of the last hidden layer, uniform.
        fractions: shares of the training images that a network may see.
        init_scale: factor of the first weights, log-uniform.
        steps: optimiser steps, log-uniform, the same for the networks that are trained together.
        checkpoints: states of a run that are kept, the first and the last weights among them.
        batch_size: images per step.
        runs: networks that share an architecture, at the most.
    """

    name: str
    depths: tuple[int, int]
    widths: tuple[int, ...]
    kernels: tuple[int, ...] = (3,)
    mlps: float = 0.0
    same_width: bool = False
    activations: tuple[str, ...] = ("relu",)
    norms: tuple[bool, ...] = (False,)
    residuals: tuple[bool, ...] = (False,)
    optimisers: tuple[str, ...] = OPTIMISERS
    inits: tuple[str, ...] = INITS
    sgd_rate: tuple[float, float] = (3e-3, 0.3)
    adaptive_rate: tuple[float, float] = (5e-4, 2e-2)
    weight_decay: tuple[float, float] = (1e-7, 1e-2)
    dropout: tuple[float, float] = (0.0, 0.5)
    fractions: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)
    init_scale: tuple[float, float] = (0.5, 2.0)
    steps: tuple[int, int] = (200, 800)
    checkpoints: int = 5
    batch_size: int = 32
    runs: int = 2**31

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain data."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def with_steps(self, steps: tuple[int, int] | None, checkpoints: int | None) -> Recipe:
        """Return the recipe with other lengths of training.

        Raises:
            InvalidGraphError: if they are out of range.
        """
        low, high = self.steps if steps is None else steps
        kept = self.checkpoints if checkpoints is None else checkpoints
        if not 1 <= low <= high or not 1 <= kept <= low + 1:
            raise InvalidGraphError(
                f"steps range from {low} to {high} with {kept} checkpoints; expected 1 or more "
                "steps, and no more checkpoints than there are states of the shortest run."
            )
        return replace(self, steps=(low, high), checkpoints=kept)


#: The recipes that are shipped. ``small-cnn`` follows the small CNN zoo of Unterthiner et al.
#: ("Predicting Neural Network Accuracy from Weights", 2020): one CNN of three layers of 16
#: channels with varied hyper-parameters. ``wild`` varies the architectures, as CNN Wild Park does
#: (Kofinas et al., ICLR 2024); ``small-mlp`` is the first with an MLP.
RECIPES: dict[str, Recipe] = {
    "small-cnn": Recipe("small-cnn", (3, 3), (16,)),
    "small-mlp": Recipe("small-mlp", (2, 2), (32,), ()),
    "wild": Recipe(
        "wild", (1, 5), (4, 8, 12, 16, 24, 32), (1, 3, 5), mlps=0.25, same_width=False,
        activations=("relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid"),
        norms=(False, True), residuals=(False, True), runs=8,
    ),
}  # fmt: skip


def draw_specs(
    recipe: Recipe, count: int, image_shape: tuple[int, int, int], classes: int, seed: int
) -> list[ClassifierSpec]:
    """Draw different architectures for ``count`` networks, ``recipe.runs`` networks of each.

    Fewer, if the recipe has not so many.
    """
    generator = np.random.default_rng([seed, 0x5C])
    wanted = -(-count // recipe.runs)
    found: dict[ClassifierSpec, None] = {}
    for _ in range(100 * wanted):
        depth = int(generator.integers(recipe.depths[0], recipe.depths[1] + 1))
        mlp = not recipe.kernels or generator.random() < recipe.mlps
        same = recipe.same_width or generator.random() < 0.5
        widths = generator.choice(recipe.widths, size=depth)
        kernels = () if mlp else generator.choice(recipe.kernels, size=depth)
        spec = ClassifierSpec(
            image_shape,
            classes,
            tuple(int(widths[0] if same else width) for width in widths),
            tuple(int(kernel) for kernel in kernels),
            str(generator.choice(recipe.activations)),
            bool(generator.choice(recipe.norms)),
            bool(generator.choice(recipe.residuals)),
        )
        if not any(layer.residual for layer in spec.layers):
            spec = replace(spec, residual=False)
        found[spec] = None
        if len(found) == wanted:
            break
    return list(found)


def draw_runs(recipe: Recipe, count: int, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Draw the hyper-parameters of ``count`` networks, each ``[count]`` by name."""
    generator = np.random.default_rng([seed, 0x48])

    def log_uniform(low: float, high: float) -> np.ndarray[Any, Any]:
        return np.exp(generator.uniform(math.log(low), math.log(high), size=count))

    optimiser = generator.choice([OPTIMISERS.index(o) for o in recipe.optimisers], size=count)
    plain = optimiser == OPTIMISERS.index("sgd")
    return {
        "optimiser": optimiser,
        "learning_rate": np.where(
            plain, log_uniform(*recipe.sgd_rate), log_uniform(*recipe.adaptive_rate)
        ),
        "weight_decay": log_uniform(*recipe.weight_decay),
        "dropout": generator.uniform(*recipe.dropout, size=count),
        "fraction": generator.choice(recipe.fractions, size=count),
        "init": generator.choice([INITS.index(init) for init in recipe.inits], size=count),
        "init_scale": log_uniform(*recipe.init_scale),
    }
