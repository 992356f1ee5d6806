"""Which class a network belongs to: preparing stacks, and judging a model on them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nngraph.datasets import CanonicaliseSines, InputMotion, Relabel
from nngraph.graph import NeuralGraphStack
from nngraph.nn import Metanetwork
from nngraph.tasks.settings import TrainSettings

__all__ = ["Evaluation", "evaluate", "prepare"]


@dataclass(frozen=True)
class Evaluation:
    """How a model did on a set of networks.

    Attributes:
        accuracy: share of networks whose class it found.
        loss: mean cross-entropy.
        predictions: ``[B]`` class it named.
        confusion: ``[K, K]`` networks of class i (row) taken for class j.
    """

    accuracy: float
    loss: float
    predictions: Tensor
    confusion: Tensor


def prepare(
    networks: NeuralGraphStack, model: Metanetwork, settings: TrainSettings, training: bool = False
) -> NeuralGraphStack:
    """Return the stack as the model reads it: moved and relabelled in training, then canonical.

    Relabelling comes last, since a canonical form does not depend on it.
    """
    if training and settings.motion:
        networks = InputMotion()(networks)
    if settings.canonicalise and model.reads_signs:
        networks = CanonicaliseSines()(networks)
    if training and settings.relabel:
        networks = Relabel()(networks)
    return networks


@torch.no_grad()
def evaluate(
    model: Metanetwork,
    networks: NeuralGraphStack,
    settings: TrainSettings,
    batch_size: int = 512,
) -> Evaluation:
    """Judge a model on labelled networks, in evaluation mode; the mode is put back afterwards."""
    if networks.y is None:
        raise ValueError("the networks have no labels; expected y [B].")
    was_training = model.training
    model.eval()
    try:
        answers = torch.cat(
            [
                model(prepare(networks[i : i + batch_size], model, settings))
                for i in range(0, len(networks), batch_size)
            ]
        )
    finally:
        model.train(was_training)
    predictions = answers.argmax(-1)
    classes = answers.shape[-1]
    pairs = networks.y * classes + predictions
    return Evaluation(
        accuracy=float((predictions == networks.y).double().mean()),
        loss=float(F.cross_entropy(answers.float(), networks.y)),
        predictions=predictions,
        confusion=torch.bincount(pairs, minlength=classes * classes).view(classes, classes),
    )
