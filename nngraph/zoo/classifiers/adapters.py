"""Populations of adapters of one small transformer, which differ by images, rank and layers."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nngraph.graph import Architecture
from nngraph.settings import OPTIMISERS, STYLES, AdapterRecipe, TrainZooSettings
from nngraph.zoo.classifiers.batched import BatchedOptimiser
from nngraph.zoo.classifiers.training import LabelledImages, kept_steps
from nngraph.zoo.classifiers.transformer import TransformerSpec, train_base
from nngraph.zoo.sources import ImageSource
from nngraph.zoo.store.facts import SPLITS, Fact
from nngraph.zoo.store.manifest import Manifest, Origin
from nngraph.zoo.store.shards import Shard, jobs_of
from nngraph.zoo.store.splits import policy_of, split_of_images
from nngraph.zoo.store.writing import write_with_bar
from nngraph.zoo.store.zoo import Zoo
from nngraph.zoo.threads import on_threads

#: Adapters that are trained at once by a thread, and test images that each is judged on.
_CHUNK, _JUDGED = 16, 250

_Runs = Mapping[str, np.ndarray[Any, Any]]


def styled(images: Tensor, style: int) -> Tensor:
    """Return standardised images ``[*, H, W]`` in a style of :data:`~nngraph.settings.STYLES`."""
    name = STYLES[style]
    if name == "inverted":
        return -images
    if name == "turned":
        return images.rot90(1, (-2, -1))
    if name == "mirrored":
        return images.flip(-1)
    if name == "shifted":
        return images.roll(images.shape[-1] // 4, -1)
    if name == "striped":
        return images * (torch.arange(images.shape[-2]) % 2)[:, None]
    return images


def train_adapters(
    path: Path, train: ImageSource, test: ImageSource, settings: TrainZooSettings,
    recipe: AdapterRecipe, threads: int, progress: bool, command: str | None,
) -> Zoo:  # fmt: skip
    """Train a population of adapters; arguments and errors are those of :func:`train_zoo`.

    The transformer is trained first, on the plain images of all classes. An adapter then sees some
    of the classes, in one style, and is judged on the test images of these in that style.
    """
    count, seed, splits = settings.count, settings.seed, settings.splits
    height, width, channels = train.images.shape[1:]
    seen, judged = LabelledImages.pair(train, test, settings.max_test)
    spec = TransformerSpec(
        (height, width, channels), len(train.class_names), recipe.width, recipe.heads, recipe.blocks
    )
    kinds = [(layers, rank) for layers in recipe.layers for rank in recipe.ranks]
    architectures = tuple(spec.adapter(*kind) for kind in kinds)
    runs = _draw(recipe, count, spec.classes, len(kinds), seed)
    jobs = jobs_of(torch.from_numpy(runs["kind"]), settings.shard_runs)
    used = [kind for kind, _ in jobs]
    places = {kind: place for place, kind in enumerate(dict.fromkeys(used))}
    facts = _facts(recipe)
    made = {
        "source": train.name, "test": test.name, "count": count, "seed": seed,
        "splits": [float(fraction) for fraction in splits], "shard_runs": settings.shard_runs,
        "test_images": len(judged.labels), "recipe": recipe.to_dict(),
        "transformer": spec.to_dict(), "class_names": list(train.class_names),
    }  # fmt: skip
    digests = [train.fingerprint(), test.fingerprint(), json.dumps(made, sort_keys=True)]
    source = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    manifest = Manifest(
        tuple(architectures[kind] for kind in places), facts, "run", "test_accuracy",
        (Origin(source, made, command=command),),
        tuple(
            Shard.numbered(i, len(numbers) * recipe.checkpoints, places[kind])
            for i, (kind, numbers) in enumerate(jobs)
        ),
        policy=policy_of(splits, seed),
    )  # fmt: skip
    split, kept = split_of_images(count, splits, seed), recipe.checkpoints
    base = train_base(spec, seen.images, seen.labels, recipe.base_steps, seed)

    def make(index: int, show: Callable[..., None]) -> dict[str, Tensor]:
        kind, numbers = jobs[index]

        def run(part: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
            own = {name: torch.from_numpy(value[part.numpy()]) for name, value in runs.items()}
            return _Adapters(spec, architectures[kind], base, own, seen, judged, seed).train(recipe)

        values, told = [], []
        for parameters, known in on_threads(run, torch.split(numbers, _CHUNK), threads):
            values.append(parameters)
            told.append(known)
            accuracy = known["test_accuracy"][kept - 1 :: kept]
            show(len(accuracy), test=f"{float(accuracy.mean()):.1%}")
        joined = {n: torch.cat([part[n] for part in values]) for n in values[0]}
        known = {n: torch.cat([part[n] for part in told]) for n in told[0]}
        number = numbers.repeat_interleave(kept)
        known |= {"run": number, "split": split[number]}
        return joined | {fact.key: known[fact.name].to(fact.torch_dtype) for fact in facts}

    write_with_bar(path, manifest, make, desc="train", unit="run", shown=progress, networks=kept)
    return Zoo.open(path)


def _facts(recipe: AdapterRecipe) -> tuple[Fact, ...]:
    return (
        Fact("run"), Fact("step"), Fact("style", "int64", recipe.styles), Fact("rank"),
        Fact("layers", "int64", tuple(" ".join(layers) for layers in recipe.layers)),
        Fact("classes"), Fact("num_classes"), Fact("learning_rate", "float32"),
        Fact("diverged", "int64", ("no", "yes")), Fact("test_accuracy", "float32"),
        Fact("test_loss", "float32"), Fact("split", "int64", SPLITS),
    )  # fmt: skip


def _draw(
    recipe: AdapterRecipe, count: int, classes: int, kinds: int, seed: int
) -> dict[str, np.ndarray[Any, Any]]:
    """Draw what adapters are trained on and how; ``classes`` is a bit for each class seen."""
    generator = np.random.default_rng([seed, 0x10A])
    low, high = (min(n, classes) for n in recipe.classes)
    sizes = generator.integers(low, high + 1, size=count)
    orders = generator.random((count, classes)).argsort(1).argsort(1)

    def log_uniform(low: float, high: float) -> np.ndarray[Any, Any]:
        return np.exp(generator.uniform(math.log(low), math.log(high), size=count))

    kind = generator.integers(kinds, size=count)
    return {
        "kind": kind,
        "layers": kind // len(recipe.ranks),
        "rank": np.array(recipe.ranks)[kind % len(recipe.ranks)],
        "style": generator.integers(len(recipe.styles), size=count),
        "classes": ((orders < sizes[:, None]) * 2 ** np.arange(classes)).sum(1),
        "num_classes": sizes,
        "learning_rate": log_uniform(*recipe.learning_rate),
        "steps": log_uniform(*recipe.steps).round().astype(np.int64),
        "stream": np.arange(count),
    }


class _Adapters:
    """Some adapters of one architecture, their images and their optimisers."""

    def __init__(
        self, spec: TransformerSpec, architecture: Architecture, base: Mapping[str, Tensor],
        runs: Mapping[str, Tensor], train: LabelledImages, test: LabelledImages, seed: int,
    ) -> None:  # fmt: skip
        self.spec, self.base, self.runs, self.data, self.test = spec, base, runs, train, test
        stream = int(runs["stream"][0])
        drawn = np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0]
        self.generator = torch.Generator().manual_seed(int(drawn) % 2**63)
        self.shapes = {p.name: p.shape for p in architecture.parameters}
        self.count = len(runs["rank"])
        self.flat = torch.cat([self._first(n, s) for n, s in self.shapes.items()], 1)
        self.optimiser = BatchedOptimiser(
            torch.full((self.count,), OPTIMISERS.index("adam")), runs["learning_rate"].float(),
            torch.zeros(self.count), self.flat.shape[1],
        )  # fmt: skip
        self.seen, self.judged = self._rows(train.labels), self._rows(test.labels)

    def _first(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return first weights: A is random, and B is 0."""
        if ".lora_B." in name:
            return torch.zeros(self.count, math.prod(shape))
        drawn = torch.randn(self.count, math.prod(shape), generator=self.generator)
        return drawn / math.sqrt(shape[1])

    def _rows(self, labels: Tensor) -> list[Tensor]:
        """Return the images of the classes that each adapter sees."""
        return [
            torch.nonzero(classes >> labels & 1).squeeze(1) for classes in self.runs["classes"]
        ]

    def values(self, flat: Tensor) -> dict[str, Tensor]:
        """Return views of the adapters' parameters."""
        parts = torch.split(flat, [math.prod(shape) for shape in self.shapes.values()], 1)
        return {
            name: part.reshape(self.count, *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def train(self, recipe: AdapterRecipe) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Train all for the steps of the first; return states, and what is known of them."""
        kept = kept_steps(int(self.runs["steps"][0]), recipe.checkpoints)
        states, known = [], []
        diverged = torch.zeros(self.count, dtype=torch.bool)
        for step in range(kept[-1] + 1):
            if step in kept:
                states.append({n: v.clone() for n, v in self.values(self.flat).items()})
                told = {n: v for n, v in self.runs.items() if n not in ("kind", "steps", "stream")}
                steps = torch.full((self.count,), step)
                known.append({**told, **self.measure(), "step": steps, "diverged": diverged.long()})
            if step < kept[-1]:
                diverged = self.step(recipe.batch_size, diverged)

        def side_by_side(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
            return {n: torch.stack([p[n] for p in parts], 1).flatten(0, 1) for n in parts[0]}

        return side_by_side(states), side_by_side(known)

    def _images(self, data: LabelledImages, rows: Tensor) -> Tensor:
        """Return images ``[K, n, C, H, W]``, each adapter's in its style."""
        pairs = zip(data.images[rows], self.runs["style"].tolist(), strict=True)
        return torch.stack([styled(images, style) for images, style in pairs])

    def step(self, batch_size: int, diverged: Tensor) -> Tensor:
        """Take one step with every adapter; return which have diverged so far."""
        rows = torch.stack([
            own[torch.randint(len(own), (batch_size,), generator=self.generator)]
            for own in self.seen
        ])
        flat = self.flat.requires_grad_()
        logits = self.spec.run(self.base, self.values(flat), self._images(self.data, rows))
        labels = self.data.labels[rows].flatten()
        loss = F.cross_entropy(logits.flatten(0, 1), labels, reduction="sum") / batch_size
        (gradient,) = torch.autograd.grad(loss, flat)
        old = flat.detach()
        new = old - self.optimiser.change(old, gradient)
        diverged = diverged.logical_or(~new.isfinite().all(1))
        self.flat = torch.where(diverged[:, None], old, new)
        return diverged

    @torch.no_grad()
    def measure(self) -> dict[str, Tensor]:
        """Return accuracy and loss of every adapter on test images of its classes and style."""
        most = min(_JUDGED, max(len(own) for own in self.judged))
        rows = torch.stack([F.pad(own[:most], (0, max(most - len(own), 0))) for own in self.judged])
        sizes = torch.tensor([min(len(own), most) for own in self.judged])
        mask = torch.arange(most) < sizes[:, None]
        logits = self.spec.run(self.base, self.values(self.flat), self._images(self.test, rows))
        labels = self.test.labels[rows]
        losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        right = (logits.argmax(-1) == labels) & mask
        total = sizes.clamp(min=1)
        return {
            "test_accuracy": right.sum(1) / total,
            "test_loss": torch.where(mask, losses, 0.0).sum(1) / total,
        }
