from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from nngraph.errors import InvalidGraphError
from nngraph.graph import Activation, Architecture, NeuronGroup, Parameter
from nngraph.graph.topology.build import BLOCK_KINDS, COLUMN_KINDS
from nngraph.graph.topology.tables import Nodes, Table
from nngraph.graph.topology.topology import Topology
from nngraph.testing import random_architectures, random_stack, structured_architectures

A, B = Architecture.mlp([2, 3, 1]), Architecture.mlp([1, 2, 2, 1], "tanh", [True, False, True])
STRUCTURED = dict(structured_architectures())
EVERY = [pytest.param(a, id=name) for name, a in random_architectures()]


def rows_of(nodes: Nodes) -> list[int]:
    if nodes.index is None:
        return list(range(nodes.start, nodes.start + nodes.count * nodes.size))
    return nodes.index.tolist()


def test_one_network_by_hand():
    topology = Topology.of(Architecture.mlp([2, 2, 1], bias=[False, True]))
    assert topology.source.tolist() == [0, 1, 0, 1, 2, 3]
    assert topology.target.tolist() == [2, 2, 3, 3, 4, 4]
    assert topology.edge_block.tolist() == [0, 0, 0, 0, 1, 1]
    assert topology.nodes.has_bias.tolist() == [False, False, False, False, True]
    assert topology.edge_order is None
    assert [(b.start, b.stop, b.count, b.rows, b.columns) for b in topology.buckets] == [
        (0, 4, 1, 2, 2), (4, 6, 1, 1, 2),
    ]  # fmt: skip


def test_two_networks_of_different_depth_by_hand():
    t = Topology.of_batch([A, B])
    assert (t.num_nodes, t.num_edges, t.num_graphs) == (12, 17, 2)
    assert t.nodes.graph.index.tolist() == [0] * 6 + [1] * 6
    assert t.nodes.group.index.tolist() == [0, 0, 1, 1, 1, 2, 3, 4, 4, 5, 5, 6]
    assert t.nodes.role.tolist() == [0, 0, 1, 1, 1, 2, 0, 1, 1, 1, 1, 2]
    assert t.nodes.position.tolist() == [0, 1, 0, 1, 2, 0, 0, 0, 1, 0, 1, 0]
    assert t.nodes.level.tolist() == [0, 0, 1, 1, 1, 2, 0, 1, 1, 2, 2, 3]
    assert t.nodes.depth_from_output.tolist() == [2, 2, 1, 1, 1, 0, 3, 2, 2, 1, 1, 0]
    assert t.nodes.in_degree.tolist() == [0, 0, 2, 2, 2, 3, 0, 1, 1, 2, 2, 2]
    assert t.nodes.out_degree.tolist() == [3, 3, 1, 1, 1, 0, 2, 2, 2, 1, 1, 0]
    assert t.nodes.has_bias.tolist() == [False] * 2 + [True] * 4 + [
        False, True, True, False, False, True,
    ]  # fmt: skip
    assert t.groups.graph.index.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert t.groups.size.tolist() == [2, 3, 1, 1, 2, 2, 1]
    assert t.groups.level.tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert [rows_of(level.nodes) for level in t.levels] == [
        [0, 1, 6], [2, 3, 4, 7, 8], [5, 9, 10], [11],
    ]  # fmt: skip
    assert t.output_levels == (2, 3)
    assert [t.levels[level].outputs.tolist() for level in (2, 3)] == [[0], [0]]
    assert (t.max_inputs, t.max_outputs) == (2, 1)
    functions = [
        [(str(a), None if rows is None else rows.tolist()) for a, rows in level.activations]
        for level in t.levels
    ]
    assert functions == [
        [("identity", None)],
        [("relu", [0, 1, 2]), ("tanh", [3, 4])],
        [("identity", [0]), ("tanh", [1, 2])],
        [("identity", None)],
    ]


@pytest.mark.parametrize("architecture", EVERY)
def test_edges_are_those_of_the_graph(architecture: Architecture):
    graph = random_stack(architecture, 1, 0)[0]
    topology = Topology.of(architecture)
    assert torch.equal(torch.stack([topology.source, topology.target]), graph.edge_index)
    assert torch.equal(topology.edge_block, graph.edge_block)
    assert torch.equal(topology.nodes.role, graph.node_role)
    assert torch.equal(topology.nodes.position, graph.node_position)
    assert torch.equal(topology.nodes.group.index, graph.node_group)


@pytest.mark.parametrize("repeats", [1, 3])
def test_edge_order_leads_from_the_batch_of_pyg(repeats: int):
    from torch_geometric.data import Batch

    architectures = [a for _, a in random_architectures()] * repeats
    batch = Batch.from_data_list([random_stack(a, 1, i)[0] for i, a in enumerate(architectures)])
    topology = Topology.of_batch(architectures)
    assert topology.edge_order is not None
    assert sorted(topology.edge_order.tolist()) == list(range(topology.num_edges))
    expected = batch.edge_index[:, topology.edge_order]
    assert torch.equal(torch.stack([topology.source, topology.target]), expected)
    assert torch.equal(topology.nodes.graph.index, batch.batch)
    # Blocks of one shape are one bucket, however many networks they come from.
    shapes = {(b.shape[0], b.shape[1]) for a in architectures for b in a.blocks}
    assert len(topology.buckets) == len(shapes)
    assert sum(bucket.count for bucket in topology.buckets) == sum(
        len(a.blocks) for a in architectures
    )
    for bucket in topology.buckets:
        ends = [rows_of(bucket.source), rows_of(bucket.target)]
        edges = slice(bucket.start, bucket.stop)
        shape = (bucket.count, bucket.rows, bucket.columns)
        source, target = topology.source[edges].view(shape), topology.target[edges].view(shape)
        assert source[:, 0].flatten().tolist() == ends[0]
        assert target[:, :, 0].flatten().tolist() == ends[1]
    for number, level in enumerate(topology.levels):
        for bucket in level.buckets:
            assert set(topology.nodes.level[topology.target[bucket.start : bucket.stop]].tolist()) \
                == {number}  # fmt: skip
    buckets = [bucket for level in topology.levels for bucket in level.buckets]
    assert sum(bucket.stop - bucket.start for bucket in buckets) == topology.num_edges


def test_a_batch_of_one_keeps_the_order_of_its_edges_where_it_can():
    assert Topology.of_batch([Architecture.mlp([2, 1])]).edge_order is None


def groups(*sizes: int) -> tuple[NeuronGroup, ...]:
    last = len(sizes) - 1
    return tuple(
        NeuronGroup(f"g{i}", size, "input" if i == 0 else "output" if i == last else "hidden",
                    Activation("relu"), None if i in (0, last) else f"g{i}")
        for i, size in enumerate(sizes)
    )  # fmt: skip


def weight(name: str, target: int, source: int, sizes: tuple[int, ...]) -> Parameter:
    return Parameter(name, (sizes[target], sizes[source]), (target, source))


def test_levels_are_longest_paths_whatever_the_order_of_the_state_dict():
    sizes = (2, 3, 4, 1)
    architecture = Architecture(
        groups(*sizes),
        (weight("c", 3, 2, sizes), weight("skip", 2, 0, sizes), weight("b", 2, 1, sizes),
         weight("a", 1, 0, sizes)),
    )  # fmt: skip
    topology = Topology.of(architecture)
    assert topology.groups.level.tolist() == [0, 1, 2, 3]
    assert topology.blocks.level.tolist() == [3, 2, 2, 1]
    assert topology.nodes.depth_from_output.tolist() == [3, 3, 2, 2, 2, 1, 1, 1, 1, 0]
    assert [level.skips for level in topology.levels] == [False, False, True, False]
    second = topology.levels[2].buckets
    # Of all neurons before: those of the inputs come first, then those of level 1.
    assert sorted(rows_of(bucket.source)[0] for bucket in second) == [0, 2]
    assert all(rows_of(bucket.target) == [0, 1, 2, 3] for bucket in second)


def test_caches_by_equality():
    assert Topology.of(A) is Topology.of(Architecture.from_json(A.to_json()))
    assert Topology.of_batch([A, B]) is Topology.of_batch([A, Architecture.from_json(B.to_json())])
    assert Topology.of_batch([A, B]) is not Topology.of_batch([B, A])


def devices_in(value: Any) -> set[str]:
    if isinstance(value, Tensor):
        return {value.device.type}
    if isinstance(value, Table):
        fields = [f.name for f in dataclasses.fields(value) if f.name != "_moved"]
        return set().union(*(devices_in(getattr(value, name)) for name in fields))
    if isinstance(value, dict):
        return devices_in(tuple(value.values()))
    if isinstance(value, tuple):
        return set().union(*map(devices_in, value))
    return set()


def test_every_tensor_moves_and_each_copy_is_made_once():
    topology = Topology.of_batch([A, B, A])
    assert topology.to("cpu") is topology
    moved = topology.to("meta")  # a device that is always there
    assert devices_in(moved) == {"meta"}
    assert devices_in(topology) == {"cpu"}
    assert topology.to("meta") is moved
    assert [level.size for level in moved.levels] == [level.size for level in topology.levels]


def test_an_empty_batch_and_a_batch_as_one_network_are_refused():
    with pytest.raises(InvalidGraphError, match="no networks"):
        Topology.of_batch([])
    with pytest.raises(InvalidGraphError, match="2 networks side by side"):
        _ = Topology.of_batch([A, A]).single
    assert Topology.of(A).single == A


def test_what_kind_of_tensor_each_block_and_column_is():
    def kinds(name: str) -> list[str]:
        return [BLOCK_KINDS[i] for i in Topology.of(STRUCTURED[name]).blocks.kind.tolist()]

    assert kinds("convolutions") == ["kernel", "diagonal", "kernel", "kernel"]
    assert kinds("residual") == ["dense", "dense", "dense", "dense", "identity"]
    assert kinds("grouped") == ["dense", "grouped", "dense"]
    sizes = Topology.of(STRUCTURED["convolutions"]).blocks.kernel_size.tolist()
    assert sizes == [[3, 3, 1], [1, 1, 1], [1, 1, 1], [4, 1, 1]]
    columns = Topology.of(STRUCTURED["convolutions"]).nodes.columns.tolist()
    # Two inputs, four with a bias, four with the bias and the mean of a norm, three, three outputs.
    bias, other = COLUMN_KINDS.index("bias"), COLUMN_KINDS.index("other")
    assert columns == [[0, 0]] * 2 + [[bias, 0]] * 4 + [[bias, other]] * 4 + [[0, 0]] * 3 + (
        [[bias, 0]] * 3
    )
    # In a batch every block says what it is, wherever it stands.
    batch = Topology.of_batch([STRUCTURED["residual"], Architecture.mlp([2, 3, 1])] * 2)
    found = [
        sorted(batch.blocks.kind[batch.blocks.graph.index == graph].tolist()) for graph in range(4)
    ]
    assert found == [[0, 0, 0, 0, 4], [0, 0]] * 2
