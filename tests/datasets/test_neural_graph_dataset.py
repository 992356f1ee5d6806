from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch_geometric.data import Dataset
from torch_geometric.loader import DataLoader

from nngraph.datasets import NeuralGraphDataset
from nngraph.errors import DataFileError, InvalidGraphError
from nngraph.graph import NeuralGraph, NeuralGraphStack
from nngraph.zoo import Zoo


def test_the_splits_are_those_of_the_zoo(zoo: Zoo):
    sizes = {split: len(NeuralGraphDataset(zoo, split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 20, "val": 10, "test": 10}
    dataset = NeuralGraphDataset(zoo.path)
    assert isinstance(dataset, Dataset)
    assert len(dataset) == 40
    assert dataset.architecture == zoo.architecture
    assert (dataset.num_classes, dataset.class_names) == (4, ("a", "b", "c", "d"))
    assert (dataset.num_node_features, dataset.num_edge_features) == (1, 1)
    images = [
        set(zoo.image[NeuralGraphDataset(zoo, split).networks].tolist())
        for split in ("train", "val", "test")
    ]
    assert sum(map(len, images)) == len(set.union(*images)) == 20


def test_a_graph_is_the_network_of_the_zoo(zoo: Zoo):
    dataset = NeuralGraphDataset(zoo, "val")
    for i in (0, 3, -1):
        graph, number = dataset[i], int(dataset.networks[i])
        assert isinstance(graph, NeuralGraph)
        assert graph.validate()
        assert graph.y.tolist() == [int(zoo.labels[number])]
        assert graph.psnr.tolist() == [float(zoo.psnr[number])]
        assert graph.image.tolist() == [number % 20]
        assert graph.network.tolist() == [number]
        held = zoo.stack(torch.tensor([number]))
        for name, value in graph.parameters().items():
            assert torch.equal(value, held.parameters()[name][0])


def test_slices_are_data_sets_and_stack(zoo: Zoo):
    dataset = NeuralGraphDataset(zoo, "train")
    whole = dataset.stack()
    assert isinstance(whole, NeuralGraphStack)
    assert len(whole) == 20
    for index in (slice(2, 7), torch.tensor([4, 1, 1]), [0, 5], torch.arange(20) % 2 == 0):
        part = dataset[index]
        assert isinstance(part, NeuralGraphDataset)
        rows = torch.arange(20)[index]
        assert torch.equal(part.networks, dataset.networks[rows])
        assert torch.equal(part.stack().edge_attr, whole.edge_attr[rows])
        assert torch.equal(part.stack().y, whole.y[rows])
        assert torch.equal(part[1].edge_attr, whole.edge_attr[rows[1]])
    assert torch.equal(dataset[5:][2:4].networks, dataset.networks[7:9])
    shuffled = dataset.shuffle()
    assert sorted(shuffled.networks.tolist()) == sorted(dataset.networks.tolist())


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_make_batches(zoo: Zoo, workers: int):
    dataset = NeuralGraphDataset(zoo, "train")
    batches = list(DataLoader(dataset, batch_size=8, num_workers=workers))
    assert [batch.num_graphs for batch in batches] == [8, 8, 4]
    assert torch.equal(torch.cat([batch.y for batch in batches]), dataset.stack().y)
    nodes, edges = zoo.architecture.num_nodes, zoo.architecture.num_edges
    assert batches[0].x.shape == (8 * nodes, 1)
    assert torch.equal(batches[0].edge_attr.view(8, edges, 1), dataset.stack().edge_attr[:8])


def test_transform_and_pre_filter(zoo: Zoo):
    seen: list[int] = []

    def keep(graph: NeuralGraph) -> bool:
        return int(graph.y) == 2

    def mark(graph: NeuralGraph) -> NeuralGraph:
        seen.append(1)
        graph.marked = True
        return graph

    dataset = NeuralGraphDataset(zoo, transform=mark, pre_filter=keep)
    assert dataset.stack().y.tolist() == [2] * 10
    assert zoo.labels[dataset.networks].tolist() == [2] * 10
    assert not seen
    assert dataset[4].marked
    assert int(dataset[4].y) == 2
    assert len(NeuralGraphDataset(zoo, pre_filter=lambda graph: False)) == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_on_disk_the_graphs_are_the_same(zoo: Zoo, workers: int):
    held, read = NeuralGraphDataset(zoo, "train"), NeuralGraphDataset(zoo, "train", in_memory=False)
    assert len(held) == len(read)
    for one, other in zip(held, read, strict=True):
        assert torch.equal(one.edge_attr, other.edge_attr)
        assert torch.equal(one.x, other.x)
        assert one.keys() == other.keys()
        for name in ("y", "network", "psnr", "image", "view"):
            assert torch.equal(one[name], other[name])
    assert torch.equal(held.stack().edge_attr, read.stack().edge_attr)
    assert torch.equal(held[3:7].stack().x, read[3:7].stack().x)
    loader = DataLoader(read, batch_size=8, num_workers=workers)
    batches = torch.cat([batch.edge_attr for batch in loader])
    assert torch.equal(batches, held.stack().edge_attr.flatten(0, 1))


@pytest.mark.parametrize("in_memory", [True, False])
def test_networks_of_several_architectures_are_graphs_too(mixed_zoo: Zoo, in_memory: bool):
    dataset = NeuralGraphDataset(mixed_zoo, "train", in_memory=in_memory)
    assert len(dataset) == 72
    for i in (0, 30, 71):
        graph, number = dataset[i], int(dataset.networks[i])
        assert graph.validate()
        kind = int(mixed_zoo.architecture_index[number])
        assert graph.architecture == mixed_zoo.architectures[kind]
        assert dataset.sizes[i] == graph.num_edges
        held = mixed_zoo.stack(torch.tensor([number]))
        assert torch.equal(held.edge_attr[0], graph.edge_attr)
    with pytest.raises(InvalidGraphError, match="have 3 architectures"):
        dataset.stack()


def test_graphs_do_not_change_the_data_set(zoo: Zoo):
    dataset = NeuralGraphDataset(zoo)
    graph = dataset[0]
    graph.x = graph.x + 1
    graph.edge_attr = graph.edge_attr * 2
    assert torch.equal(dataset[0].x, zoo.stack().x[0])
    assert torch.equal(dataset.stack().edge_attr, zoo.stack().edge_attr)


def test_it_is_pickled(zoo: Zoo):
    dataset = NeuralGraphDataset(zoo, "test")[2:5]
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again.stack().x, dataset.stack().x)
    assert torch.equal(again[0].y, dataset[0].y)


def test_what_is_no_zoo_is_refused(zoo: Zoo, tmp_path: Path):
    with pytest.raises(DataFileError, match="is not a zoo"):
        NeuralGraphDataset(tmp_path)
    with pytest.raises(InvalidGraphError, match="split is 'dev'"):
        NeuralGraphDataset(zoo, "dev")
