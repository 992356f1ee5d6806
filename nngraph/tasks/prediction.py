"""What is known of a network, told from its weights: how good it is, and how it was trained."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from nngraph.datasets import InputMotion, moved_layer
from nngraph.errors import DataFileError
from nngraph.graph import NeuralGraphStack
from nngraph.nn import Metanetwork, NetworkModel, Networks, Units
from nngraph.settings import TrainSettings
from nngraph.tasks.targets import Category, Number, Target
from nngraph.tasks.task import Numbered, Task, batch_answers, new_model
from nngraph.zoo import Fact, Zoo


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
        zoo: the networks.
        settings: of the run.
        fact: name of the fact; default the zoo's target, such as "test_accuracy". "data_set" is a
            fact of every zoo: the data that a network was made from, of a merged zoo.

    Raises:
        DataFileError: if the zoo does not have it.
    """

    name = "predict"

    def __init__(self, zoo: Zoo, settings: TrainSettings, fact: str | None = None) -> None:
        super().__init__(zoo, settings)
        self.fact, self.truth = _known(zoo, fact or zoo.manifest.target)
        self.target = self._target()
        self.score, self.num_outputs = self.target.score, self.target.num_outputs

    def _target(self) -> Target:
        if self.fact.values:
            if len(self.fact.values) < 2:
                raise DataFileError(
                    f"the fact {self.fact.name!r} of {self.zoo.path} has the one value "
                    f"{self.fact.values[0]!r}; expected a choice of two or more."
                )
            return Category(self.fact)
        known = self._training_numbers()
        return Number(self.fact, float(known.std().clamp(min=1e-12)) if len(known) > 1 else 1.0)

    def _training_numbers(self) -> Tensor:
        return self.truth[self.chosen("train")].double()

    def chosen(self, split: str) -> Tensor:
        numbers = super().chosen(split)
        return numbers[torch.isfinite(self.truth[numbers])]

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
        self.moves = settings.motion
        if self.moves is None:
            self.moves = all(map(moved_layer, zoo.architectures))
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
