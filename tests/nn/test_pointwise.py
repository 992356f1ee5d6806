"""Nonlinearity, normalisation, dropout and nonlinear pooling keep the symmetry and obey modes."""

from __future__ import annotations

import math

import pytest
import torch

from nngraph.graph import Architecture
from nngraph.graph.topology.topology import Topology
from nngraph.nn import ChannelNorm, FeatureDropout, Pointwise, TensorNorm
from nngraph.nn.common.pointwise import Dropout
from nngraph.nn.layers.pooling import EdgePooling, SharedPoolingLayer
from nngraph.testing import assert_equivariant, random_architectures, random_features

mlp = Architecture.mlp
ARCHITECTURES = [pytest.param(a, id=name) for name, a in random_architectures()]
DEEP = mlp([2, 4, 3, 2])
RAGGED = Topology.of_batch([mlp([2, 3, 1]), mlp([2, 2]), mlp([2, 4, 3, 1])])


def modules(architecture: Architecture):
    return [
        Pointwise(torch.tanh),
        ChannelNorm(4),
        TensorNorm(architecture, 4),
        TensorNorm(architecture, 4, "batch"),
        FeatureDropout(0.5),
    ]


class TestSymmetry:
    @pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_commutes_with_relabelling(self, architecture, training):
        for module in modules(architecture):
            module.double().train(training)
            if isinstance(module, FeatureDropout) and training:
                continue
            for parameter in module.parameters():
                torch.nn.init.normal_(parameter)
            assert_equivariant(module, architecture, node_channels=4, edge_channels=4)

    def test_dropout_of_channels_commutes_in_training_too(self):
        def drop(x, e):
            torch.manual_seed(1)
            return FeatureDropout(0.5, whole_channels=True)(x, e)

        assert_equivariant(drop, DEEP, node_channels=4, edge_channels=4)


class TestTensorNorm:
    def test_network_statistics_are_those_of_each_tensor(self):
        x, e = random_features(DEEP, 3, 4, 4, 0)
        found, edges = TensorNorm(DEEP, 4, eps=0)(3 * x + 1, 2 * e - 1)
        for block in DEEP.blocks:
            part = edges[:, block.start : block.stop]
            torch.testing.assert_close(part.mean((1, 2)), torch.zeros(3).double())
            torch.testing.assert_close(part.square().mean((1, 2)), torch.ones(3).double())
        assert (found[:, :2] == 0).all()  # inputs have no bias

    def test_batch_statistics_run_in_training_and_rest_in_evaluation(self):
        norm = TensorNorm(DEEP, 4, "batch", momentum=1.0, eps=0).double()
        x, e = random_features(DEEP, 5, 4, 4, 0)
        trained = norm(x, e)
        before = norm.running_mean.clone()
        norm.eval()
        for one, other in zip(norm(x, e), trained, strict=True):
            torch.testing.assert_close(one, other)
        norm(x + 1, e + 1)
        assert torch.equal(norm.running_mean, before)

    def test_unknown_statistics(self):
        with pytest.raises(ValueError, match="statistics is 'entry'"):
            TensorNorm(DEEP, 4, "entry")


class TestDropout:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_of_entries_keeps_the_mean_and_the_gradient_of_what_is_kept(self, dtype):
        torch.manual_seed(0)
        x = torch.ones(100_000, dtype=dtype, requires_grad=True)
        out = Dropout(0.1)(x)
        out.sum().backward()
        kept = out != 0
        assert abs(float(kept.double().mean()) - 0.9) < 0.005
        torch.testing.assert_close(out[kept], torch.full_like(out[kept], 1 / 0.9))
        torch.testing.assert_close(x.grad, out)

    @pytest.mark.parametrize("p", [0.0, 1.0])
    def test_of_none_and_of_all(self, p):
        x = torch.randn(5)
        torch.testing.assert_close(Dropout(p)(x), x * (1 - p))
        assert Dropout(p).eval()(x) is x

    @pytest.mark.parametrize("whole_channels", [False, True])
    def test_is_the_identity_in_evaluation_and_keeps_the_mean_in_training(self, whole_channels):
        dropout = FeatureDropout(0.25, whole_channels)
        x, e = torch.ones(2000, 3, 4), torch.ones(2000, 5, 4)
        nodes, edges = dropout(x, e)
        assert {0.0, 1 / 0.75} == {round(v, 6) for v in edges.unique().tolist()} or math.isclose(
            float(edges.max()), 1 / 0.75, rel_tol=1e-6
        )
        assert abs(float(edges.mean()) - 1) < 0.05
        if whole_channels:
            assert torch.equal(edges[:, 0], nodes[:, 0])
            assert torch.equal(edges[:, 0], edges[:, 4])
        dropout.eval()
        nodes, edges = dropout(x, e)
        assert torch.equal(nodes, x)
        assert torch.equal(edges, e)

    def test_impossible_share(self):
        with pytest.raises(ValueError, match=r"p is 1\.0"):
            FeatureDropout(1.0)


class TestEdgePooling:
    @pytest.mark.parametrize("op", ["mean", "max", "attention"])
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_commutes_with_relabelling(self, architecture, op):
        topology = Topology.of(architecture)
        pooling = EdgePooling(4, op, heads=2).double()

        def update(x, e):
            to_nodes = pooling(topology, e, "source") + pooling(topology, e, "target")
            return x + to_nodes, e + pooling(topology, e, "block")[:, topology.edge_block]

        assert_equivariant(update, architecture, node_channels=4, edge_channels=4)

    @pytest.mark.parametrize("op", ["max", "attention"])
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_as_an_option_of_the_shared_layer(self, architecture, op):
        topology = Topology.of(architecture)
        layer = SharedPoolingLayer(4, 3, op, heads=2).double()
        assert_equivariant(
            lambda x, e: layer(topology, x, e), architecture, node_channels=4, edge_channels=4
        )
        # Not linear: a sum of features is not mapped to the sum of what they are mapped to.
        (x, e), (y, f) = (random_features(architecture, 1, 4, 4, seed) for seed in (0, 1))
        added = layer(topology, x + y, e + f)[1]
        assert not torch.allclose(added, layer(topology, x, e)[1] + layer(topology, y, f)[1])

    @pytest.mark.parametrize("op", ["max", "attention"])
    @pytest.mark.parametrize("to", ["source", "target", "block"])
    @pytest.mark.parametrize("topology", [Topology.of(DEEP), RAGGED], ids=["single", "ragged"])
    def test_equals_a_loop(self, topology, op, to):
        e = torch.randn(topology.num_edges, 4, dtype=torch.float64)
        pooling = EdgePooling(4, op, heads=2).double()
        found = pooling(topology, e, to)
        index = {"source": topology.source, "target": topology.target}.get(to, topology.edge_block)
        for row in range(len(found)):
            edges = e[index == row]
            expected = torch.zeros(4).double()
            if len(edges) and op == "max":
                expected = edges.max(0).values
            elif len(edges):
                share = pooling.score(edges).softmax(0).repeat_interleave(2, dim=1)
                expected = (share * edges).sum(0)
            torch.testing.assert_close(found[row], expected)

    def test_gradients_and_large_scores(self):
        topology = Topology.of(mlp([2, 2, 1]))
        pooling = EdgePooling(2, "attention").double()
        e = torch.randn(2, topology.num_edges, 2, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda e: pooling(topology, e, "target"), (e,))
        assert torch.isfinite(pooling(topology, 1e4 * e, "target")).all()

    def test_unknown_choices(self):
        with pytest.raises(ValueError, match="op is 'median'"):
            EdgePooling(4, "median")
        with pytest.raises(ValueError, match="heads is 3"):
            EdgePooling(4, "attention", heads=3)
        with pytest.raises(ValueError, match="side is 'graph'"):
            EdgePooling(4)(RAGGED, torch.ones(RAGGED.num_edges, 4), "graph")
