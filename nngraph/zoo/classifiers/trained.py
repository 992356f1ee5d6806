"""Make a zoo of trained classifiers, shard by shard, and run the networks of one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture
from nngraph.nn import Hook, ModuleRunner
from nngraph.settings import (
    OPTIMISERS,
    WEIGHT_INITS,
    AdapterRecipe,
    Recipe,
    TrainZooSettings,
)
from nngraph.zoo.classifiers.adapters import train_adapters
from nngraph.zoo.classifiers.recipes import draw_runs, draw_specs
from nngraph.zoo.classifiers.spec import Classifier, ClassifierSpec
from nngraph.zoo.classifiers.training import CHUNK, LabelledImages, train_classifiers
from nngraph.zoo.sources import ImageSource
from nngraph.zoo.store.facts import SPLITS, Fact
from nngraph.zoo.store.manifest import Manifest, Origin
from nngraph.zoo.store.shards import Shard, jobs_of
from nngraph.zoo.store.splits import policy_of, split_of_images
from nngraph.zoo.store.writing import write_with_bar
from nngraph.zoo.store.zoo import Zoo

_FACTS = (
    Fact("run"), Fact("step"), Fact("optimiser", "int64", OPTIMISERS),
    Fact("learning_rate", "float32"), Fact("weight_decay", "float32"), Fact("dropout", "float32"),
    Fact("fraction", "float32"), Fact("init", "int64", WEIGHT_INITS), Fact("init_scale", "float32"),
    Fact("diverged", "int64", ("no", "yes")),
    Fact("train_accuracy", "float32"), Fact("train_loss", "float32"),
    Fact("test_accuracy", "float32"), Fact("test_loss", "float32"), Fact("split", "int64", SPLITS),
)  # fmt: skip


def train_zoo(
    path: str | Path, train: ImageSource, test: ImageSource,
    settings: TrainZooSettings | None = None, *, threads: int | None = None, progress: bool = True,
    command: str | None = None, **options: Any,
) -> Zoo:
    """Train classifiers or adapters, and store states along every run with what they reached.

    Shards are made, resumed and shared among ranks as by :func:`fit_zoo`. The group that decides
    the split is the run: all of its checkpoints are in one split. The target is the test accuracy.

    Args:
        train, test: images that the classifiers are trained and judged on.
        settings: what is varied, and what is kept.
        path, threads, progress, command, options: as of :func:`fit_zoo`.

    Raises:
        InvalidGraphError: if a setting is out of range or does not fit the images.
        DataFileError: as of :func:`fit_zoo`.
    """
    path, settings = Path(path), replace(settings or TrainZooSettings(), **options)
    recipe, count, seed, splits = settings.varied(), settings.count, settings.seed, settings.splits
    threads = torch.get_num_threads() if threads is None else threads
    if isinstance(recipe, AdapterRecipe):
        return train_adapters(path, train, test, settings, recipe, threads, progress, command)
    height, width, channels = train.images.shape[1:]
    seen, judged = LabelledImages.pair(train, test, settings.max_test)
    specs = draw_specs(recipe, count, (height, width, channels), len(train.class_names), seed)
    runs = draw_runs(recipe, count, seed)
    jobs = jobs_of(torch.arange(count) % len(specs), settings.shard_runs)
    split = split_of_images(count, splits, seed)
    architectures = tuple(spec.architecture() for spec in specs)
    described = {_key(a): s.to_dict() for a, s in zip(architectures, specs, strict=True)}
    made = {
        "source": train.name, "test": test.name, "count": count, "seed": seed,
        "splits": [float(fraction) for fraction in splits], "shard_runs": settings.shard_runs,
        "test_images": len(judged.labels), "recipe": recipe.to_dict(), "specs": described,
    }  # fmt: skip
    digests = [train.fingerprint(), test.fingerprint(), json.dumps(made, sort_keys=True)]
    source = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    manifest = Manifest(
        architectures, _FACTS, "run", "test_accuracy", (Origin(source, made, command=command),),
        tuple(
            Shard.numbered(i, len(numbers) * recipe.checkpoints, kind)
            for i, (kind, numbers) in enumerate(jobs)
        ),
        policy=policy_of(splits, seed),
    )  # fmt: skip
    kept = recipe.checkpoints

    def make(index: int, show: Callable[..., None]) -> dict[str, Tensor]:
        kind, numbers = jobs[index]
        own = {name: value[numbers.numpy()] for name, value in runs.items()}
        result = train_classifiers(
            specs[kind], own, seen, judged, steps=_steps(recipe, len(numbers), seed, index),
            checkpoints=kept, batch_size=recipe.batch_size, seed=seed, stream=index,
            threads=threads,
            on_chunk=lambda done, accuracy: show(done, test=f"{float(accuracy.mean()):.1%}"),
        )  # fmt: skip
        number = numbers.repeat_interleave(kept)
        told = {
            "run": number, "step": result.steps.flatten(), "diverged": result.diverged.flatten(),
            "split": split[number],
            **{name: value.flatten() for name, value in result.measures.items()},
            **{k: torch.from_numpy(v).repeat_interleave(kept) for k, v in own.items()},
        }  # fmt: skip
        facts = {fact.key: told[fact.name].to(fact.torch_dtype) for fact in _FACTS}
        values = {name: value.flatten(0, 1) for name, value in result.parameters.items()}
        return {**values, **facts}

    write_with_bar(path, manifest, make, desc="train", unit="run", shown=progress, networks=kept)
    return Zoo.open(path)


def classifier_of(zoo: Zoo, number: int) -> Classifier:
    """Return a trained network of a zoo as a torch module, in evaluation mode.

    It reads standardised images ``[N, C, H, W]``, as of :class:`LabelledImages`. An
    ArchitectureError says that the zoo does not tell how its networks run.
    """
    graph = zoo.network(number)
    module = spec_of(zoo, graph.architecture).module()
    module.load_state_dict(graph.parameters())
    return module.eval()


def says_how_to_run(zoo: Zoo) -> bool:
    """Return whether a zoo holds trained classifiers, which :func:`runner_of` runs."""
    return any("specs" in origin.recipe for origin in zoo.manifest.origins)


def runner_of(zoo: Zoo) -> ModuleRunner:
    """Return what runs the networks of a zoo of trained classifiers, for models with probes.

    It is fed standardised images ``[P, C, H, W]``, as :func:`~nngraph.zoo.classifier_of` is. Every
    group of neurons shows: a norm's input before the norm, a hidden layer after its activation.

    Raises:
        ArchitectureError: if the zoo does not say how its networks run, or images differ in shape.

    Example:
        >>> runner = runner_of(Zoo.open("zoos/small-cnn-mnist"))  # doctest: +SKIP
        >>> ProbeNetwork(zoo.architectures, 1, runner=runner)  # doctest: +SKIP
    """
    specs = {architecture: spec_of(zoo, architecture) for architecture in zoo.architectures}
    shapes = {spec.image_shape for spec in specs.values()}
    if len(shapes) != 1:
        raise ArchitectureError(
            f"the networks of {zoo.path} read images of the shapes {sorted(shapes)}; probes are "
            "inputs that all networks share. Expected one shape."
        )
    height, width, channels = shapes.pop()
    hooks = {}
    for architecture, spec in specs.items():
        maps = {f"hidden.{i}.map": Hook(f"layers.{i}") for i in range(len(spec.widths))}
        hidden = {f"hidden.{i}": Hook(f"activations.{i}") for i in range(len(spec.widths))}
        hooks[architecture] = {**maps, **hidden} if spec.norm else hidden
    modules = {architecture: spec.module() for architecture, spec in specs.items()}
    return ModuleRunner(modules, (channels, height, width), hooks)


def spec_of(zoo: Zoo, architecture: Architecture) -> ClassifierSpec:
    """Return how the networks of one architecture of a zoo run."""
    key = _key(architecture)
    for origin in zoo.manifest.origins:
        specs = origin.recipe.get("specs")
        if isinstance(specs, dict) and isinstance(specs.get(key), dict):
            return ClassifierSpec.from_dict(specs[key])
    raise ArchitectureError(
        f"{zoo.path} does not say how networks of the architecture {architecture} run; expected a "
        "zoo made by train_zoo."
    )


def _key(architecture: Architecture) -> str:
    return hashlib.sha256(architecture.to_json().encode()).hexdigest()[:16]


def _steps(recipe: Recipe, runs: int, seed: int, shard: int) -> list[int]:
    """Draw the number of steps of each chunk of a shard."""
    generator = np.random.default_rng([seed, shard, 0x57])
    low, high = np.log(recipe.steps)
    drawn: Any = np.exp(generator.uniform(low, high, size=-(-runs // CHUNK)))
    return [round(steps) for steps in drawn.tolist()]
