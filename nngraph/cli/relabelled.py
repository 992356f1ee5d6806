"""Whether a model's answers stay when the neurons of the networks it reads are relabelled."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from nngraph.errors import InvalidGraphError
from nngraph.graph import NeuralGraphStack, Symmetry
from nngraph.nn import Metanetwork
from nngraph.tasks import TrainSettings, prepare

__all__ = ["Relabelled", "compare_relabelled"]


@dataclass(frozen=True)
class Relabelled:
    """What relabelling did to the answers of a model.

    Attributes:
        invariant: whether the model claims to be invariant.
        networks: how many were relabelled, each at random.
        unchanged: share of networks that are taken for the same class as before.
        largest_change: of any entry of an answer, relative to the largest entry.
        accuracy_before, accuracy_after: share of networks whose class was found.
    """

    invariant: bool
    networks: int
    unchanged: float
    largest_change: float
    accuracy_before: float
    accuracy_after: float

    @property
    def holds(self) -> bool:
        """Whether the claim holds: not one prediction of an invariant model has changed."""
        return not self.invariant or self.unchanged == 1

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as plain data."""
        return {**asdict(self), "holds": self.holds}


@torch.no_grad()
def compare_relabelled(
    model: Metanetwork,
    networks: NeuralGraphStack,
    settings: TrainSettings,
    seed: int = 0,
    batch_size: int = 256,
) -> Relabelled:
    """Relabel the neurons of every network at random, and compare the answers, in float64.

    In float64, since two classes may come so close that the rounding of float32 decides.

    Args:
        networks: labelled networks, at least one.
        settings: of the training, which say how networks are prepared for the model.
        seed: of the relabellings.
    """
    if networks.y is None or not len(networks):
        raise InvalidGraphError("there are no labelled networks to relabel; expected at least one.")
    model = copy.deepcopy(model).double().cpu().eval()
    networks = networks.to("cpu").to(torch.float64)
    assert networks.y is not None
    relabelling = Symmetry(networks.architecture).sample_stack(len(networks), seed)

    def answers(stack: NeuralGraphStack) -> Tensor:
        parts = [
            model(prepare(stack[i : i + batch_size], model, settings))
            for i in range(0, len(stack), batch_size)
        ]
        return torch.cat(parts)

    before, after = answers(networks), answers(relabelling.act_on_stack(networks))
    first, second = before.argmax(-1), after.argmax(-1)
    return Relabelled(
        invariant=model.invariant,
        networks=len(networks),
        unchanged=float((first == second).double().mean()),
        largest_change=float((after - before).abs().max() / before.abs().max().clamp(min=1e-300)),
        accuracy_before=float((first == networks.y).double().mean()),
        accuracy_after=float((second == networks.y).double().mean()),
    )
