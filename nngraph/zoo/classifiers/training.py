"""Train many classifiers of one architecture at once, and keep states along the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nngraph.errors import InvalidGraphError
from nngraph.zoo.classifiers.batched import BatchedClassifiers, BatchedOptimiser
from nngraph.zoo.classifiers.spec import ClassifierSpec
from nngraph.zoo.sources import ImageSource
from nngraph.zoo.threads import on_threads

#: Networks that are trained at once by a thread: their tensors stay in the processor's cache.
CHUNK = 8
#: Images at once in evaluation, per network, and training images that a network is judged on.
_EVALUATED, _JUDGED = 250, 1000
#: Numbers beyond this are not trained on: the network has diverged.
_LARGEST = 1e6


@dataclass(frozen=True)
class LabelledImages:
    """Images as classifiers read them, ``[n, C, H, W]`` standardised, and their classes."""

    images: Tensor
    labels: Tensor

    @classmethod
    def pair(
        cls, train: ImageSource, test: ImageSource, max_test: int
    ) -> tuple[LabelledImages, LabelledImages]:
        """Return training and test images, both standardised by the training images.

        Raises:
            InvalidGraphError: if they differ in shape or classes.
        """
        if train.images.shape[1:] != test.images.shape[1:]:
            raise InvalidGraphError(
                f"training images have shape {tuple(train.images.shape[1:])}, test images "
                f"{tuple(test.images.shape[1:])}; expected the same."
            )
        if train.class_names != test.class_names:
            raise InvalidGraphError("training and test images have different classes.")
        images = train.targets()
        mean, std = images.mean(), images.std().clamp_min(1e-6)

        def read(source: ImageSource, values: Tensor) -> LabelledImages:
            standard = ((values - mean) / std).permute(0, 3, 1, 2).contiguous()
            return cls(standard, source.labels.to(torch.int64))

        few = test.take(min(len(test), max_test))
        return read(train, images), read(few, few.targets())


@dataclass(frozen=True)
class TrainedRuns:
    """States of B runs at K checkpoints.

    ``parameters`` ``[B, K, *shape]`` by name; ``measures`` ``[B, K]``: train_accuracy, train_loss,
    test_accuracy, test_loss; ``steps`` ``[B, K]``; ``diverged`` ``[B, K]``, whether an update was
    refused so far because it was not finite or too large.
    """

    parameters: dict[str, Tensor]
    measures: dict[str, Tensor]
    steps: Tensor
    diverged: Tensor


def train_classifiers(
    spec: ClassifierSpec, runs: Mapping[str, np.ndarray], train: LabelledImages,
    test: LabelledImages, *, steps: Sequence[int], checkpoints: int, batch_size: int, seed: int,
    stream: int, threads: int, on_chunk: Callable[[int, Tensor], None],
) -> TrainedRuns:  # fmt: skip
    """Train networks of one architecture, each with its own hyper-parameters and images.

    A network sees a random subset of the training images, in batches drawn from it with
    replacement; its training accuracy is that on the first :data:`_JUDGED` of its subset.

    Args:
        runs: hyper-parameters, ``[B]`` by name, as of :func:`draw_runs`.
        steps: of each chunk of :data:`CHUNK` networks.
        checkpoints: states that are kept, first and last among them, closer at the beginning.
        stream: number of the random stream under ``seed``.
        on_chunk: called after each chunk with its networks and their last test accuracy.
    """
    count, done = len(runs["optimiser"]), []
    hyper = {name: torch.from_numpy(np.asarray(value)) for name, value in runs.items()}

    def run(start: int) -> TrainedRuns:
        own = {name: value[start : start + CHUNK] for name, value in hyper.items()}
        drawn = np.random.SeedSequence([seed, stream, start]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(drawn) % 2**63)
        kept = kept_steps(steps[start // CHUNK], checkpoints)
        return _Chunk(spec, own, train, test, generator, _JUDGED).train(kept, batch_size)

    for chunk in on_threads(run, range(0, count, CHUNK), threads):
        done.append(chunk)
        last = chunk.measures["test_accuracy"][:, -1]
        on_chunk(len(last), last)
    return TrainedRuns(
        _joined(torch.cat, [c.parameters for c in done]),
        _joined(torch.cat, [c.measures for c in done]),
        torch.cat([c.steps for c in done]),
        torch.cat([c.diverged for c in done]),
    )


def _joined(
    join: Callable[..., Tensor], parts: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    return {name: join([part[name] for part in parts]) for name in parts[0]}


def kept_steps(steps: int, count: int) -> list[int]:
    """Return after how many steps a state is kept: 0, ..., steps, all different."""
    if count == 1:
        return [steps]
    kept = [0]
    for i in range(1, count):
        wanted = round(steps * (i / (count - 1)) ** 2)
        kept.append(min(max(wanted, kept[-1] + 1), steps - (count - 1 - i)))
    return kept


class _Chunk:
    """Some networks, their images and their optimisers."""

    def __init__(
        self, spec: ClassifierSpec, hyper: Mapping[str, Tensor], train: LabelledImages,
        test: LabelledImages, generator: torch.Generator, max_train: int,
    ) -> None:  # fmt: skip
        self.train_set, self.test_set, self.generator = train, test, generator
        self.count = len(hyper["optimiser"])
        scales = hyper["init_scale"].float()
        self.networks = BatchedClassifiers(spec, hyper["init"], scales, generator)
        self.optimiser = BatchedOptimiser(
            hyper["optimiser"], hyper["learning_rate"].float(), hyper["weight_decay"].float(),
            self.networks.flat.shape[1],
        )  # fmt: skip
        self.dropout = hyper["dropout"].float()
        total = len(train.labels)
        self.sizes = (hyper["fraction"] * total).round().to(torch.int64).clamp(1, total)
        orders = [torch.randperm(total, generator=generator) for _ in range(self.count)]
        self.subset = torch.stack(orders)
        self.judged = min(max_train, int(self.sizes.max()))
        self.diverged = torch.zeros(self.count, dtype=torch.bool)

    def train(self, kept: Sequence[int], batch_size: int) -> TrainedRuns:
        """Train, and keep the states after these numbers of steps."""
        parameters, measures, diverged = [], [], []
        for step in range(kept[-1] + 1):
            if step in kept:
                parameters.append(self.networks.parameters())
                measures.append(self.measure())
                diverged.append(self.diverged.clone())
            if step < kept[-1]:
                self.step(batch_size)
        side_by_side = partial(torch.stack, dim=1)
        return TrainedRuns(
            _joined(side_by_side, parameters), _joined(side_by_side, measures),
            torch.tensor(kept).expand(self.count, len(kept)), side_by_side(diverged),
        )  # fmt: skip

    def step(self, batch_size: int) -> None:
        """Take one optimiser step with every network."""
        share = torch.rand(self.count, batch_size, generator=self.generator)
        drawn = (share * self.sizes.unsqueeze(1)).long().clamp_max(self.sizes.unsqueeze(1) - 1)
        chosen = self.subset.gather(1, drawn)
        networks = self.networks
        flat = networks.flat.requires_grad_()
        running = networks.running.clone()
        logits = networks.forward(
            self.train_set.images[chosen], flat, True, self.dropout, self.generator
        )
        labels = self.train_set.labels[chosen]
        # A sum over networks, so that each gets the gradient of its own mean.
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        (grad,) = torch.autograd.grad(loss / batch_size, flat)
        with torch.no_grad():
            old = flat.detach()
            new = old - self.optimiser.change(old, grad)
            # A comparison with NaN is false, too.
            fine = (new.abs().amax(dim=1) < _LARGEST) & torch.isfinite(networks.running).all(dim=1)
            self.diverged |= ~fine
            going = ~self.diverged.unsqueeze(1)
            networks.flat = torch.where(going, new, old)
            networks.running = torch.where(going, networks.running, running)
        networks.steps += 1

    @torch.no_grad()
    def measure(self) -> dict[str, Tensor]:
        """Return accuracies and losses of every network, ``[B]`` each."""
        own = self.subset[:, : self.judged]
        counted = torch.arange(self.judged) < self.sizes.unsqueeze(1)
        found = {}
        every = torch.arange(len(self.test_set.labels)).expand(self.count, -1)
        for name, data, chosen, mask in (
            ("train", self.train_set, own, counted),
            ("test", self.test_set, every, torch.ones_like(every, dtype=torch.bool)),
        ):
            right, loss = torch.zeros(self.count), torch.zeros(self.count)
            parts = (torch.split(each, _EVALUATED, dim=1) for each in (chosen, mask))
            for part, here in zip(*parts, strict=True):
                logits = self.networks.forward(data.images[part[0] if name == "test" else part])
                labels = data.labels[part]
                losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
                right += ((logits.argmax(-1) == labels) & here).sum(dim=1)
                loss += torch.where(here, losses, 0.0).sum(dim=1)
            found[f"{name}_accuracy"] = right / mask.sum(dim=1)
            found[f"{name}_loss"] = loss / mask.sum(dim=1)
        return found
