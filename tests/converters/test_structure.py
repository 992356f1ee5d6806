"""Modules of one structure are read once; what differs in anything but weights is read anew."""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from converters import OPERATORS, from_modules, to_graph
from converters.structure import Remembered, structure_of
from nngraph.errors import NonFiniteError, UnsupportedModuleError
from nngraph.graph import Activation, NeuralGraph

SLOPE = 0.1
CONFIG = types.SimpleNamespace(slope=0.1)
IMAGE = torch.zeros(1, 2, 6, 6)


def helper(x: Tensor) -> Tensor:
    return torch.tanh(x)


class Net(nn.Module):
    """A small CNN whose options say what its forward does."""

    scale = 1.0

    def __init__(self, stride: int = 1, act: Any = torch.relu, p: float = 0.1, tied: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, stride, padding=1)
        self.norm, self.drop = nn.BatchNorm2d(4), nn.Dropout(p)
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.act = act
        if tied:
            self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv(x))).mean((2, 3))
        return self.two(self.drop(self.step(self.one(x)))) * self.scale

    def step(self, x: Tensor) -> Tensor:
        return torch.relu(x)


class Ordered(nn.Module):
    """Reads its hidden neurons in the order that a buffer says."""

    def __init__(self, order: list[int], persistent: bool = True):
        super().__init__()
        self.one, self.two = nn.Linear(2, 4), nn.Linear(4, 1)
        self.register_buffer("order", torch.tensor(order), persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.relu(self.one(x))[:, self.order])


class Masked(Ordered):
    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.relu(self.one(x)) * self.order)


class Global(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(2, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(F.leaky_relu(helper(self.one(x)), SLOPE))


class Object(Global):
    def forward(self, x: Tensor) -> Tensor:
        return self.two(F.leaky_relu(self.one(x), CONFIG.slope))


class Reads(Global):
    """Does another thing with the numbers in its weights."""

    def forward(self, x: Tensor) -> Tensor:
        weight = dict(self.one.named_parameters())["weight"]
        x = self.one(x)
        return self.two(torch.relu(x) if float(weight.detach()[0, 0]) > 0 else torch.tanh(x))


class Imports(Global):
    def forward(self, x: Tensor) -> Tensor:
        import math

        return self.two(torch.relu(self.one(x)) * math.pi)


def mlp(*acts: nn.Module) -> nn.Module:
    act = acts[0] if acts else nn.ReLU()
    return nn.Sequential(nn.Linear(2, 4), act, nn.Linear(4, 1))


def patched(kind: Callable[[], nn.Module], forward: Any) -> nn.Module:
    module = kind()
    module.forward = types.MethodType(forward, module)  # type: ignore[method-assign]
    return module


def with_attribute(value: Any) -> nn.Module:
    module = mlp()
    module.more = value
    return module


def hooked() -> nn.Module:
    module = Net()
    module.conv.register_forward_hook(lambda *_: None)
    return module


def strided() -> nn.Module:
    module = mlp()
    module[0].weight.data = torch.randn(2, 4).mT
    return module


def with_activation(slope: float) -> Callable[[Tensor], Tensor]:
    return lambda x: F.leaky_relu(x, slope)


def with_default(slope: float) -> Callable[[Tensor], Tensor]:
    def act(x: Tensor, slope: float = slope) -> Tensor:
        return F.leaky_relu(x, slope)

    return act


def trained() -> nn.Module:
    module = Net()
    module.train()(torch.randn(3, 2, 6, 6))
    return module.eval()


def key(module: nn.Module, inputs: Any = IMAGE) -> Any:
    return structure_of(module.eval(), inputs)[0]


SAME: dict[str, Callable[[], nn.Module]] = {
    "mlp": mlp,
    "cnn": Net,
    "tied": partial(Net, tied=True),
    "function": lambda: Net(act=torch.tanh),
    "closure": lambda: Net(act=with_activation(0.3)),
    "default": lambda: Net(act=with_default(0.3)),
    "partial": lambda: Net(act=partial(F.leaky_relu, negative_slope=0.3)),
    "order": partial(Ordered, [1, 0, 3, 2]),
    "global": Global,
    "patched": partial(patched, Net, lambda self, x: self.one(self.conv(x).mean((2, 3)))),
}


@pytest.mark.parametrize("make", SAME.values(), ids=SAME)
def test_weights_alone_are_no_structure(make: Callable[[], nn.Module]):
    assert key(make()) is not None
    assert key(make()) == key(make())


def test_what_batch_norm_counts_is_no_structure():
    assert key(Net()) == key(trained())


DIFFERENT: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "stride": (Net, partial(Net, 2)),
    "slope": (lambda: mlp(nn.LeakyReLU(0.1)), lambda: mlp(nn.LeakyReLU(0.2))),
    "sign-of-zero": (lambda: mlp(nn.LeakyReLU(0.0)), lambda: mlp(nn.LeakyReLU(-0.0))),
    "one-and-true": (partial(with_attribute, 1), partial(with_attribute, True)),
    "dropout": (Net, partial(Net, p=0.2)),
    "activation": (Net, lambda: Net(act=torch.tanh)),
    "closure": (lambda: Net(act=with_activation(0.1)), lambda: Net(act=with_activation(0.2))),
    "default": (lambda: Net(act=with_default(0.1)), lambda: Net(act=with_default(0.2))),
    "partial": (
        lambda: Net(act=partial(F.leaky_relu, negative_slope=0.1)),
        lambda: Net(act=partial(F.leaky_relu, negative_slope=0.2)),
    ),
    "patched": (Net, SAME["patched"]),
    "tied": (Net, partial(Net, tied=True)),
    "order": (partial(Ordered, [0, 1, 2, 3]), partial(Ordered, [1, 0, 3, 2])),
    "loose-order": (
        partial(Ordered, [0, 1, 2, 3], False), partial(Ordered, [1, 0, 3, 2], False)
    ),
    "mask": (partial(Masked, [1, 1, 1, 1]), partial(Masked, [1, 1, 0, 1])),
    "persistence": (partial(Ordered, [0, 1, 2, 3]), partial(Ordered, [0, 1, 2, 3], False)),
    "layout": (mlp, strided),
    "dtype": (mlp, lambda: mlp().double()),
    "tensor": (partial(with_attribute, torch.zeros(2)), partial(with_attribute, torch.ones(2))),
    "list": (partial(with_attribute, [1, 2]), partial(with_attribute, [2, 1])),
    "size": (mlp, lambda: nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))),
}  # fmt: skip


@pytest.mark.parametrize("pair", DIFFERENT.values(), ids=DIFFERENT)
def test_all_else_is(pair: tuple[Callable[[], nn.Module], Callable[[], nn.Module]]):
    one, other = (key(make()) for make in pair)
    assert one != other


def test_what_code_reads_is(monkeypatch: pytest.MonkeyPatch):
    before = key(Global()), key(Net())
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "SLOPE", 0.2)
        assert key(Global()) != before[0]
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "helper", lambda x: torch.sin(x))
        assert key(Global()) != before[0]
    with monkeypatch.context() as patch:
        patch.setattr(Net, "step", lambda self, x: torch.tanh(x))
        assert key(Net()) != before[1]
    with monkeypatch.context() as patch:
        patch.setattr(Net, "scale", 2.0)
        assert key(Net()) != before[1]
    assert (key(Global()), key(Net())) == before


def test_so_are_inputs_and_settings(monkeypatch: pytest.MonkeyPatch):
    assert key(Net(), IMAGE) == key(Net(), IMAGE + 1)
    assert key(Net(), IMAGE) != key(Net(), IMAGE[:, :, 1:])
    assert key(Net(), (IMAGE, 1)) != key(Net(), (IMAGE, True))
    before = key(mlp())
    with torch.no_grad():
        assert key(mlp()) != before


NONE: dict[str, Callable[[], nn.Module]] = {
    "object": partial(with_attribute, CONFIG),
    "global object": Object,
    "numbers of weights": Reads,
    "import": Imports,
    "hook": hooked,
    "large buffer": lambda: Ordered(list(range(2**14 + 1))),
    "generator": lambda: with_attribute(iter([1])),
}


@pytest.mark.parametrize("make", NONE.values(), ids=NONE)
def test_what_cannot_be_told_has_no_key(make: Callable[[], nn.Module]):
    assert key(make()) is None


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The modules that were read, beginning without any that are known."""
    found: list[nn.Module] = []
    read = from_modules._read

    def counted(module: nn.Module, *arguments: Any) -> NeuralGraph:
        found.append(module)
        return read(module, *arguments)

    monkeypatch.setattr(from_modules, "_read", counted)
    monkeypatch.setattr(from_modules, "_KNOWN", Remembered(4))
    return found


CONVERTED: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "mlp": (mlp, None),
    "cnn": (Net, IMAGE),
    "order": (partial(Ordered, [1, 0, 3, 2]), torch.zeros(1, 2)),
}


@pytest.mark.parametrize(("make", "inputs"), CONVERTED.values(), ids=CONVERTED)
def test_the_second_is_what_reading_it_gives(make, inputs, reads: list[nn.Module]):
    first, second = make().eval(), make().eval()
    to_graph(first, inputs)
    found = to_graph(second, inputs)
    assert reads == [first]
    from_modules._KNOWN.clear()
    expected = to_graph(second, inputs)
    assert reads == [first, second]
    assert found.architecture == expected.architecture
    held, values = found.parameters(), expected.parameters()
    assert list(held) == list(values)
    for name, value in held.items():
        assert value.data_ptr() == values[name].data_ptr()
        assert value.requires_grad == values[name].requires_grad
    held = to_graph(second, inputs, differentiable=True).parameters()
    assert any(value.requires_grad for value in held.values())


def test_numbers_are_checked_of_each(reads: list[nn.Module]):
    to_graph(mlp())
    broken = mlp()
    broken[2].bias.data[0] = torch.nan
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        to_graph(broken)
    assert len(reads) == 1
    large = mlp().half()
    large[0].weight.data[:] = 6e4  # whose sum is no number of half precision
    assert to_graph(large).parameters()["0.weight"].max() == 6e4


def test_errors_are_told_again(reads: list[nn.Module]):
    for _ in range(2):
        with pytest.raises(UnsupportedModuleError):
            to_graph(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1)))
    assert len(reads) == 2


def test_other_rules_are_other_readings(reads: list[nn.Module], monkeypatch: pytest.MonkeyPatch):
    to_graph(mlp())
    monkeypatch.setitem(OPERATORS, "own", lambda: None)
    to_graph(mlp())
    to_graph(mlp())
    assert len(reads) == 2
    monkeypatch.setitem(OPERATORS, "own", lambda: Activation("relu"))
    to_graph(mlp())
    assert len(reads) == 3


def test_the_last_are_remembered():
    known = Remembered(2)
    for number in range(3):
        known.put(number, str(number))
        known.get(0)
    assert [known.get(i) for i in range(3)] == ["0", None, "2"]
    known.put(None, "none")
    assert len(known) == 2
    assert known.get(None) is None
