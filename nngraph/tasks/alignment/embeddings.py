r"""Matching by what a model makes of each neuron, and training a model for it.

A model whose states commute with relabelling gives neurons that do the same thing in two networks
like states, wherever they stand. One forward pass embeds both networks; the assignment of most
cosine similarity matches them. It is trained on pairs whose matching is known: a network, and its
copy with noise and with its neurons relabelled.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nngraph.datasets import WeightNoise
from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture, NeuralGraph, NeuralGraphStack, Symmetry, to_batch
from nngraph.nn import MODELS, StateNetwork
from nngraph.tasks.alignment.interpolation import run
from nngraph.tasks.alignment.matching import Alignment, match_features
from nngraph.tasks.alignment.terms import check_pair
from nngraph.tasks.settings import TrainSettings
from nngraph.tasks.task import Task
from nngraph.zoo import Zoo

__all__ = ["MatchNeurons", "match_activations", "match_embeddings", "matching_loss"]


def match_activations(
    a: NeuralGraph, b: NeuralGraph, inputs: Tensor, *, signs: bool = False
) -> Alignment:
    """Match the neurons of two chains by the correlation of their activations.

    Args:
        inputs: ``[P, d_0]``, what both networks are run on.
        signs: whether neurons of odd activation may be matched with the other sign.

    Raises:
        InvalidGraphError: if the networks have not one architecture, or the inputs do not fit it.
        ArchitectureError: if they are no chains of affine maps. Of others take the activations
            by hooks, and match them with :func:`match_features`.
    """
    architecture = check_pair(a, b)
    with torch.no_grad():
        seen = [run(network, inputs, return_activations=True).T for network in (a, b)]
    return match_features(
        architecture, seen[0], seen[1], centre=True, signs=signs, method="activations"
    )


def match_embeddings(model: StateNetwork, a: NeuralGraph, b: NeuralGraph) -> Alignment:
    """Match the neurons of two networks by the states that a model gives them, in one pass.

    Args:
        model: its states commute with relabelling, as those of every ``StateNetwork`` do.

    Raises:
        InvalidGraphError: if the networks have not one architecture.
    """
    architecture = check_pair(a, b)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            x = model.states(to_batch([a, b])).x
    finally:
        model.train(was_training)
    # Two networks of one architecture stand as a stack, or one after the other.
    x = x.reshape(2, architecture.num_nodes, -1)
    return match_features(architecture, x[0], x[1], method="embeddings")


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

    The options ``noise`` (relative, 0.1) and ``temperature`` (0.1) are attributes; the copies of
    :meth:`evaluate` follow from the seed of the settings.
    """

    name: ClassVar[str] = "match"
    score: ClassVar[str] = "matched"

    def __init__(
        self, zoo: Zoo, settings: TrainSettings, noise: float = 0.1, temperature: float = 0.1
    ) -> None:
        super().__init__(zoo, settings)
        self.noise, self.temperature = WeightNoise(noise), temperature

    def build_model(self) -> nn.Module:
        """Return a model of states alone.

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
        return model(self.zoo.architecture, 0, **self.settings.options)

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
        losses = []
        for _, networks in batch:
            both, old = self._states(cast(StateNetwork, model), networks)
            losses.append(
                matching_loss(networks.architecture, *both, old, self.temperature) * len(networks)
            )
        return torch.stack(losses).sum() / sum(len(networks) for _, networks in batch)

    def _states(
        self, model: StateNetwork, networks: NeuralGraphStack
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Return the states of networks and of their copies, in one pass, and the old nodes."""
        copies, old = self.copies(networks)
        joined = NeuralGraphStack(
            networks.architecture,
            torch.cat([networks.x, copies.x]),
            torch.cat([networks.edge_attr, copies.edge_attr]),
            integers=None if networks.integers is None
            else torch.cat([networks.integers, networks.integers]),
        )  # fmt: skip
        x = model.states(joined).x
        return (x[: len(networks)], x[len(networks) :]), old

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        """Return the share of hidden neurons that are matched with themselves, and the loss."""
        networks = self.zoo.stack(split)
        device = next(model.parameters()).device
        right = total = 0
        loss = 0.0
        with torch.random.fork_rng():
            torch.manual_seed(self.settings.seed)
            for start in range(0, len(networks), self.settings.batch_size):
                part = networks[start : start + self.settings.batch_size].to(device)
                (x, y), old = self._states(cast(StateNetwork, model), part)
                loss += float(matching_loss(part.architecture, x, y, old, self.temperature)) * len(
                    part
                )
                for number in range(len(part)):
                    found = match_features(part.architecture, y[number], x[number]).relabelling
                    nodes = torch.arange(part.architecture.num_nodes).unsqueeze(-1)
                    same = found.act_on_nodes(nodes).squeeze(-1) == old[number].cpu()
                    for first, stop in _free_groups(part.architecture):
                        right += int(same[first:stop].sum())
                        total += stop - first
        return {"matched": right / max(total, 1), "loss": loss / max(len(networks), 1)}
