"""Complete linear layers: what they commute with, what they span, and that every form agrees."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, vmap

from nngraph.basis import Basis, WeightSpace, layer_matrix, rank_of, stacked
from nngraph.errors import ArchitectureError, InvalidGraphError, MissingDependencyError
from nngraph.graph import Architecture, NeuronGroup, Parameter
from nngraph.nn import EquivariantLinear, InvariantLinear, Terms
from nngraph.testing import (
    assert_equivariant,
    assert_invariant,
    assert_not_equivariant,
    random_architectures,
    random_features,
    random_stack,
)

mlp = Architecture.mlp
ARCHITECTURES = [pytest.param(a, id=name) for name, a in random_architectures()]
PERMUTE_IO = [False, True, "input", "output"]


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def randomise(layer: nn.Module) -> nn.Module:
    """Give constants values too, which start at 0."""
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def all_relabelled(architecture: Architecture, permute_io) -> Architecture:
    """The architecture whose neuron spaces say what ``permute_io`` claims."""
    roles = {True: ("input", "output"), False: ()}.get(permute_io, (permute_io,))
    groups = tuple(
        NeuronGroup(g.name, g.size, g.role, g.activation, g.name if g.role in roles else g.space)
        for g in architecture.groups
    )
    return Architecture(groups, architecture.parameters)


class TestSymmetry:
    @pytest.mark.parametrize("backend", ["dense", "scatter"])
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_commutes_with_relabelling(self, architecture, backend):
        layer = randomise(EquivariantLinear(architecture, 2, 3, backend=backend))
        assert_equivariant(layer, architecture, node_channels=2, edge_channels=2)

    @pytest.mark.parametrize("permute_io", PERMUTE_IO)
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_permute_io_commutes_with_relabelling_inputs_and_outputs(
        self, architecture, permute_io
    ):
        layer = randomise(EquivariantLinear(architecture, 2, 3, permute_io))
        wider = all_relabelled(architecture, permute_io)
        assert_equivariant(layer, wider, node_channels=2, edge_channels=2)
        head = randomise(InvariantLinear(architecture, 2, 3, permute_io))
        assert_invariant(head, wider, node_channels=2, edge_channels=2)

    def test_fixed_inputs_are_told_apart(self):
        architecture = mlp([3, 4, 2])
        layer = EquivariantLinear(architecture, 1, 1)
        assert_not_equivariant(layer, all_relabelled(architecture, "input"))

    def test_a_layer_with_one_weight_per_entry_is_noticed(self):
        architecture = mlp([2, 4, 3])
        scale = torch.randn(architecture.num_edges, 1)
        assert_not_equivariant(lambda x, e: (x, scale * e), architecture)

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_neurons_without_a_bias_are_neither_read_nor_written(self, architecture):
        layer = randomise(EquivariantLinear(architecture, 2, 3))
        x, e = random_features(architecture, 2, 2, 2, 0)
        held = torch.zeros(architecture.num_nodes, dtype=torch.bool)
        for column in architecture.columns:
            held[column.start : column.stop] = True
        found = layer(x, e)
        for one, other in zip(found, layer(x * held[:, None], e), strict=True):
            torch.testing.assert_close(one, other)
        assert (found[0][:, ~held] == 0).all()


class TestCompleteness:
    # Rank by hand from FIELD's closed form; constants in brackets.
    @pytest.mark.parametrize(
        ("widths", "linear", "constants"),
        [
            ([3, 2], 64, 8),
            ([2, 3, 2], 74, 7),
            ([2, 3, 3, 1], 75, 7),
            ([2, 3, 3, 3], 163, 11),
            ([3, 2, 2, 2, 2], 196, 12),
            ([2, 2, 2, 2, 2, 3], 287, 15),
        ],
        ids=str,
    )
    def test_rank_is_the_number_of_orbits(self, widths, linear, constants):
        architecture = mlp(widths)
        layer = EquivariantLinear(architecture, 1, 1)
        report = rank_of(stacked(layer, architecture), architecture)
        assert report.complete
        assert (report.rank, report.rank_constants) == (linear, constants)
        assert report.rank_in_total == linear + constants
        weights = sum(p.numel() for p in layer.parameters())
        assert weights == linear + constants  # each weight is one coefficient

    @pytest.mark.parametrize("permute_io", PERMUTE_IO)
    @pytest.mark.parametrize("bias", [True, False, [True, False, True]], ids=str)
    @pytest.mark.parametrize("widths", [[2, 1, 2, 2], [3, 2, 2, 1]], ids=str)
    def test_every_relabelled_set_of_groups(self, widths, bias, permute_io):
        architecture = mlp(widths, bias=bias)
        layer = EquivariantLinear(architecture, 1, 1, permute_io)
        report = rank_of(stacked(layer, architecture), all_relabelled(architecture, permute_io))
        assert report.complete

    @pytest.mark.parametrize("depth", [1, 2, 3, 4])
    def test_all_neurons_relabelled(self, depth):
        architecture = mlp([2] * (depth + 1))
        layer = EquivariantLinear(architecture, 1, 1, permute_io=True)
        report = rank_of(stacked(layer, architecture), architecture, permute_io=True)
        assert report.complete
        assert report.rank == 4 * depth**2 + 10 * depth - 4

    def test_channels_multiply(self):
        architecture = mlp([1, 2, 1])
        layer = EquivariantLinear(architecture, 2, 3)
        space = WeightSpace.of(architecture)
        report = rank_of(
            stacked(layer, architecture), space.with_channels(2), space.with_channels(3)
        )
        assert report.complete
        # Four tensors of one free coordinate each; W1, W2 and b1 meet at the hidden neurons.
        assert report.rank == 6 * (4**2 + 3**2)

    @pytest.mark.parametrize(
        ("widths", "permute_io", "slots"), [([2, 3, 3, 2], False, 9), ([3, 2, 2], True, 4)], ids=str
    )
    def test_the_invariant_layer_is_complete(self, widths, permute_io, slots):
        architecture = mlp(widths)
        layer = InvariantLinear(architecture, 1, 1, permute_io)
        report = rank_of(
            stacked(layer, architecture),
            all_relabelled(architecture, permute_io),
            WeightSpace.free("invariant"),
        )
        assert report.complete
        assert report.rank == slots

    def test_sizes_of_wide_inputs(self):
        wide = mlp([784, 8, 8, 10])
        assert Terms.of(wide).dimension == 1_269_190
        assert Terms.of(wide).num_slots == 807
        assert Terms.of(wide, "input").dimension == 732

    def test_missing_terms_are_named(self):
        architecture = mlp([2, 3, 3, 1])
        layer = EquivariantLinear(architecture, 1, 1)
        layer.edge_weights[0].requires_grad_(False).zero_()
        report = rank_of(stacked(layer, architecture), architecture)
        assert not report.complete
        assert report.rank == 74
        (block,) = [b for b in report.blocks if b.missing]
        assert block.name == "1.weight -> 1.weight"
        assert len(block.missing) == 1

    @pytest.mark.parametrize("widths", [[2, 3, 2], [2, 3, 2, 2], [3, 2]], ids=str)
    def test_a_random_equivariant_map_is_reproduced(self, widths):
        architecture = mlp(widths)
        layer = EquivariantLinear(architecture, 1, 1)
        truth = Basis(architecture).sample(3)
        space = WeightSpace.of(architecture)
        layer_map = stacked(layer, architecture)

        def entries() -> np.ndarray:
            matrix, constant = layer_matrix(layer_map, space, check=False)
            return np.concatenate([matrix, constant[:, None]], axis=1).ravel()

        parameters = list(layer.parameters())
        columns = []
        with torch.no_grad():
            for parameter in parameters:
                parameter.zero_()
            for parameter in parameters:
                for entry in parameter.view(-1):
                    entry.fill_(1)
                    columns.append(entries())
                    entry.fill_(0)
        wanted = np.concatenate([truth.matrix(), truth.bias()[:, None]], axis=1).ravel()
        solved, *_ = np.linalg.lstsq(np.array(columns).T, wanted, rcond=None)
        nn.utils.vector_to_parameters(torch.tensor(solved), parameters)
        np.testing.assert_allclose(entries(), wanted, rtol=0, atol=1e-10)


class TestForms:
    @pytest.mark.parametrize("permute_io", [False, True])
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_dense_equals_scatter_in_values_and_gradients(self, architecture, permute_io):
        pytest.importorskip("torch_scatter")
        dense = randomise(EquivariantLinear(architecture, 2, 3, permute_io))
        scatter = EquivariantLinear(architecture, 2, 3, permute_io, backend="scatter")
        scatter.load_state_dict(dense.state_dict())
        results = []
        for layer in (dense, scatter):
            inputs = [v.requires_grad_() for v in random_features(architecture, 3, 2, 2, 0)]
            out = layer(*inputs)
            loss = sum(value.sin().sum() for value in out)
            results.append((*out, *torch.autograd.grad(loss, [*inputs, *layer.parameters()])))
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)

    def test_scatter_reads_a_pyg_batch_with_edges_in_any_order(self):
        pytest.importorskip("torch_scatter")
        architecture = mlp([2, 4, 3, 2])
        stack = random_stack(architecture, 3, 0)
        batch = stack.to_batch()
        dense = randomise(EquivariantLinear(architecture, 1, 2))
        scatter = EquivariantLinear(architecture, 1, 2, backend="scatter")
        scatter.load_state_dict(dense.state_dict())
        x, e = dense(stack.x, stack.edge_attr)
        order = torch.randperm(len(batch.edge_attr))
        found = scatter(batch.x, batch.edge_attr[order], batch.edge_index[:, order])
        torch.testing.assert_close(found[0], x.flatten(0, 1))
        torch.testing.assert_close(found[1], e.flatten(0, 1)[order])
        for one, other in zip(dense(batch.x, batch.edge_attr), (x, e), strict=True):
            torch.testing.assert_close(one, other.flatten(0, 1))

    def test_scatter_refuses_other_edges(self):
        pytest.importorskip("torch_scatter")
        architecture = mlp([2, 3, 1])
        batch = random_stack(architecture, 2, 0).to_batch()
        layer = EquivariantLinear(architecture, 1, 1, backend="scatter")
        wrong = batch.edge_index.clone()
        wrong[:, 0] = wrong[:, 1]
        for index in (wrong, batch.edge_index.flip(0), batch.edge_index + 6):
            with pytest.raises(InvalidGraphError, match="edge_index is not that of a batch"):
                layer(batch.x, batch.edge_attr, index)
        with pytest.raises(InvalidGraphError, match="edge_index has shape"):
            layer(batch.x, batch.edge_attr, batch.edge_index[:, 1:])

    def test_one_network_equals_its_place_in_a_stack(self):
        architecture = mlp([2, 4, 3, 2])
        layer = randomise(EquivariantLinear(architecture, 2, 3))
        head = randomise(InvariantLinear(architecture, 2, 3))
        x, e = random_features(architecture, 4, 2, 2, 0)
        for one, all_ in zip(layer(x[1], e[1]), layer(x, e), strict=True):
            torch.testing.assert_close(one, all_[1])
        nested = layer(x.view(2, 2, *x.shape[1:]), e.view(2, 2, *e.shape[1:]))
        assert nested[0].shape == (2, 2, architecture.num_nodes, 3)
        assert head(x[1], e[1]).shape == (3,)
        torch.testing.assert_close(head(x.flatten(0, 1), e.flatten(0, 1)), head(x, e))

    def test_first_and_second_derivatives(self):
        layer = EquivariantLinear(mlp([1, 2, 2, 1]), 1, 2)
        names = [name for name, _ in layer.named_parameters()]
        inputs = [v.requires_grad_() for v in random_features(layer.architecture, 2, 1, 1, 0)]

        def function(x, e, *parameters):
            return functional_call(layer, dict(zip(names, parameters, strict=True)), (x, e))

        assert gradcheck(function, (*inputs, *layer.parameters()), fast_mode=True)
        assert gradgradcheck(function, (*inputs, *layer.parameters()), fast_mode=True)

    @pytest.mark.parametrize("frozen", ["weights", "features", "nodes"])
    def test_gradients_of_a_part_are_those_of_the_whole(self, frozen):
        layer = EquivariantLinear(mlp([2, 3, 3, 1]), 2, 2)
        x, e = (v.requires_grad_() for v in random_features(layer.architecture, 2, 2, 2, 0))
        every = [x, e, *layer.parameters()]
        whole = torch.autograd.grad(sum(v.sin().sum() for v in layer(x, e)), every)
        off = {"weights": every[2:], "features": every[:2], "nodes": every[:1]}[frozen]
        for value in off:
            value.requires_grad_(False)
        kept = [v for v in every if v.requires_grad]
        part = torch.autograd.grad(sum(v.sin().sum() for v in layer(x, e)), kept)
        expected = [g for g, v in zip(whole, every, strict=True) if v.requires_grad]
        for one, other in zip(part, expected, strict=True):
            torch.testing.assert_close(one, other)

    def test_autocast_and_half_precision(self):
        layer = EquivariantLinear(mlp([2, 8, 8, 1]), 4, 4).float()
        x, e = random_features(layer.architecture, 2, 4, 4, 0, torch.float32)
        exact = layer(x, e)
        with torch.autocast("cpu", torch.bfloat16):
            rough = layer(x, e)
        for one, other in zip(rough, exact, strict=True):
            torch.testing.assert_close(one.float(), other, rtol=0.05, atol=0.05)

    def test_state_dicts_hold_parameters_only(self):
        architecture = mlp([2, 3, 3, 1])
        dense = EquivariantLinear(architecture, 1, 1).state_dict()
        scatter = EquivariantLinear(architecture, 1, 1, backend="scatter").state_dict()
        assert list(dense) == list(scatter)

    @pytest.mark.parametrize("backend", ["eager", "aot_eager"])
    def test_compiled_whole_without_a_break(self, backend):
        layer = randomise(EquivariantLinear(mlp([2, 4, 4, 4, 1]), 2, 3))
        inputs = random_features(layer.architecture, 3, 2, 2, 0)
        compiled = torch.compile(layer, fullgraph=True, backend=backend)
        torch.testing.assert_close(compiled(*inputs), layer(*inputs))

    def test_transforms_of_torch_func_give_the_gradients_of_each_network(self):
        layer = randomise(EquivariantLinear(mlp([2, 4, 4, 4, 1]), 2, 3))
        x, e = random_features(layer.architecture, 3, 2, 2, 0)
        parameters = dict(layer.named_parameters())

        def loss(parameters, x, e):
            return sum(out.square().sum() for out in functional_call(layer, parameters, (x, e)))

        found = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, e)
        for b in range(3):
            expected = torch.autograd.grad(loss(parameters, x[b], e[b]), parameters.values())
            torch.testing.assert_close(tuple(g[b] for g in found.values()), expected)


class TestInitialisation:
    """Features keep their size through stacks of layers, in networks of any depth and width.

    The variance after 32 layers of random weights is itself random, by a factor of several either
    way as in any narrow random network; its mean over a few draws is held.
    """

    @pytest.mark.parametrize(
        ("widths", "draws"),
        [([2, 8, 1], 8), ([2, 16, 16, 1], 6), ([2, *[8] * 7, 1], 4), ([2, *[3] * 31, 1], 1)],
        ids=["2-layers", "3-layers", "8-layers", "32-layers"],
    )
    @pytest.mark.parametrize("depth", [2, 32])
    @pytest.mark.parametrize("function", [torch.relu, torch.tanh], ids=["relu", "tanh"])
    def test_activations_at_the_start(self, widths, draws, depth, function):
        architecture, channels = mlp(widths), 24
        gain = nn.init.calculate_gain(function.__name__)
        held = torch.zeros(architecture.num_nodes, dtype=torch.bool)
        for column in architecture.columns:
            held[column.start : column.stop] = True
        variances = []
        layer = EquivariantLinear(architecture, channels, channels).float()
        for draw in range(draws):
            x, e = random_features(architecture, 2, channels, channels, draw, torch.float32)
            with torch.no_grad():
                for _ in range(depth):
                    layer.reset_parameters(gain)
                    x, e = layer(function(x), function(e))
            variances.append(torch.stack([x[:, held].square().mean(), e.square().mean()]))
        size = torch.stack(variances).mean(0).sqrt()
        assert ((size > 0.4) & (size < 2.5)).all(), size


class TestRefusals:
    def test_shared_spaces(self):
        groups = (
            NeuronGroup("in", 2, "input"), NeuronGroup("a", 3, "hidden", space="s"),
            NeuronGroup("b", 3, "hidden", space="s"),
        )  # fmt: skip
        weights = (Parameter("0", (3, 2), (1, 0)), Parameter("1", (3, 3), (2, 1)))
        with pytest.raises(ArchitectureError, match="groups 'a' and 'b' share the neuron space"):
            EquivariantLinear(Architecture(groups, weights), 1, 1)

    def test_recurrent_weights(self):
        groups = (NeuronGroup("in", 2, "input"), NeuronGroup("a", 3, "hidden", space="s"))
        weights = (Parameter("0", (3, 2), (1, 0)), Parameter("1", (3, 3), (1, 1)))
        with pytest.raises(ArchitectureError, match="'1' runs from group 'a' to itself"):
            EquivariantLinear(Architecture(groups, weights), 1, 1)

    def test_wrong_features(self):
        architecture = mlp([2, 3, 1])
        layer = EquivariantLinear(architecture, 2, 1)
        x, e = random_features(architecture, 2, 2, 2, 0)
        one_channel = x[..., :1], e[..., :1]
        for wrong in (one_channel, (x[:1], e), (x[:, 1:], e), (x, e[:, 1:]), (x[0], e)):
            with pytest.raises(InvalidGraphError, match="x has shape"):
                layer(*wrong)

    def test_unknown_choices(self):
        architecture = mlp([2, 3, 1])
        with pytest.raises(ValueError, match="backend is 'fast'"):
            EquivariantLinear(architecture, 1, 1, backend="fast")
        with pytest.raises(ValueError, match="permute_io is 'hidden'"):
            EquivariantLinear(architecture, 1, 1, permute_io="hidden")

    def test_a_missing_package(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch_scatter", None)
        with pytest.raises(MissingDependencyError, match="pip install --no-build-isolation"):
            EquivariantLinear(mlp([2, 3, 1]), 1, 1, backend="scatter")


def test_other_shapes_than_chains():
    """Two blocks into one group, and an input that skips: tables follow from the tensors alone."""
    groups = (
        NeuronGroup("in", 2, "input"), NeuronGroup("a", 3, "hidden", space="a"),
        NeuronGroup("b", 2, "hidden", space="b"), NeuronGroup("out", 2, "output"),
    )  # fmt: skip
    parameters = (
        Parameter("a.w", (3, 2), (1, 0)), Parameter("a.b", (3,), (1,), "bias"),
        Parameter("b.w", (2, 3), (2, 1)), Parameter("b.skip", (2, 2), (2, 0)),
        Parameter("o.w", (2, 2), (3, 2)), Parameter("o.skip", (2, 3), (3, 1)),
        Parameter("o.b", (2,), (3,), "bias"),
    )  # fmt: skip
    architecture = Architecture(groups, parameters)
    layer = EquivariantLinear(architecture, 1, 1)
    assert rank_of(stacked(layer, architecture), architecture).complete
    assert_equivariant(randomise(layer), architecture)
    scatter = EquivariantLinear(architecture, 1, 1, backend="scatter")
    scatter.load_state_dict(layer.state_dict())
    x, e = random_features(architecture, 2, 1, 1, 0)
    for one, other in zip(layer(x, e), scatter(x, e), strict=True):
        torch.testing.assert_close(one, other)
