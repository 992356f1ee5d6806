"""MLPs, sine networks and tied autoencoders: every space by hand."""

import torch
from symmetry_cases import axis_text, check
from torch import nn
from torch.nn import functional as F


def test_each_hidden_layer_of_an_mlp_is_a_space():
    mlp = nn.Sequential(
        nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 2)
    )
    derivation = check(mlp, torch.randn(4, 3), {
        "0": (8, "0.weight[0] 0.bias[0] 2.weight[1]"),
        "2": (6, "2.weight[0] 2.bias[0] 3.weight[0] 3.bias[0] 5.weight[1]"),
    })
    assert axis_text(derivation.spec, "2.weight") == "[6 2] [8 0]"
    assert [layer.kind for layer in derivation.layers] == [
        "input", "linear", "activation", "linear", "layer_norm", "activation", "linear", "output",
    ]


class Siren(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 7), nn.Linear(7, 5)
        self.last = nn.Linear(5, 1)

    def forward(self, x):
        x = torch.sin(30 * self.first(x))
        return self.last(torch.sin(30 * self.second(x)))


def test_a_sine_network_has_the_relabellings_of_its_layers():
    check(Siren(), torch.randn(4, 2), {
        "first": (7, "first.weight[0] first.bias[0] second.weight[1]"),
        "second": (5, "second.weight[0] second.bias[0] last.weight[1]"),
    })


class TiedAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(6, 4)
        self.inner = nn.Linear(4, 3)
        self.decode_bias, self.out_bias = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(6))

    def forward(self, x):
        z = self.inner(torch.tanh(self.encoder(x)))
        h = torch.tanh(F.linear(z, self.inner.weight.t(), self.decode_bias))
        return F.linear(h, self.encoder.weight.t(), self.out_bias)


def test_tied_weights_tie_the_encoder_and_the_decoder():
    derivation = check(TiedAutoencoder(), torch.randn(5, 6), {
        "encoder": (4, "encoder.weight[0] encoder.bias[0] inner.weight[1] decode_bias[0]"),
        "inner": (3, "inner.weight[0] inner.bias[0]"),
    })
    last = derivation.layers[-2]
    assert (last.parameters, last.derived) == (
        (("bias", "out_bias"),), (("weight", "encoder.weight"),)
    )


class TwoNames(nn.Module):
    """One tensor under two names, once for each layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.again.weight = self.first.weight

    def forward(self, x):
        return self.last(torch.relu(self.again(torch.relu(self.first(x)))))


def test_a_weight_of_two_layers_is_relabelled_once():
    # Its output axis counts the outputs of both layers; the outputs of the first meet its input
    # axis, which the inputs of the network fix.
    derivation = check(TwoNames(), torch.randn(5, 4), {}, maximal=False)
    assert derivation.spec.aliases == {"first.weight": ("again.weight",)}


class Bare(nn.Module):
    """Parameters that no module wraps, with a matrix product in either order."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.b1 = nn.Parameter(torch.randn(3, 8)), nn.Parameter(torch.randn(8))
        self.w2, self.gain = nn.Parameter(torch.randn(5, 8)), nn.Parameter(torch.randn(5, 1))

    def forward(self, x):
        h = torch.relu(x @ self.w1 + self.b1)
        return (self.gain * (self.w2 @ h.t())).sum(0)


def test_bare_parameters_in_either_order():
    check(Bare(), torch.randn(4, 3), {
        "w1": (8, "w1[1] b1[0] w2[1]"),
        "w2": (5, "w2[0] gain[0]"),
    })


class Chosen(nn.Module):
    """An activation by torch.where, whose first branch is a number: an argument called ``self``."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x):
        h = self.first(x)
        return self.last(torch.where(h < 0, 0.25, h))


def test_an_activation_by_where():
    ties = "first.weight[0] first.bias[0] last.weight[1]"
    check(Chosen(), torch.randn(7, 3), {"first": (5, ties)})
