"""Networks exported by torch: the same function, and the same neuron spaces as the original."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from converters import verify
from converters.onnx_files import load_onnx
from converters.symmetry import derive

# torch's own, inside run_decompositions
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(4)
        self.wide = nn.Conv2d(4, 6, 3, stride=2)
        self.head = nn.Linear(6 * 3 * 3, 5)

    def forward(self, x):
        x = F.relu(self.norm1(self.stem(x)))
        x = F.relu(x + self.norm2(self.conv(x)))
        x = F.max_pool2d(F.relu(self.wide(x)), 2, ceil_mode=True)
        return self.head(torch.flatten(x, 1))


class Recurrent(nn.Module):
    def __init__(self, both=False):
        super().__init__()
        self.embed = nn.Embedding(7, 3)
        self.lstm = nn.LSTM(3, 4, num_layers=2, bidirectional=both, batch_first=True)
        self.gru = nn.GRU(8 if both else 4, 5, batch_first=True)
        self.head = nn.Linear(5, 2)

    def forward(self, tokens):
        x, _ = self.lstm(self.embed(tokens))
        x, _ = self.gru(x)
        return self.head(x[:, -1])


class Transformer(nn.Module):
    """One block before a head: fused query, key and value, two heads, a causal mask."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.place = nn.Parameter(torch.randn(5, 8))
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.register_buffer("mask", torch.ones(5, 5).tril().bool())

    def forward(self, tokens):
        x = self.embed(tokens) + self.place
        count, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(count, length, 3, 2, 4).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        scores = (query @ key.transpose(-1, -2) / 2).masked_fill(~self.mask, float("-inf"))
        y = (scores.softmax(-1) @ value).transpose(1, 2).reshape(count, length, width)
        x = x + self.out(y)
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(x)


def mlp():
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 2))


def image():
    return torch.randn(2, 3, 11, 11, dtype=torch.float64)


NETWORKS = [
    pytest.param(mlp, lambda: torch.randn(4, 3, dtype=torch.float64), id="mlp"),
    pytest.param(Residual, image, id="residual-cnn"),
    pytest.param(Recurrent, lambda: torch.randint(7, (2, 6)), id="recurrent"),
    pytest.param(lambda: Recurrent(True), lambda: torch.randint(7, (2, 6)), id="two-directions"),
    pytest.param(Transformer, lambda: torch.randint(11, (2, 5)), id="transformer"),
]


def exported(make, inputs, path, folded=False):
    """Return a network with random numbers everywhere, and what its file gives."""
    original = make().double().eval()
    with torch.no_grad():
        for tensor in original.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.2, 1.2).mul_(torch.rand_like(tensor).sub(0.3).sign())
        for name, tensor in original.named_buffers():
            if name.endswith("running_var"):
                tensor.abs_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        torch.onnx.export(
            original,
            (inputs,),
            str(path),
            dynamo=False,
            training=torch.onnx.TrainingMode.PRESERVE,  # keeps BatchNorm apart from Conv
            do_constant_folding=folded,
        )
    return original, load_onnx(path)


@pytest.mark.parametrize(("make", "inputs"), NETWORKS)
def test_exported_networks_are_the_same_function(tmp_path, make, inputs):
    inputs = inputs()
    original, module = exported(make, inputs, tmp_path / "m.onnx")
    with torch.no_grad():  # an epsilon is a float32 in a file, and a float64 in torch
        torch.testing.assert_close(module(inputs), original(inputs), rtol=1e-8, atol=1e-10)


def spaces(derivation, names=None):
    """Return the spaces as sizes and tied axes; ``names`` translates (name, axis) pairs."""
    names = names or (lambda name, axis: (name, axis))
    found = set()
    for space in derivation.spec.spaces:
        ties = frozenset(names(*tie) for tie in derivation.spec.ties(space.name))
        found.add((space.size, len(space.within), ties))
    return found


def translation(original, module):
    """Return where each axis of the file's parameters is in the original, by their numbers."""
    ours = {name: t for name, t in original.state_dict().items() if t.is_floating_point()}
    found = {}
    for name, tensor in module.state_dict().items():
        for turned in (False, True):
            seen = tensor.t() if turned and tensor.dim() == 2 else tensor
            for other, value in ours.items():
                if seen.shape == value.shape and torch.equal(seen, value):
                    found[name] = (other, turned and tensor.dim() == 2)
    assert {other for other, _ in found.values()} == set(ours)
    assert set(found) == set(module.state_dict())
    return lambda name, axis: (found[name][0], 1 - axis if found[name][1] else axis)


@pytest.mark.parametrize(("make", "inputs"), [n for n in NETWORKS if n.id != "two-directions"])
def test_spaces_are_those_of_the_original(tmp_path, make, inputs):
    inputs = inputs()
    original, module = exported(make, inputs, tmp_path / "m.onnx")
    one, other = derive(original, inputs, strict=True), derive(module, inputs, strict=True)
    names = translation(original, module)
    assert spaces(other, names) == spaces(one)
    assert len(other.spec.spaces) >= 2
    report = verify(other, module, inputs)
    assert report.holds, str(report)


class Last(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.lstm(x)[0][-1])


def test_spaces_of_packed_recurrent_weights(tmp_path):
    """An exporter that folds constants keeps only W, R and B; the spaces are found in them."""
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    _, module = exported(Last, x, tmp_path / "m.onnx", folded=True)
    derivation = derive(module, x, strict=True)
    w, r, b, *_ = module.state_dict()
    assert [module.state_dict()[n].shape for n in (w, r, b)] == [(1, 16, 3), (1, 16, 4), (1, 32)]
    ties = {(w, 1), (r, 1), (r, 2), (b, 1), ("head.weight", 1)}
    assert spaces(derivation) == {(4, 0, frozenset(ties))}
    report = verify(derivation, module, x)
    assert report.holds, str(report)


@pytest.mark.parametrize("folded", [True, False], ids=["folded", "as-written"])
def test_two_directions_are_relabelled_together(tmp_path, folded):
    """ONNX keeps both in one tensor, one axis of which counts the neurons of either: sound."""
    tokens = torch.randint(7, (2, 6))
    _, module = exported(lambda: Recurrent(True), tokens, tmp_path / "m.onnx", folded=folded)
    derivation = derive(module, tokens, strict=True)
    assert sorted(space.size for space in derivation.spec.spaces) == [3, 4, 4, 5]
    report = verify(derivation, module, tokens)
    assert report.holds, str(report)
