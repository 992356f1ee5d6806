"""What a metanetwork is trained for: the face that every task shows to the one training loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from nngraph.datasets import CanonicaliseSines, Relabel
from nngraph.errors import DataFileError
from nngraph.graph import NeuralGraphStack
from nngraph.nn import Metanetwork, NetworkModel, Networks, evaluating, model_named, traits_of
from nngraph.settings import TrainSettings
from nngraph.zoo import SPLITS, Zoo, runner_of, says_how_to_run

#: Networks that statistics are taken from, where there are several architectures.
_FITTED = 2048


#: Networks for each architecture: their numbers in the zoo ``[n]``, on the CPU, and their stack.
Numbered: TypeAlias = list[tuple[Tensor, NeuralGraphStack]]


class Task(ABC):
    """Networks of a zoo, what is asked of them, and how an answer is judged.

    The loop draws networks, moves them to its device and calls :meth:`loss`; it knows nothing of
    labels, images or weights. Networks of one step come as stacks, one per architecture. The first
    line of a task's docstring says what it asks, and its keyword arguments, with defaults, are what
    ``task_options`` may hold. A task is named in ``nngraph.tasks.TASKS``.

    A task is also made for zoos without networks, of which architectures and facts alone are known,
    to build the model of a run whose zoo is gone: what needs networks belongs into the methods.

    Args:
        zoo, settings: the networks, and the settings of the run.

    Attributes:
        device: where networks are held and models are.
        batch_size: networks that are judged at once.

    Raises:
        DataFileError: if the zoo does not have what the task asks for.
        ValueError: if an option of the task is out of range.
    """

    #: Name on the command line.
    name: ClassVar[str]
    #: The measure of :meth:`evaluate` by which the best parameters are chosen; higher is better.
    score: str
    #: Length of the answer to a network, where the answer is a vector.
    num_outputs: int | None = None
    batch_size: int = 512

    def __init__(self, zoo: Zoo, settings: TrainSettings) -> None:
        self.zoo, self.settings = zoo, settings
        self.device = torch.device(settings.device)
        self._held: dict[str, Numbered] = {}

    @abstractmethod
    def build_model(self) -> nn.Module:
        """Return the model of the settings with fresh parameters, drawn from torch's generator.

        It has the ``traits`` that every :class:`~nngraph.nn.Metanetwork` has.
        """

    def fit_statistics(self, model: nn.Module) -> None:
        """Give a fresh model on the device what it takes from training networks, such as scales.

        The networks are as the model reads them, in canonical form where it does.
        """
        if isinstance(model, NetworkModel):
            model.fit_statistics(self.prepared(self.some("train", _FITTED), model))

    @abstractmethod
    def loss(self, model: nn.Module, batch: Numbered) -> Tensor:
        """Return the mean loss over the networks of a training step, augmentation included.

        The model, which returns tensors, is called once, so that wrapping it (mixed precision,
        several processes) works; the stacks of the batch are on its device.
        """

    @abstractmethod
    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        """Judge a model in evaluation mode on a split; measures by name, :attr:`score` among them.

        A split is ``"train"``, ``"val"``, ``"test"`` or ``"all"``.
        """

    def details(self, model: nn.Module, split: str) -> dict[str, Any]:
        """Return more about a model on a split than numbers, as plain data for a report."""
        return {}

    def check_answers(self, model: nn.Module) -> None:
        """Check that a trained model gives as long an answer as is asked of this zoo's networks."""
        found = getattr(model, "num_outputs", None)
        if self.num_outputs is not None and found != self.num_outputs:
            raise DataFileError(
                f"the task {self.name!r} on {self.zoo.path} asks for answers of {self.num_outputs} "
                f"numbers; the model was trained to give {found}. Choose a zoo of the same kind."
            )

    # -- what tasks are made of -------------------------------------------------------------------

    def chosen(self, split: str) -> Tensor:
        """Return the numbers of the networks of a split."""
        return self.zoo.indices(None if split == "all" else split)

    def networks(self, split: str) -> Numbered:
        """Return the networks of a split, as of :meth:`Zoo.stacks`, on the device; read once.

        Raises:
            DataFileError: if there are none, or a shard is damaged.
        """
        if split not in self._held:
            stacks = self.zoo.stacks(self.chosen(split))
            if not stacks:
                raise DataFileError(
                    f"the zoo {self.zoo.path} has no {split} networks; expected some in each of "
                    f"{', '.join(SPLITS)}."
                )
            self._held[split] = [(numbers, stack.to(self.device)) for numbers, stack in stacks]
        return self._held[split]

    def batches(self, split: str) -> Iterator[Numbered]:
        """Yield the networks of a split, ``batch_size`` at once, one stack per architecture."""
        batch: Numbered = []
        room = self.batch_size
        for numbers, stack in self.networks(split):
            while len(numbers):
                batch.append((numbers[:room], stack[:room]))
                numbers, stack = numbers[room:], stack[room:]
                room -= len(batch[-1][0])
                if not room:
                    yield batch
                    batch, room = [], self.batch_size
        if batch:
            yield batch

    def some(self, split: str, most: int) -> Numbered:
        """Return the networks of a split; of several architectures ``most`` or some more of all."""
        held = self.networks(split)
        if len(held) == 1:
            return held
        each = -(-most // len(held))
        return [(numbers[:each], stack[:each]) for numbers, stack in held]

    def prepare(
        self, networks: NeuralGraphStack, model: nn.Module, training: bool = False
    ) -> NeuralGraphStack:
        """Return a stack as the model reads it: relabelled in training, in canonical form always.

        Both leave the functions of the networks as they are. Relabelling comes last, since a
        canonical form does not depend on it.
        """
        sines = any(g.activation.symmetry == "phase" for g in networks.architecture.groups)
        if sines and self.settings.canonicalise and traits_of(model).reads_signs:
            networks = CanonicaliseSines()(networks)
        if training and self.settings.relabel:
            networks = Relabel()(networks)
        return networks

    def prepared(self, batch: Numbered, model: nn.Module, training: bool = False) -> Networks:
        """Return the networks of a batch as the model is called on them; see :meth:`prepare`."""
        return joined([self.prepare(stack, model, training) for _, stack in batch])


def new_model(settings: TrainSettings, zoo: Zoo, num_outputs: int) -> Metanetwork:
    """Return the metanetwork of the settings for a zoo's networks, with fresh parameters.

    It is given what runs the zoo's networks, where these are no chains and the zoo says how. A
    ValueError says what model or option there is not, or that it is built for one architecture.
    """
    kind, architectures = model_named(settings.model, Metanetwork), zoo.architectures
    options = settings.options
    chains = all(a.is_chain for a in architectures)
    if kind.traits.takes_runner and says_how_to_run(zoo) and not chains:
        options = {"runner": runner_of(zoo), **options}
    if len(architectures) > 1 and not kind.traits.many:
        raise ValueError(
            f"the model {settings.model!r} is built for networks of one architecture; the zoo has "
            f"{len(architectures)}. Choose another model (see 'nngraph models'), or keep one "
            "architecture with 'nngraph zoo filter'."
        )
    built_for: Any = architectures[0] if len(architectures) == 1 else architectures
    try:
        return kind(built_for, num_outputs, **options)
    except (TypeError, RuntimeError) as error:
        raise ValueError(
            f"the model {settings.model!r} cannot be built with the options "
            f"{settings.options!r}: {error}."
        ) from None


def joined(stacks: Sequence[NeuralGraphStack]) -> NeuralGraphStack | list[NeuralGraphStack]:
    """Return stacks as a model is called on them: the one there is, or several side by side."""
    return stacks[0] if len(stacks) == 1 else list(stacks)


def one_stack(stacks: Sequence[NeuralGraphStack]) -> NeuralGraphStack:
    """Return stacks of one architecture as one, which is read faster than side by side."""
    x, edge_attr = (torch.cat([getattr(s, name) for s in stacks]) for name in ("x", "edge_attr"))
    integers = [s.integers for s in stacks if s.integers is not None]
    return NeuralGraphStack(
        stacks[0].architecture, x, edge_attr, integers=torch.cat(integers) if integers else None
    )


def batch_answers(task: Task, model: nn.Module, split: str) -> tuple[Tensor, Tensor]:
    """Call a model in evaluation mode on all networks of a split; its mode is put back afterwards.

    Return the numbers of the networks ``[n]``, on the CPU, and their answers ``[n, *]``.
    """
    numbers, found = [], []
    with evaluating(model):
        for batch in task.batches(split):
            numbers += [chosen for chosen, _ in batch]
            found.append(model(task.prepared(batch, model)))
    return torch.cat(numbers), torch.cat(found)
