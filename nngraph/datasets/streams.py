"""Streams of networks: epochs of a zoo that need not fit into memory, in shuffled order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info
from torch_geometric.data import Batch

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
    *window* of chunks are shuffled again: memory holds one window per worker, and nothing else of
    the weights. Every network comes exactly once in all ranks and workers together (``even`` leaves
    out the few that would make the ranks' epochs differ in length).

    Each batch is a :class:`NeuralGraphStack` with ``y`` the zoo's target; of a zoo of several
    architectures it is a PyG ``Batch``.

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
        self,
        zoo: Zoo | str | Path,
        split: str | None = "train",
        batch_size: int = 64,
        shuffle: bool = True,
        seed: int = 0,
        window: int = 8192,
        even: bool = True,
        transform: Callable[[Any], Any] | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("window", window)):
            if value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1.")
        self.zoo = zoo if isinstance(zoo, Zoo) else Zoo.open(zoo)
        self.split = split
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        # Whole batches only: a window's last batch would else be smaller than the others.
        self.window = max(window // batch_size, 1) * batch_size
        self.even = even
        self.transform = transform
        self.ranks = Ranks.of_environment() if ranks is None else ranks
        self.epoch = 0
        self._networks = self.zoo.indices(split)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass; before the loader's workers start."""
        self.epoch = epoch

    def batches(self, workers: int = 0) -> int:
        """Return how many batches an epoch of this rank has with so many workers of a loader.

        The last batch of each worker may be smaller than the others.
        """
        parts = max(workers, 1)
        shares = (len(self.numbers(part, parts)) for part in range(parts))
        return sum(-(-share // self.batch_size) for share in shares)

    def numbers(self, part: int = 0, parts: int = 1) -> Tensor:
        """Return the numbers of the networks that a part of this rank's workers reads, in order."""
        share = self._share(self.ranks.rank, self.ranks.world)
        return share[len(share) * part // parts : len(share) * (part + 1) // parts]

    def _share(self, rank: int, world: int) -> Tensor:
        order = self._order()
        total = len(order) - (len(order) % world if self.even else 0)
        return order[total * rank // world : total * (rank + 1) // world]

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
            stacks = dict(self._read(held))
            order = torch.arange(len(held))
            if self.shuffle:
                order = torch.randperm(len(held), generator=generator)
            for rows in torch.split(order, self.batch_size):
                batch = self._batch(held, stacks, rows)
                yield batch if self.transform is None else self.transform(batch)

    def _read(self, held: Tensor) -> Iterator[tuple[int, tuple[Tensor, NeuralGraphStack]]]:
        kinds = self.zoo.architecture_index[held]
        for kind in torch.unique(kinds).tolist():
            here = kinds == kind
            places = torch.zeros(len(held), dtype=torch.int64)
            places[here] = torch.arange(int(here.sum()))
            yield kind, (places, self.zoo.stack(held[here]))

    def _batch(
        self, held: Tensor, stacks: dict[int, tuple[Tensor, NeuralGraphStack]], rows: Tensor
    ) -> NeuralGraphStack | Batch:
        if len(self.zoo.architectures) == 1:
            ((_, stack),) = stacks.values()
            chosen: NeuralGraphStack = stack[rows]
            return chosen
        kinds = self.zoo.architecture_index[held[rows]].tolist()
        places = [stacks[kind][0][row] for kind, row in zip(kinds, rows.tolist(), strict=True)]
        graphs = [stacks[k][1][int(place)] for k, place in zip(kinds, places, strict=True)]
        return Batch.from_data_list(graphs)
