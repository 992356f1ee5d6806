"""Draw the architectures and hyper-parameters of a population of classifiers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from nngraph.settings import OPTIMISERS, WEIGHT_INITS, Recipe
from nngraph.zoo.classifiers.spec import ClassifierSpec


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
        "init": generator.choice([WEIGHT_INITS.index(init) for init in recipe.inits], size=count),
        "init_scale": log_uniform(*recipe.init_scale),
    }
