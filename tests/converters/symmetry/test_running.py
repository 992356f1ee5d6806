"""The proof runs the user's own module in double precision, and leaves it as it was."""

import copy
import functools
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from converters import verify
from converters.symmetry import permutation_spec
from converters.symmetry.running import Draw, Network
from nngraph.errors import ArchitectureError, NonFiniteError, UnsupportedModuleError

INPUTS = torch.rand(4, 6)


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def changed(change):
    module = mlp()
    change(module)
    with torch.no_grad():
        module(INPUTS)
    return module


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.b(self.hidden(x))

    def hidden(self, x):
        return self.a(x).relu()


class Closure(Layers):
    def __init__(self):
        super().__init__()
        self.steps = [lambda x: self.a(x).relu(), functools.partial(F.dropout, training=False)]

    def hidden(self, x):
        for step in self.steps:
            x = step(x)
        return x


class BoundMethods(Layers):
    def __init__(self):
        super().__init__()
        self.calls = {"hidden": self.a.forward, "out": self.b.forward}

    def forward(self, x):
        return self.calls["out"](self.calls["hidden"](x).relu())


class ListOfWeights(Layers):
    def __init__(self):
        super().__init__()
        self.weights = [(self.a.weight, self.a.bias), (self.b.weight, self.b.bias)]

    def forward(self, x):
        return F.linear(F.linear(x, *self.weights[0]).relu(), *self.weights[1])


class PlainTensor(Layers):
    def __init__(self):
        super().__init__()
        self.matrix, self.scales = torch.randn(6, 6), [torch.ones(8), torch.randn(3)]

    def forward(self, x):
        return self.b(self.a(x @ self.matrix).relu() * self.scales[0]) + self.scales[1]


class Array(Layers):
    def __init__(self):
        super().__init__()
        self.array = np.eye(6, dtype="float32")

    def hidden(self, x):
        return self.a(x @ torch.from_numpy(self.array)).relu()


class ByName(Layers):
    def hidden(self, x):
        x = x.type("torch.FloatTensor").type(torch.FloatTensor).to(torch.float32).float()
        return self.a(x + torch.zeros(6, dtype=torch.float32)).relu()


class Unregistered(Layers):
    def __init__(self):
        super().__init__()
        self.others = {"list": [nn.Linear(6, 6), nn.LayerNorm(6)]}

    def hidden(self, x):
        for module in self.others["list"]:
            x = module(x)
        return self.a(x).relu()


class WritesItsInput(Layers):
    def hidden(self, x):
        x.sub_(0.5).div_(0.25)
        return self.a(x).relu()


class WritesAttributes(Layers):
    def __init__(self):
        super().__init__()
        self.calls, self.last = [], None

    def hidden(self, x):
        self.calls.append(len(self.calls))
        self.last = x * len(self.calls)
        return self.a(self.last).relu()


class WritesPlainTensors(Layers):
    """What is written to a plain tensor is read again, and is gone after the run."""

    def __init__(self):
        super().__init__()
        self.memory, self.count = torch.zeros(4, 6), torch.tensor(0)

    def hidden(self, x):
        self.memory[:, 1:] = x[:, 1:]
        self.count += 1
        return self.a(self.memory + self.count).relu()


class Draws(Layers):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(5)

    def hidden(self, x):
        noise = torch.rand(6, generator=self.generator) + torch.rand(6) + random.random()
        return self.a(x + noise).relu()


class Alias(Layers):
    """A plain attribute that is a view of a parameter, and no neurons."""

    def __init__(self):
        super().__init__()
        self.first = self.a.weight.detach()[:3, 0]

    def forward(self, x):
        return self.b(self.a(x).relu()) + self.first


class Complex(Layers):
    def forward(self, x):
        return torch.fft.fft(super().forward(x).to(torch.complex64))


class Chosen(Layers):
    def forward(self, x):
        y = super().forward(x)
        return {"y": y, "which": y.argmax(-1), "positive": y > 0}


def replaced_forward():
    module = mlp().double()
    forward = module.forward
    module.forward = lambda x: 2 * forward(x.double())
    return module


MODULES = {
    "weight_norm": lambda: changed(lambda m: weight_norm(m[0])),
    "spectral_norm": lambda: changed(lambda m: spectral_norm(m[0])),
    "pruned": lambda: changed(lambda m: prune.l1_unstructured(m[0], "weight", 0.5)),
    "parametrized": lambda: changed(lambda m: parametrizations.spectral_norm(m[0])),
    "weight_norm parametrized": lambda: changed(lambda m: parametrizations.weight_norm(m[2])),
    "data_parallel": lambda: nn.DataParallel(mlp()),
    "replaced_forward": replaced_forward,
    **{
        kind.__name__: kind for kind in (
            Closure, BoundMethods, ListOfWeights, PlainTensor, Array, ByName, Unregistered,
            WritesItsInput, WritesAttributes, Draws, Complex, Chosen,
        )
    },
}


def inside(module):
    """Everything that a module holds, and the numbers of its tensors."""
    values = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    held = {
        (path, name): copy.copy(value) if isinstance(value, (list, dict)) else value
        for path, child in module.named_modules() for name, value in vars(child).items()
    }
    return values, held


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_a_module_is_proven_and_left_as_it_was(make):
    module = make().train()
    spec = permutation_spec(module, INPUTS)
    kept, values, held = INPUTS.clone(), *inside(module)
    report = verify(spec, module, INPUTS, samples=2)
    assert report.holds, report
    assert report.power > 1e-6
    assert torch.equal(INPUTS, kept)
    now, holds = inside(module)
    assert all(torch.equal(now[name], value) for name, value in values.items())
    assert holds.keys() == held.keys()
    for key, value in held.items():
        assert holds[key] is value or holds[key] == value, key
    assert all(child.training for child in module.modules())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_it_is_run_as_it_is(make):
    module = make().eval()
    network = Network(module, (INPUTS,), {}, permutation_spec(module, INPUTS))
    first, second = network.run(network.state), network.run(network.state)
    assert all(map(torch.equal, first, second))
    if isinstance(module, (Draws, WritesAttributes, Complex, Chosen)):
        return
    with torch.no_grad():
        expected = module(INPUTS.clone()).double().flatten()
    assert float((first[0] - expected).abs().max()) < 1e-5


def test_tensors_of_the_user_are_not_written_to():
    inputs = torch.rand(4, 6, dtype=torch.float64)
    kept = inputs.clone()
    module = WritesItsInput().double()
    verify(permutation_spec(module, inputs), module, inputs, samples=1)
    assert torch.equal(inputs, kept)
    module = WritesPlainTensors()
    spec = permutation_spec(Layers(), INPUTS)
    assert verify(spec, module, INPUTS).holds
    assert int(module.count) == 0
    assert not module.memory.any()
    network = Network(module, (INPUTS,), {}, spec)
    first = network.run(network.state)
    with torch.no_grad():
        expected = module(INPUTS).double().flatten()
    assert float((first[0] - expected).abs().max()) < 1e-5


def test_a_wrong_spec_of_them_fails():
    """Aliases move with their parameter: a claim that forgets one is false."""
    module = Alias()
    plain = permutation_spec(Layers(), INPUTS)
    assert not verify(plain, module, INPUTS).holds
    assert permutation_spec(module, INPUTS).free_spaces == ()


class Lengths(nn.Module):
    """As many terms as the numbers in it say."""

    def __init__(self):
        super().__init__()
        self.a, self.d, self.b = nn.Linear(6, 16), nn.Linear(16, 1), nn.Linear(16, 3)
        with torch.no_grad():
            self.d.weight.mul_(0.01)
            self.d.bias.zero_()

    def forward(self, x):
        h = self.a(x)
        n = torch.exp(1e6 * self.d(h).abs()).sum().clamp(max=1e15).long().item()
        torch._check(n >= 0)
        return self.b(h) + torch.zeros(n).sum()


def test_sizes_that_grow_without_bound_are_refused_before_they_are_made():
    module = Lengths()
    spec = permutation_spec(module, INPUTS)
    with torch.no_grad():
        module.d.weight.zero_()
    with pytest.raises(UnsupportedModuleError, match=r"without bound.* pass shake=False"):
        verify(spec, module, INPUTS)
    assert verify(spec, module, INPUTS, shake=False).worst < 1e-9


def test_outputs_that_are_not_finite_say_whether_the_shaking_is_to_blame():
    class Root(Layers):
        def forward(self, x):
            return self.b(self.a(x).relu()) + (self.a.bias - 0.0).sum().clamp(max=0).log()

    module = Root()
    with pytest.raises(NonFiniteError, match="check its weights"):
        verify(permutation_spec(module, INPUTS), module, INPUTS)


def test_infinities_and_nan_count_where_they_stand():
    module = Layers()
    network = Network(module, (INPUTS,), {}, permutation_spec(module, INPUTS))
    draw = Draw(network, network.state)
    inf, nan = float("inf"), float("nan")
    draw.reference = [torch.tensor([1.0, inf, nan])]
    for other, expected in (
        ([1.0, inf, nan], 0), ([1.0, -inf, nan], inf), ([1.0, nan, inf], inf), ([2.0, inf, nan], 1)
    ):
        network.run = lambda _, other=other: [torch.tensor(other)]
        assert draw.change({}) == expected


def test_modules_without_numbers_are_refused():
    class Nothing(Layers):
        def forward(self, x):
            return x[:0]

    module = Nothing()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec = permutation_spec(module, INPUTS)
    with pytest.raises(ArchitectureError, match="no numbers to compare"):
        verify(spec, module, INPUTS)
