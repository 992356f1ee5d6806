"""Epochs of networks in shuffled order: streams of any zoo, and batches by the size of networks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, Sampler, get_worker_info
from torch_geometric.data import Batch

from nngraph.datasets.neural_graphs import NeuralGraphDataset, stacked
from nngraph.errors import InvalidGraphError
from nngraph.graph import NeuralGraphStack
from nngraph.ranks import Ranks
from nngraph.zoo import Zoo

#: Neighbouring networks that are read together. Reading single ones at random would read a page of
#: the disk for each of their tensors.
CHUNK = 64


class ZooStream(IterableDataset):  # type: ignore[type-arg]
    """Batches of a zoo's networks, read as they come; for ``DataLoader(stream, batch_size=None)``.

    An epoch is one pass over a split in an order that follows from the seed and the epoch. Chunks
    of neighbouring networks are shuffled, dealt to ranks and their workers, and the networks of a
    *window* of chunks are shuffled again: memory holds one window per worker. Every network comes
    exactly once, save the few that ``even`` leaves out. A batch is a :class:`NeuralGraphStack` with
    ``y`` the zoo's target; of several architectures it is a PyG ``Batch``.

    Args:
        zoo: a zoo, or its folder.
        split: ``"train"``, ``"val"``, ``"test"``, or ``None`` for all networks.
        batch_size: networks per batch.
        shuffle: whether the order is random; otherwise it is the zoo's.
        seed: of the order; the epoch is :meth:`set_epoch`'s.
        window: networks that a worker holds and shuffles at once.
        even: whether all ranks get the same number of networks.
        transform: applied to each batch.
        ranks: which share this process gets; default what ``torchrun`` says.

    Raises:
        DataFileError: if the zoo is damaged or not finished.
        ValueError: if a size is not at least 1.
    """

    def __init__(
        self, zoo: Zoo | str | Path, split: str | None = "train", batch_size: int = 64,
        shuffle: bool = True, seed: int = 0, window: int = 8192, even: bool = True,
        transform: Callable[[Any], Any] | None = None, ranks: Ranks | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("window", window)):
            if value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1.")
        self.zoo = zoo if isinstance(zoo, Zoo) else Zoo.open(zoo)
        self.split, self.batch_size, self.transform = split, batch_size, transform
        self.shuffle, self.seed, self.epoch, self.even = shuffle, seed, 0, even
        # Whole batches only: a window's last batch would else be smaller than the others.
        self.window = max(window // batch_size, 1) * batch_size
        self.ranks = Ranks.of_environment() if ranks is None else ranks
        self._networks = self.zoo.indices(split)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass; before the loader's workers start."""
        self.epoch = epoch

    def batches(self, workers: int = 0) -> int:
        """Return how many batches an epoch of this rank has with so many workers of a loader."""
        parts = max(workers, 1)
        shares = (len(self.numbers(part, parts)) for part in range(parts))
        return sum(-(-share // self.batch_size) for share in shares)

    def numbers(self, part: int = 0, parts: int = 1) -> Tensor:
        """Return the numbers of the networks that a part of this rank's workers reads, in order."""
        rank, world, order = self.ranks.rank, self.ranks.world, self._order()
        total = len(order) - (len(order) % world if self.even else 0)
        share = order[total * rank // world : total * (rank + 1) // world]
        return share[len(share) * part // parts : len(share) * (part + 1) // parts]

    def _order(self) -> Tensor:
        """Return the split's networks, chunk by chunk, the chunks in the order of the epoch."""
        count = len(self._networks)
        if not self.shuffle or not count:
            return self._networks
        chunks = -(-count // CHUNK)
        order = torch.randperm(chunks, generator=self._generator("chunks"))
        rows = (order.unsqueeze(1) * CHUNK + torch.arange(CHUNK)).flatten()
        return self._networks[rows[rows < count]]

    def _generator(self, *of: object) -> torch.Generator:
        text = repr((self.seed, self.epoch, *of))
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
        return torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        part, parts = (0, 1) if worker is None else (worker.id, worker.num_workers)
        numbers = self.numbers(part, parts)
        generator = self._generator("window", self.ranks.rank, part)
        for start in range(0, len(numbers), self.window):
            held = numbers[start : start + self.window]
            stacks, places = stacked(self.zoo, held)
            order = torch.arange(len(held))
            if self.shuffle:
                order = torch.randperm(len(held), generator=generator)
            for rows in torch.split(order, self.batch_size):
                batch = self._batch(stacks, held[rows], places[rows])
                yield batch if self.transform is None else self.transform(batch)

    def _batch(
        self, stacks: dict[int, NeuralGraphStack], networks: Tensor, places: Tensor
    ) -> NeuralGraphStack | Batch:
        if len(self.zoo.architectures) == 1:
            (stack,) = stacks.values()
            chosen: NeuralGraphStack = stack[places]
            return chosen
        kinds = self.zoo.architecture_index[networks].tolist()
        pairs = zip(kinds, places.tolist(), strict=True)
        return Batch.from_data_list([stacks[kind][place] for kind, place in pairs])


class EdgeBudgetSampler(Sampler[list[int]]):
    """Batches whose networks have at most so many edges together.

    For ``DataLoader(dataset, batch_sampler=EdgeBudgetSampler(dataset, 10**6))``. Every network
    comes once, in the order of the epoch, and no weight is read.

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
        self.max_edges, self.max_networks = max_edges, max_networks
        self.shuffle, self.seed, self.epoch = shuffle, seed, 0
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
