"""A graph that PyG changed is read as the network it was, or refused: never as other weights."""

import copy
import io
import pickle

import pytest
import torch
from torch_geometric import transforms
from torch_geometric.data import Batch, HeteroData
from torch_geometric.loader import DataLoader

from converters import save_graph, to_module, to_networkx, to_state_dict
from nngraph import forward
from nngraph.errors import InvalidGraphError
from nngraph.graph import Architecture, NeuralGraph, Symmetry
from nngraph.graph.neural_graph import check_readable
from nngraph.graph.own_indices import is_same_edges
from nngraph.nn import MessagePassingNetwork
from nngraph.testing import random_parameters, random_stack, structured_architectures

ARCHITECTURE = Architecture.mlp([2, 8, 8, 1], ["relu", "relu"])


def a_graph(architecture=ARCHITECTURE, seed=0):
    graph = NeuralGraph.from_parameters(architecture, random_parameters(architecture, seed))
    assert graph.x is not None
    return graph


def in_another_order(graph):
    order = torch.randperm(graph.num_edges)
    graph.edge_index, graph.edge_attr = graph.edge_index[:, order], graph.edge_attr[order]
    return graph


def written_to(graph):
    graph.edge_index[:, [0, 1]] = graph.edge_index[:, [1, 0]]
    return graph


def without_last(graph):
    graph.x = graph.x[:-1]
    return graph


#: They leave every parameter where it was.
HARMLESS = {
    "nothing": lambda g: g,
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "clone": lambda g: g.clone(),
    "pickle": lambda g: pickle.loads(pickle.dumps(g)),
    "contiguous": lambda g: g.contiguous(),
    "to": lambda g: g.to("cpu"),
    "RemoveSelfLoops": transforms.RemoveSelfLoops(),
    "RemoveIsolatedNodes": transforms.RemoveIsolatedNodes(),
    "Constant": transforms.Constant(),
    "OneHotDegree": transforms.OneHotDegree(20),
    "LargestConnectedComponents": transforms.LargestConnectedComponents(),
    "whole subgraph": lambda g: g.subgraph(torch.ones(g.num_nodes, dtype=torch.bool)),
    "batch and back": lambda g: Batch.from_data_list([a_graph(seed=3), g]).get_example(1),
    "replaced by its equal": lambda g: g.update({"edge_index": g.edge_index.clone()}),
}
#: They move, add or drop edges or nodes.
HARMFUL = {
    "coalesce": lambda g: g.coalesce(),
    "sort": lambda g: g.sort(),
    "in another order": in_another_order,
    "RemoveDuplicatedEdges": transforms.RemoveDuplicatedEdges(),
    "ToUndirected": transforms.ToUndirected(),
    "AddSelfLoops": transforms.AddSelfLoops(),
    "AddSelfLoops of attributes": transforms.AddSelfLoops(attr="edge_attr", fill_value=1.0),
    "AddRemainingSelfLoops": transforms.AddRemainingSelfLoops(),
    "GCNNorm": transforms.GCNNorm(),
    "LineGraph": transforms.LineGraph(),
    "VirtualNode": transforms.VirtualNode(),
    "Pad": transforms.Pad(30),
    "subgraph": lambda g: g.subgraph(torch.arange(10)),
    "edge_subgraph": lambda g: g.edge_subgraph(torch.arange(1, g.num_edges)),
    "subgraph in another order": lambda g: g.subgraph(torch.arange(g.num_nodes).flip(0)),
    "reversed": lambda g: g.update({"edge_index": g.edge_index.flip(0)}),
    "written to": written_to,
    "none": lambda g: g.update({"edge_index": None}),
}


#: What was written to edges by hand is another wiring, which is what ``forward`` runs.
KEPT_BY_FORWARD = {name: change for name, change in HARMFUL.items() if name != "written to"}


#: Readings that join graphs first.
JOINED = {
    "model on a batch",
    "model on a loader",
    "model on a batch of two architectures",
    "forward of a batch",
}


def reads(graph, tmp_path):
    """Return every reading of a graph, by its name."""
    model = MessagePassingNetwork(ARCHITECTURE, num_outputs=2)
    return {
        "to_state_dict": lambda: to_state_dict(graph),
        "to_module": lambda: to_module(graph),
        "save_graph": lambda: save_graph(graph, tmp_path / "graph.safetensors"),
        "to_networkx": lambda: to_networkx(graph),
        "relabelling": lambda: Symmetry(ARCHITECTURE).sample(0).act_on_graph(graph),
        "model": lambda: model(graph),
        "model on a batch": lambda: model(Batch.from_data_list([graph])),
        "model on a loader": lambda: model(next(iter(DataLoader([graph, graph], 2)))),
        "model on a batch of two architectures": lambda: model(
            Batch.from_data_list([a_graph(Architecture.mlp([2, 3, 1], "relu")), graph])
        ),
        "forward of a batch": lambda: forward(Batch.from_data_list([graph]), torch.ones(1, 2)),
        "block": lambda: graph.block(0),
    }  # fmt: skip


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_what_keeps_the_edges_is_read_bit_by_bit(change):
    graph = a_graph()
    expected = {name: value.clone() for name, value in graph.parameters().items()}
    inputs = torch.randn(3, 2, dtype=torch.float64)
    answers = forward(graph, inputs)
    changed = change(graph)
    found = to_state_dict(changed)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert torch.equal(forward(changed, inputs), answers)
    check_readable(Batch.from_data_list([changed, changed]))


@pytest.mark.parametrize("change", HARMFUL.values(), ids=HARMFUL)
def test_what_changes_the_edges_is_refused_by_every_reader(change, tmp_path):
    graph = change(a_graph())
    for reader, read in reads(graph, tmp_path).items():
        if None in (graph.edge_index, graph.edge_attr) and reader in JOINED:
            continue  # PyG cannot join such graphs itself.
        if graph.edge_index is None and reader == "relabelling":
            continue  # It moves features alone by their places; the result has no indices either.
        with pytest.raises(InvalidGraphError, match=r"edge_index|edge_attr"):
            read()
    assert not (tmp_path / "graph.safetensors").exists()


@pytest.mark.parametrize("change", KEPT_BY_FORWARD.values(), ids=KEPT_BY_FORWARD)
def test_running_a_graph_reads_its_edges_right_or_refuses(change):
    graph, inputs = a_graph(), torch.randn(3, 2, dtype=torch.float64)
    expected = forward(graph, inputs)
    changed = change(graph)
    if changed.edge_index is not None and is_same_edges(changed.edge_index, ARCHITECTURE):
        torch.testing.assert_close(forward(changed, inputs), expected, rtol=1e-9, atol=0)
        return
    with pytest.raises(InvalidGraphError, match="edge_index"):
        forward(changed, inputs)


@pytest.mark.parametrize("change", [lambda b: b.coalesce(), transforms.ToUndirected(), written_to])
def test_a_batch_is_refused_after_a_change_and_so_are_its_graphs(change):
    stack = random_stack(ARCHITECTURE, 3, 0)
    model = MessagePassingNetwork(ARCHITECTURE, num_outputs=2).double()
    batch = stack.to_batch()
    model(batch)  # found to be right, and looked at again after the change
    batch = change(batch)
    with pytest.raises(InvalidGraphError, match="edge_index is not the one"):
        model(batch)
    with pytest.raises(InvalidGraphError, match="edge_index is not the one"):
        batch.get_example(0).parameters()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_last, "x is of shape"),
        (lambda g: g.update({"x": g.x[:, :0]}), "x is of shape"),
        (lambda g: g.update({"edge_attr": g.edge_attr[1:]}), "edge_attr is of shape"),
        (lambda g: g.update({"edge_attr": g.edge_attr[:, 0]}), "edge_attr is of shape"),
        (lambda g: g.update({"edge_attr": None}), "edge_attr is a NoneType"),
        (lambda g: g.update({"node_position": g.node_position.flip(0)}), "node_position is not"),
        (lambda g: g.update({"edge_block": g.edge_block.flip(0)}), "edge_block is not"),
    ],
)
def test_features_of_other_sizes_are_refused(change, message, tmp_path):
    graph = change(a_graph())
    for read in (graph.parameters, reads(graph, tmp_path)["model"]):
        with pytest.raises(InvalidGraphError, match=message):
            read()


def test_parallel_edges_and_nodes_without_edges_are_told_apart():
    for name, architecture in structured_architectures():
        graph = a_graph(architecture)
        graph.parameters()
        check_readable(Batch.from_data_list([graph, graph]))
        changed = copy.copy(graph)
        changed.edge_index = graph.edge_index.flip(1)
        if torch.equal(changed.edge_index, graph.edge_index):
            continue
        with pytest.raises(InvalidGraphError, match="edge_index"):
            changed.parameters()
        assert graph.parameters(), name


def test_sparse_attributes_of_transforms_are_refused_by_files(tmp_path):
    # As ToSparseTensor(remove_edge_index=False) leaves it.
    graph = a_graph().update({"adj_t": torch.eye(3).to_sparse()})
    with pytest.raises(InvalidGraphError, match=r"'adj_t'.*a dense tensor"):
        save_graph(graph, tmp_path / "graph.safetensors")
    del graph.adj_t
    save_graph(graph, tmp_path / "graph.safetensors")


def test_files_of_graphs_and_batches_are_checked_when_they_are_read():
    graph = a_graph().coalesce()
    stream = io.BytesIO()
    torch.save([graph, Batch.from_data_list([graph])], stream)
    stream.seek(0)
    for loaded in torch.load(stream, weights_only=True):
        with pytest.raises(InvalidGraphError, match="edge_index"):
            check_readable(loaded)


def test_what_pyg_makes_of_a_graph_that_is_no_network_is_refused(tmp_path):
    made = HeteroData(a={"x": torch.ones(2, 1)}).to_homogeneous()
    for read in (
        lambda: to_state_dict(made), lambda: to_module(made), lambda: to_networkx(made),
        lambda: save_graph(made, tmp_path / "g.safetensors"), lambda: forward(made, torch.ones(2)),
        lambda: MessagePassingNetwork(ARCHITECTURE, num_outputs=2)(made),
    ):  # fmt: skip
        with pytest.raises(InvalidGraphError, match=r"Data was given|given a Data"):
            read()


def test_indices_are_compared_once_and_again_after_writing(monkeypatch):
    graph = copy.deepcopy(a_graph())
    compared = []
    import nngraph.graph.own_indices as own

    real = own._edges
    monkeypatch.setattr(own, "_edges", lambda *given: compared.append(1) or real(*given))
    for _ in range(2):
        graph.parameters()
    assert len(compared) == 1
    graph.edge_index.add_(0)
    graph.parameters()
    assert len(compared) == 2
