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

__all__ = ["NeuralGraphDataset"]


class NeuralGraphDataset(Dataset):  # type: ignore[misc]
    """Networks of a zoo as :class:`~nngraph.graph.NeuralGraph` objects.

    A graph has ``y`` ``[1]``, its label, ``psnr`` ``[1]``, ``image`` ``[1]``, the number of its
    image in the source, and ``network`` ``[1]``, its number in the zoo. The weights are read once,
    stacked; a graph is a view of them, made when it is asked for. Training on whole stacks needs no
    graph at all: see :meth:`stack`.

    Args:
        zoo: a zoo, or its folder.
        split: ``"train"``, ``"val"``, ``"test"``, or ``None`` for all networks.
        transform: applied to each graph whenever it is asked for.
        pre_filter: networks whose graph it refuses are left out, once and for all.

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
    ) -> None:
        self.zoo = zoo if isinstance(zoo, Zoo) else Zoo.open(zoo)
        self.split = split
        self._networks = self.zoo.indices(split)
        self._stack = self.zoo.stack(self._networks)
        super().__init__(None, transform, None, pre_filter)
        if pre_filter is not None:
            kept = torch.tensor([pre_filter(self.get(i)) for i in range(self.len())]).bool()
            self._networks, self._stack = self._networks[kept], self._stack[kept]

    @property
    def architecture(self) -> Architecture:
        """Architecture of all networks."""
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

    def len(self) -> int:
        """Return the number of networks before slicing."""
        return len(self._networks)

    def get(self, idx: int) -> NeuralGraph:
        """Return graph ``idx`` before slicing and transform."""
        graph: NeuralGraph = self._stack[int(idx)]
        number = self._networks[int(idx)].reshape(1)
        graph.psnr, graph.image = self.zoo.psnr[number], self.zoo.image[number]
        graph.network = number
        return graph

    def stack(self) -> NeuralGraphStack:
        """Return the networks of this dataset stacked, ``y`` ``[n]`` their labels.

        No graph is made, and ``transform`` is not applied. Without slicing this is the dataset's
        own memory, not a copy.
        """
        if self._indices is None:
            return self._stack
        chosen: NeuralGraphStack = self._stack[self._chosen()]
        return chosen

    def _chosen(self) -> Tensor:
        indices: Sequence[int] = self.indices()
        return torch.as_tensor(list(indices), dtype=torch.int64)
