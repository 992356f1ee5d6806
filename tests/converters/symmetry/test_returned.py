"""What a forward returned: every tensor in it is seen, in one order, or it is refused."""

import array
import collections
import enum
import functools
import re
import types
import weakref
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import distributions, nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch_geometric.data import Batch, Data, HeteroData

from converters import permutation_spec, to_graph, verify
from converters.symmetry.located import returned_tensors
from nngraph.errors import UnsupportedModuleError

Y, Z = torch.ones(1), torch.ones(2)


@dataclass
class Record:
    first: Any
    second: Any = None


@dataclass(frozen=True)
class Slotted:
    __slots__ = ("first",)
    first: Any


class Private(Slotted):
    __slots__ = ("__second",)

    def __init__(self, first: Any, second: Any) -> None:
        object.__setattr__(self, "first", first)
        object.__setattr__(self, "_Private__second", second)


class AttrDict(dict):
    __getattr__ = dict.__getitem__


class EasyDict(dict):
    def __init__(self, **items: Any) -> None:
        super().__init__(items)
        self.__dict__ = self


class Silent(list):
    """Shows none of its items."""

    def __iter__(self):
        return iter(())


class Evasive:
    """Answers for no attribute, that of its class included."""

    def __init__(self, held: Any) -> None:
        object.__setattr__(self, "held", held)

    def __getattribute__(self, name):
        raise AttributeError(name)


class Pair(NamedTuple):
    first: Any
    second: Any


class Share(float):
    pass


class Colour(enum.Enum):
    RED = 1


def local_class() -> type:
    class Local:
        held = Y

    return Local


def with_attribute(value: Any) -> Any:
    value.beside = Z
    return value


def closure(held: Any) -> Any:
    return lambda: held


def ring() -> list[Any]:
    found: list[Any] = [Y]
    found.append(found)
    return found


def graph() -> Data:
    return Data(x=Z, edge_index=torch.zeros(2, 1, dtype=torch.long), name="graph")


def typed_graph() -> HeteroData:
    data = HeteroData()
    data["a"].x, data["a", "to", "a"].edge_index = Z, torch.zeros(2, 1, dtype=torch.long)
    return data


SEEN = {
    "tensor": (Y, 1),
    "tuple": ((Y, Z, Y), 3),
    "plain values": ((Y, None, 3, 2.5, 1j, True, "s", b"s", Y.shape, Y.dtype, Y.device), 1),
    "other plain values": ((Y, Colour.RED, np.float32(2), np.bool_(1), range(3), re.compile("a"),
                            torch.strided, Record, torch.relu, {1, "a"}), 1),
    "dict": ({"b": [Y, Z], "a": {"c": Y}}, 3),
    "key": ({Y: Z}, 2),
    "named tuple": (Pair(Y, Pair(Z, None)), 2),
    "result of torch": (Z.max(0), 2),
    "dataclass": (Record(Y, Record(Z)), 2),
    "slots": (Slotted(Y), 1),
    "private slots": (Private(Y, Z), 2),
    "namespace": (types.SimpleNamespace(a=Y, b=types.SimpleNamespace(c=Z)), 2),
    "dict with attributes": (AttrDict(y=Y), 1),
    "dict that is its attributes": (EasyDict(y=Y, z=Z), 2),
    "ordered dict": (collections.OrderedDict(y=Y), 1),
    "default dict": (collections.defaultdict(list, y=[Y]), 1),
    "user dict": (collections.UserDict(y=Y), 1),
    "user list": (collections.UserList([Y, Z]), 2),
    "chain map": (collections.ChainMap({"a": Y}, {"b": Z}), 2),
    "proxy": (types.MappingProxyType({"a": Y}), 1),
    "view": ({"a": Y}.values(), 1),
    "deque": (collections.deque([Y, Z]), 2),
    "set": ({Y, 1, None}, 1),
    "frozen set": (frozenset([Y]), 1),
    "list that hides its items": (Silent([Y]), 1),
    "object that hides its attributes": (Evasive(Y), 1),
    "number with an attribute": (with_attribute(Share(2.0)), 1),
    "tensor with an attribute": (with_attribute(torch.ones(3)), 2),
    "weak reference": (weakref.ref(Y), 1),
    "local class": (local_class(), 1),
    "instance of a local class": (local_class()(), 1),
    "closure": (closure(Y), 1),
    "default": (lambda y=Y: y, 1),
    "partial": (functools.partial(torch.add, Y, other=Z), 2),
    "method": (Y.sum, 1),
    "cycle": (ring(), 1),
    "packed sequence": (pack_padded_sequence(torch.ones(3, 2, 4), torch.tensor([3, 2])), 2),
    "distribution": (distributions.Normal(Y, Z), 2),
    "transformed distribution": (distributions.TransformedDistribution(
        distributions.Independent(distributions.Normal(Z, Z), 1), [distributions.TanhTransform()]
    ), 2),
    "graph": (graph(), 2),
    "hetero graph": ((Y, typed_graph()), 3),
}  # fmt: skip


@pytest.mark.parametrize(("value", "count"), SEEN.values(), ids=SEEN)
def test_every_tensor_is_seen(value, count):
    found = returned_tensors(value)
    assert len(found) == count
    assert all(a is b for a, b in zip(found, returned_tensors(value), strict=True))


def test_tensors_come_in_the_order_in_which_they_stand():
    first, second, third = torch.ones(1), torch.ones(2), torch.ones(3)
    value = {"b": Record(first, [second]), "a": third}
    assert [len(tensor) for tensor in returned_tensors(value)] == [1, 2, 3]


def test_a_batch_of_graphs_is_seen():
    batch = Batch.from_data_list([graph(), graph()])
    assert any(tensor is batch.x for tensor in returned_tensors(batch))


class Array(array.array):
    pass


HIDDEN = {
    "sparse": (
        lambda: (Y, Record(Y.to_sparse())), r"output\[1\]\.first \(Tensor\) .* \.to_dense\(\)",
    ),
    "nested": (
        lambda: {"a": torch.nested.nested_tensor([Y], layout=torch.jagged)},
        r"output\['a'\] .* nested",
    ),
    "quantised": (lambda: torch.quantize_per_tensor(Z, 0.1, 0, torch.qint8), "dequantize"),
    "subclass": (lambda: torch.masked.masked_tensor(Z, Z > 0), "plain"),
    "array": (lambda: [np.zeros(2)], r"output\[0\] \(ndarray\) .* a tensor"),
    "module": (lambda: Record(nn.Identity()), r"output\.first \(Identity\) is a module"),
    "closure over a module": (lambda: closure(nn.Identity()), r"output\(closure held\) \(Id"),
    "method of a module": (lambda: nn.Identity().forward, "is a module"),
    "generator": (lambda: (y for y in [Y]), "a list"),
    "iterator": (lambda: iter([Y]), "a list"),
    "map": (lambda: map(torch.relu, [Y]), "a list"),
    "several in a set": (lambda: {Y, Z}, "no order"),
    "storage": (lambda: Y.untyped_storage(), "cannot be opened"),
    "memory": (lambda: memoryview(b"a"), "cannot be opened"),
    "array with attributes": (lambda: Array("b"), "cannot be opened"),
    "exception": (lambda: ValueError(Y), "cannot be opened"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("value", "words"), HIDDEN.values(), ids=HIDDEN)
def test_what_cannot_be_seen_is_refused_with_its_place(value, words):
    with pytest.raises(UnsupportedModuleError, match=words):
        returned_tensors(value())


class Wrapping(nn.Module):
    """Two heads on hidden features, the second wrapped."""

    def __init__(self, wrap) -> None:
        super().__init__()
        self.a, self.b, self.v = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 2)
        self.wrap = wrap

    def forward(self, x):
        hidden = self.a(x).relu()
        return self.v(hidden), self.wrap(self.b(hidden))


WRAPS = {
    "plain values": lambda y: (y, None, 3, 0.5, "s", True, y.shape, y.dtype, y.device),
    "record": Record,
    "record in a record": lambda y: Record(1, Record(y)),
    "namespace": lambda y: types.SimpleNamespace(y=y),
    "slots": Slotted,
    "dict with attributes": lambda y: AttrDict(y=y),
    "closure": lambda y: lambda: y,
    "graph": lambda y: Data(x=y),
    "distribution": lambda y: distributions.Categorical(logits=y),
    "whole numbers": lambda y: y.argmax(-1),
    "decisions": lambda y: Record(y > 0),
    "twice": lambda y: (y, y, y[:1]),
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_what_is_returned_is_fixed_whatever_it_is_wrapped_in(wrap):
    spec = permutation_spec(Wrapping(wrap), torch.randn(4, 6))
    assert {space.name: spec.ties(space.name) for space in spec.free_spaces} == {
        "a": (("a.weight", 0), ("a.bias", 0), ("b.weight", 1), ("v.weight", 1))
    }


def test_parameters_and_their_views_that_are_returned_are_fixed():
    class Showing(Wrapping):
        def forward(self, x):
            return self.b(self.a(x).relu()), self.wrap(self)

    inputs = torch.randn(4, 6)
    assert len(permutation_spec(Showing(lambda m: None), inputs).free_spaces) == 1
    for show in (lambda m: m.a.bias, lambda m: Record(m.b.weight.t()), lambda m: m.a.weight[:, 0]):
        assert not permutation_spec(Showing(show), inputs).free_spaces


def test_a_graph_is_taken_as_an_input():
    class OnGraph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 8), nn.Linear(8, 3)

        def forward(self, data, scale):
            hidden = self.a(data.x).relu()
            source, target = data.edge_index
            hidden = torch.zeros_like(hidden).index_add(0, target, hidden[source])
            return self.b(scale["s"] * hidden)

    data = Data(x=torch.randn(4, 2), edge_index=torch.tensor([[0, 1, 2], [1, 2, 3]]), name="graph")
    module, inputs = OnGraph(), (data, {"s": torch.tensor(2.0)})
    spec = permutation_spec(module, inputs)
    assert [space.size for space in spec.free_spaces] == [8]
    assert verify(spec, module, inputs).holds
    assert verify(to_graph(module, inputs), module, inputs).holds
