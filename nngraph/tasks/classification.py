"""Which class a network belongs to."""

from __future__ import annotations

from torch import nn

from nngraph.datasets import InputMotion, moved_layer
from nngraph.errors import DataFileError
from nngraph.graph import NeuralGraphStack
from nngraph.settings import TrainSettings
from nngraph.tasks.prediction import Predict
from nngraph.zoo import Zoo


class Classify(Predict):
    """Which class a network belongs to, such as the digit that it draws.

    As telling the fact "label"; in training, the images that the networks represent are moved at
    random besides, exactly, where the settings say so.

    Args:
        zoo: with labels.
        settings: of the run.

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
