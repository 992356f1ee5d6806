"""Batches of networks of different sizes, each as large as memory bears."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from nngraph.datasets.neural_graphs import NeuralGraphDataset
from nngraph.errors import InvalidGraphError


class EdgeBudgetSampler(Sampler[list[int]]):
    """Batches whose networks have at most so many edges together.

    For ``DataLoader(dataset, batch_sampler=EdgeBudgetSampler(dataset, 10**6))``. Networks are put
    into batches in the order of the epoch, as many as fit; every network comes once. Their sizes
    come from their architectures: no weight is read.

    Args:
        dataset: networks, or the number of edges of each ``[n]``.
        max_edges: of a batch.
        max_networks: of a batch; default no limit.
        shuffle: whether the order is random.
        seed: of the order; the epoch is :meth:`set_epoch`'s.

    Raises:
        InvalidGraphError: if a network alone has more edges.
        ValueError: if a limit is not at least 1.
    """

    def __init__(
        self,
        dataset: NeuralGraphDataset | Tensor,
        max_edges: int,
        max_networks: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        if max_edges < 1 or (max_networks is not None and max_networks < 1):
            raise ValueError(
                f"max_edges is {max_edges} and max_networks {max_networks}; expected at least 1."
            )
        self.sizes = dataset if isinstance(dataset, Tensor) else dataset.sizes
        self.max_edges = max_edges
        self.max_networks = max_networks
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        if len(self.sizes) and int(self.sizes.max()) > max_edges:
            raise InvalidGraphError(
                f"network {int(self.sizes.argmax())} has {int(self.sizes.max())} edges; a batch "
                f"may have {max_edges}. Raise max_edges, or leave such networks out."
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.arange(len(self.sizes))
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 2**32 + self.epoch)
            order = torch.randperm(len(self.sizes), generator=generator)
        sizes = self.sizes.tolist()
        batch: list[int] = []
        edges = 0
        for index in order.tolist():
            full = self.max_networks is not None and len(batch) == self.max_networks
            if batch and (full or edges + sizes[index] > self.max_edges):
                yield batch
                batch, edges = [], 0
            batch.append(index)
            edges += sizes[index]
        if batch:
            yield batch

    def __len__(self) -> int:
        """Number of batches of this epoch."""
        return sum(1 for _ in self)
