"""What is refused, and what is fixed for want of a rule: said by name, never guessed."""

import re
import warnings

import pytest
import torch
from symmetry_cases import check
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from converters import verify
from converters.symmetry import derive, permutation_spec
from converters.symmetry.rules import RULES
from nngraph.errors import ArchitectureError, UnsupportedModuleError

X = torch.randn(5, 3)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x):
        y = self.fc(x)
        if y.sum() > 0:
            y = 2 * y
        return y


class Cropping(Branching):
    def forward(self, x):
        y = self.fc(x)
        return y[:, : int(y.sum().item())]


@pytest.mark.parametrize(("kind", "line"), [
    (Branching, "if y.sum() > 0:"), (Cropping, "int(y.sum().item())"),
])
def test_data_dependent_control_flow_is_refused_with_its_line(kind, line):
    with pytest.raises(UnsupportedModuleError, match="data-dependent control flow") as caught:
        derive(kind(), torch.randn(2, 3))
    assert line in str(caught.value)
    assert "test_refusals.py:" in str(caught.value)


def test_a_forward_that_fails_is_refused_with_its_error():
    with pytest.raises(UnsupportedModuleError, match=r"itself fails on these inputs.*mat1"):
        derive(nn.Linear(3, 4), torch.randn(2, 5))


def test_script_modules_are_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.script(nn.Linear(3, 4))
    with pytest.raises(UnsupportedModuleError, match="from which it was scripted"):
        derive(nn.Sequential(script), torch.randn(2, 3))


def with_weight(weight: torch.Tensor) -> nn.Module:
    model = nn.Linear(3, 4)
    del model.weight
    model.register_buffer("weight", weight)
    return model


@pytest.mark.parametrize(("change", "word"), [
    (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), "quantised"),
    (lambda w: w.to_sparse(), "layout"),
    (lambda w: w.to(torch.complex64), "complex"),
], ids=["quantised", "sparse", "complex"])
def test_weights_that_are_no_dense_real_numbers_are_refused(change, word):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = with_weight(change(torch.randn(4, 3)))
    with pytest.raises(UnsupportedModuleError, match=f"'weight' .*{word}"):
        derive(module, torch.randn(2, 3))


def test_lazy_modules_and_other_objects_are_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lazy = nn.LazyLinear(4)
    with pytest.raises(UnsupportedModuleError, match="not initialised"):
        derive(lazy, torch.randn(2, 3))
    with pytest.raises(UnsupportedModuleError, match=r"torch\.nn\.Module"):
        derive(torch.relu, torch.randn(2, 3))


class Unknown(nn.Module):
    """One branch through an operation that has no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(3, 4), nn.Linear(3, 5), nn.Linear(9, 2)

    def forward(self, x):
        inverse = torch.cholesky_inverse(self.square(x))
        return self.out(torch.cat([torch.relu(self.one(x)), inverse], 1))

    def square(self, x):
        y = self.two(x)
        return y @ y.t() @ y


class Strange(Unknown):
    def square(self, x):
        return torch.linalg.qr(self.two(x))[0]


def test_an_operation_without_a_rule_fixes_what_it_touches_and_is_reported():
    assert "aten.linalg_qr" not in RULES
    module, inputs = Strange(), torch.randn(5, 3)
    derivation = derive(module, inputs)
    assert derivation.unruled == ("aten.linalg_qr", "aten.cholesky_inverse")
    assert [space.name for space in derivation.spec.spaces] == ["one"]
    assert verify(derivation, module, inputs).holds
    report = derivation.spec.reports[0]
    assert report.unknown
    assert {"two.weight", "two.bias", "out.weight"} <= {
        name for report in derivation.spec.reports for name in report.parameters
    }


def test_strict_refuses_operations_without_a_rule():
    with pytest.raises(UnsupportedModuleError, match=r"aten\.linalg_qr.*test_refusals\.py"):
        permutation_spec(Strange(), torch.randn(5, 3), strict=True)


def test_random_operations_have_no_rule():
    class Noisy(Branching):
        def forward(self, x):
            return self.fc(x) + torch.rand_like(x[:, :1])

    assert derive(Noisy(), torch.randn(2, 3)).unruled == ("aten.rand_like",)


class Overlapping(nn.Module):
    """Two parameters that share a part of their memory."""

    def __init__(self) -> None:
        super().__init__()
        memory = torch.randn(20)
        self.one = nn.Parameter(memory[:12].view(4, 3))
        self.two = nn.Parameter(memory[10:14])
        self.out = nn.Linear(4, 2)

    def forward(self, x):
        return self.out(torch.relu(x @ self.one.t() + self.two))


def test_parameters_that_share_memory_in_part_are_fixed():
    derivation = derive(Overlapping(), torch.randn(2, 3))
    assert not derivation.spec.spaces
    assert any("shares memory" in report.reason for report in derivation.spec.reports)


@pytest.fixture
def no_export(monkeypatch):
    """Lets torch.export fail, so that networks are recorded below the level of Python."""

    def fail(*args, **kwargs):
        raise RuntimeError("not today")

    monkeypatch.setattr(torch.export, "export", fail)


@pytest.mark.usefixtures("no_export")
def test_a_forward_that_export_cannot_take_is_recorded_below():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.code, self.out = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            y = self.code(x)
            y += 1
            return {"y": self.out(torch.relu(y)), "none": None}

    check(Named(), torch.randn(2, 3), {
        "code": (4, "code.weight[0] code.bias[0] out.weight[1]"),
    })


@pytest.mark.usefixtures("no_export")
@pytest.mark.parametrize("writes", [False, True])
def test_grouped_attention_is_recorded_below(writes):
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(6, n) for n in (16, 8, 8))
            self.o = nn.Linear(16, 3)

        def forward(self, x):
            x = x.clone()
            if writes:
                x[:, 0] = 0
            heads = (f(x).unflatten(-1, (-1, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
            y = scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=True)
            return self.o(y.transpose(1, 2).flatten(2))

    module, inputs = Grouped(), torch.randn(2, 5, 6)
    spec = permutation_spec(module, inputs)
    assert [space.size for space in spec.free_spaces] == [2, 2, 4, 4]
    assert verify(spec, module, inputs).holds


def test_the_spec_of_another_module_is_refused():
    spec = permutation_spec(nn.Linear(3, 4), torch.randn(2, 3))
    with pytest.raises(ArchitectureError, match="differ in"):
        verify(spec, nn.Sequential(nn.Linear(3, 4)), torch.randn(2, 3))
    with pytest.raises(ArchitectureError, match="shape"):
        verify(spec, nn.Linear(3, 5), torch.randn(2, 3))
    with pytest.raises(ArchitectureError, match="meta device"):
        verify(spec, nn.Linear(3, 4, device="meta"), torch.randn(2, 3))


def test_a_rule_is_one_entry_and_without_it_everything_is_fixed(monkeypatch):
    module, inputs = nn.Sequential(nn.Conv1d(3, 4, 1), nn.Conv1d(4, 2, 1)), torch.randn(2, 3, 5)
    assert len(permutation_spec(module, inputs).spaces) == 1
    monkeypatch.delitem(RULES, "aten.conv1d")
    monkeypatch.delitem(RULES, "aten.convolution")
    derivation = derive(module, inputs)
    assert (derivation.unruled, derivation.spec.spaces) == (("aten.convolution",), ())


def test_a_rule_that_fails_fixes_what_it_touches_and_is_reported(monkeypatch):
    def fails(call):
        raise AssertionError("never so")

    monkeypatch.setitem(RULES, "aten.tanh", fails)
    derivation = derive(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), X)
    assert derivation.unruled
    assert not derivation.spec.spaces


class Doing(nn.Module):
    """A network with something done around it."""

    def __init__(self, act) -> None:
        super().__init__()
        self.net, self.act = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), act

    def forward(self, *args, **kwargs):
        return self.act(self.net, *args, **kwargs)


def packed(net, x, lengths):
    return pad_packed_sequence(pack_padded_sequence(net(x), lengths, enforce_sorted=False))


def input_gradient(net, x):
    x = x.clone().requires_grad_(True)
    return torch.autograd.grad(net(x).sum(), x, create_graph=True)[0]


def inner_gradient(net, x):
    with torch.enable_grad():
        return input_gradient(net, x)


MISLED = {
    "packed sequence": (packed, (X[:, None], torch.tensor([5])), "padded tensors"),
    "gradient": (input_gradient, (X,), "the network whose gradients it takes"),
    "gradient of its own": (inner_gradient, (X,), "the network whose gradients it takes"),
    "array": (lambda net, x: torch.from_numpy(2 * net(x).detach().numpy()), (X,), "torch alone"),
    "number": (lambda net, x: (net(x), float(net(x).sum())), (X,), "kept as tensors"),
    "print": (lambda net, x: print(f"{net(x).sum().item():.1f}") or net(x), (X,), "is printed too"),
    "shape": (lambda net, x: net(x), (torch.randn(5, 4),), "itself fails .*mat1"),
    "too few": (lambda net, x, y: net(x + y), (X,), "itself fails .*missing 1 required"),
    "dict": (lambda net, x, y: net(x + y), ({"x": X, "y": X},), "as kwargs="),
    "device": (lambda net, x: net(x), (X.to("meta"),), r"'input 0' on meta.*\.to\('cpu'\)"),
    "nothing returned": (lambda net, x: None, (X,), "returns no tensor"),
    "number of tensors": (lambda net, x: (net(x), net(x).sum().item()), (X,), r"output\[1\]"),
    "sparse": (lambda net, x: net(x).to_sparse(), (X,), r"output \(Tensor\) .*to_dense\(\)"),
    "module as input": (lambda net, x, f: f(net(x)), (X, nn.ReLU()), "input 1 .* is a module"),
    "array as input": (lambda net, x, a: net(x), (X, X.numpy()), "input 1 .* give a tensor"),
}  # fmt: skip


@pytest.mark.parametrize(("act", "args", "words"), MISLED.values(), ids=MISLED)
def test_a_refusal_says_what_to_do_and_no_more(act, args, words):
    with pytest.raises(UnsupportedModuleError, match=words) as caught:
        derive(Doing(act), args)
    assert not re.search(r"torch\.where|github|register_|Fake|strict", str(caught.value))


def test_a_module_on_meta_says_where_its_inputs_belong():
    with pytest.raises(UnsupportedModuleError, match=r"on meta.*on cpu.*\.to\('meta'\)"):
        derive(nn.Linear(3, 4, device="meta"), X)


def test_an_exported_program_is_refused_and_its_module_taken():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    exported = torch.export.export(net, (X,))
    with pytest.raises(UnsupportedModuleError, match=r"\.module\(\)"):
        derive(exported, X)
    assert len(derive(exported.module(), X).spec.free_spaces) == 1


@pytest.mark.parametrize(("wrap", "prefix"), [
    (nn.DataParallel, "module."), (lambda net: nn.Sequential(nn.DataParallel(net)), "0.module."),
    (torch.compile, "_orig_mod."), (torch.fx.symbolic_trace, ""),
], ids=["data parallel", "data parallel inside", "compiled", "traced"])
def test_what_wraps_a_network_keeps_its_names(wrap, prefix):
    module = wrap(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    spec = permutation_spec(module, X)
    assert [space.name for space in spec.free_spaces] == [f"{prefix}0"]
    assert set(spec.parameters) == set(module.state_dict())
