"""What is known of a network, told from its weights: how good it is, and how it was trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nngraph.datasets import METRICS, InputMotion, moved_layer
from nngraph.errors import DataFileError, InvalidGraphError
from nngraph.graph import NeuralGraphStack
from nngraph.nn import Metanetwork, NetworkModel, Networks, Units
from nngraph.settings import TrainSettings
from nngraph.tasks.task import Numbered, Task, batch_answers, new_model
from nngraph.zoo import Fact, Zoo


class Target(ABC):
    """A fact of networks as a model is asked for it."""

    #: The measure by which models are chosen.
    score: ClassVar[str]
    #: Length of the answer.
    num_outputs: int

    def __init__(self, fact: Fact) -> None:
        self.fact = fact

    @abstractmethod
    def loss(self, answers: Tensor, truth: Tensor) -> Tensor:
        """Return the mean loss of answers ``[n, num_outputs]``, given the fact ``[n]``."""

    @abstractmethod
    def measures(self, answers: Tensor, truth: Tensor) -> dict[str, float]:
        """Return how good the answers are, by the name of each measure."""

    @abstractmethod
    def details(self, answers: Tensor, truth: Tensor) -> dict[str, Any]:
        """Return more than single numbers about the answers, as plain data."""

    @abstractmethod
    def same(self, answers: Tensor, others: Tensor) -> Tensor:
        """Return which answers in float64 tell the same, ``[n]`` bool."""


class Category(Target):
    r"""Which of the values that have names: softmax and cross-entropy; the score is the accuracy.

    .. math:: \mathcal{L} = -\frac{1}{n} \sum_b \log \mathrm{softmax}(f(\theta_b))_{y_b}
    """

    score = "accuracy"

    def __init__(self, fact: Fact) -> None:
        super().__init__(fact)
        self.num_outputs = len(fact.values)

    def loss(self, answers: Tensor, truth: Tensor) -> Tensor:
        return F.cross_entropy(answers.float(), truth)

    def measures(self, answers: Tensor, truth: Tensor) -> dict[str, float]:
        right = (answers.argmax(-1) == truth).double().mean()
        return {"loss": float(self.loss(answers, truth)), "accuracy": float(right)}

    def details(self, answers: Tensor, truth: Tensor) -> dict[str, Any]:
        """Return ``confusion``: networks of class i (row) that were taken for class j."""
        kinds = self.num_outputs
        pairs = torch.bincount(truth * kinds + answers.argmax(-1), minlength=kinds * kinds)
        names = list(self.fact.values)
        return {"confusion": pairs.view(kinds, kinds).tolist(), "class_names": names}

    def same(self, answers: Tensor, others: Tensor) -> Tensor:
        return answers.argmax(-1) == others.argmax(-1)


class Number(Target):
    r"""The number itself: least squares in units of its deviation; the score is Kendall's tau.

    .. math:: \mathcal{L} = \frac{1}{n} \sum_b \Big(\frac{f(\theta_b) - y_b}{\sigma}\Big)^2

    Besides tau there are R2, the mean squared and absolute errors, and ``slope`` and ``intercept``
    of the least-squares line of the truth over the answers: 1 and 0 where answers are calibrated.
    The deviation is that of the training networks.
    """

    score = "kendall"
    num_outputs = 1

    def __init__(self, fact: Fact, deviation: float) -> None:
        super().__init__(fact)
        self.deviation = deviation

    def loss(self, answers: Tensor, truth: Tensor) -> Tensor:
        # The difference in float32, whatever the precision of the answers.
        return ((answers.float().squeeze(-1) - truth.float()) / self.deviation).square().mean()

    def measures(self, answers: Tensor, truth: Tensor) -> dict[str, float]:
        found, true = _numbers(answers), _numbers(truth)
        slope, intercept = _line(found, true)
        return {
            "loss": float(self.loss(answers, truth)),
            **{name: METRICS[name](true, found) for name in ("kendall", "r2", "mse")},
            "mae": float(np.abs(found - true).mean()),
            "slope": slope,
            "intercept": intercept,
        }

    def details(self, answers: Tensor, truth: Tensor) -> dict[str, Any]:
        """Return ``deciles`` of the networks by answer: mean answer, truth and absolute error."""
        found, true = _numbers(answers), _numbers(truth)
        order = np.argsort(found, kind="stable")
        deciles = [
            {
                "networks": len(part),
                "answer": float(found[part].mean()),
                "truth": float(true[part].mean()),
                "absolute_error": float(np.abs(found[part] - true[part]).mean()),
            }
            for part in np.array_split(order, 10)
            if len(part)
        ]
        return {"fact": self.fact.name, "deciles": deciles}

    def same(self, answers: Tensor, others: Tensor) -> Tensor:
        """Return which are equal but for rounding: to 1e-9 of the deviation or of the answer."""
        return torch.isclose(answers, others, rtol=1e-9, atol=1e-9 * self.deviation).squeeze(-1)


def _numbers(value: Tensor) -> np.ndarray[Any, Any]:
    return value.detach().cpu().double().flatten().numpy()


def _line(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Return slope and intercept of the least-squares line; NaN if all x are equal."""
    centred = x - x.mean()
    spread = float(np.square(centred).sum())
    slope = float((centred * y).sum() / spread) if spread else float("nan")
    return slope, float(y.mean() - slope * x.mean())


class StandardisedTarget(NetworkModel, Units):
    r"""A metanetwork whose answers are in the units of what it tells.

    .. math:: y = \mu + \sigma f(\theta)

    with mean and deviation over the training networks, so that the metanetwork f itself has answers
    of mean 0 and deviation 1 to give.
    """

    def __init__(self, model: Metanetwork) -> None:
        super().__init__()
        self.model, self.traits, self.num_outputs = model, model.traits, model.num_outputs
        self.start_units()

    def forward(self, networks: Networks) -> Tensor:
        return self.original(self.model(networks))


class Predict(Task):
    """What is known of a network: an accuracy, a training step, the optimiser, the data set, ...

    A fact whose values have names is told as a choice of these, scored by the accuracy; any other
    as a number, scored by Kendall's tau. Networks of which the fact is not known are left out.

    Args:
        fact: name of the fact; default the zoo's target, such as "test_accuracy". "data_set" is a
            fact of every zoo: the data that a network was made from, of a merged zoo.

    Raises:
        DataFileError: if the zoo does not have it.
    """

    name = "predict"

    def __init__(self, zoo: Zoo, settings: TrainSettings, fact: str | None = None) -> None:
        super().__init__(zoo, settings)
        self.fact, self.truth = _known(zoo, fact or zoo.manifest.target)
        if self.fact.is_text:
            raise InvalidGraphError(
                f"the fact {self.fact.name!r} of {zoo.path} is a text, which no model tells; "
                "expected a number or a class."
            )
        self.known = torch.isfinite(self.truth)
        if self.fact.values and not self.fact.values[-1]:
            # The last class stands for networks of which the fact is not known.
            self.fact = replace(self.fact, values=self.fact.values[:-1])
            self.known = self.truth < len(self.fact.values)
        self.target = self._target()
        self.score, self.num_outputs = self.target.score, self.target.num_outputs

    def _target(self) -> Target:
        if self.fact.values:
            if len(self.fact.values) < 2:
                raise DataFileError(
                    f"the fact {self.fact.name!r} of {self.zoo.path} has the one value "
                    f"{''.join(self.fact.values)!r}; expected a choice of two or more."
                )
            return Category(self.fact)
        known = self._training_numbers()
        return Number(self.fact, float(known.std().clamp(min=1e-12)) if len(known) > 1 else 1.0)

    def _training_numbers(self) -> Tensor:
        return self.truth[self.chosen("train")].double()

    def chosen(self, split: str) -> Tensor:
        numbers = super().chosen(split)
        return numbers[self.known[numbers]]

    def build_model(self) -> nn.Module:
        model = new_model(self.settings, self.zoo, self.target.num_outputs)
        return StandardisedTarget(model) if isinstance(self.target, Number) else model

    def fit_statistics(self, model: nn.Module) -> None:
        super().fit_statistics(model)
        if isinstance(model, StandardisedTarget):
            model.mean.fill_(float(self._training_numbers().mean()))
            model.deviation.fill_(cast(Number, self.target).deviation)

    def _truth(self, numbers: Tensor) -> Tensor:
        return self.truth[numbers].to(self.device)

    def loss(self, model: nn.Module, batch: Numbered) -> Tensor:
        truth = self._truth(torch.cat([numbers for numbers, _ in batch]))
        return self.target.loss(model(self.prepared(batch, model, training=True)), truth)

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        numbers, found = batch_answers(self, model, split)
        return self.target.measures(found, self._truth(numbers))

    def details(self, model: nn.Module, split: str) -> dict[str, Any]:
        numbers, found = batch_answers(self, model, split)
        return self.target.details(found, self._truth(numbers))


class Classify(Predict):
    """Which class a network belongs to, such as the digit that it draws.

    As telling the fact "label"; in training, the images that the networks represent are moved at
    random besides, exactly, where the settings say so.

    Raises:
        DataFileError: if the zoo's networks have no classes.
        ValueError: if images are to be mirrored that are not moved.
    """

    name = "classify"

    def __init__(self, zoo: Zoo, settings: TrainSettings) -> None:
        if not zoo.num_classes:
            raise DataFileError(
                f"the networks of {zoo.path} have no classes: what is known of them is "
                f"{zoo.manifest.target!r}. Expected a zoo with labels; the task 'predict' tells "
                "other facts."
            )
        super().__init__(zoo, settings, "label")
        motion = settings.motion
        self.moves = all(map(moved_layer, zoo.architectures)) if motion is None else motion
        if settings.mirror and not self.moves:
            raise ValueError(
                "mirror=True was given, but the images of the networks are not moved; expected "
                "motion=True, and networks of two inputs."
            )

    def prepare(
        self, networks: NeuralGraphStack, model: nn.Module, training: bool = False
    ) -> NeuralGraphStack:
        if training and self.moves:
            networks = InputMotion(mirror=self.settings.mirror)(networks)
        return super().prepare(networks, model, training)


def _known(zoo: Zoo, name: str) -> tuple[Fact, Tensor]:
    """Return a fact, and what it is of each network ``[B]``."""
    if name != "data_set" or any(fact.name == name for fact in zoo.manifest.facts):
        return zoo.manifest.fact(name), zoo.fact(name)
    names = [str(origin.recipe.get("source", origin.source[:8])) for origin in zoo.manifest.origins]
    values = tuple(dict.fromkeys(names))
    counts = torch.tensor([shard.count for shard in zoo.shards], dtype=torch.int64)
    per_shard = [values.index(names[shard.origin]) for shard in zoo.shards]
    source = torch.tensor(per_shard, dtype=torch.int64).repeat_interleave(counts)
    return Fact("data_set", values=values), source
