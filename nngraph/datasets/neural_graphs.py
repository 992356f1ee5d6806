"""A zoo as a PyG dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Dataset

from nngraph.graph import Architecture, NeuralGraph, NeuralGraphStack
from nngraph.zoo import Zoo


class NeuralGraphDataset(Dataset):  # type: ignore[misc]
    """Networks of a zoo as :class:`~nngraph.graph.NeuralGraph` objects.

    A graph has ``y`` ``[1]``, the zoo's target, ``network`` ``[1]``, its number in the zoo, and
    every other fact of the zoo but the split, such as ``psnr``. In memory the weights are read
    once, stacked, and a graph is a view of them; on disk each is read when it is asked for, in tens
    of microseconds. Training on whole stacks needs no graph at all: see :meth:`stack`.

    Args:
        zoo: a zoo, or its folder.
        split: ``"train"``, ``"val"``, ``"test"``, or ``None`` for all networks.
        transform: applied to each graph whenever it is asked for.
        pre_filter: networks whose graph it refuses are left out, once and for all.
        in_memory: whether all weights are read at once. A zoo larger than memory stays on disk.

    Raises:
        DataFileError: if the zoo is damaged or not finished.
        InvalidGraphError: if there is no such split.

    Example:
        >>> from torch_geometric.loader import DataLoader
        >>> dataset = NeuralGraphDataset("zoos/digits", split="train")  # doctest: +SKIP
        >>> batch = next(iter(DataLoader(dataset, batch_size=64)))  # doctest: +SKIP
        >>> dataset[:1000].stack()  # doctest: +SKIP
        NeuralGraphStack(1000 x 2-32-32-1 sine(w0=10), torch.float32)
    """

    def __init__(
        self,
        zoo: Zoo | str | Path,
        split: str | None = None,
        transform: Callable[[Any], Any] | None = None,
        pre_filter: Callable[[Any], bool] | None = None,
        in_memory: bool = True,
    ) -> None:
        self.zoo = zoo if isinstance(zoo, Zoo) else Zoo.open(zoo)
        self.split = split
        self.in_memory = in_memory
        hidden = {"split", self.zoo.manifest.target}
        self._facts = [f.name for f in self.zoo.manifest.facts if f.name not in hidden]
        self._networks = self.zoo.indices(split)
        self._read()
        super().__init__(None, transform, None, pre_filter)
        if pre_filter is not None:
            kept = torch.tensor([pre_filter(self.get(i)) for i in range(self.len())]).bool()
            self._networks = self._networks[kept]
            self._read()

    def _read(self) -> None:
        """Read the networks, if they are to be held in memory."""
        held = self._networks if self.in_memory else self._networks[:0]
        self._stacks, self._rows = stacked(self.zoo, held)

    @property
    def architecture(self) -> Architecture:
        """The one architecture of all networks of the zoo; an error if there are several."""
        return self.zoo.architecture

    @property
    def num_classes(self) -> int:
        """Number of classes of the zoo, whether or not all occur here."""
        return self.zoo.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class."""
        return self.zoo.class_names

    @property
    def num_node_features(self) -> int:
        """F, the number of node features."""
        return len(self.architecture.column_names)

    @property
    def num_edge_features(self) -> int:
        """C, the number of edge features: 1, the weight."""
        return 1

    @property
    def networks(self) -> Tensor:
        """Numbers in the zoo of the networks of this dataset, ``[n]``."""
        return self._networks[self._chosen()]

    @property
    def sizes(self) -> Tensor:
        """E, the number of edges, of each network of this dataset, ``[n]``; reads no weights."""
        edges = torch.tensor([a.num_edges for a in self.zoo.architectures], dtype=torch.int64)
        return edges[self.zoo.architecture_index[self.networks]]

    def len(self) -> int:
        """Return the number of networks before slicing."""
        return len(self._networks)

    def get(self, idx: int) -> NeuralGraph:
        """Return graph ``idx`` before slicing and transform."""
        number = int(self._networks[idx])
        if self.in_memory:
            stack = self._stacks[int(self.zoo.architecture_index[number])]
            graph: NeuralGraph = stack[int(self._rows[idx])]
            graph.network = torch.tensor([number])
        else:
            graph = self.zoo.network(number)
        for name in self._facts:
            setattr(graph, name, self.zoo.facts[name][number : number + 1])
        return graph

    def stack(self) -> NeuralGraphStack:
        """Return the networks stacked, ``y`` ``[n]`` the target; ``transform`` is not applied.

        In memory and without slicing this is the dataset's own memory. Networks of several
        architectures are an InvalidGraphError.
        """
        if len(self._stacks) != 1:
            return self.zoo.stack(self.networks)
        (stack,) = self._stacks.values()
        if self._indices is None:
            return stack
        chosen: NeuralGraphStack = stack[self._chosen()]
        return chosen

    def _chosen(self) -> Tensor:
        indices: Sequence[int] = self.indices()
        return torch.as_tensor(list(indices), dtype=torch.int64)


def stacked(zoo: Zoo, networks: Tensor) -> tuple[dict[int, NeuralGraphStack], Tensor]:
    """Read networks: a stack for each architecture that occurs, and each one's place in its own."""
    kinds = zoo.architecture_index[networks]
    stacks, places = {}, torch.zeros(len(networks), dtype=torch.int64)
    for kind in torch.unique(kinds).tolist():
        here = kinds == kind
        stacks[kind] = zoo.stack(networks[here])
        places[here] = torch.arange(int(here.sum()))
    return stacks, places
