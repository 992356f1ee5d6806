import math
import pickle

import networkx as nx
import pytest
import torch

from converters import from_networkx, to_networkx
from nngraph.errors import ArchitectureError, InvalidGraphError
from nngraph.graph import Architecture, NeuralGraph, Parameter
from nngraph.testing import random_architectures, random_parameters, random_stack

ARCHITECTURES = [pytest.param(a, id=name) for name, a in random_architectures()]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def graph_of(architecture, dtype=torch.float64, **attributes):
    values = random_parameters(architecture, 0, dtype, zero_fraction=0.2)
    info = torch.finfo(dtype)
    odd = torch.tensor([-0.0, info.max, info.tiny, info.smallest_normal * info.eps], dtype=dtype)
    first = next(iter(values.values())).view(-1)
    first[:4] = odd[: first.numel()]
    return NeuralGraph.from_parameters(architecture, values, **attributes)


def bits(tensor):
    return tensor.contiguous().view(BITS[tensor.element_size()])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_round_trip_is_exact(architecture, dtype):
    graph = graph_of(architecture, dtype, y=torch.tensor([3]), tag={"made": "here"})
    out = to_networkx(graph)
    assert type(out) is nx.DiGraph
    back = from_networkx(pickle.loads(pickle.dumps(out)))
    back.validate()
    assert back.architecture == architecture
    assert back.keys() == graph.keys() or set(back.keys()) == set(graph.keys())
    for name in ("x", "edge_attr"):
        assert back[name].dtype == dtype
        assert torch.equal(bits(back[name]), bits(graph[name]))
    assert back.y.tolist() == [3]
    assert back.tag == {"made": "here"}


def test_attributes_by_hand():
    architecture = Architecture.mlp([1, 2, 1], "tanh", bias=[True, False], names=["a", "b"])
    graph = NeuralGraph.from_parameters(
        architecture,
        {"a.weight": torch.tensor([[1.0], [0.0]]), "a.bias": torch.tensor([3.0, 0.0]),
         "b.weight": torch.tensor([[5.0, 6.0]])},
    )
    out = to_networkx(graph)
    assert dict(out.nodes(data=True)) == {
        0: {"group": "input", "role": "input", "position": 0},
        1: {"group": "hidden.1", "role": "hidden", "position": 0, "bias": 3.0},
        2: {"group": "hidden.1", "role": "hidden", "position": 1, "bias": 0.0},
        3: {"group": "output", "role": "output", "position": 0},
    }
    assert list(out.edges(data=True)) == [
        (0, 1, {"weight": 1.0, "parameter": "a.weight"}),
        (0, 2, {"weight": 0.0, "parameter": "a.weight"}),
        (1, 3, {"weight": 5.0, "parameter": "b.weight"}),
        (2, 3, {"weight": 6.0, "parameter": "b.weight"}),
    ]
    assert out.graph["dtype"] == "float32"
    assert Architecture.from_json(out.graph["architecture"]) == architecture


def test_edits_and_the_order_of_nodes():
    graph = graph_of(Architecture.mlp([2, 3, 1]))
    out = to_networkx(graph)
    shuffled = nx.DiGraph(**out.graph)
    shuffled.add_nodes_from(reversed(list(out.nodes(data=True))))
    shuffled.add_edges_from(reversed(list(out.edges(data=True))))
    shuffled.edges[0, 2]["weight"] = 7
    shuffled.nodes[2]["bias"] = math.inf
    back = from_networkx(shuffled)
    assert back.edge_attr[0] == 7
    assert back.x[2] == math.inf
    assert torch.equal(back.edge_attr[1:], graph.edge_attr[1:])


def test_channels_beside_the_weight_are_kept():
    graph = graph_of(Architecture.mlp([2, 3, 1]), torch.bfloat16)
    graph.edge_attr = torch.cat([graph.edge_attr, torch.randn(9, 2).bfloat16()], 1)
    back = from_networkx(to_networkx(graph))
    assert torch.equal(back.edge_attr, graph.edge_attr)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda g: g.remove_edge(0, 2), InvalidGraphError, "8 edges"),
        (lambda g: (g.remove_edge(0, 2), g.add_edge(2, 0, weight=1.0)), InvalidGraphError,
         "edge 0 -> 2 .* weight None"),
        (lambda g: g.add_edge(0, 5), InvalidGraphError, "10 edges"),
        (lambda g: g.add_node(99), InvalidGraphError, "7 nodes"),
        (lambda g: g.edges[0, 2].clear(), InvalidGraphError, "weight None"),
        (lambda g: g.edges[0, 2].update(weight="1"), InvalidGraphError, "weight '1'"),
        (lambda g: g.edges[0, 2].update(features=(1.0,)), InvalidGraphError, "numbers of features"),
        (lambda g: g.nodes[2].pop("bias"), InvalidGraphError, "node 2 .* bias None"),
        (lambda g: g.graph.pop("format"), InvalidGraphError, "made by to_networkx"),
        (lambda g: g.graph.update(version=2), InvalidGraphError, "version 2"),
        (lambda g: g.graph.update(dtype="int64"), InvalidGraphError, "dtype 'int64'"),
        (lambda g: g.graph.pop("architecture"), ArchitectureError, "no architecture"),
        (lambda g: g.graph.update(architecture="{}"), ArchitectureError, "lacks"),
        (lambda g: g.graph.update(architecture=Architecture.mlp([2**30, 2**9]).to_json()),
         InvalidGraphError, "expects 1073742336"),
    ],
)
def test_graphs_that_do_not_fit_are_refused(change, error, words):
    out = to_networkx(graph_of(Architecture.mlp([2, 3, 1])))
    change(out)
    with pytest.raises(error, match=words):
        from_networkx(out)


def test_foreign_graphs_batches_and_parallel_edges_are_refused():
    with pytest.raises(InvalidGraphError, match="made by to_networkx"):
        from_networkx(nx.path_graph(3, create_using=nx.DiGraph))
    with pytest.raises(InvalidGraphError, match="to_data_list"):
        to_networkx(random_stack(Architecture.mlp([2, 1]), 2, 0).to_batch())
    chain = Architecture.mlp([2, 3])
    double = Architecture(chain.groups, (*chain.parameters, Parameter("w", (3, 2), (1, 0))))
    with pytest.raises(InvalidGraphError, match="several blocks"):
        to_networkx(graph_of(double))
