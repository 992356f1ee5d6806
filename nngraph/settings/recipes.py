"""Recipes of populations of classifiers, and settings of their training."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

from nngraph.errors import InvalidGraphError
from nngraph.settings.checks import check_whole

#: How first weights are drawn: uniform or normal, of the variance of Glorot or of He.
WEIGHT_INITS = ("glorot-uniform", "glorot-normal", "he-uniform", "he-normal", "orthogonal")
OPTIMISERS = ("sgd", "adam", "rmsprop")
#: How the images of an adapter look.
STYLES = ("plain", "inverted", "turned", "mirrored", "shifted", "striped")


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
    inits: tuple[str, ...] = WEIGHT_INITS
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
        return _plain(self)

    def with_steps(self, steps: tuple[int, int] | None, checkpoints: int | None) -> Recipe:
        """Return the recipe with other lengths of training.

        Raises:
            InvalidGraphError: if they are out of range.
        """
        return replace(self, **_lengths(self, steps, checkpoints))


@dataclass(frozen=True)
class AdapterRecipe:
    """What a population of adapters of one small transformer varies.

    Args:
        ranks, layers: choices for each adapter: its rank, and the maps of every block that it
            changes, of ``q``, ``k``, ``v``, ``o``, ``up`` and ``down``.
        styles: how its images look, the first so many of :data:`STYLES`.
        classes: fewest and most classes of images that it sees.
        learning_rate: of Adam, log-uniform.
        width, heads, blocks: of the transformer.
        base_steps: optimiser steps of the transformer, before it has adapters.
        steps, checkpoints, batch_size: as of a :class:`Recipe`; one checkpoint is the last state.
    """

    name: str
    ranks: tuple[int, ...] = (2, 4, 8)
    layers: tuple[tuple[str, ...], ...] = (("q", "v"), ("q", "k", "v", "o"))
    styles: tuple[str, ...] = STYLES
    classes: tuple[int, int] = (2, 5)
    learning_rate: tuple[float, float] = (5e-3, 3e-2)
    width: int = 32
    heads: int = 4
    blocks: int = 2
    base_steps: int = 300
    steps: tuple[int, int] = (40, 100)
    checkpoints: int = 1
    batch_size: int = 16

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain data."""
        return _plain(self)

    def with_steps(self, steps: tuple[int, int] | None, checkpoints: int | None) -> AdapterRecipe:
        """Return the recipe with other lengths of training; errors are those of a Recipe."""
        return replace(self, **_lengths(self, steps, checkpoints))


def _plain(recipe: Recipe | AdapterRecipe) -> dict[str, Any]:
    return {
        key: [list(v) if isinstance(v, tuple) else v for v in value]
        if isinstance(value, tuple) else value
        for key, value in asdict(recipe).items()
    }


def _lengths(
    recipe: Recipe | AdapterRecipe, steps: tuple[int, int] | None, checkpoints: int | None
) -> dict[str, Any]:
    low, high = recipe.steps if steps is None else steps
    kept = recipe.checkpoints if checkpoints is None else checkpoints
    if not 1 <= low <= high or not 1 <= kept <= low + 1:
        raise InvalidGraphError(
            f"steps range from {low} to {high} with {kept} checkpoints; expected 1 or more "
            "steps, and no more checkpoints than there are states of the shortest run."
        )
    return {"steps": (low, high), "checkpoints": kept}


#: The recipes that are shipped. ``small-cnn`` follows the small CNN zoo of Unterthiner et al.
#: ("Predicting Neural Network Accuracy from Weights", 2020): one CNN of three layers of 16
#: channels with varied hyper-parameters. ``wild`` varies the architectures, as CNN Wild Park does
#: (Kofinas et al., ICLR 2024); ``small-mlp`` is the first with an MLP. ``lora`` has adapters of one
#: transformer.
RECIPES: dict[str, Recipe | AdapterRecipe] = {
    "small-cnn": Recipe("small-cnn", (3, 3), (16,)),
    "small-mlp": Recipe("small-mlp", (2, 2), (32,), ()),
    "wild": Recipe(
        "wild", (1, 5), (4, 8, 12, 16, 24, 32), (1, 3, 5), mlps=0.25, same_width=False,
        activations=("relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid"),
        norms=(False, True), residuals=(False, True), runs=8,
    ),
    "lora": AdapterRecipe("lora"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainZooSettings:
    """Which networks :func:`~nngraph.zoo.train_zoo` trains, and what is kept of them.

    Args:
        recipe: what is varied: a name of :data:`RECIPES`, or a recipe
        count: runs
        steps: fewest and most optimiser steps of a run (default: the recipe's, such as 200 800)
        checkpoints: states kept of each run (default: the recipe's)
        max_test: the first so many test images are judged on
        splits: fractions of training, validation and test runs; all states of a run are in one
        shard_runs: runs per file
        seed: seed of everything random

    Raises:
        InvalidGraphError: if a value is out of range.
    """

    recipe: Annotated[Recipe | AdapterRecipe | str, RECIPES] = "small-cnn"
    count: int = 1000
    steps: tuple[int, int] | None = None
    checkpoints: int | None = None
    max_test: int = 2000
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1)
    shard_runs: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole(self, "count", "shard_runs", "max_test", error=InvalidGraphError)

    def varied(self) -> Recipe | AdapterRecipe:
        """Return the recipe with the lengths of training that were chosen.

        Raises:
            InvalidGraphError: if there is no such recipe, or a length is out of range.
        """
        recipe = RECIPES.get(self.recipe) if isinstance(self.recipe, str) else self.recipe
        if recipe is None:
            raise InvalidGraphError(
                f"recipe is {self.recipe!r}; expected one of {', '.join(RECIPES)}."
            )
        return recipe.with_steps(self.steps, self.checkpoints)
