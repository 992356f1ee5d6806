from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from torch_geometric.data import Batch

from nngraph.datasets import EdgeBudgetSampler, NeuralGraphDataset, ZooStream
from nngraph.errors import InvalidGraphError
from nngraph.graph import NeuralGraphStack
from nngraph.ranks import Ranks
from nngraph.zoo import Zoo


def first_bias(batch: NeuralGraphStack) -> torch.Tensor:
    """What tells the networks of the long zoo apart."""
    return batch.parameters()["0.bias"][:, 0]


def read(stream: ZooStream, workers: int = 0) -> list[torch.Tensor]:
    loader = DataLoader(stream, batch_size=None, num_workers=workers)
    batches = [first_bias(batch) for batch in loader]
    assert len(batches) == stream.batches(workers)
    return batches


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_is_every_network_once_in_another_order(long_zoo: Zoo, workers: int):
    stream = ZooStream(long_zoo, "train", batch_size=32, window=128, seed=1)
    every = long_zoo.stack("train").parameters()["0.bias"][:, 0]
    assert len(every.unique()) == 900
    epochs = []
    for epoch in range(2):
        stream.set_epoch(epoch)
        epochs.append(torch.cat(read(stream, workers)))
        assert torch.equal(epochs[-1].sort()[0], every.sort()[0])
    assert not torch.equal(*epochs)
    assert not torch.equal(epochs[0], every)
    again = ZooStream(long_zoo.path, "train", batch_size=32, window=128, seed=1)
    assert torch.equal(torch.cat(read(again, workers)), epochs[0])
    assert not torch.equal(
        torch.cat(read(ZooStream(long_zoo, batch_size=32, window=128, seed=2))), epochs[0]
    )


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("world", [2, 3, 7])
def test_ranks_and_workers_share_an_epoch_without_overlap(long_zoo: Zoo, world: int, workers: int):
    shares = []
    for rank in range(world):
        stream = ZooStream(long_zoo, "train", batch_size=16, ranks=Ranks(rank, world))
        parts = [stream.numbers(part, workers) for part in range(workers)]
        shares.append(torch.cat(parts))
    assert {len(share) for share in shares} == {900 // world}
    together = torch.cat(shares)
    assert len(together.unique()) == len(together)
    all_of_them = [
        ZooStream(long_zoo, "train", even=False, ranks=Ranks(rank, world)).numbers()
        for rank in range(world)
    ]
    assert torch.equal(torch.cat(all_of_them).sort()[0], long_zoo.indices("train"))


def test_networks_come_far_from_their_neighbours(long_zoo: Zoo):
    """Not one chunk after the other: neighbours in the zoo are apart within an epoch."""
    stream = ZooStream(long_zoo, None, batch_size=100, window=1000)
    order = {float(b): i for i, b in enumerate(torch.cat(read(stream)))}
    biases = long_zoo.stack().parameters()["0.bias"][:, 0].tolist()
    places = torch.tensor([order[b] for b in biases]).double()
    assert float((places[1:] - places[:-1]).abs().mean()) > 200
    kept = ZooStream(long_zoo, None, batch_size=300, shuffle=False)
    assert torch.cat(read(kept)).tolist() == biases


def test_the_window_bounds_what_is_held(long_zoo: Zoo, monkeypatch: pytest.MonkeyPatch):
    sizes: list[int] = []
    real = Zoo.stack

    def seen(self: Zoo, networks: Any = None) -> NeuralGraphStack:
        sizes.append(len(networks))
        return real(self, networks)

    monkeypatch.setattr(Zoo, "stack", seen)
    batches = read(ZooStream(long_zoo, "train", batch_size=50, window=220))
    assert max(sizes) == 200
    assert [len(batch) for batch in batches] == [50] * 18


def test_a_zoo_of_several_architectures_streams_as_pyg_batches(mixed_zoo: Zoo):
    stream = ZooStream(mixed_zoo, "train", batch_size=10, transform=lambda batch: (batch, 1))
    batches = list(stream)
    assert len(batches) == stream.batches() == 8
    labels = torch.cat([batch.y for batch, _ in batches])
    assert all(isinstance(batch, Batch) for batch, _ in batches)
    assert torch.equal(labels.sort()[0], mixed_zoo.labels[mixed_zoo.indices("train")].sort()[0])
    edges = sum(batch.num_edges for batch, _ in batches)
    assert edges == int(NeuralGraphDataset(mixed_zoo, "train").sizes.sum())
    assert any(len({str(a) for a in batch.architecture}) > 1 for batch, _ in batches)


def test_sizes_are_checked(long_zoo: Zoo):
    with pytest.raises(ValueError, match="batch_size is 0"):
        ZooStream(long_zoo, batch_size=0)
    with pytest.raises(InvalidGraphError, match="split is 'dev'"):
        ZooStream(long_zoo, "dev")
    assert list(ZooStream(long_zoo, "test")) == []


# -- batches by edges ----------------------------------------------------------------------------


def test_batches_have_at_most_so_many_edges_and_every_network_once(mixed_zoo: Zoo):
    dataset = NeuralGraphDataset(mixed_zoo, "train")
    sampler = EdgeBudgetSampler(dataset, max_edges=150)
    loader_batches = list(_loader(dataset, sampler))
    assert len(loader_batches) == len(sampler)
    assert max(batch.num_edges for batch in loader_batches) <= 150
    assert min(batch.num_edges for batch in loader_batches[:-1]) > 150 - 47
    networks = torch.cat([batch.network for batch in loader_batches])
    assert torch.equal(networks.sort()[0], dataset.networks)
    sampler.set_epoch(1)
    assert list(sampler) != list(EdgeBudgetSampler(dataset, max_edges=150))
    plain = EdgeBudgetSampler(torch.tensor([3, 3, 4, 9, 1, 1, 1]), 10, 3, shuffle=False)
    assert list(plain) == [[0, 1, 2], [3, 4], [5, 6]]


def _loader(dataset: NeuralGraphDataset, sampler: EdgeBudgetSampler) -> Any:
    from torch_geometric.loader import DataLoader as GraphLoader

    return GraphLoader(dataset, batch_sampler=sampler)


def test_a_network_that_fits_in_no_batch_is_named():
    with pytest.raises(InvalidGraphError, match="network 1 has 12 edges; a batch may have 10"):
        EdgeBudgetSampler(torch.tensor([3, 12]), 10)
    with pytest.raises(ValueError, match="max_edges is 0"):
        EdgeBudgetSampler(torch.tensor([3]), 0)
    assert list(EdgeBudgetSampler(torch.tensor([], dtype=torch.int64), 5)) == []


def test_ranks_come_from_torchrun(long_zoo: Zoo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert ZooStream(long_zoo).ranks == Ranks(1, 3)
