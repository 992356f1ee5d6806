"""Norms whose weights are moved into what follows: the same function, and more symmetry."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from group_cases import RootNorm, Stream
from torch import Tensor, nn
from torch.nn import functional as F

from converters import fold_norms, symmetry_spec, verify
from converters.symmetry.groups.folding import _Folded
from nngraph.errors import UnsupportedModuleError


def drawn(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return module.double().eval()


INPUTS = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("make", [nn.RMSNorm, nn.LayerNorm, RootNorm])
def test_folded_norms_have_no_weights_and_open_rotations(make: Callable[[int], nn.Module]):
    module = drawn(Stream(make(6)))
    state = {name: value.clone() for name, value in module.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folded = fold_norms(module, INPUTS)
    assert not [name for name in folded.state_dict() if "norm" in name]
    torch.testing.assert_close(folded(INPUTS), module(INPUTS), rtol=1e-12, atol=1e-12)
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    kinds = [(maps.kind, maps.space) for maps in symmetry_spec(folded, INPUTS).generators]
    assert kinds == [("orthogonal", "embed")]
    assert ("orthogonal", "embed") not in [
        (maps.kind, maps.space) for maps in symmetry_spec(module, INPUTS).generators
    ]
    assert verify(symmetry_spec(folded, INPUTS), folded, INPUTS, samples=1).holds


def test_a_linear_map_without_bias_gets_one_and_single_precision_stays():
    module = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 3, bias=False))
    module = drawn(module).float()
    folded = fold_norms(module, INPUTS.float())
    assert folded[2].bias is not None
    assert {value.dtype for value in folded.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(folded(INPUTS.float()), module(INPUTS.float()))


class Read(nn.Module):
    """A norm that something reads beside a linear map, or a linear map that is tied."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.embed, self.norm, self.out = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6)
        self.where = where
        if where == "tied":
            self.out.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm(x)
        if self.where == "sum":
            return self.out(y) + y
        if self.where == "gelu":
            return self.out(F.gelu(y))
        return self.out(y)


@pytest.mark.parametrize(
    ("where", "reason"),
    [("sum", "aten.add reads it"), ("gelu", "aten.gelu reads it"),
     ("tied", "'embed.weight' is used elsewhere")],
)  # fmt: skip
def test_norms_that_keep_their_weights_are_named(where: str, reason: str):
    module = drawn(Read(where))
    with pytest.warns(UserWarning, match=f"norm 'norm.weight' keeps its weight: .*{reason}"):
        folded = fold_norms(module, INPUTS)
    assert folded.state_dict().keys() == module.state_dict().keys()
    torch.testing.assert_close(folded(INPUTS), module(INPUTS), rtol=0, atol=0)


class Open(Stream):
    """A stream that is read without its norm, too: its mean counts."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.out(self.norm(x + self.down(F.silu(self.up(self.norm(x)))))) + x.mean()


def test_a_layer_norm_stays_one_where_the_mean_of_its_stream_is_read():
    module = drawn(Open(nn.LayerNorm(6)))
    folded = fold_norms(module, INPUTS)
    assert isinstance(folded.norm, nn.LayerNorm)
    assert folded.norm.weight is None
    torch.testing.assert_close(folded(INPUTS), module(INPUTS), rtol=1e-12, atol=1e-12)


def test_a_copy_that_computes_another_thing_is_refused(monkeypatch: pytest.MonkeyPatch):
    module = drawn(Stream(nn.RMSNorm(6)))
    put = _Folded._put
    monkeypatch.setattr(_Folded, "_put", lambda self, name, value: put(self, name, 1.01 * value))
    with pytest.raises(UnsupportedModuleError, match="computes another thing"):
        fold_norms(module, INPUTS)
