"""Self-supervised pre-training: two views of one network are alike, other networks are not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nngraph.datasets import DropWeights, InputMotion, ScaleNeurons, WeightNoise
from nngraph.errors import DataFileError
from nngraph.graph import NeuralGraphStack
from nngraph.nn import Metanetwork, NetworkModel, Networks, evaluating, mlp
from nngraph.settings import TrainSettings
from nngraph.tasks.linear_probe import linear_probe
from nngraph.tasks.task import Numbered, Task, batch_answers, new_model, one_stack
from nngraph.zoo import Zoo


class ContrastiveNetwork(NetworkModel):
    """A metanetwork whose answers are embeddings, and a head through which they are compared.

    The head is for training alone: what it throws away, a linear probe may want.

    Shape:
        networks -> ``[networks, projection]``; :meth:`embed` -> ``[networks, num_outputs]``.
    """

    def __init__(self, encoder: Metanetwork, projection: int = 64) -> None:
        super().__init__()
        self.encoder, self.traits = encoder, encoder.traits
        self.head = mlp([encoder.num_outputs, encoder.num_outputs, projection])

    def forward(self, networks: Networks) -> Tensor:
        return self.head(self.encoder(networks))  # type: ignore[no-any-return]

    def embed(self, networks: Networks) -> Tensor:
        return self.encoder(networks)  # type: ignore[no-any-return]


def contrastive_loss(first: Tensor, second: Tensor, temperature: float = 0.2) -> Tensor:
    r"""Return the NT-Xent loss of two views of B networks, ``[B, D]`` each.

    .. math:: -\frac{1}{2B} \sum_{i} \log
        \frac{\exp(\cos(z_i, z_{i'}) / \tau)}{\sum_{j \ne i} \exp(\cos(z_i, z_j) / \tau)}

    over all 2B views i, with i' the other view of the same network.

    Source:
        SimCLR (Chen et al., 2020).
    """
    views = F.normalize(torch.cat([first, second]).float(), dim=-1)
    likeness = views @ views.mT / temperature
    itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
    other = torch.arange(len(views), device=views.device).roll(len(first))
    return F.cross_entropy(likeness.masked_fill(itself, -torch.inf), other)


class Contrast(Task):
    r"""Learn embeddings without labels: two views of one network are alike, others are not.

    A view is the network under what leaves its function as it is (rescaled and flipped neurons,
    phase steps of sines, and, with ``relabel`` of the settings, relabelled neurons), and under what
    changes it little: noise on the weights, weights dropped, and, with ``motion=True``, the image
    that it draws moved. The loss is :func:`contrastive_loss`. That the embeddings help to find
    classes has not been shown: hold them against those of the same encoder before training.

    Measures: ``loss`` of views of the split's networks, and ``probe_accuracy``, the score: the
    accuracy on the split of a :func:`linear_probe` of the embeddings of training networks, which is
    what the labels are for.

    Args:
        embedding, projection: lengths of an embedding, and of what is compared.
        temperature: :math:`\tau` of the loss.
        noise: strength of :class:`~nngraph.datasets.WeightNoise`.
        drop: probability of :class:`~nngraph.datasets.DropWeights`.
        exact: whether views are moved by the symmetries of the activations.

    Raises:
        DataFileError: if the networks have no labels.
        ValueError: if an option is out of range.
    """

    name = "contrast"
    score = "probe_accuracy"

    def __init__(
        self, zoo: Zoo, settings: TrainSettings, embedding: int = 128, projection: int = 64,
        temperature: float = 0.2, noise: float = 0.05, drop: float = 0.0, exact: bool = True,
    ) -> None:
        super().__init__(zoo, settings)
        if not zoo.num_classes:
            raise DataFileError(
                f"the networks of {zoo.path} have no labels, by which a linear probe could judge "
                "embeddings; expected a zoo with some."
            )
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature!r}; expected a positive number.")
        self.embedding, self.projection = embedding, projection
        self.temperature, self.exact = temperature, exact
        self._changes: list[Any] = []
        if settings.motion:
            self._changes.append(InputMotion())
        if noise:
            self._changes.append(WeightNoise(noise))
        if drop:
            self._changes.append(DropWeights(drop))

    def build_model(self) -> ContrastiveNetwork:
        encoder = new_model(self.settings, self.zoo, self.embedding)
        return ContrastiveNetwork(encoder, self.projection)

    def view(self, networks: NeuralGraphStack) -> NeuralGraphStack:
        """Return a random view of each network."""
        for change in self._changes:
            networks = change(networks)
        exact = self.exact and networks.architecture.is_chain
        return ScaleNeurons()(networks) if exact else networks

    def loss(self, model: nn.Module, batch: Numbered) -> Tensor:
        # Both views of all networks in one call; a model reads them architecture by architecture.
        views = [
            self.prepare(self.view(stack), model, training=True)
            for _ in range(2) for _, stack in batch
        ]  # fmt: skip
        first, second = model(one_stack(views) if len(batch) == 1 else views).chunk(2)
        return contrastive_loss(first, second, self.temperature)

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        with evaluating(model):
            losses = [self.loss(model, batch) for batch in self.batches(split)]
            probe = linear_probe(*self.embeddings(model, "train"))
            accuracy = probe.accuracy(*self.embeddings(model, split))
        return {"probe_accuracy": accuracy, "loss": float(torch.stack(losses).mean())}

    def embeddings(self, model: nn.Module, split: str) -> tuple[Tensor, Tensor]:
        """Return the embeddings ``[n, D]`` of the networks of a split, unchanged, and labels."""
        assert isinstance(model, ContrastiveNetwork)
        numbers, embeddings = batch_answers(self, model.encoder, split)
        return embeddings, self.zoo.labels[numbers].to(embeddings.device)
