import math

import pytest
import torch

from nngraph.errors import ArchitectureError, InvalidGraphError
from nngraph.graph import Architecture, NeuralGraph, Relabelling, Symmetry, forward
from nngraph.testing import (
    random_architectures,
    random_features,
    random_parameters,
    random_stack,
    structured_architectures,
)

CHAINS = [pytest.param(a, id=name) for name, a in random_architectures()]
STRUCTURED = [pytest.param(a, id=name) for name, a in structured_architectures()]
ARCHITECTURES = [*CHAINS, *STRUCTURED]
MOVING = [p for p in ARCHITECTURES if Symmetry(p.values[0]).order() > 1]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_one_relabelling_by_hand():
    architecture = Architecture.mlp([2, 3, 1])
    parameters = {
        "0.weight": torch.tensor([[1.0, 2], [3, 4], [5, 6]]),
        "0.bias": torch.tensor([7.0, 8, 9]),
        "1.weight": torch.tensor([[10.0, 11, 12]]),
        "1.bias": torch.tensor([13.0]),
    }
    moved = Relabelling(architecture, {"hidden.1": torch.tensor([2, 0, 1])})
    # New neuron 0 is old neuron 2, new 1 is old 0, new 2 is old 1.
    assert same(
        moved.act_on_parameters(parameters),
        {
            "0.weight": torch.tensor([[5.0, 6], [1, 2], [3, 4]]),
            "0.bias": torch.tensor([9.0, 7, 8]),
            "1.weight": torch.tensor([[12.0, 10, 11]]),
            "1.bias": torch.tensor([13.0]),
        },
    )


def test_action_is_the_matrix_product_of_the_design():
    architecture = Architecture.mlp([2, 4, 3, 1])
    relabelling = Symmetry(architecture).sample(1)
    values = random_parameters(architecture, 0)
    p1, p2 = (torch.eye(len(p), dtype=torch.float64)[p] for p in relabelling.indices.values())
    moved = relabelling.act_on_parameters(values)
    assert torch.equal(moved["0.weight"], p1 @ values["0.weight"])
    assert torch.equal(moved["1.weight"], p2 @ values["1.weight"] @ p1.T)
    assert torch.equal(moved["2.weight"], values["2.weight"] @ p2.T)
    assert torch.equal(moved["1.bias"], p2 @ values["1.bias"])


def test_groups_of_one_space_move_together():
    plain = Architecture.mlp([2, 3, 3, 1])
    data = plain.to_dict()
    for group in data["groups"][1:3]:
        group["space"] = "shared"
    architecture = Architecture.from_dict(data)
    symmetry = Symmetry(architecture)
    assert symmetry.order() == 6
    relabelling = symmetry.sample(3)
    p = relabelling.indices["shared"]
    values = random_parameters(architecture, 0)
    assert torch.equal(
        relabelling.act_on_parameters(values)["1.weight"], values["1.weight"][p][:, p]
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_actions_on_parameters_graph_and_stack_agree_exactly(architecture, dtype):
    symmetry = Symmetry(architecture)
    values = random_parameters(architecture, 0, dtype)
    relabelling = symmetry.sample(1)
    expected = relabelling.act_on_parameters(values)
    lazy = NeuralGraph.from_parameters(architecture, values)
    assert same(relabelling.act_on_graph(lazy).parameters(), expected)
    assert not lazy.is_materialised
    full = NeuralGraph.from_parameters(architecture, values)
    assert full.x.dtype == dtype
    moved = relabelling.act_on_graph(full)
    moved.validate()
    assert same(moved.parameters(), expected)
    assert same(full.parameters(), values), "the given graph must not change"

    stack = random_stack(architecture, 4, 2, dtype)
    each = symmetry.sample_stack(4, 3)
    moved = each.act_on_stack(stack)
    for i in range(4):
        assert same(moved[i].parameters(), each[i].act_on_parameters(stack[i].parameters()))
    assert same(moved.parameters(), each.act_on_parameters(stack.parameters()))
    all_by_one = relabelling.act_on_stack(stack)
    assert same(all_by_one[2].parameters(), relabelling.act_on_parameters(stack[2].parameters()))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_composition_is_a_left_action(architecture):
    symmetry = Symmetry(architecture)
    g, h, k = (symmetry.sample(seed) for seed in (1, 2, 3))
    values = random_parameters(architecture, 0)
    assert same(
        (g @ h).act_on_parameters(values), g.act_on_parameters(h.act_on_parameters(values))
    )
    assert (g @ h) @ k == g @ (h @ k)
    assert g @ symmetry.identity() == g == symmetry.identity() @ g
    assert g @ g.invert() == symmetry.identity() == g.invert() @ g
    assert same(symmetry.identity().act_on_parameters(values), values)


def test_stacks_of_relabellings_compose_one_by_one():
    symmetry = Symmetry(Architecture.mlp([2, 5, 4, 1]))
    one, many, others = symmetry.sample(0), symmetry.sample_stack(3, 1), symmetry.sample_stack(3, 2)
    for left, right in ((many, others), (one, many), (many, one)):
        product = left @ right
        for i in range(3):
            single = [r if r.count is None else r[i] for r in (left, right)]
            assert product[i] == single[0] @ single[1]
    assert (many @ many.invert())[2] == symmetry.identity()


def test_composition_does_not_commute():
    symmetry = Symmetry(Architecture.mlp([2, 5, 1]))
    g, h = symmetry.sample(0), symmetry.sample(1)
    assert g @ h != h @ g


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_features_of_any_channels_move_like_parameters(architecture):
    x, edge_attr = random_features(architecture, 3, 5, 4, 0)
    relabelling = Symmetry(architecture).sample(1)
    moved_x, moved_edges = relabelling.act_on_nodes(x), relabelling.act_on_edges(edge_attr)
    # One channel of one network at a time, by the action on a graph.
    for b, c in ((0, 0), (2, 3)):
        graph = NeuralGraph()
        graph.architecture = architecture
        graph.x, graph.edge_attr = x[b, :, c : c + 1], edge_attr[b, :, c : c + 1]
        one = relabelling.act_on_graph(graph)
        assert torch.equal(moved_x[b, :, c : c + 1], one.x)
        assert torch.equal(moved_edges[b, :, c : c + 1], one.edge_attr)
    lead = relabelling.act_on_edges(edge_attr.expand(2, *edge_attr.shape))
    assert torch.equal(lead[1], moved_edges)
    each = Symmetry(architecture).sample_stack(3, 4)
    deep = each.act_on_nodes(x[:, None].expand(3, 2, *x.shape[1:]))
    assert torch.equal(deep[2, 1], each[2].act_on_nodes(x[2]))


@pytest.mark.parametrize("architecture", [p for p in MOVING if p.values[0].is_chain])
def test_relabelling_leaves_the_function_and_a_wrong_one_does_not(architecture):
    graph = NeuralGraph.from_parameters(architecture, random_parameters(architecture, 0))
    inputs = torch.randn(6, architecture.widths[0], dtype=torch.float64)
    relabelling = next(
        r for r in map(Symmetry(architecture).sample, range(100))
        if r != Symmetry(architecture).identity()
    )
    expected = forward(graph, inputs)
    moved = relabelling.act_on_graph(graph)
    assert not torch.equal(moved.edge_attr, graph.edge_attr)
    torch.testing.assert_close(forward(moved, inputs), expected, rtol=1e-12, atol=1e-12)
    # Wrong: the weights move, one bias or one weight stays behind.
    kept = next(
        p.name for p in architecture.parameters
        if not torch.equal(moved.parameters()[p.name], graph.parameters()[p.name])
    )
    wrong = moved.with_parameters({**moved.parameters(), kept: graph.parameters()[kept]})
    assert (forward(wrong, inputs) - expected).abs().max() > 1e-4


def test_order_is_exact_and_its_logarithm_is_known_without_it():
    assert Symmetry(Architecture.mlp([7, 3])).order() == 1
    assert Symmetry(Architecture.mlp([2, 4, 3, 1])).order() == 24 * 6
    big = Symmetry(Architecture.mlp([2, 32, 32, 1]))
    assert big.order() == math.factorial(32) ** 2
    assert big.log10_order() == pytest.approx(math.log10(big.order()), rel=1e-12)
    million = Symmetry(Architecture.mlp([2, 10**6, 1]))
    assert million.log10_order() == pytest.approx(5565708.917, 1e-9)


def test_samples_are_seeded_uniform_and_independent():
    symmetry = Symmetry(Architecture.mlp([2, 3, 1]))
    assert symmetry.sample(5) == symmetry.sample(5)
    generator = torch.Generator().manual_seed(5)
    assert symmetry.sample(generator) == symmetry.sample(5)
    many = symmetry.sample_stack(6000, 0).indices["hidden.1"]
    rows, counts = many.unique(dim=0, return_counts=True)
    assert len(rows) == 6
    assert (counts - 1000).abs().max() < 150  # five standard deviations
    pair = Symmetry(Architecture.mlp([2, 3, 3, 1])).sample_stack(6000, 1).indices
    _, counts = torch.cat([pair["hidden.1"], pair["hidden.2"]], 1).unique(dim=0, return_counts=True)
    assert len(counts) == 36


def test_gradients_pass_through_the_actions():
    architecture = Architecture.mlp([2, 3, 3, 1])
    x, edge_attr = random_features(architecture, 2, 2, 2, 0)
    each = Symmetry(architecture).sample_stack(2, 1)
    x.requires_grad_()
    weight = torch.randn_like(x)
    (each.act_on_nodes(x) * weight).sum().backward()
    assert torch.equal(x.grad, each.invert().act_on_nodes(weight))
    assert torch.equal(each.invert().act_on_edges(each.act_on_edges(edge_attr)), edge_attr)


@pytest.mark.parametrize(
    "index",
    [
        torch.tensor([0, 1]),
        torch.tensor([0, 1, 1]),
        torch.tensor([0, 1, 3]),
        torch.tensor([1, 2, 3]),
        torch.tensor([0.0, 1, 2]),
        torch.tensor([[0, 1, 2], [0, 0, 1]]),
        torch.zeros(1, 1, 3, dtype=torch.long),
        [0, 1, 2],
    ],
    ids=repr,
)
def test_what_is_no_permutation_is_refused(index):
    with pytest.raises(ArchitectureError, match="no permutation"):
        Relabelling(Architecture.mlp([2, 3, 1]), {"hidden.1": index})


def test_other_architectures_and_shapes_are_refused():
    architecture, other = Architecture.mlp([2, 3, 1]), Architecture.mlp([2, 4, 1])
    relabelling, stack = Symmetry(architecture).sample(0), Symmetry(architecture).sample_stack(2, 0)
    graph = NeuralGraph.from_parameters(other, random_parameters(other, 0))
    with pytest.raises(InvalidGraphError, match="does not act"):
        relabelling.act_on_graph(graph)
    with pytest.raises(InvalidGraphError, match="does not act"):
        relabelling.act_on_stack(random_stack(other, 2, 0))
    with pytest.raises(InvalidGraphError, match="has shape"):
        relabelling.act_on_parameters(random_parameters(other, 0))
    with pytest.raises(InvalidGraphError, match="single"):
        stack.act_on_graph(random_stack(architecture, 1, 0)[0])
    with pytest.raises(InvalidGraphError, match="one network for each"):
        stack.act_on_stack(random_stack(architecture, 3, 0))
    with pytest.raises(InvalidGraphError, match="expects"):
        relabelling.act_on_nodes(torch.zeros(5, 1))
    with pytest.raises(InvalidGraphError, match="Batch"):
        relabelling.act_on_graph(random_stack(architecture, 2, 0).to_batch())
    with pytest.raises(ArchitectureError, match="do not compose"):
        relabelling @ Symmetry(other).sample(0)
    with pytest.raises(ArchitectureError, match="do not compose"):
        stack @ Symmetry(architecture).sample_stack(3, 0)
    with pytest.raises(ArchitectureError, match="neuron spaces"):
        Relabelling(architecture, {})
    with pytest.raises(ArchitectureError, match="no entries"):
        relabelling[0]
    with pytest.raises(IndexError):
        stack[2]


def test_one_relabelling_iterates_as_a_stack():
    stack = Symmetry(Architecture.mlp([2, 3, 1])).sample_stack(3, 0)
    assert [stack[i] == r for i, r in enumerate(stack)] == [True] * 3


def test_dimensions_inside_of_heads_by_hand():
    architecture = dict(structured_architectures())["heads"]
    values = {
        "qkv": torch.arange(32.0).view(16, 2),
        "scale": torch.tensor([0.0, 1]),
        "out": torch.arange(12.0).view(3, 4),
    }
    moved = Relabelling(
        architecture,
        {
            "heads": torch.tensor([1, 0]),
            # By the new place of the head: the new head 0 is the old head 1.
            "inner": torch.tensor([[0, 2, 1], [2, 0, 1]]),
            "value": torch.tensor([[1, 0], [0, 1]]),
        },
    ).act_on_parameters(values)
    inner = [3, 5, 4, 2, 0, 1]
    rows = [*inner, *(6 + i for i in inner), *(12 + i for i in (3, 2, 0, 1))]
    assert torch.equal(moved["qkv"], values["qkv"][rows])
    assert moved["scale"].tolist() == [1, 0]
    assert torch.equal(moved["out"], values["out"][:, [3, 2, 0, 1]])
    assert Symmetry(architecture).order() == 2 * 6**2 * 2**2


def test_parts_move_inside_and_residuals_together():
    grouped = dict(structured_architectures())["grouped"]
    assert Symmetry(grouped).order() == 6**2 * 2**2
    assert set(Symmetry(grouped).spaces) == {"a", "b"}
    values = random_parameters(grouped, 0)
    a, b = [[1, 0, 2], [2, 0, 1]], [[0, 1], [1, 0]]
    relabelling = Relabelling(grouped, {"a": torch.tensor(a), "b": torch.tensor(b)})
    moved = relabelling.act_on_parameters(values)
    for part in range(2):
        for i in range(2):
            for j in range(3):
                old = values["1"][2 * part + b[part][i], a[part][j]]
                assert torch.equal(moved["1"][2 * part + i, j], old)
    residual = dict(structured_architectures())["residual"]
    assert Symmetry(residual).order() == 24 * 120


@pytest.mark.parametrize("architecture", STRUCTURED)
def test_the_group_laws_hold_space_by_space(architecture):
    symmetry = Symmetry(architecture)
    g, h, k = (symmetry.sample(seed) for seed in range(3))
    assert (g @ h) @ k == g @ (h @ k)
    assert g @ g.invert() == symmetry.identity() == g.invert() @ g
    assert g.invert().invert() == g
    assert (g @ h).invert() == h.invert() @ g.invert()
    values = random_parameters(architecture, 0)
    assert same((g @ h).act_on_parameters(values), g.act_on_parameters(h.act_on_parameters(values)))
    stack = symmetry.sample_stack(3, 4)
    assert (stack @ stack.invert())[1] == symmetry.identity()
    Relabelling(architecture, stack.indices)
