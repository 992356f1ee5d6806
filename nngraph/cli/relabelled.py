"""Answers of a model before and after the neurons of the networks it reads are relabelled."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nngraph.errors import InvalidGraphError
from nngraph.graph import NeuralGraphStack, Symmetry
from nngraph.nn import traits_of
from nngraph.tasks import Predict


@dataclass(frozen=True)
class Relabelled:
    """What relabelling did to the answers of a model.

    Attributes:
        invariant: whether the model claims to be invariant.
        networks: how many were relabelled, each at random.
        unchanged: share of networks of which the same is told as before.
        largest_change: of any entry of an answer, relative to the largest entry.
        score: name of the measure that ``before`` and ``after`` are.
    """

    invariant: bool
    networks: int
    unchanged: float
    largest_change: float
    score: str
    before: float
    after: float

    @property
    def holds(self) -> bool:
        """Whether the claim holds: not one prediction of an invariant model has changed."""
        return not self.invariant or self.unchanged == 1

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as plain data."""
        return {**asdict(self), "holds": self.holds}


@torch.no_grad()
def compare_relabelled(
    task: Predict, model: nn.Module, networks: Sequence[tuple[Tensor, NeuralGraphStack]],
    seed: int = 0, batch_size: int = 256,
) -> Relabelled:  # fmt: skip
    """Relabel the neurons of every network at random, and compare the answers.

    In float64, since two classes may come so close that the rounding of float32 decides.
    """
    if not networks:
        raise InvalidGraphError("there are no networks to relabel; expected at least one.")
    model = copy.deepcopy(model).double().cpu().eval()

    def answers(stack: NeuralGraphStack) -> Tensor:
        parts = range(0, len(stack), batch_size)
        return torch.cat([model(task.prepare(stack[i : i + batch_size], model)) for i in parts])

    pairs = []
    for _, given in networks:
        stack = given.to("cpu").to(torch.float64)
        relabelling = Symmetry(stack.architecture).sample_stack(len(stack), seed)
        pairs.append((answers(stack), answers(relabelling.act_on_stack(stack))))
    before, after = (torch.cat(found) for found in zip(*pairs, strict=True))
    truth = task.truth[torch.cat([numbers for numbers, _ in networks])]
    score, target = task.score, task.target
    return Relabelled(
        invariant=traits_of(model).invariant,
        networks=len(truth),
        unchanged=float(target.same(before, after).double().mean()),
        largest_change=float((after - before).abs().max() / before.abs().max().clamp(min=1e-300)),
        score=score,
        before=target.measures(before, truth)[score],
        after=target.measures(after, truth)[score],
    )
