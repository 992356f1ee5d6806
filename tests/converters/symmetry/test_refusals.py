"""What is refused, and what is fixed for want of a rule: said by name, never guessed."""

import warnings

import pytest
import torch
from symmetry_cases import check
from torch import nn

from converters.symmetry import derive, permutation_spec, verify
from converters.symmetry.rules import RULES
from nngraph.errors import ArchitectureError, UnsupportedModuleError


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
    with pytest.raises(UnsupportedModuleError, match="cannot be traced"):
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
        return self.out(torch.cat([torch.relu(self.one(x)), torch.matrix_exp(self.square(x))], 1))

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
    assert derivation.unruled == ("aten.linalg_qr", "aten.linalg_matrix_exp")
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


def test_a_forward_that_export_cannot_take_is_recorded_below():
    class Named(nn.Module):
        """torch.export trips over a submodule with this name."""

        def __init__(self) -> None:
            super().__init__()
            self.code, self.out = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            y = self.code(x)
            y += 1
            return self.out(torch.relu(y))

    check(Named(), torch.randn(2, 3), {
        "code": (4, "code.weight[0] code.bias[0] out.weight[1]"),
    })


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
