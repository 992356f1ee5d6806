"""Every primitive and backend against loops over edges, in values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from nngraph import kernels
from nngraph.errors import InvalidGraphError
from nngraph.graph import Architecture, NeuronGroup, Parameter
from nngraph.graph.topology.topology import Topology
from nngraph.kernels import Side
from nngraph.kernels.backends import choice as backends
from nngraph.kernels.backends.choice import is_dense, kernel_of
from nngraph.testing import IrregularTopology, random_architectures, structured_architectures

mlp = Architecture.mlp
NAMED = dict(random_architectures())
STRUCTURED = dict(structured_architectures())
DEEP = mlp([2] + [3] * 12 + [1])
TOPOLOGIES = [
    *(pytest.param(Topology.of(a), (3,), id=f"stack-{name}") for name, a in NAMED.items()),
    *(pytest.param(Topology.of(a), (2,), id=f"stack-{name}") for name, a in STRUCTURED.items()),
    pytest.param(Topology.of(DEEP), (2,), id="stack-deep"),
    pytest.param(
        Topology.of_batch([*STRUCTURED.values(), mlp([2, 4, 3]), STRUCTURED["residual"]]), (),
        id="ragged-structured",
    ),
    pytest.param(Topology.of(NAMED["equal-widths"]), (), id="single"),
    pytest.param(Topology.of(NAMED["several-outputs"]), (2, 2), id="two-leading-axes"),
    pytest.param(Topology.of_batch([mlp([3, 2])]), (), id="ragged-one-affine-map"),
    pytest.param(Topology.of_batch([NAMED["width-one"]] * 3), (), id="ragged-equal"),
    pytest.param(Topology.of_batch([mlp([2, 3, 1]), mlp([2, 4, 1])]), (), id="ragged-widths"),
    pytest.param(Topology.of_batch([*NAMED.values(), DEEP]), (), id="ragged-all"),
    pytest.param(
        Topology.of_batch([mlp([2, 3, 2]), mlp([2, 2]), mlp([2, 3, 3, 2]), mlp([2, 3, 2])]), (),
        id="ragged-depths",
    ),
]  # fmt: skip


def tiny_residual() -> Architecture:
    groups = (
        NeuronGroup("in", 1, "input"), NeuronGroup("a", 2, "hidden", space="s"),
        NeuronGroup("b", 2, "hidden", space="s"), NeuronGroup("out", 1, "output"),
    )  # fmt: skip
    weights = [Parameter("a", (2, 1), (1, 0)), Parameter("b", (2, 2), (2, 1)),
               Parameter("c", (1, 2), (3, 2))]  # fmt: skip
    return Architecture(groups, tuple(weights), ((1, 2),))


BACKENDS = sorted(kernels.BACKENDS)
TINY = [
    pytest.param(Topology.of(mlp([2, 2, 1])), (2,), id="stack"),
    pytest.param(Topology.of_batch([mlp([1, 2, 1]), mlp([2, 1])]), (), id="ragged"),
    pytest.param(Topology.of(tiny_residual()), (2,), id="residual"),
]


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def ends(topology: Topology) -> list[tuple[int, int]]:
    return list(zip(topology.source.tolist(), topology.target.tolist(), strict=True))


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def rows_of(topology: Topology, side: Side) -> tuple[list[int], int]:
    if side == "block":
        return topology.edge_block.tolist(), len(topology.blocks.size)
    return [pair[side == "target"] for pair in ends(topology)], topology.num_nodes


FOLDS: dict[kernels.Reduction, Callable[[Tensor, int], Tensor]] = {
    "sum": torch.sum,
    "mean": torch.mean,
    "max": torch.amax,
    "min": torch.amin,
    "std": lambda values, axis: values.std(axis, correction=0),
}


def summed(rows: Tensor, index: list[int], size: int) -> Tensor:
    out = torch.zeros(*rows.shape[:-2], size, rows.shape[-1], dtype=rows.dtype)
    for row, at in enumerate(index):
        out[..., at, :] += rows[..., row, :]
    return out


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("topology", "lead"), TOPOLOGIES)
class TestAgainstLoops:
    def test_gather(self, topology: Topology, lead: tuple[int, ...], backend: str):
        x = draw(*lead, topology.num_nodes, 2)
        for side, end in (("source", 0), ("target", 1)):
            expected = torch.stack([x[..., pair[end], :] for pair in ends(topology)], dim=-2)
            close(kernels.gather(topology, x, side, backend), expected)  # type: ignore[arg-type]

    @pytest.mark.parametrize("side", ["source", "target", "block"])
    def test_reduce(self, topology: Topology, lead: tuple[int, ...], backend: str, side: Side):
        e = draw(*lead, topology.num_edges, 2)
        index, size = rows_of(topology, side)
        for op, fold in FOLDS.items():
            expected = torch.zeros(*lead, size, 2, dtype=e.dtype)
            for row in range(size):
                own = [k for k, at in enumerate(index) if at == row]
                if own:
                    expected[..., row, :] = fold(e[..., own, :], -2)
            close(kernels.reduce(topology, e, side, op, backend), expected)

    @pytest.mark.parametrize("side", ["source", "target", "block"])
    def test_softmax(self, topology: Topology, lead: tuple[int, ...], backend: str, side: Side):
        e, score = draw(*lead, topology.num_edges, 4), draw(*lead, topology.num_edges, 2, seed=1)
        score = 100 * score  # whose exponentials overflow
        index, size = rows_of(topology, side)
        weight = torch.zeros_like(score)
        pooled = torch.zeros(*lead, size, 4, dtype=e.dtype)
        for row in range(size):
            own = [k for k, at in enumerate(index) if at == row]
            if own:
                weight[..., own, :] = score[..., own, :].softmax(-2)
                heads = weight[..., own, :].repeat_interleave(2, dim=-1)
                pooled[..., row, :] = (e[..., own, :] * heads).sum(-2)
        close(kernels.softmax(topology, score, side, backend), weight)
        close(kernels.attend(topology, e, score, side, backend), pooled)

    def test_multiply_blocks(self, topology: Topology, lead: tuple[int, ...], backend: str):
        e = draw(*lead, topology.num_edges, 2)
        weight = draw(len(topology.blocks.size), 3, 2, seed=1)
        rows = [weight[k] @ e[..., i, :, None] for i, k in enumerate(topology.edge_block.tolist())]
        found = kernels.multiply_blocks(topology, e, weight, backend)
        close(found, torch.stack(rows, dim=-3)[..., 0])

    def test_edge_affine(self, topology: Topology, lead: tuple[int, ...], backend: str):
        e = draw(*lead, topology.num_edges, 2)
        s, t = (draw(*lead, topology.num_nodes, 2, seed=seed) for seed in (1, 2))
        nodes = [s[..., i, :] + t[..., j, :] for i, j in ends(topology)]
        gathered = torch.stack(nodes, dim=-2)
        close(kernels.edge_affine(topology, e, s, t, backend), e + gathered)
        close(kernels.edge_affine(topology, None, s, t, backend), gathered)

    def test_inner(self, topology: Topology, lead: tuple[int, ...], backend: str):
        s, t = (draw(*lead, topology.num_nodes, 6, seed=seed) for seed in (1, 2))
        each = torch.stack([s[..., i, :] * t[..., j, :] for i, j in ends(topology)], dim=-2)
        close(kernels.inner(topology, s, t, backend=backend), each.sum(-1, keepdim=True))
        shares = [each[..., 2 * head : 2 * head + 2].sum(-1) for head in range(3)]
        close(kernels.inner(topology, s, t, 3, backend), torch.stack(shares, dim=-1))

    def test_propagate(self, topology: Topology, lead: tuple[int, ...], backend: str):
        weight, x = draw(*lead, topology.num_edges), draw(*lead, topology.num_nodes, 2, seed=1)
        there, back = torch.zeros_like(x), torch.zeros_like(x)
        for k, (i, j) in enumerate(ends(topology)):
            there[..., j, :] += weight[..., k, None] * x[..., i, :]
            back[..., i, :] += weight[..., k, None] * x[..., j, :]
        close(kernels.propagate(topology, weight, x, "target", backend), there)
        close(kernels.propagate(topology, weight, x, "source", backend), back)

    def test_propagate_level(self, topology: Topology, lead: tuple[int, ...], backend: str):
        weight, x = draw(*lead, topology.num_edges), draw(*lead, topology.num_nodes, 2, seed=1)
        # Weights of other levels must not reach the answer, not even infinite ones.
        for level in range(1, len(topology.levels)):
            expected = torch.zeros_like(x)
            others = weight.clone()
            for k, (i, j) in enumerate(ends(topology)):
                if int(topology.nodes.level[j]) == level:
                    expected[..., j, :] += weight[..., k, None] * x[..., i, :]
                else:
                    others[..., k] = torch.inf
            before = [kernels.take(x, before.nodes) for before in topology.levels[:level]]
            found = kernels.propagate_level(topology, level, others, before, backend=backend)
            if not topology.levels[level].skips:
                alone = kernels.propagate_level(
                    topology, level, others, before[-1], backend=backend
                )
                assert torch.equal(alone, found)
            close(found, expected[..., topology.nodes.level == level, :])

    def test_propagate_level_backwards(
        self, topology: Topology, lead: tuple[int, ...], backend: str
    ):
        weight, x = draw(*lead, topology.num_edges), draw(*lead, topology.num_nodes, 2, seed=1)
        for level in range(1, len(topology.levels)):
            expected = torch.zeros_like(x)
            others = weight.clone()
            for k, (i, j) in enumerate(ends(topology)):
                if int(topology.nodes.level[j]) == level:
                    expected[..., i, :] += weight[..., k, None] * x[..., j, :]
                else:
                    others[..., k] = torch.inf
            after = kernels.take(x, topology.levels[level].nodes)
            found = kernels.propagate_level(topology, level, others, after, "source", backend)
            before = range(0 if topology.levels[level].skips else level - 1, level)
            heard = torch.cat(
                [expected[..., topology.nodes.level == earlier, :] for earlier in before], dim=-2
            )
            close(found, heard)

    def test_normalise_blocks(self, topology: Topology, lead: tuple[int, ...], backend: str):
        e = 3 + draw(*lead, topology.num_edges, 2)
        weight, bias = draw(2, len(topology.blocks.size), 2, seed=1)
        blocks = topology.edge_block
        expected = torch.empty_like(e)
        for k in range(len(weight)):
            own = e[..., blocks == k, :]
            mean = own.mean((-2, -1), keepdim=True)
            deviation = ((own - mean).square().mean((-2, -1), keepdim=True) + 0.1).sqrt()
            expected[..., blocks == k, :] = (own - mean) / deviation * weight[k] + bias[k]
        close(kernels.normalise_blocks(topology, e, weight, bias, 0.1, backend), expected)


@pytest.mark.parametrize(("topology", "lead"), TOPOLOGIES)
def test_pools_of_groups_and_graphs_and_their_way_back(topology: Topology, lead: tuple[int, ...]):
    x = draw(*lead, topology.num_nodes, 2)
    groups = topology.nodes.group.index.tolist()
    expected = summed(x, groups, max(groups) + 1)
    for group in range(max(groups) + 1):
        expected[..., group, :] /= groups.count(group)
    pooled = kernels.pool(x, topology.nodes.group)
    close(pooled, expected)
    spread = kernels.broadcast(pooled, topology.nodes.group)
    for node, group in enumerate(groups):
        assert torch.equal(spread[..., node, :], pooled[..., group, :])
    blocks = draw(*lead, len(topology.blocks.size), 2)
    spread = kernels.gather(topology, blocks, "block")
    for edge, block in enumerate(topology.edge_block.tolist()):
        assert torch.equal(spread[..., edge, :], blocks[..., block, :])


@pytest.mark.parametrize(("topology", "lead"), TOPOLOGIES)
def test_take(topology: Topology, lead: tuple[int, ...]):
    x = draw(*lead, topology.num_nodes, 2)
    for number, level in enumerate(topology.levels):
        chosen = topology.nodes.level == number
        assert torch.equal(kernels.take(x, level.nodes), x[..., chosen, :])


def cases(
    topology: Topology, lead: tuple[int, ...], backend: str
) -> list[tuple[Callable[..., Tensor], tuple[Tensor, ...]]]:
    def nodes(seed: int) -> Tensor:
        return draw(*lead, topology.num_nodes, 2, seed=seed).requires_grad_()

    e = draw(*lead, topology.num_edges, 2).requires_grad_()
    w = draw(*lead, topology.num_edges, seed=3).requires_grad_()
    blocks = draw(len(topology.blocks.size), 2, 2, seed=4).requires_grad_()
    scales = draw(2, len(topology.blocks.size), 2, seed=6).requires_grad_()
    t, b = topology, backend
    return [
        (lambda x: kernels.gather(t, x, "source", b), (nodes(1),)),
        (lambda x: kernels.gather(t, x, "target", b), (nodes(1),)),
        (lambda e: kernels.reduce(t, e, "source", "mean", b), (e,)),
        (lambda e: kernels.reduce(t, e, "target", "sum", b), (e,)),
        (lambda e: kernels.reduce(t, e, "target", "max", b), (e,)),
        (lambda e: kernels.reduce(t, e, "source", "min", b), (e,)),
        (lambda e: kernels.reduce(t, e, "block", "max", b), (e,)),
        (lambda e: kernels.reduce(t, e, "block", "std", b), (e,)),
        (lambda e: kernels.attend(t, e, e, "target", b), (e,)),
        (lambda e: kernels.softmax(t, e, "source", b), (e,)),
        (lambda e, m: kernels.multiply_blocks(t, e, m, b), (e, blocks)),
        (lambda e, s, t_: kernels.edge_affine(t, e, s, t_, b), (e, nodes(1), nodes(2))),
        (lambda s, t_: kernels.inner(t, s, t_, 2, b), (nodes(1), nodes(2))),
        (lambda w, x: kernels.propagate(t, w, x, "target", b), (w, nodes(1))),
        (lambda w, x: kernels.propagate(t, w, x, "source", b), (w, nodes(1))),
        (
            lambda w, x: kernels.propagate_level(
                t, 1, w, kernels.take(x, t.levels[0].nodes), backend=b
            ),
            (w, nodes(1)),
        ),
        (
            lambda w, x: kernels.propagate_level(
                t, 1, w, kernels.take(x, t.levels[1].nodes), "source", b
            ),
            (w, nodes(1)),
        ),
        (lambda e, m: kernels.normalise_blocks(t, e, m[0], m[1], 0.1, b), (e, scales)),
        (lambda e: kernels.reduce(t, e, "block", "mean", b), (e,)),
        (lambda x: kernels.pool(x, t.nodes.group), (nodes(1),)),
        (lambda x: kernels.take(x, t.levels[1].nodes), (nodes(1),)),
    ]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("topology", "lead"), TINY)
def test_first_and_second_derivatives(topology: Topology, lead: tuple[int, ...], backend: str):
    for function, inputs in cases(topology, lead, backend):
        # Squared, so that the second derivative is not 0.
        assert gradcheck(lambda *v, f=function: f(*v).square(), inputs, fast_mode=True)
        assert gradgradcheck(lambda *v, f=function: f(*v).square(), inputs, fast_mode=True)


@pytest.mark.parametrize(("topology", "lead"), TOPOLOGIES)
def test_backends_agree_in_gradients(topology: Topology, lead: tuple[int, ...]):
    gradients = []
    for backend in BACKENDS:
        gradients.append([])
        for function, inputs in cases(topology, lead, backend):
            out = function(*inputs)
            seed = draw(*out.shape, seed=5)
            gradients[-1] += torch.autograd.grad((out.square() * seed).sum(), inputs)
    for one, *others in zip(*gradients, strict=True):
        for other in others:
            close(other, one)


@pytest.mark.parametrize("channels", [1, 3, 40])
def test_wide_blocks_and_long_features(channels: int):
    """Where the dense backend copies and compares other than in the small cases above."""
    topology, lead = Topology.of(mlp([2, 37, 23, 1])), (2,)
    e = draw(*lead, topology.num_edges, channels).requires_grad_()
    e.data[0, :80] = e.data[0, 5]  # of several largest values
    x = draw(*lead, topology.num_nodes, channels, seed=1).requires_grad_()
    calls: list[Callable[[str], Tensor]] = [
        lambda b: kernels.gather(topology, x, "target", b),
        lambda b: kernels.edge_affine(topology, e, x, 2 * x, b),
        lambda b: kernels.reduce(topology, e, "target", "max", b),
        lambda b: kernels.reduce(topology, e, "target", "min", b),
        lambda b: kernels.softmax(topology, e, "target", b),
    ]
    for call in calls:
        one, other = call("dense"), call("reference")
        close(one, other)
        seed = draw(*one.shape, seed=2)
        for found, expected in zip(
            torch.autograd.grad((one * seed).sum(), (e, x), materialize_grads=True),
            torch.autograd.grad((other * seed).sum(), (e, x), materialize_grads=True),
            strict=True,
        ):
            close(found, expected)


def test_edge_affine_takes_ends_of_fewer_networks_and_other_precision():
    topology = Topology.of(mlp([2, 3, 1]))
    e, s = draw(2, topology.num_edges, 2).requires_grad_(), draw(topology.num_nodes, 2)
    s = s.float().requires_grad_()
    one, other = (kernels.edge_affine(topology, e, s, s, b) for b in ("dense", "reference"))
    assert one.dtype == other.dtype
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    for found, expected in zip(
        torch.autograd.grad(one.square().sum(), (e, s)),
        torch.autograd.grad(other.square().sum(), (e, s)),
        strict=True,
    ):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_dense_gathers_and_edges_are_float32_too():
    topology = Topology.of(NAMED["depth-six"])
    weight, x = draw(2, topology.num_edges).float(), draw(2, topology.num_nodes, 3).float()
    one, *others = (kernels.propagate(topology, weight, x, backend=b) for b in BACKENDS)
    for other in others:
        torch.testing.assert_close(one, other)  # in dtype too
    assert one.dtype == torch.float32


@pytest.mark.parametrize("lead", [(), (5,), (0,)])
def test_auto_reads_small_arrays_by_index_on_a_gpu(
    lead: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
):
    """Where a kernel's start costs more than the kernel: by the numbers at a bucket's edges."""
    topology = Topology.of(mlp([2, 8, 4, 1]))
    e, x = draw(*lead, topology.num_edges, 3), draw(*lead, topology.num_nodes, 3)
    assert is_dense(topology, "auto", e)
    monkeypatch.setattr(backends, "_counts_launches", lambda like: True)
    numbers = e.numel()
    assert backends._numbers(topology, e) == backends._numbers(topology, x) == numbers
    for size, dense in ((numbers // 3, True), (numbers // 3 + 1, False)):
        monkeypatch.setattr(backends, "GPU_BUCKET", size)
        for like in (e, x):
            assert is_dense(topology, "auto", like) == dense
            made = kernel_of(topology, "auto", "reduce_sum", like)
            assert (made is kernels.BACKENDS["dense"].reduce_sum) == dense
        assert is_dense(topology, "dense", e)
        assert not is_dense(topology, "reference", e)
        # Where nothing is as long as the edges, as it is without.
        assert is_dense(topology, "auto")
        for (ours, inputs), (plain, _) in zip(
            cases(topology, lead, "auto"), cases(topology, lead, "reference"), strict=True
        ):
            close(ours(*inputs), plain(*inputs))


def test_unknown_names_are_refused():
    topology = Topology.of(mlp([2, 2, 1]))
    x, e = draw(topology.num_nodes, 1), draw(topology.num_edges, 1)
    with pytest.raises(ValueError, match="backend is 'fast'; expected one of 'auto'"):
        kernels.gather(topology, x, "source", backend="fast")
    with pytest.raises(ValueError, match="op is 'median'"):
        kernels.reduce(topology, e, "source", "median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="side is 'both'"):
        kernels.reduce(topology, e, "both")  # type: ignore[arg-type]
    for level in (0, 3):
        with pytest.raises(InvalidGraphError, match=f"level {level}"):
            kernels.propagate_level(topology, level, e[:, 0], x[:2])


def test_a_level_that_hears_of_all_before_wants_them_all():
    topology = Topology.of(STRUCTURED["residual"])
    assert [level.skips for level in topology.levels] == [False, False, False, True, False]
    weight, x = draw(topology.num_edges), draw(topology.num_nodes, 2)
    before = [kernels.take(x, level.nodes) for level in topology.levels]
    for given in (before[2], before[:2]):
        with pytest.raises(InvalidGraphError, match="features of all 3 levels"):
            kernels.propagate_level(topology, 3, weight, given)


class TestIrregular:
    """Any graph: here with a node that nothing reaches, an edge twice and a loop."""

    EDGES = torch.tensor([[4, 0, 1, 1, 2, 2], [2, 1, 0, 0, 2, 4]])
    GRAPH = IrregularTopology.of_edges(EDGES, 6, torch.tensor([0, 0, 1, 1, 1, 1]))

    @pytest.mark.parametrize("backend", ["reference", "scatter", "auto"])
    def test_against_loops(self, backend: str):
        t, e, x = self.GRAPH, draw(6, 2), draw(6, 2, seed=1)
        for side, end in (("source", 0), ("target", 1)):
            rows = self.EDGES[end].tolist()
            close(kernels.gather(t, x, side, backend), x[rows])  # type: ignore[arg-type]
            close(kernels.reduce(t, e, side, "sum", backend), summed(e, rows, 6))  # type: ignore[arg-type]
        close(kernels.reduce(t, e, "block", "mean", backend)[0], e[1:4].mean(0))
        largest = kernels.reduce(t, e, "target", "max", backend)
        close(largest[0], torch.maximum(e[2], e[3]))
        assert not largest[3].any()
        weight = draw(6)
        expected = summed(weight[:, None] * x[self.EDGES[0]], self.EDGES[1].tolist(), 6)
        close(kernels.propagate(t, weight, x, backend=backend), expected)
        graphs = kernels.pool(x, t.nodes.graph)
        close(graphs, torch.stack([x[:2].mean(0), x[2:].mean(0)]))
        back = kernels.broadcast(graphs, t.nodes.graph)
        assert torch.equal(back[:2], graphs[[0, 0]])

    def test_dense_and_levels_are_refused(self):
        with pytest.raises(InvalidGraphError, match="no blocks; expected 'scatter'"):
            kernels.reduce(self.GRAPH, draw(6, 2), "target", backend="dense")
        with pytest.raises(InvalidGraphError, match="irregular"):
            kernels.propagate_level(self.GRAPH, 1, draw(6), draw(6, 2))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((torch.zeros(2, 3), 4), "float32"),
            ((torch.zeros(3, 2).long(), 4), "shape"),
            ((torch.tensor([[0], [4]]), 4), "names the nodes 0 to 4"),
            ((torch.tensor([[0], [1]]), 2, torch.tensor([0, 1])), "joins nodes of two graphs"),
            ((torch.tensor([[0], [1]]), 2, torch.tensor([0])), "batch has shape"),
        ],
    )
    def test_what_is_no_graph_is_refused(self, arguments, message: str):
        with pytest.raises(InvalidGraphError, match=message):
            IrregularTopology.of_edges(*arguments)


@pytest.mark.parametrize("backend", BACKENDS)
def test_features_in_any_memory_order_and_of_no_networks(backend: str):
    topology = Topology.of(STRUCTURED["convolutions"])
    e = draw(topology.num_edges, 2, 3).permute(1, 0, 2)
    assert not e.is_contiguous()
    for op in FOLDS:
        found = kernels.reduce(topology, e, "target", op, backend)
        close(found, kernels.reduce(topology, e.contiguous(), "target", op, backend))
        none = kernels.reduce(topology, e[:0], "target", op, backend)
        assert none.shape == (0, topology.num_nodes, 3)
    assert kernels.attend(topology, e[:0], e[:0], "source", backend).shape[0] == 0
    assert kernels.reduce(topology, e[..., :0], "block", "sum", backend).shape[-1] == 0


#: Breaks are found without AOTAutograd, in half the time; one layout goes through it too.
COMPILED = {
    "stack": (Topology.of(STRUCTURED["grouped"]), (2,), "aot_eager"),
    "ragged": (Topology.of_batch([mlp([2, 3, 1]), mlp([2, 4, 1])]), (), "eager"),
}


def everything(t: Topology, e: Tensor, x: Tensor, backend: str) -> Tensor:
    z = kernels.edge_affine(t, e, x, x, backend)
    parts = [kernels.reduce(t, z, "target", op, backend) for op in FOLDS]
    parts.append(kernels.attend(t, z, z, "source", backend))
    parts.append(kernels.propagate(t, z[..., 0], x, "source", backend))
    parts.append(kernels.inner(t, x, x, 2, backend))
    first = kernels.take(x, t.levels[0].nodes)
    parts.append(kernels.propagate_level(t, 1, z[..., 0], first, backend=backend))
    parts.append(kernels.reduce(t, z, "block", "mean", backend))
    ones = z.new_ones(len(t.blocks.size), z.shape[-1])
    parts.append(kernels.normalise_blocks(t, z, ones, ones, backend=backend))
    parts.append(kernels.pool(x, t.nodes.group))
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", COMPILED)
def test_compiled_whole_without_a_break(layout: str, backend: str):
    topology, lead, compiler = COMPILED[layout]
    e = draw(*lead, topology.num_edges, 2).requires_grad_()
    x = draw(*lead, topology.num_nodes, 2, seed=1).requires_grad_()
    torch._dynamo.reset()
    compiled = torch.compile(everything, fullgraph=True, backend=compiler)
    out, expected = compiled(topology, e, x, backend), everything(topology, e, x, backend)
    close(out, expected)
    gradients = torch.autograd.grad(out.square().sum(), (e, x))
    for one, other in zip(
        gradients, torch.autograd.grad(expected.square().sum(), (e, x)), strict=True
    ):
        close(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", BACKENDS)
@torch.no_grad()
def test_autocast_errs_at_most_twice_as_much_as_plain_low_precision(
    backend: str, dtype: torch.dtype, device: str
):
    """Under autocast products are made in 16 bits; the rest in the precision that comes in."""
    topology = Topology.of(NAMED["depth-six"]).to(device)
    shapes = (4, topology.num_edges, 8), (4, topology.num_nodes, 8)
    e, x = (draw(*shape, seed=seed).float().to(device) for seed, shape in enumerate(shapes))
    linear = torch.nn.Linear(8, 8, device=device)

    def run() -> Tensor:
        return everything(topology, linear(e), linear(x), backend)

    exact = run()
    with torch.autocast(device, dtype):
        found = run()
    plain_e, plain_x = (linear(v).to(dtype) for v in (e, x))
    plain = everything(topology, plain_e, plain_x, "reference").float()
    assert float((found - exact).norm()) <= 2 * float((plain - exact).norm())
