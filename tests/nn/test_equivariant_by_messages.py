"""Message passing simulates the basis: weights of the real layer by construction, per element.

The features of an entry hold its value in the channel of its tensor and of its place on input and
output neurons, a one-hot code that relabelling leaves alone; results are read with the same code.
An element is then a *walk* from the entries of one tensor to those of another, in steps from an
edge to a neuron at its end and from a neuron to its edges: a step to neurons pools, one to edges
spreads. ``MessagePassingLayer`` makes an edge step and then a neuron step in each round; its SiLUs
let linear maps pass, silu(u) - silu(-u) = u. What no short walk reaches needs its tensor nodes.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

import pytest
import torch
from torch import Tensor

from nngraph.basis import Basis
from nngraph.basis.block import Element
from nngraph.graph import Architecture
from nngraph.graph.topology.topology import Topology
from nngraph.nn import MessagePassingLayer

mlp = Architecture.mlp
#: positions along a chain: 2 l for the neurons of level l, 2 l - 1 for the weights into it
Walk = tuple[int, ...]


class Messages:
    """Rounds of the layer on one architecture, with weights set for one element at a time."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.topology = Topology.of(architecture)
        self.depth = len(architecture.widths) - 1
        self.tensors = len(self.topology.blocks.size) + len(self.topology.groups.size)
        #: channel of each (tensor, places on the free axes)
        self.channels: dict[tuple[str, tuple[int, ...]], int] = {}
        self.position: dict[str, int] = {}
        self.edge_channel = torch.zeros(architecture.num_edges, dtype=torch.long)
        self.node_channel = torch.full((architecture.num_nodes,), -1)
        for level, block in enumerate(architecture.blocks, start=1):
            self.position[block.parameter.name] = 2 * level - 1
            for i, j in itertools.product(*map(range, block.shape)):
                edge = block.start + i * block.shape[1] + j
                self.edge_channel[edge] = self._channel(block.parameter, (i, j))
        for level, column in enumerate(architecture.columns, start=1):
            self.position[column.parameter.name] = 2 * level
            for i in range(column.stop - column.start):
                self.node_channel[column.start + i] = self._channel(column.parameter, (i,))

    def _channel(self, parameter, places: tuple[int, ...]) -> int:
        fixed = [self.architecture.groups[g].space is None for g in parameter.axes]
        key = parameter.name, tuple(p for p, f in zip(places, fixed, strict=True) if f)
        return self.channels.setdefault(key, len(self.channels))

    def _code(self, channel: Tensor) -> Tensor:
        return (channel.unsqueeze(-1) == torch.arange(len(self.channels))).double()

    def walks(self, element: Element, rounds: int) -> Iterator[Walk]:
        """All walks from the element's source to its target in so many rounds, short ones first."""
        start = self.position[element.term.source.name]
        stop = self.position[element.term.target.name]
        # From a neuron the first round makes two steps, from an edge only the one to a neuron.
        for length in range(2 * rounds + (start % 2 == 0)):
            for steps in itertools.product((1, -1), repeat=length):
                walk = tuple(itertools.accumulate(steps, initial=start))
                if walk[-1] == stop and min(walk) >= 0 and max(walk) <= 2 * self.depth:
                    yield walk

    def run(self, element: Element, way: Walk | str, x: Tensor, e: Tensor, scale: float = 1.0):
        """Entries ``[B, N, 1]``, ``[B, E, 1]`` after rounds whose weights are set for one way.

        ``way`` is a walk, or which tensor nodes are used, ``"tensor"`` or ``"network"``.
        """
        count = len(self.channels)
        term = element.term
        of = self.channels[term.source.name, tuple(map(int, element.source_free))]
        to = self.channels[term.target.name, tuple(map(int, element.target_free))]
        state_x = torch.cat([x * self._code(self.node_channel), 0 * x], dim=-1)
        state_e = torch.cat([e * self._code(self.edge_channel), 0 * e, 0 * e], dim=-1)
        from_edge, to_edge = (self.position[t.name] % 2 for t in (term.source, term.target))
        for layer in self._layers(way, of, bool(from_edge), bool(to_edge), scale):
            state_x, update = layer(self.topology, e[..., 0], state_x, state_e)
            state_e = update.edges
        read_x = state_x[..., count:] * (self.node_channel == to).unsqueeze(-1)
        read_e = (state_e[..., count] - state_e[..., count + 1]).unsqueeze(-1)
        read_e = read_e * (self.edge_channel == to).unsqueeze(-1)
        return (0 * read_x, read_e) if to_edge else (read_x, 0 * read_e)

    @torch.no_grad()
    def _layers(
        self, way: Walk | str, of: int, from_edge: bool, to_edge: bool, scale: float
    ) -> list[MessagePassingLayer]:
        """One work channel on neurons, a pair on edges; each step writes over what it held.

        The scale undoes what means divide by and what is counted twice; it stands in the last step.
        """
        count = len(self.channels)
        nodes, edges = count + 1, count + 2
        node_at, edge_at = torch.eye(nodes).double(), torch.eye(edges).double()
        x, e = node_at[of], edge_at[of]
        work_x, work_e = node_at[count], edge_at[count] - edge_at[count + 1]

        def layer(tensor_nodes: bool = False) -> MessagePassingLayer:
            made = MessagePassingLayer(nodes, edges, norm=False, tensor_nodes=tensor_nodes)
            for parameter in made.parameters():
                parameter.zero_()
            # The layer adds to its features; to replace the work channels it takes them away.
            tell(made.edge.weight, -work_e)
            made.update[0].weight[0, count] -= 1
            made.update[0].weight[1, count] += 1
            return made.double()

        def hear(made: MessagePassingLayer, part: slice, read: Tensor, scale: float) -> None:
            """Neurons: the work channel takes a linear map of a part of what is heard."""
            made.update[0].weight[0, part] += read
            made.update[0].weight[1, part] -= read
            made.update[3].weight[count, :2] = scale * torch.tensor([1.0, -1.0])

        def tell(weight: Tensor, read: Tensor) -> None:
            """Edges: the work pair takes a linear map of the neuron, block or edge."""
            weight[count] += read
            weight[count + 1] -= read

        parts = {"self": slice(nodes), "up": slice(3 * nodes, 3 * nodes + edges)}
        parts["down"] = slice(parts["up"].stop, parts["up"].stop + edges)
        if isinstance(way, str):
            made = layer(tensor_nodes=True)
            tensors = made.tensors
            for weight, read in ((tensors.blocks.weight, e), (tensors.groups.weight, x)):
                if (weight is tensors.blocks.weight) == from_edge:
                    weight[0], weight[1] = read, -read
            first, share = (0, 1) if way == "tensor" else (nodes, self.tensors)
            tensors.update.weight[0, first : first + 2] = share * torch.tensor([1.0, -1.0])
            if to_edge:
                tell(made.block.weight, scale * node_at[0])
            else:
                last = made.update[0].in_features
                hear(made, slice(last - nodes, last), node_at[0], scale)
            return [made]
        if len(way) == 1:
            made = layer()
            if from_edge:
                tell(made.edge.weight, e)
            else:
                hear(made, parts["self"], x, 1.0)
            return [made]
        layers = [layer()]
        for number, (here, there) in enumerate(itertools.pairwise(way), start=1):
            up, last = there > here, number == len(way) - 1
            if there % 2 == 0:
                read = e if number == 1 else work_e
                hear(layers[-1], parts["up" if up else "down"], read, scale if last else 1.0)
                continue
            if number > 1:
                layers.append(layer())
            read = x if number == 1 else work_x
            side = layers[-1].source if up else layers[-1].target
            tell(side.weight, (scale if last else 1.0) * read)
        return layers


def unit_vectors(architecture: Architecture) -> tuple[Tensor, Tensor, int]:
    """Every parameter entry set to 1 in turn, in the order of the parameters."""
    count = sum(p.numel for p in architecture.parameters)
    rows = torch.eye(count, dtype=torch.float64)
    x = torch.zeros(count, architecture.num_nodes, 1, dtype=torch.float64)
    e = torch.zeros(count, architecture.num_edges, 1, dtype=torch.float64)
    for value, part in slots(architecture, x, e):
        value.copy_(rows[:, part].unsqueeze(-1))
    return x, e, count


def slots(architecture: Architecture, x: Tensor, e: Tensor):
    """Pairs of features of a parameter (a view) and its columns in the flat vector."""
    starts = dict(zip(
        [p.name for p in architecture.parameters],
        itertools.accumulate((p.numel for p in architecture.parameters), initial=0),
        strict=False,
    ))  # fmt: skip
    for view, items in ((e, architecture.blocks), (x, architecture.columns)):
        for item in items:
            start = starts[item.parameter.name]
            part = slice(start, start + item.parameter.numel)
            yield view[:, item.start : item.stop], part


def matrix_of(architecture: Architecture, x: Tensor, e: Tensor, count: int) -> Tensor:
    """The map's matrix, from its values at all unit vectors."""
    found = torch.zeros(count, count, dtype=torch.float64)
    for value, part in slots(architecture, x, e):
        found[part] = value.squeeze(-1).T
    return found


def wanted_matrix(basis: Basis, key: tuple[str, str], element: Element) -> Tensor:
    """The judge's matrix of an element, between all parameters."""
    wanted = torch.zeros(basis.target.numel, basis.source.numel, dtype=torch.float64)
    rows, columns = basis.slices(key)
    wanted[rows, columns] = torch.from_numpy(element.matrix())
    return wanted


@lru_cache(maxsize=1000)  # the walks of one element are held against many others
def matrix(messages: Messages, element: Element, way: Walk | str, scale: float) -> Tensor:
    x, e, count = unit_vectors(messages.architecture)
    with torch.no_grad():
        out = messages.run(element, way, x, e, scale)
    return matrix_of(messages.architecture, *out, count)


def reproduces(messages: Messages, element: Element, way: Walk | str, wanted: Tensor) -> bool:
    """Whether the layers, with a suitable scale, are the element to 1e-9."""
    row, column = wanted.nonzero()[0].tolist()
    unscaled = matrix(messages, element, way, 1.0)
    size = float(unscaled[row, column])
    # The scale stands in the last step alone, so that it gives no map the form of another.
    if size <= 0 or float((unscaled / size - wanted).abs().max()) > 1e-6:
        return False
    return float((matrix(messages, element, way, 1 / size) - wanted).abs().max()) <= 1e-9


def elements(basis: Basis) -> Iterator[tuple[Element, Tensor]]:
    for key, block in basis.blocks.items():
        for element in block.elements():
            yield element, wanted_matrix(basis, key, element)


def reach(architecture: Architecture, rounds: int, seed: int = 0, **options) -> Tensor:
    """Which entries of the output depend on which of the input, for layers of random weights."""
    torch.manual_seed(seed)
    topology = Topology.of(architecture)
    layers = [MessagePassingLayer(8, 4, **options).double() for _ in range(rounds)]
    x, e, count = unit_vectors(architecture)
    x = torch.randn(topology.num_nodes, 1).double() + torch.cat([0 * x[:1], x])
    e = torch.randn(topology.num_edges, 1).double() + torch.cat([0 * e[:1], e])
    weight = e[..., 0]
    x, e = x * torch.randn(8).double(), e * torch.randn(4).double()
    x, e = x + torch.randn(topology.num_nodes, 8), e + torch.randn(topology.num_edges, 4)
    with torch.no_grad():
        for layer in layers:
            x, update = layer(topology, weight, x, e)
            e = update.edges
    moved = [(v[1:] - v[:1]).abs().amax(-1, keepdim=True) > 1e-12 for v in (x, e)]
    return matrix_of(architecture, *moved, count) > 0


def is_global(element: Element) -> bool:
    """Whether it keeps no neuron, hidden or fixed: pool all, spread over all."""
    return not keeps_hidden_neuron(element) and not shares_fixed_neuron(element)


def keeps_hidden_neuron(element: Element) -> bool:
    return any(c.source_axes and c.target_axes for c in element.term.classes)


def shares_fixed_neuron(element: Element) -> bool:
    """Whether what is read and what is written meet at one input or output neuron."""
    ends = []
    for tensor, free in (
        (element.term.source, element.source_free),
        (element.term.target, element.target_free),
    ):
        places = [tensor.axes[axis].label == "input side" for axis in tensor.free_axes]
        ends.append(set(zip(places, map(int, free), strict=True)))
    return bool(ends[0] & ends[1])


def is_copy(element: Element) -> bool:
    term = element.term
    same = term.source.name == term.target.name and element.source_free == element.target_free
    return same and all(c.source_axes and c.target_axes for c in term.classes)


def rounds_over_edges(messages: Messages, element: Element) -> int:
    """By hand: rounds that an element takes without tensor nodes."""
    start, stop = (messages.position[t.name] for t in (element.term.source, element.term.target))
    weights = start % 2 + stop % 2
    if is_copy(element):
        steps = 0
    elif not is_global(element):
        steps = abs(start - stop) or 2
    elif weights == 0:
        steps = abs(start - stop) or 4
    else:
        steps = max(abs(start - stop), 3 if weights == 1 else 4)
    return max(1, (steps + 1) // 2) if start % 2 == 0 else steps // 2 + 1


#: elements that take one round, two and more without tensor nodes; and the ones of those last
#: that stay within a tensor
COUNTS = {
    (2, 3, 2): (23, 39, 12, 4),
    (2, 3, 3, 1): (23, 35, 17, 3),
    (2, 2, 3, 2): (31, 54, 29, 5),
    (2, 2, 2, 2, 2, 1): (39, 65, 63, 5),
}
each_width = pytest.mark.parametrize("widths", COUNTS, ids=lambda w: "-".join(map(str, w)))


@lru_cache
def case(widths: tuple[int, ...]):
    architecture = mlp(widths)
    return Messages(architecture), list(elements(Basis(architecture)))


@each_width
def test_every_element_is_a_walk_over_edges_that_takes_so_many_rounds_and_no_fewer(widths):
    messages, all_elements = case(widths)
    near = {
        rounds: sum(
            reach(messages.architecture, rounds, pooling=pooling)
            for pooling in ("mean", "max", "attention")
        ).bool()
        for rounds in range(1, messages.depth + 1)
    }
    for element, wanted in all_elements:
        rounds = rounds_over_edges(messages, element)
        walks = messages.walks(element, rounds)
        assert any(reproduces(messages, element, walk, wanted) for walk in walks), element.name
        if rounds > 1:
            # Locality: whatever the weights, an entry that the element reads is not heard of.
            assert bool((wanted.bool() & ~near[rounds - 1]).any()), element.name


@each_width
def test_tensor_nodes_give_in_one_round_whatever_pools_all_and_spreads_over_all(widths):
    messages, all_elements = case(widths)
    counts: Counter[str] = Counter()
    for element, wanted in all_elements:
        within = element.term.source.name == element.term.target.name
        rounds = rounds_over_edges(messages, element)
        counts[str(rounds) if rounds <= 2 else "more"] += 1
        if rounds > 2:
            counts["within a tensor"] += within
            assert is_global(element)
        if not keeps_hidden_neuron(element):
            assert reproduces(messages, element, "network", wanted), element.name
            assert reproduces(messages, element, "tensor", wanted) == within, element.name
    assert tuple(counts[key] for key in ("1", "2", "more", "within a tensor")) == COUNTS[widths]


@pytest.mark.parametrize("widths", [(2, 3, 2), (2, 3, 3, 1)], ids=str)
def test_no_other_element_comes_out(widths):
    # What is built for one element is none of the others between the same entries.
    messages, all_elements = case(widths)
    for element, wanted in all_elements:
        walk = next(
            w
            for w in messages.walks(element, rounds_over_edges(messages, element))
            if reproduces(messages, element, w, wanted)
        )
        for other, unwanted in all_elements:
            ends = (other.term.source.name, other.term.target.name)
            if ends == (element.term.source.name, element.term.target.name) and (
                (other.source_free, other.target_free) == (element.source_free, element.target_free)
            ):
                same = other is element
                assert reproduces(messages, element, walk, unwanted) == same


def distances(architecture: Architecture) -> Tensor:
    """Steps between parameter entries, from neuron to edge and back: by naive search."""
    topology, count = Topology.of(architecture), sum(p.numel for p in architecture.parameters)
    ends = list(zip(topology.source.tolist(), topology.target.tolist(), strict=True))
    nodes = topology.num_nodes
    steps = torch.full((nodes + len(ends),) * 2, torch.inf)
    for start in range(len(steps)):
        front, step = {start}, 0
        while front:
            for place in front:
                steps[place, start] = step
            touched = set()
            for place in front:
                if place >= nodes:
                    touched.update(ends[place - nodes])
                else:
                    touched.update(nodes + k for k, end in enumerate(ends) if place in end)
            front = {place for place in touched if steps[place, start] == torch.inf}
            step += 1
    entries = matrix_slots(architecture, nodes)
    assert len(entries) == count
    return steps[entries][:, entries]


def matrix_slots(architecture: Architecture, nodes: int) -> Tensor:
    """Neuron, or edge counted on, of every parameter entry."""
    x = torch.arange(nodes).reshape(1, -1, 1)
    e = nodes + torch.arange(architecture.num_edges).reshape(1, -1, 1)
    found = torch.full((sum(p.numel for p in architecture.parameters),), -1)
    for value, part in slots(architecture, x, e):
        found[part] = value.flatten()
    return found


@each_width
@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_without_tensor_nodes_a_round_hears_two_steps_far(widths, rounds):
    architecture = mlp(widths)
    steps = distances(architecture)
    is_edge = matrix_slots(architecture, architecture.num_nodes) >= architecture.num_nodes
    expected = steps <= 2 * rounds - is_edge.long()
    assert torch.equal(reach(architecture, rounds), expected)


@each_width
def test_with_tensor_nodes_one_round_hears_everything(widths):
    assert bool(reach(mlp(widths), 1, tensor_nodes=True).all())
