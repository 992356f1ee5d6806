import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch
from torch_geometric import transforms
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader

from nngraph.errors import InvalidGraphError, NonFiniteError
from nngraph.graph import Architecture, NeuralGraph, NeuralGraphStack, Symmetry, to_batch
from nngraph.graph.parameters import check_parameters
from nngraph.testing import (
    random_architectures,
    random_parameters,
    random_stack,
    structured_architectures,
)

ARCHITECTURES = [
    pytest.param(a, id=name) for name, a in [*random_architectures(), *structured_architectures()]
]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def same_bits(one, other):
    return one.keys() == other.keys() and all(
        one[k].dtype == other[k].dtype
        and torch.equal(
            one[k].contiguous().view(BITS[one[k].element_size()]),
            other[k].contiguous().view(BITS[one[k].element_size()]),
        )
        for k in one
    )


def graph_of(architecture, seed=0, dtype=torch.float64, **attributes):
    values = random_parameters(architecture, seed, dtype, zero_fraction=0.1)
    return NeuralGraph.from_parameters(architecture, values, **attributes)


def strange_parameters(architecture, dtype):
    """Every bit pattern that a copy may spoil: -0, subnormals, the largest, infinities, NaN."""
    info = torch.finfo(dtype)
    strange = torch.tensor(
        [-0.0, info.tiny, info.smallest_normal / 2, info.max, -info.max, 1 + info.eps,
         float("inf"), -float("inf"), float("nan")], dtype=torch.float64,
    ).to(dtype)
    values = random_parameters(architecture, 0, dtype)
    for i, value in enumerate(values.values()):
        if not value.dtype.is_floating_point:
            continue
        flat = value.view(-1)
        flat[:] = strange.roll(i).repeat(-(-flat.numel() // 9))[: flat.numel()]
    return values


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_way_through_keeps_every_bit(architecture, dtype):
    values = strange_parameters(architecture, dtype)
    kept = {name: value.clone() for name, value in values.items()}
    graph = NeuralGraph.from_parameters(architecture, values)
    assert same_bits(graph.parameters(), kept)
    assert graph.x.dtype == graph.edge_attr.dtype == dtype
    assert same_bits(graph.parameters(), kept)
    other = graph_of(architecture, 1, dtype)
    batch = Batch.from_data_list([other, graph, other])
    assert same_bits(batch.get_example(1).parameters(), kept)
    assert same_bits(batch.to_data_list()[1].parameters(), kept)
    relabelling = Symmetry(architecture).sample(1)
    moved = relabelling.act_on_graph(graph)
    assert same_bits(relabelling.invert().act_on_graph(moved).parameters(), kept)
    stack = NeuralGraphStack.from_parameters(
        architecture, {k: torch.stack([v, kept[k]]) for k, v in other.parameters().items()}
    )
    assert same_bits(stack[1].parameters(), kept)
    assert same_bits(stack.to_batch().get_example(1).parameters(), kept)
    each = Symmetry(architecture).sample_stack(2, 0)
    assert same_bits(each.invert().act_on_stack(each.act_on_stack(stack))[1].parameters(), kept)


def test_features_by_hand():
    architecture = Architecture.mlp([2, 2, 1], bias=[True, False])
    graph = NeuralGraph.from_parameters(
        architecture,
        {
            "0.weight": torch.tensor([[1.0, 2], [3, 0]]),
            "0.bias": torch.tensor([0.0, 4]),
            "1.weight": torch.tensor([[5.0, 6]]),
        },
        y=torch.tensor([7]),
    )
    graph.validate()
    assert graph.x.tolist() == [[0], [0], [0], [4], [0]]
    assert graph.x_mask.tolist() == [[False], [False], [True], [True], [False]]
    assert graph.edge_index.tolist() == [[0, 1, 0, 1, 2, 3], [2, 2, 3, 3, 4, 4]]
    assert graph.edge_attr.tolist() == [[1], [2], [3], [0], [5], [6]]
    assert graph.edge_block.tolist() == [0, 0, 0, 0, 1, 1]
    assert graph.node_group.tolist() == [0, 0, 1, 1, 2]
    assert graph.node_role.tolist() == [0, 0, 1, 1, 2]
    assert graph.node_position.tolist() == [0, 1, 0, 1, 0]
    assert graph.y.tolist() == [7]
    assert graph.block(1).tolist() == [[5, 6]]
    assert graph.num_nodes == 5
    assert graph.num_edges == 6


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_edges_do_not_come_from_values(architecture):
    zeros = random_parameters(architecture, 0, zero_fraction=1.0)
    one, other = NeuralGraph.from_parameters(architecture, zeros), graph_of(architecture)
    assert torch.equal(one.edge_index, other.edge_index)
    assert torch.equal(one.x_mask, other.x_mask)
    assert len(one.edge_attr) == len(other.edge_attr) == architecture.num_edges


def test_memory_is_shared():
    architecture = Architecture.mlp([3, 2])
    values = random_parameters(architecture, 0)
    graph = NeuralGraph.from_parameters(architecture, values)
    assert graph.edge_attr.data_ptr() == values["0.weight"].data_ptr()
    graph.edge_attr[0] = 42.0
    assert values["0.weight"][0, 0] == 42.0

    architecture = Architecture.mlp([3, 4, 2], bias=False)
    values = random_parameters(architecture, 0)
    graph = NeuralGraph.from_parameters(architecture, values)
    assert graph.block(1).data_ptr() == values["1.weight"].data_ptr()
    assert not graph.is_materialised
    edge_attr = graph.edge_attr
    assert graph.block(1).data_ptr() == edge_attr[12:].data_ptr(), "views afterwards"
    # Weights that are neighbours in one buffer, as shards of a zoo are, are not copied either.
    flat = torch.randn(20)
    values = {"0.weight": flat[:12].view(4, 3), "1.weight": flat[12:].view(2, 4)}
    graph = NeuralGraph.from_parameters(architecture, values)
    assert graph.edge_attr.data_ptr() == flat.data_ptr()
    swapped = {"0.weight": flat[8:].view(4, 3), "1.weight": flat[:8].view(2, 4)}
    graph = NeuralGraph.from_parameters(architecture, swapped)
    assert torch.equal(graph.edge_attr[:, 0], torch.cat([flat[8:], flat[:8]]))


def test_nothing_is_made_until_asked_for():
    architecture = Architecture.mlp([3, 4, 2])
    values = random_parameters(architecture, 0)
    graph = NeuralGraph.from_parameters(architecture, values, y=torch.tensor([1]))
    _ = graph.y, graph.architecture, graph.parameters(), graph.validate()
    graph.tag = "kept"
    assert graph.further_attributes().keys() == {"y", "tag"}
    assert not graph.is_materialised
    assert graph.parameters()["0.weight"] is values["0.weight"]
    _ = graph.edge_index
    assert graph.is_materialised
    assert graph.tag == "kept"
    # A large network costs nothing before: a terabyte of weights, described.
    huge = Architecture.mlp([2**20, 2**20])
    values = {name: torch.empty(shape, device="meta") for name, shape in
              (("0.weight", (2**20, 2**20)), ("0.bias", (2**20,)))}
    assert NeuralGraph.from_parameters(huge, values).block(0).shape == (2**20, 2**20)


def test_batches_offset_and_restore():
    graphs = [graph_of(a, i, y=torch.tensor([i])) for i, (_, a) in
              enumerate(random_architectures())]
    batch = Batch.from_data_list(graphs)
    assert batch.num_graphs == len(graphs)
    assert batch.architecture == [g.architecture for g in graphs]
    assert batch.y.tolist() == list(range(len(graphs)))
    assert batch.num_nodes == sum(g.num_nodes for g in graphs)
    assert torch.equal(batch.edge_index[:, -1] - batch.ptr[-2], graphs[-1].edge_index[:, -1])
    for i, (one, other) in enumerate(zip(batch.to_data_list(), graphs, strict=True)):
        one.validate()
        assert one.architecture == other.architecture
        assert same_bits(one.parameters(), other.parameters())
        assert one.y.tolist() == [i]
        # Edges, masks and blocks count from zero again.
        assert torch.equal(one.edge_block, other.edge_block)
        assert torch.equal(one.node_group, other.node_group)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on one core
@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_keep_every_network(workers):
    graphs = [graph_of(Architecture.mlp([2, 3 + i % 2, 1]), i, y=torch.tensor([i]))
              for i in range(7)]
    context = "fork" if workers else None
    loader = DataLoader(graphs, 3, num_workers=workers, multiprocessing_context=context)
    found = [graph for batch in loader for graph in batch.to_data_list()]
    assert [int(g.y) for g in found] == list(range(7))
    for one, other in zip(found, graphs, strict=True):
        one.validate()
        assert same_bits(one.parameters(), other.parameters())


def test_transforms_and_moves():
    graph = graph_of(Architecture.mlp([2, 3, 1]), y=torch.tensor([1]))
    out = transforms.Compose([transforms.ToDevice("cpu"), transforms.Constant()])(graph)
    assert isinstance(out, NeuralGraph)
    assert out.x.shape == (6, 2), "Constant appends a column"
    assert graph.x.shape == (6, 1), "a transform copies"
    assert graph.to("cpu").validate()
    half = graph.clone().apply(lambda t: t.half() if t.is_floating_point() else t)
    assert half.parameters()["0.weight"].dtype == torch.float16
    undirected = transforms.ToUndirected()(graph_of(Architecture.mlp([2, 3, 1])))
    assert undirected.edge_index.shape[1] == 18
    assert not undirected.validate(raise_on_error=False)


@pytest.mark.parametrize("materialised", [False, True])
def test_copies(materialised):
    graph = graph_of(Architecture.mlp([2, 3, 1]), y=torch.tensor([1]))
    if materialised:
        _ = graph.x
    shallow, deep, clone = copy.copy(graph), copy.deepcopy(graph), graph.clone()
    for other in (shallow, deep, clone):
        other.validate()
        assert same_bits(other.parameters(), graph.parameters())
        assert other.y.tolist() == [1]
    assert shallow.x.data_ptr() == graph.x.data_ptr()
    assert shallow.edge_attr.data_ptr() == graph.edge_attr.data_ptr()
    for other in (deep, clone):
        other.edge_attr.zero_()
        other.y = torch.tensor([2])
    assert graph.edge_attr.abs().sum() > 0
    assert graph.y.tolist() == [1]


@pytest.mark.parametrize("materialised", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pickles_and_files(materialised, dtype):
    graph = graph_of(Architecture.mlp([2, 3, 1]), dtype=dtype, y=torch.tensor([1]))
    if materialised:
        _ = graph.x
    stream = io.BytesIO()
    torch.save([graph], stream)
    stream.seek(0)
    (loaded,) = torch.load(stream, weights_only=True)
    for other in (pickle.loads(pickle.dumps(graph)), loaded):
        other.validate()
        assert type(other) is NeuralGraph
        assert other.architecture == graph.architecture
        assert same_bits(other.parameters(), graph.parameters())
        assert other.y.tolist() == [1]


def test_batches_in_pickles_and_files():
    graphs = [graph_of(a, i) for i, (_, a) in enumerate(random_architectures())]
    batch = Batch.from_data_list(graphs)
    stream = io.BytesIO()
    torch.save(batch, stream)
    stream.seek(0)
    for other in (pickle.loads(pickle.dumps(batch)), torch.load(stream, weights_only=True)):
        assert type(other) is type(batch)
        for one, graph in zip(other.to_data_list(), graphs, strict=True):
            one.validate()
            assert same_bits(one.parameters(), graph.parameters())


def test_files_load_in_another_process_which_imports_no_converters(tmp_path):
    stack = random_stack(Architecture.mlp([2, 3, 1]), 2, 0)
    torch.save({"graph": stack[0], "batch": stack.to_batch()}, tmp_path / "graphs.pt")
    code = (
        "import sys, torch, nngraph.graph;"
        "d = torch.load(sys.argv[1], weights_only=True);"
        "assert d['graph'].validate() and d['batch'].get_example(1).validate();"
        "import nngraph, nngraph.testing;"
        "assert not {'converters', 'networkx.drawing.nx_pylab'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "graphs.pt"], check=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.edge_index.add_(1), "edge_index is not the one"),
        (lambda g: g.edge_block.zero_(), "edge_block is not the one"),
        (lambda g: g.node_group.zero_(), "node_group is not the one"),
        (lambda g: g.node_role.zero_(), "node_role is not the one"),
        (lambda g: g.node_position.zero_(), "node_position is not the one"),
        (lambda g: g.x_mask.fill_(True), "x_mask is not the one"),
        (lambda g: setattr(g, "x", g.x[1:]), "x has shape"),
        (lambda g: setattr(g, "x", g.x.expand(-1, 2)), "x has shape"),
        (lambda g: setattr(g, "x", g.x.long()), "floating point"),
        (lambda g: setattr(g, "edge_attr", g.edge_attr[:, 0]), "edge_attr has shape"),
        (lambda g: setattr(g, "edge_attr", None), "no tensor 'edge_attr'"),
        (lambda g: g.__delattr__("edge_index"), "no tensor 'edge_index'"),
        (lambda g: setattr(g, "architecture", None), "architecture is None"),
        (lambda g: setattr(g, "architecture", Architecture.mlp([2, 4, 1])), "expects"),
    ],
)
def test_validation_notices(change, message):
    graph = graph_of(Architecture.mlp([2, 3, 1], bias=[False, True]))
    assert graph.x is not None
    assert graph.validate()
    change(graph)
    with pytest.raises(InvalidGraphError, match=message):
        graph.validate()
    assert not graph.validate(raise_on_error=False)


def test_an_empty_graph_and_a_batch_are_not_valid():
    with pytest.raises(InvalidGraphError, match="architecture is None"):
        NeuralGraph().validate()
    with pytest.raises(InvalidGraphError, match="one by one"):
        random_stack(Architecture.mlp([2, 1]), 2, 0).to_batch().validate()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.bias": None}, "is a NoneType"),
        ({"0.bias": ...}, "'0.bias' is missing"),
        ({"2.bias": torch.zeros(1)}, "'2.bias' is not in"),
        ({"0.bias": torch.zeros(4)}, r"shape \(4,\); expected \(3,\)"),
        ({"0.weight": torch.zeros(2, 3)}, r"shape \(2, 3\); expected \(3, 2\)"),
        ({"0.bias": torch.zeros(3, dtype=torch.long)}, "floating point"),
        ({"0.bias": torch.zeros(3, dtype=torch.cfloat)}, "floating point"),
        ({"0.bias": torch.zeros(3).half()}, "one dtype"),
        ({"0.bias": torch.zeros(3, device="meta")}, "one device"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(change, message):
    architecture = Architecture.mlp([2, 3, 1])
    values = {**random_parameters(architecture, 0, torch.float32), **change}
    values = {k: v for k, v in values.items() if v is not ...}
    with pytest.raises(InvalidGraphError, match=message):
        NeuralGraph.from_parameters(architecture, values)


def test_nonfinite_parameters_are_counted():
    architecture = Architecture.mlp([2, 3, 1])
    values = random_parameters(architecture, 0)
    values["0.weight"][0, 0], values["0.weight"][1, 1] = float("nan"), float("inf")
    with pytest.raises(NonFiniteError, match="has 2 of 6 entries"):
        check_parameters(architecture, values, allow_nonfinite=False)
    check_parameters(architecture, values, allow_nonfinite=True)


def test_stacks():
    architecture = Architecture.mlp([2, 3, 1])
    stack = random_stack(architecture, 5, 0)
    assert len(stack) == 5
    assert stack.x.shape == (5, 6, 1)
    assert stack.edge_attr.shape == (5, 9, 1)
    assert len(stack[1:3]) == 2
    assert same_bits(stack[1:3][1].parameters(), stack[2].parameters())
    assert same_bits(stack[torch.tensor([4])][0].parameters(), stack[-1].parameters())
    assert stack.to(torch.float32).x.dtype == torch.float32
    labelled = NeuralGraphStack(architecture, stack.x, stack.edge_attr, torch.arange(5))
    assert [int(g.y) for g in labelled] == [0, 1, 2, 3, 4]
    assert labelled[3:].y.tolist() == [3, 4]
    assert labelled.to_batch().y.tolist() == [0, 1, 2, 3, 4]
    for x, edge_attr, y in (
        (stack.x[:, :5], stack.edge_attr, None),
        (stack.x, stack.edge_attr[:4], None),
        (stack.x[0], stack.edge_attr, None),
        (stack.x, stack.edge_attr, torch.arange(4)),
    ):
        with pytest.raises(InvalidGraphError):
            NeuralGraphStack(architecture, x, edge_attr, y)
    with pytest.raises(InvalidGraphError, match="no stacked parameters"):
        NeuralGraphStack.from_parameters(architecture, {})


def test_gradients_reach_the_parameters_through_a_graph():
    architecture = Architecture.mlp([2, 3, 1])
    values = {k: v.requires_grad_() for k, v in random_parameters(architecture, 0).items()}
    graph = NeuralGraph.from_parameters(architecture, values)
    (graph.x.sum() + (graph.edge_attr**2).sum()).backward()
    for name, value in values.items():
        expected = torch.ones_like(value) if "bias" in name else 2 * value.detach()
        assert torch.equal(value.grad, expected)


def test_more_channels_beside_the_weight():
    graph = graph_of(Architecture.mlp([2, 3, 1]))
    kept = {name: value.clone() for name, value in graph.parameters().items()}
    graph.edge_attr = torch.cat([graph.edge_attr, torch.randn(9, 2).double()], dim=1)
    graph.validate()
    assert same_bits(graph.parameters(), kept)
    relabelling = Symmetry(graph.architecture).sample(1)
    moved = relabelling.act_on_graph(graph)
    assert same_bits(moved.parameters(), relabelling.act_on_parameters(kept))


def test_labels_are_read_set_and_removed():
    graph = graph_of(Architecture.mlp([2, 1]))
    assert graph.y is None
    graph.y = torch.tensor([1])
    assert graph.y.tolist() == [1]
    assert "y" in graph
    del graph.y
    assert graph.y is None
    assert "y" not in graph


def test_networks_of_all_architectures_in_one_batch():
    architectures = [p.values[0] for p in ARCHITECTURES]
    graphs = [graph_of(architecture, i) for i, architecture in enumerate(architectures)]
    batch = to_batch(graphs)
    assert batch.x.shape == (sum(a.num_nodes for a in architectures), batch.x_mask.shape[1])
    assert batch.edge_attr.shape[1] == 9
    for i, graph in enumerate(graphs):
        assert same_bits(batch.get_example(i).parameters(), graph.parameters())
    assert graphs[0].edge_attr.shape[1] == 1  # the given graphs stay as they are
    chains = to_batch(graphs[:3])
    assert torch.equal(chains.x, Batch.from_data_list(graphs[:3]).x)
    with pytest.raises(InvalidGraphError, match="no graphs"):
        to_batch([])
