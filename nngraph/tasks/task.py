"""What a metanetwork is trained for: the face that every task shows to the one training loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from nngraph.graph import NeuralGraphStack
from nngraph.tasks.settings import TrainSettings
from nngraph.zoo import Zoo

__all__ = ["Task"]


class Task(ABC):
    """Networks of a zoo, what is asked of them, and how an answer is judged.

    The loop draws networks, moves them to its device and calls :meth:`loss`; it knows nothing of
    labels, images or weights. Networks of one step come as stacks, one per architecture.

    Args:
        zoo: the networks.
        settings: of the run.

    Raises:
        DataFileError: if the zoo does not have what the task asks for.
    """

    #: Name on the command line.
    name: ClassVar[str]
    #: The measure of :meth:`evaluate` by which the best parameters are chosen; higher is better.
    score: ClassVar[str]

    def __init__(self, zoo: Zoo, settings: TrainSettings) -> None:
        self.zoo = zoo
        self.settings = settings

    @abstractmethod
    def build_model(self) -> nn.Module:
        """Return the model of the settings with fresh parameters."""

    @abstractmethod
    def loss(
        self, model: nn.Module, batch: list[tuple[Tensor, NeuralGraphStack]]
    ) -> Tensor:
        """Return the mean loss over the networks of a training step, augmentation included.

        Args:
            model: called once, so that wrapping it (mixed precision, several processes) works.
            batch: for each architecture the numbers of the networks in the zoo ``[n]``, and their
                stack, on the device of the model.
        """

    @abstractmethod
    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        """Judge a model in evaluation mode on a split; measures by name, :attr:`score` among them.
        """
