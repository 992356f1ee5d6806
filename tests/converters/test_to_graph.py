import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from converters import Sine, to_graph, to_module, to_state_dict
from nngraph.errors import InvalidGraphError, NonFiniteError, UnsupportedModuleError
from nngraph.graph import Activation, forward

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


class OtherOrder(nn.Module):
    """Registers its layers in another order than it uses them."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 4)
        self.first = nn.Linear(4, 4)
        self.middle = nn.Linear(4, 4, bias=False)

    def forward(self, x):
        return self.last(F.relu(self.middle(torch.tanh(self.first(x)))))


class SineLayer(nn.Module):
    def __init__(self, inputs, outputs, w0):
        super().__init__()
        self.w0 = w0
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x):
        return torch.sin(self.w0 * self.linear(x))


class Siren(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(SineLayer(2, 5, 30), SineLayer(5, 4, 7.5), nn.Linear(4, 3))

    def forward(self, coordinates, scale=None):
        if scale is not None:
            coordinates = coordinates * scale
        return self.net(coordinates)


class Looped(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(4))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        x = x.view(x.size(0), -1)
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i < len(self.layers) - 1:
                x = F.dropout(self.dropout(x.sigmoid()), 0.3, self.training)
        return x


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(4, 2))
        self.b1 = nn.Parameter(torch.randn(4))
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(3, 4))])

    def forward(self, x):
        return F.linear((F.linear(x, self.w1, self.b1) * 2.0).sin(), self.weights[0])


class Branching(nn.Module):
    """Two modules of one network whose layers alternate."""

    def __init__(self):
        super().__init__()
        self.left = nn.ModuleList([nn.Linear(2, 3), nn.Linear(3, 3)])
        self.right = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 1)])

    def forward(self, x):
        for left, right in zip(self.left, self.right, strict=True):
            x = right(F.gelu(left(x)))
            x = F.softplus(x, beta=2)
        return x


def activations():
    between = [
        nn.LeakyReLU(0.3), nn.ELU(1.5), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Sigmoid(),
        nn.Softplus(2.0, 5.0), nn.Tanh(), Sine(3.0), nn.ReLU(inplace=True), nn.Identity(),
    ]
    layers = [layer for activation in between for layer in (nn.Linear(3, 3), activation)]
    return nn.Sequential(*layers, nn.Linear(3, 2), nn.Sigmoid())


def functions():
    class Functions(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(12))

        def forward(self, x):
            layer = iter(self.layers)
            x = torch.relu(next(layer)(x))
            x = F.leaky_relu(next(layer)(x), 0.2)
            x = F.elu(next(layer)(x), alpha=0.5)
            x = F.gelu(next(layer)(x), approximate="tanh")
            x = F.silu(next(layer)(x))
            x = torch.sigmoid(next(layer)(x))
            x = F.tanh(next(layer)(x))
            x = next(layer)(x).relu_()
            x = torch.sin(next(layer)(x).mul(3))
            x = torch.sin(torch.mul(2.5, next(layer)(x)))
            x = F.relu(next(layer)(x), inplace=True)
            return next(layer)(x).tanh()

    return Functions()


NETWORKS = {
    "linear": lambda: nn.Linear(4, 3),
    "linear-without-bias": lambda: nn.Linear(4, 3, bias=False),
    "width-one": lambda: nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 1)),
    "nested": lambda: nn.Sequential(
        nn.Flatten(), nn.Sequential(nn.Linear(4, 5), nn.Sequential(nn.ReLU(), nn.Linear(5, 6))),
        nn.Identity(), nn.Dropout(0.5), nn.Tanh(), nn.Sequential(), nn.Linear(6, 2, bias=False),
    ),
    "no-activations": lambda: nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4), nn.Linear(4, 2)),
    "activations": activations,
    "functions": functions,
    "other-order": OtherOrder,
    "siren": Siren,
    "looped": Looped,
    "functional": Functional,
    "branching": Branching,
}


def network(name, dtype=torch.float64):
    torch.manual_seed(1)
    return NETWORKS[name]().to(dtype)


def bits(tensor):
    return tensor.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[
        tensor.element_size()])


@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_runs_as_the_module_does(name):
    module = network(name)
    graph = to_graph(module)
    graph.validate()
    module.eval()
    inputs = torch.randn(20, graph.architecture.widths[0], dtype=torch.float64)
    with torch.no_grad():
        expected = module(inputs)
        torch.testing.assert_close(forward(graph, inputs), expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(to_module(graph)(inputs), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_weights_come_back_bit_for_bit_under_their_names(name, dtype):
    module = network(name, dtype)
    graph = to_graph(module)
    expected = module.state_dict()
    for found in (
        to_state_dict(graph),
        to_module(graph).state_dict(),
        to_state_dict(graph.clone()),  # its tensors are made
    ):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert found[key].dtype == dtype
            assert torch.equal(bits(found[key]), bits(value)), key
    again = to_graph(to_module(graph))
    assert again.architecture == graph.architecture


def test_order_of_use_and_options_are_read_off_the_forward():
    graph = to_graph(network("other-order"))
    assert [b.parameter.name for b in graph.architecture.blocks] == [
        "first.weight", "middle.weight", "last.weight"
    ]
    assert [str(g.activation) for g in graph.architecture.groups[1:]] == [
        "tanh", "relu", "identity"
    ]
    siren = to_graph(network("siren")).architecture
    assert [g.activation for g in siren.groups[1:]] == [
        Activation("sine", w0=30), Activation("sine", w0=7.5), Activation("identity")
    ]
    assert siren.widths == (2, 5, 4, 3)
    assert siren.parameters[0].name == "net.0.linear.weight"


def test_memory_is_shared_with_the_module():
    linear = nn.Linear(3, 2)
    graph = to_graph(linear)
    assert graph.edge_attr.data_ptr() == linear.weight.data_ptr()
    module = network("nested")
    graph = to_graph(module)
    for name, value in graph.parameters().items():
        assert value.data_ptr() == module.get_parameter(name).data_ptr()
        assert not value.requires_grad
    copied = to_module(graph)
    last = copied.get_parameter("6.weight")
    assert last.data_ptr() != module.get_parameter("6.weight").data_ptr()
    assert last.requires_grad


def test_gradients_reach_the_module_if_asked_for():
    module = network("siren")
    inputs = torch.randn(5, 2, dtype=torch.float64)
    expected = torch.autograd.grad(module(inputs).sum(), list(module.parameters()))
    graph = to_graph(module, differentiable=True)
    found = torch.autograd.grad(forward(graph, inputs).sum(), list(module.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_the_mode_of_the_module_is_left_as_it_was():
    module = network("looped")
    module.dropout.eval()
    to_graph(module)
    assert module.training
    assert not module.dropout.training
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Conv1d(1, 1, 1))
    with pytest.raises(UnsupportedModuleError):
        to_graph(module)
    assert module[1].training


# -- what is refused ---------------------------------------------------------------------------


def custom(body, **attributes):
    """A module with layers a, b: 3 -> 3 whose forward is ``body(self, x)``."""

    class Custom(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            for name, value in attributes.items():
                setattr(self, name, value)

        def forward(self, x):
            return body(self, x)

    return Custom()


def doubled_in_place(h):
    other = h
    other *= 2
    return h


REFUSED_FORWARDS = {
    "skip": lambda m, x: m.b(torch.relu(m.a(x))) + x,
    "inner-skip": lambda m, x: (lambda h: m.b(h) + h)(m.a(x)),
    "skip-by-method": lambda m, x: m.b(m.a(x)).add(x),
    "doubled": lambda m, x: (lambda h: h + h)(m.b(m.a(x))),
    "reused": lambda m, x: m.b(m.a(m.a(x))),
    "unused": lambda m, x: m.a(x),
    "gate": lambda m, x: torch.sigmoid(m.a(x)) * m.b(x),
    "concatenation": lambda m, x: m.b(torch.cat([m.a(x)[:, :1], x[:, 1:]], -1)),
    "two-outputs": lambda m, x: (m.b(m.a(x)), x),
    "dict-output": lambda m, x: {"out": m.b(m.a(x))},
    "hidden-output": lambda m, x: (lambda h: (m.b(h), h)[1])(m.a(x)),
    "constant-output": lambda m, x: torch.zeros(3),
    "input-output": lambda m, x: x,
    "in-place-ignored": lambda m, x: (lambda h: (h.relu_(), m.b(h))[1])(m.a(x)),
    "dead-in-place": lambda m, x: (lambda h: (m.b.weight.mul_(2), m.b(h))[1])(m.a(x)),
    "scaled": lambda m, x: m.b(3 * m.a(x)),
    "scaled-input": lambda m, x: m.b(m.a(2 * x)),
    "scaled-output": lambda m, x: m.b(m.a(x)) * 2,
    "scaled-then-relu": lambda m, x: m.b(torch.relu(3 * m.a(x))),
    "scaled-sine": lambda m, x: m.b(2 * torch.sin(m.a(x))),
    "scaled-by-nan": lambda m, x: m.b(torch.sin(math.nan * m.a(x))),
    "scaled-by-parameter": lambda m, x: m.b(torch.sin(m.a.bias * m.a(x))),
    "shifted": lambda m, x: m.b(m.a(x) + 1),
    "negated": lambda m, x: m.b(-m.a(x)),
    "unknown-activation": lambda m, x: m.b(torch.log1p(m.a(x))),
    "cubed": lambda m, x: m.b(m.a(x) ** 3),
    "in-place-then-used": lambda m, x: (lambda h: (h.mul_(2), m.b(h.sin()))[1])(m.a(x)),
    "in-place-by-operator": lambda m, x: m.b(doubled_in_place(m.a(x))),
    "overwritten-input": lambda m, x: m.b(torch.sin(x.mul_(2) + 0 * m.a(x))),
    "random-w0": lambda m, x: m.b(torch.sin(torch.rand(1) * m.a(x))),
    "product-of-input": lambda m, x: m.b(x @ m.a.weight + m.a.bias),
    "bias-of-another": lambda m, x: F.linear(x @ m.a.weight.T + m.b.bias, m.b.weight, m.a.bias)
    + m.b.bias,
    "bias-after-activation": lambda m, x: m.b(torch.relu(x @ m.a.weight.T) + m.a.bias),
    "two-activations": lambda m, x: m.b(torch.relu(torch.tanh(m.a(x)))),
    "activation-first": lambda m, x: m.b(m.a(torch.sin(x))),
    "softmax": lambda m, x: m.b(m.a(x)).softmax(-1),
    "squeeze": lambda m, x: m.b(m.a(x)).squeeze(-1),
    "transposed": lambda m, x: m.b(m.a(x).T),
    "sliced": lambda m, x: m.b(m.a(x))[:, :2],
    "sliced-input": lambda m, x: m.b(m.a(x[:, :3])),
    "mean": lambda m, x: m.b(m.a(x).mean(0)),
    "cast": lambda m, x: m.b(m.a(x).half().float()),
    "real-dropout": lambda m, x: m.b(F.dropout(m.a(x), 0.5)),
    "noise": lambda m, x: m.b(m.a(x) + torch.randn(3)),
    "branch-on-data": lambda m, x: m.b(m.a(x)) if x.sum() > 0 else m.a(m.b(x)),
    "branch-on-shape": lambda m, x: m.b(m.a(x)) if x.shape[0] > 1 else m.a(m.b(x)),
    "branch-on-dim": lambda m, x: m.b(m.a(x)) if x.dim() == 2 else m.a(m.b(x)),
    "masked-weight": lambda m, x: m.b(F.linear(x, m.a.weight * 2, m.a.bias)),
    "transposed-weight": lambda m, x: m.b(F.linear(x, m.a.weight.T, m.a.bias)),
    "foreign-weight": lambda m, x: m.b(F.linear(x, torch.eye(3), m.a.bias)),
    "weight-as-input": lambda m, x: m.b(F.linear(m.a.weight, m.a.weight, m.a.bias)),
    "shared-bias": lambda m, x: F.linear(m.a(x), m.b.weight, m.a.bias),
    "bias-left-out": lambda m, x: F.linear(m.a(x), m.b.weight),
    "flatten-all": lambda m, x: m.b(m.a(torch.flatten(x))),
    "flatten-later": lambda m, x: m.b(m.a(x).flatten(1)),
    "view-other": lambda m, x: m.b(m.a(x.view(-1, 5))),
    "view-three": lambda m, x: m.b(m.a(x.view(-1, 1, 3))),
    "view-later": lambda m, x: m.b(m.a(x).view(x.shape[0], -1)),
    "numpy": lambda m, x: m.b(torch.from_numpy(m.a(x).detach().numpy())),
    "no-call": lambda m, x: m.b(m.a),
    "raises": lambda m, x: 1 / 0,
}


@pytest.mark.parametrize("name", REFUSED_FORWARDS)
def test_what_is_no_chain_is_refused(name):
    with pytest.raises(UnsupportedModuleError, match="What can be converted"):
        to_graph(custom(REFUSED_FORWARDS[name]))


def chained(m, x):
    return m.b(torch.relu(m.a(x)))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        return x + self.fc(x)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3)

    def forward(self, x, z):
        return self.a(x)


def hooked():
    module = custom(chained)
    module.a.register_forward_hook(lambda m, i, o: o * 2)
    return module


def replaced():
    module = custom(chained)
    module.a.forward = lambda x: x
    return module


def tied():
    module = custom(chained)
    module.b.weight = module.a.weight
    return module


def parametrised():
    module = custom(chained)
    nn.utils.parametrizations.weight_norm(module.a)
    return module


def buffered():
    module = custom(chained)
    module.register_buffer("w0", torch.tensor(30.0))
    return module


def learned_frequency():
    module = custom(lambda m, x: m.b(torch.sin(m.w0 * m.a(x))))
    module.w0 = nn.Parameter(torch.tensor(30.0))
    return module


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.Conv1d(1, 1, 1)), "'1' is a Conv1d"),
        (lambda: nn.Sequential(nn.Sequential(nn.LayerNorm(3))), "'0.0' is a LayerNorm"),
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), "'1' is a BatchNorm1d"),
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.PReLU()), "'1' is a PReLU"),
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.Softmax(-1)), "'1' is a Softmax"),
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.Flatten()), "'1' is a Flatten"),
        (lambda: nn.Sequential(nn.Flatten(0), nn.Linear(3, 3)), "'0' is a Flatten"),
        (lambda: nn.Sequential(nn.ReLU(), nn.Linear(3, 3)), "'0' is a ReLU"),
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Tanh()), "'2' is a Tanh"),
        (lambda: nn.Sequential(nn.Linear(3, 3), Residual()), "in '1', a Residual .*'add'"),
        (lambda: nn.Sequential(), "without any linear layer"),
        (lambda: nn.Identity(), "without any linear layer"),
        (lambda: nn.ModuleList([nn.Linear(3, 3)]), "is a ModuleList"),
        (lambda: nn.LSTM(3, 3), "is a LSTM"),
        (lambda: nn.TransformerEncoderLayer(4, 2), "What can be converted"),
        (lambda: nn.Bilinear(3, 3, 3), "expected one tensor"),
        (TwoInputs, "expected one tensor"),
        (hooked, "'a' is a Linear .* has forward hooks"),
        (replaced, "'a' is a Linear .* replaces its forward"),
        (tied, "'a.weight' and 'b.weight' are one tensor"),
        (parametrised, "'a' is a Parametrized.* parametrisation"),
        (buffered, "'w0' is in the state dict"),
        (learned_frequency, "not the w0 of a sine"),
        (lambda: custom(lambda m, x: m.a(x), b=nn.Identity(), c=nn.Linear(3, 3)), "'c.weight'"),
        (lambda: custom(chained, extra=nn.Parameter(torch.zeros(1))), "'extra'"),
        (lambda: torch.jit.script(nn.Linear(2, 2)), "What can be converted"),
    ],
)
@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
def test_refusals_name_the_path_and_what_it_is(make, words):
    with pytest.raises(UnsupportedModuleError, match=words) as caught:
        to_graph(make())
    assert "What can be converted" in str(caught.value)
    assert "to_graph(module, example_inputs) takes" in str(caught.value)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: nn.Linear(2, 2, device="meta"), InvalidGraphError, "meta device"),
        (lambda: nn.LazyLinear(3), InvalidGraphError, "lazy"),
        (lambda: nn.Linear(2, 2, dtype=torch.cfloat), InvalidGraphError, "complex64"),
        (lambda: nn.Linear(2, 2).to(torch.float8_e5m2), InvalidGraphError, "float8"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).half()), InvalidGraphError,
         "one dtype"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.Linear(3, 2)), InvalidGraphError, "chain"),
        (lambda: {"weight": torch.zeros(2, 2)}, UnsupportedModuleError, "state_dict_to_graph"),
        (lambda: nn.Linear, UnsupportedModuleError, "expected an nn.Module"),
    ],
)
def test_weights_that_no_graph_can_carry_are_refused(make, error, words):
    with pytest.raises(error, match=words):
        to_graph(make())


def test_sparse_weights_are_refused():
    linear = nn.Linear(2, 2)
    linear.weight = nn.Parameter(linear.weight.detach().to_sparse())
    with pytest.raises(InvalidGraphError, match="to_dense"):
        to_graph(linear)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nonfinite_weights_are_refused_unless_allowed(value):
    module = network("siren")
    with torch.no_grad():
        module.net[1].linear.bias[2] = value
    with pytest.raises(NonFiniteError, match=r"'net\.1\.linear\.bias' has 1 of 4"):
        to_graph(module)
    graph = to_graph(module, allow_nonfinite=True)
    assert torch.equal(bits(to_state_dict(graph)["net.1.linear.bias"]),
                       bits(module.net[1].linear.bias))


def test_hooks_and_normalised_weights_of_old_are_refused():
    with pytest.warns(FutureWarning):
        module = nn.Sequential(nn.utils.weight_norm(nn.Linear(2, 2)))
    with pytest.raises(UnsupportedModuleError, match="hooks"):
        to_graph(module)


def test_layers_registered_twice_convert_by_the_submodule():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(2, 3), nn.Linear(3, 1)])
            self.net = nn.Sequential(self.layers[0], nn.ReLU(), self.layers[1])

        def forward(self, x):
            return self.net(x)

    module = Twice()
    with pytest.raises(UnsupportedModuleError, match="one tensor"):
        to_graph(module)
    assert to_graph(module.net).architecture.widths == (2, 3, 1)
