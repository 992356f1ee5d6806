"""Recipes of populations of classifiers, and settings of their training."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

from nngraph.errors import InvalidGraphError
from nngraph.settings.checks import check_whole

#: How first weights are drawn: uniform or normal, of the variance of Glorot or of He.
WEIGHT_INITS = ("glorot-uniform", "glorot-normal", "he-uniform", "he-normal", "orthogonal")
OPTIMISERS = ("sgd", "adam", "rmsprop")


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


@dataclass(frozen=True, kw_only=True)
class TrainZooSettings:
    """Which classifiers :func:`~nngraph.zoo.train_zoo` trains, and what is kept of them.

    Args:
        recipe: what is varied: a name of :data:`RECIPES`, or a recipe
        count: runs
        steps: fewest and most optimiser steps of a run (default: the recipe's, 200 800)
        checkpoints: states kept of each run (default: the recipe's, 5)
        max_test: the first so many test images are judged on
        splits: fractions of training, validation and test runs; all states of a run are in one
        shard_runs: runs per file
        seed: seed of everything random

    Raises:
        InvalidGraphError: if a value is out of range.
    """

    recipe: Annotated[Recipe | str, RECIPES] = "small-cnn"
    count: int = 1000
    steps: tuple[int, int] | None = None
    checkpoints: int | None = None
    max_test: int = 2000
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1)
    shard_runs: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole(self, "count", "shard_runs", "max_test", error=InvalidGraphError)

    def varied(self) -> Recipe:
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
