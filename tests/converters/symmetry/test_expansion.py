"""Operators without a rule are taken apart into operators that have one."""

import pytest
import torch
from symmetry_cases import FREE, Between, check_between, described

from converters import verify
from converters.symmetry import derive
from converters.symmetry.rules import RULES

COMPOSITE = {
    "hstack": (lambda h: torch.hstack([h, h.relu()]), 12, FREE),
    "column_stack": (lambda h: torch.column_stack([h.relu(), h]), 12, FREE),
    "vstack": (lambda h: torch.vstack([h, h * 2]), 6, FREE),
    "dstack": (lambda h: torch.dstack([h, h.relu()]).sum(2), 6, FREE),
    "hsplit": (lambda h: torch.hsplit(h, 2)[0] * torch.hsplit(h, 2)[1], 3, {
        "a": (3, "a.weight[0] a.bias[0] b.weight[1]"),
    }),
    "tensor_split": (lambda h: torch.cat(torch.tensor_split(h, 2, 1)[::-1], 1), 6, {
        "a": (3, "a.weight[0] a.bias[0] b.weight[1]"),
        "a.2": (3, "a.weight[0] a.bias[0] b.weight[1]"),
    }),
    "linalg.norm": (lambda h: h / torch.linalg.norm(h, dim=1, keepdim=True), 6, FREE),
    "linalg.matrix_norm": (lambda h: h / torch.linalg.matrix_norm(h), 6, FREE),
    "tensordot": (lambda h: torch.tensordot(h, h, dims=([0], [0])).sum(0), 6, FREE),
    "kron": (lambda h: torch.kron(h, torch.tensor([[1.0, 2.0]])), 12, FREE),
    "block_diag": (lambda h: torch.block_diag(h, h.relu()), 12, FREE),
    "atleast_3d": (lambda h: torch.atleast_3d(h).squeeze(2), 6, FREE),
    "&": (lambda h: ((h >= 0) & (h < 1)).to(h.dtype), 6, FREE),
    "take_along_dim": (lambda h: torch.take_along_dim(h, h.argsort(0), 0), 6, FREE),
    "quantile": (lambda h: h - torch.quantile(h, 0.3, dim=0), 6, FREE),
    "renorm": (lambda h: torch.renorm(h, 2, 0, 1.0), 6, FREE),
}


@pytest.mark.parametrize("name", COMPOSITE)
def test_a_composite_operator_is_what_its_pieces_are(name):
    function, width, expected = COMPOSITE[name]
    assert f"aten.{name}" not in RULES
    check_between(function, width, expected)


def test_a_composite_that_tells_neurons_apart_fixes_them():
    module, inputs = Between(lambda h: torch.diff(h, dim=1), 5), torch.randn(4, 3)
    derivation = derive(module, inputs, strict=True)
    assert described(derivation.spec) == {}
    assert verify(derivation, module, inputs).holds


def test_pieces_without_a_rule_fix_what_they_touch():
    module = Between(lambda h: torch.linalg.cholesky(h.t() @ h), 6)
    derivation = derive(module, torch.randn(4, 3))
    assert derivation.unruled == ("aten.linalg_cholesky_ex",)
    assert not derivation.spec.spaces


def test_a_composite_of_sizes_that_depend_on_the_data_stays_whole():
    module = Between(lambda h: torch.vstack([h, h[h.sum(1).nonzero()[:, 0]]]).sum(0), 6)
    derivation = derive(module, torch.randn(4, 3))
    assert derivation.unruled == ("aten.vstack",)
    assert not derivation.spec.spaces


def test_random_operators_are_not_taken_apart():
    module = Between(lambda h: h + torch.nn.functional.gumbel_softmax(h), 6)
    assert not derive(module, torch.randn(4, 3)).spec.spaces
