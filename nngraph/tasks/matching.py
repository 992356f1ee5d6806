"""The task "match": a model learns to give neurons that do the same in two networks like states.

It is trained on a network and its copy, with noise and with its neurons relabelled.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nngraph.alignment import NeuronStates, match_features
from nngraph.datasets import WeightNoise
from nngraph.errors import ArchitectureError, DataFileError
from nngraph.graph import Architecture, NeuralGraphStack, Symmetry
from nngraph.nn import StateNetwork, evaluating, model_named
from nngraph.settings import TrainSettings
from nngraph.tasks.seeding import seeded
from nngraph.tasks.task import Numbered, Task, joined, new_model, one_stack
from nngraph.zoo import Zoo


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

    What is trained are the states of a model, by which ``nngraph match --method embeddings`` and
    :func:`~nngraph.alignment.match_embeddings` then match any two networks of one architecture.

    Measures: ``matched``, the score: the share of hidden neurons that the assignment of most
    similarity matches with themselves; and ``loss``. Copies in judging follow from the seed.

    Args:
        settings: of the run; the model is a :class:`~nngraph.nn.StateNetwork`.
        noise: strength of :class:`~nngraph.datasets.WeightNoise` in the copies.
        temperature: of :func:`matching_loss`.

    Raises:
        DataFileError: if the neurons of some networks cannot be relabelled.
        ValueError: if an option is out of range.
    """

    name = "match"
    score = "matched"

    def __init__(
        self, zoo: Zoo, settings: TrainSettings, noise: float = 0.1, temperature: float = 0.1
    ) -> None:
        super().__init__(zoo, settings)
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature!r}; expected a positive number.")
        if fixed := [a for a in zoo.architectures if not a.spaces]:
            raise DataFileError(
                f"networks of {zoo.path} have the architecture {fixed[0]}, without neurons that "
                "may be relabelled; there is nothing to match. Leave them out with 'nngraph zoo "
                "filter'."
            )
        self.noise, self.temperature = WeightNoise(noise), temperature

    def build_model(self) -> NeuronStates:
        model_named(self.settings.model, StateNetwork)  # type: ignore[type-abstract]
        encoder = new_model(self.settings, self.zoo, 0)
        assert isinstance(encoder, StateNetwork)
        return NeuronStates(encoder)

    def copies(self, networks: NeuralGraphStack) -> tuple[NeuralGraphStack, Tensor]:
        """Return noisy, relabelled copies, and the old node at each of their nodes ``[B, N]``."""
        architecture, count = networks.architecture, len(networks)
        relabelling = Symmetry(architecture).sample_stack(count)
        nodes = torch.arange(architecture.num_nodes).expand(count, -1)
        old = relabelling.act_on_nodes(nodes.unsqueeze(-1)).squeeze(-1)
        return relabelling.act_on_stack(self.noise(networks)), old.to(networks.x.device)

    def loss(self, model: nn.Module, batch: Numbered) -> Tensor:
        """Return the mean of :func:`matching_loss` over the networks and fresh copies of them."""
        losses = [pairs.loss(self.temperature) for pairs in self._compared(model, batch)]
        shares = torch.tensor([len(numbers) for numbers, _ in batch], dtype=torch.float64)
        return (torch.stack(losses) * (shares / shares.sum()).to(losses[0])).sum()

    def _compared(self, model: nn.Module, batch: Numbered) -> list[_Pairs]:
        """Return the states of networks and of copies of them, in one call of the model."""
        stacks, old = [], []
        for _, networks in batch:
            copies, nodes = self.copies(networks)
            pair = [self.prepare(stack, model) for stack in (networks, copies)]
            stacks.append(one_stack(pair))
            old.append(nodes)
        states = model(joined(stacks)).flatten(0, -2).split([2 * nodes.numel() for nodes in old])
        pairs = []
        for stack, own, nodes in zip(stacks, states, old, strict=True):
            x, y = own.view(2, *nodes.shape, -1)
            pairs.append(_Pairs(stack.architecture, x, y, nodes))
        return pairs

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        right = neurons = networks = 0
        loss = 0.0
        with evaluating(model), seeded(self.settings.seed, device=self.device):
            for batch in self.batches(split):
                for pairs in self._compared(model, batch):
                    found = pairs.found_again()
                    right, neurons = right + int(found.sum()), neurons + found.numel()
                    networks += len(pairs.old)
                    loss += len(pairs.old) * float(pairs.loss(self.temperature))
        return {"matched": right / neurons, "loss": loss / networks}


class _Pairs(NamedTuple):
    """Networks of one architecture and copies of them, as :func:`matching_loss` takes them."""

    architecture: Architecture
    x: Tensor
    y: Tensor
    old: Tensor

    def loss(self, temperature: float) -> Tensor:
        return matching_loss(self.architecture, self.x, self.y, self.old, temperature)

    def found_again(self) -> Tensor:
        """Return whether each neuron that was relabelled is matched with itself ``[B, n]``."""
        nodes = torch.arange(self.architecture.num_nodes)[:, None]
        found = []
        for x, y in zip(self.x, self.y, strict=True):
            relabelling = match_features(self.architecture, y, x).relabelling
            found.append(relabelling.act_on_nodes(nodes)[:, 0])
        same = torch.stack(found) == self.old.cpu()
        free = [same[:, start:stop] for start, stop in _free_groups(self.architecture)]
        return torch.cat(free, dim=1)
