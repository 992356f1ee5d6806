"""The task "match": a model learns to give neurons that do the same in two networks like states.

It is trained on pairs whose matching is known: a network, and its copy with noise and with its
neurons relabelled.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nngraph.datasets import WeightNoise
from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture, NeuralGraphStack, Symmetry
from nngraph.nn import MODELS, StateNetwork
from nngraph.tasks.alignment.embeddings import NeuronStates
from nngraph.tasks.alignment.matching import match_features
from nngraph.tasks.settings import TrainSettings
from nngraph.tasks.task import Task
from nngraph.zoo import Zoo

__all__ = ["MatchNeurons", "matching_loss"]


def matching_loss(
    architecture: Architecture, x: Tensor, y: Tensor, old: Tensor, temperature: float = 0.1
) -> Tensor:
    r"""Return the cross-entropy of finding each hidden neuron of one network in another, and back.

    .. math:: -\frac{1}{2 n} \sum_i \log \frac{e^{s_{i p(i)}}}{\sum_j e^{s_{ij}}}
        + \log \frac{e^{s_{i p(i)}}}{\sum_j e^{s_{j p(i)}}},
        \qquad s_{ij} = \cos(y_i, x_j) / \tau

    over the neurons j of the same group, averaged over all that may be relabelled.

    Args:
        x, y: states ``[B, N, C]`` of networks, and of their relabelled copies.
        old: ``[B, N]``, node of the network that stands at each node of its copy.
        temperature: tau.
    """
    x, y = F.normalize(x, dim=-1), F.normalize(y, dim=-1)
    losses, neurons = [], 0
    for start, stop in _free_groups(architecture):
        scores = y[:, start:stop] @ x[:, start:stop].transpose(-1, -2) / temperature
        place = old[:, start:stop] - start
        back = place.argsort(-1)
        for logits, answer in ((scores, place), (scores.transpose(-1, -2), back)):
            losses.append(F.cross_entropy(logits.flatten(0, 1), answer.flatten(), reduction="sum"))
        neurons += 2 * place.numel()
    if not losses:
        raise ArchitectureError(
            f"the architecture {architecture} has no neurons that may be relabelled; there is "
            "nothing to match."
        )
    return torch.stack(losses).sum() / neurons


def _free_groups(architecture: Architecture) -> Iterator[tuple[int, int]]:
    """First node of each group that relabelling moves, and the first after it."""
    starts = architecture.node_starts
    for place, group in enumerate(architecture.groups):
        if any(factor.space in architecture.spaces for factor in group.factors):
            yield starts[place], starts[place + 1]


class MatchNeurons(Task):
    """Find the neurons of a network again in its copy, which has noise and other labels.

    Measures: ``matched``, the score: the share of hidden neurons that the assignment of most
    similarity matches with themselves; and ``loss``. The copies of :meth:`evaluate` follow from the
    seed of the settings.

    Args:
        zoo, settings: as of every task.
        noise: strength of :class:`~nngraph.datasets.WeightNoise` in the copies.
        temperature: of :func:`matching_loss`.

    Raises:
        ValueError: if an option is out of range.
    """

    name: ClassVar[str] = "match"
    score: ClassVar[str] = "matched"

    def __init__(
        self, zoo: Zoo, settings: TrainSettings, noise: float = 0.1, temperature: float = 0.1
    ) -> None:
        super().__init__(zoo, settings)
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature!r}; expected a positive number.")
        self.noise, self.temperature = WeightNoise(noise), temperature

    def build_model(self) -> NeuronStates:
        """Return a model of states with fresh parameters.

        Raises:
            ValueError: if the model of the settings gives neurons no states.
        """
        model = MODELS.get(self.settings.model)
        if model is None or not issubclass(model, StateNetwork):
            able = [name for name, kind in MODELS.items() if issubclass(kind, StateNetwork)]
            raise ValueError(
                f"model is {self.settings.model!r}, which gives neurons no states to match; "
                f"expected one of {', '.join(able) or 'those derived from StateNetwork'}."
            )
        return NeuronStates(model(self.zoo.architecture, 0, **self.settings.options))

    def fit_statistics(self, model: nn.Module) -> None:
        """Give a fresh model the scales of the training networks."""
        assert isinstance(model, NeuronStates)
        model.fit_statistics(self.zoo.stack("train"))

    def copies(self, networks: NeuralGraphStack) -> tuple[NeuralGraphStack, Tensor]:
        """Return noisy, relabelled copies, and the old node at each of their nodes ``[B, N]``.

        Draws from torch's global generator.
        """
        architecture, count = networks.architecture, len(networks)
        relabelling = Symmetry(architecture).sample_stack(count)
        nodes = torch.arange(architecture.num_nodes).expand(count, -1)
        old = relabelling.act_on_nodes(nodes.unsqueeze(-1)).squeeze(-1)
        return relabelling.act_on_stack(self.noise(networks)), old.to(networks.x.device)

    def loss(self, model: nn.Module, batch: list[tuple[Tensor, NeuralGraphStack]]) -> Tensor:
        """Return the mean of :func:`matching_loss` over the networks and fresh copies of them."""
        losses = [len(stack) * self._compared(model, stack)[-1] for _, stack in batch]
        return torch.stack(losses).sum() / sum(len(stack) for _, stack in batch)

    def _compared(
        self, model: nn.Module, networks: NeuralGraphStack
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the states of networks and of copies of them, the old nodes, and the loss."""
        copies, old = self.copies(networks)
        both = networks, copies
        integers = networks.integers
        joined = NeuralGraphStack(
            networks.architecture,
            torch.cat([stack.x for stack in both]),
            torch.cat([stack.edge_attr for stack in both]),
            integers=None if integers is None else torch.cat([integers, integers]),
        )
        x, y = model(joined).chunk(2)
        return x, y, old, matching_loss(networks.architecture, x, y, old, self.temperature)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        """Judge a model on networks of a split and one copy of each."""
        networks = self.zoo.stack(split).to(next(model.parameters()).device)
        free = list(_free_groups(networks.architecture))
        right, loss, size = 0, 0.0, self.settings.batch_size
        was_training = model.training
        model.eval()
        try:
            with torch.random.fork_rng():
                torch.manual_seed(self.settings.seed)
                for start in range(0, len(networks), size):
                    part = networks[start : start + size]
                    x, y, old, mean = self._compared(model, part)
                    loss += len(part) * float(mean)
                    for one, other, expected in zip(x, y, old.cpu(), strict=True):
                        same = _found(networks.architecture, one, other) == expected
                        right += sum(int(same[first:stop].sum()) for first, stop in free)
        finally:
            model.train(was_training)
        neurons = len(networks) * sum(stop - first for first, stop in free)
        return {"matched": right / neurons, "loss": loss / len(networks)}


def _found(architecture: Architecture, x: Tensor, y: Tensor) -> Tensor:
    """Return the node of a network that each node of its copy is matched with, by states."""
    relabelling = match_features(architecture, y, x).relabelling
    return relabelling.act_on_nodes(torch.arange(architecture.num_nodes)[:, None])[:, 0]
