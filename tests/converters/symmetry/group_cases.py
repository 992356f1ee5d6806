"""Small networks of every family, for the whole symmetry: what is derived against the judge."""

from __future__ import annotations

from collections.abc import Callable

import torch
from graph_cases import Function
from torch import Tensor, nn
from torch.nn import functional as F


def mlp(activation: Callable[[Tensor], Tensor] | nn.Module, bias: bool = True) -> nn.Module:
    last = activation if isinstance(activation, nn.Module) else Function(activation)
    return nn.Sequential(
        nn.Linear(3, 5, bias=bias), last, nn.Linear(5, 4, bias=bias), last, nn.Linear(4, 3)
    )


class Residual(nn.Module):
    """``x + f(x)``."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def cnn(*layers: nn.Module, channels: int) -> nn.Module:
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)]
    return nn.Sequential(*layers, *pooled)


def normed(one: int, other: int, kernel: int = 1, **options: int) -> list[nn.Module]:
    conv = nn.Conv2d(one, other, kernel, padding=kernel // 2, bias=False, **options)
    return [conv, nn.BatchNorm2d(other)]


class Gated(nn.Module):
    """``W2 (gate(V x) * U x)``."""

    def __init__(self, gate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.up, self.gate, self.down = (
            nn.Linear(3, 5, bias=False), nn.Linear(3, 5), nn.Linear(5, 2)
        )
        self.function = gate

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.function(self.gate(x)) * self.up(x))


class Attention(nn.Module):
    """Self-attention over features that tanh makes; ``kv`` heads of keys and values."""

    def __init__(
        self, heads: int = 2, kv: int | None = None, bias: bool = False, width: int = 8,
        rope: bool = False, normed: bool = False, manual: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        kv = heads if kv is None else kv
        self.heads, self.kv, self.each = heads, kv, width // heads
        self.embed = nn.Linear(4, width)
        self.q = nn.Linear(width, width, bias=bias)
        self.k = nn.Linear(width, kv * self.each, bias=bias)
        self.v = nn.Linear(width, kv * self.each, bias=False)
        self.o = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, 3)
        self.rope, self.normed, self.manual = rope, normed, manual

    def split(self, x: Tensor, heads: int) -> Tensor:
        return x.unflatten(-1, (heads, self.each)).transpose(1, 2)

    def turned(self, x: Tensor) -> Tensor:
        if not self.rope:
            return F.normalize(x, dim=-1) if self.normed else x
        half = self.each // 2
        angle = torch.arange(x.shape[2])[:, None] * 0.5 ** torch.arange(half)
        cos, sin = angle.cos().to(x).repeat(1, 2), angle.sin().to(x).repeat(1, 2)
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.embed(x))
        q, k, v = self.split(self.q(x), self.heads), self.split(self.k(x), self.kv), self.v(x)
        v = self.split(v, self.kv)
        if self.kv < self.heads:
            k, v = (t.repeat_interleave(self.heads // self.kv, 1) for t in (k, v))
        q, k = self.turned(q), self.turned(k)
        if self.manual:
            y = (q @ k.transpose(-1, -2) / self.each**0.5).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return self.out(torch.tanh(x + self.o(y.transpose(1, 2).flatten(2))))


class Packed(nn.Module):
    """Queries, keys and values of one matrix."""

    def __init__(self, own: bool = False) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(4, 8), nn.Linear(8, 3)
        self.qkv, self.o = nn.Linear(8, 24, bias=False), nn.Linear(8, 8, bias=False)
        self.own = nn.MultiheadAttention(8, 2, bias=False, batch_first=True) if own else None

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.embed(x))
        if self.own is not None:
            return self.out(torch.tanh(x + self.own(x, x, x, need_weights=False)[0]))
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.out(torch.tanh(x + self.o(y)))


class Stream(nn.Module):
    """A residual stream that one norm reads, twice."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(6, 6, bias=False), norm
        self.up, self.down = nn.Linear(6, 7), nn.Linear(7, 6, bias=False)
        self.out = nn.Linear(6, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.out(self.norm(x + self.down(F.silu(self.up(self.norm(x))))))


class RootNorm(nn.Module):
    """RMS norm as language models write it."""

    def __init__(self, size: int, weight: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size)) if weight else 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))


class LowRank(nn.Module):
    """A weight and a product of two of low rank."""

    def __init__(self, rank: int = 2, activation: Callable[[Tensor], Tensor] = F.gelu) -> None:
        super().__init__()
        self.base = nn.Linear(5, 6)
        self.a, self.b = nn.Linear(5, rank, bias=False), nn.Linear(rank, 6, bias=False)
        self.out, self.activation = nn.Linear(6, 3), activation
        self.base.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.base.weight.detach()
        return self.out(self.activation(F.linear(x, weight, self.base.bias) + self.b(self.a(x))))


class Recurrent(nn.Module):
    """A recurrent layer, and an output at each step."""

    def __init__(self, kind: type[nn.RNNBase], **options: str) -> None:
        super().__init__()
        self.layer = kind(3, 4, batch_first=True, bias=False, **options)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x)[0])


class Mixer(nn.Module):
    """An MLP over tokens and one over channels."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.tokens, self.back = nn.Linear(4, 5), nn.Linear(5, 4, bias=False)
        self.channels, self.out = nn.Linear(3, 6), nn.Linear(6, 2)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.back(self.activation(self.tokens(x.transpose(1, 2)))).transpose(1, 2)
        return self.out(self.activation(self.channels(x)))


class Tied(nn.Module):
    """An autoencoder whose decoder is its encoder, transposed."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.encoder, self.bias = nn.Linear(5, 4, bias=False), nn.Parameter(torch.randn(5))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.activation(self.encoder(x)), self.encoder.weight.T, self.bias)


class Joined(nn.Module):
    """Two branches side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.out = nn.Linear(3, 4), nn.Linear(3, 5), nn.Linear(9, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([torch.relu(self.one(x)), torch.tanh(self.other(x))], -1))


class Products(nn.Module):
    """A product of two linear maps, neuron by neuron, and a bilinear one."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, 5, bias=False), nn.Linear(3, 5, bias=False)
        self.out = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.one(x) * self.other(x)))


class Gram(nn.Module):
    """Products of all rows with one another."""

    def __init__(self) -> None:
        super().__init__()
        self.map, self.out = nn.Linear(4, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.map(x)
        return self.out(torch.tanh(h @ h.transpose(-1, -2)))


def rows(*shape: int) -> Callable[[], Tensor]:
    """Return what draws inputs."""
    return lambda: torch.randn(*shape)


_IMAGES, _TOKENS = rows(60, 2, 4, 4), rows(40, 6, 4)
RELU = torch.relu

#: name -> a network, inputs enough to tell its parameters apart
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    **{
        f"MLP of {name}": (lambda f=function: mlp(f), rows(80, 3))
        for name, function in {
            "relu": RELU, "leaky relu": F.leaky_relu, "tanh": torch.tanh, "sine": torch.sin,
            "gelu": F.gelu, "silu": F.silu, "sigmoid": torch.sigmoid, "softplus": F.softplus,
            "absolute value": torch.abs,
        }.items()
    },
    # Of fewer inputs, quadratic forms of so many neurons have one direction more.
    "MLP of squares": (
        lambda: nn.Sequential(nn.Linear(4, 5), Function(torch.square), nn.Linear(5, 4),
                              Function(torch.square), nn.Linear(4, 3)), rows(80, 4)),
    "MLP of the identity": (
        lambda: nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 3, bias=False),
                              nn.Linear(3, 3, bias=False), nn.SiLU(), nn.Linear(3, 2)),
        rows(80, 4)),
    "MLP of a learned slope": (lambda: mlp(nn.PReLU()), rows(80, 3)),
    "MLP without bias": (lambda: mlp(RELU, bias=False), rows(80, 3)),
    "residual MLP": (
        lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), Residual(nn.Linear(5, 4), nn.ReLU(),
                              nn.Linear(4, 5, bias=False)), nn.Tanh(), nn.Linear(5, 2)),
        rows(80, 3)),
    "two branches": (Joined, rows(80, 3)),
    "CNN": (lambda: cnn(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.ReLU(), channels=3),
            _IMAGES),
    "CNN with batch norm": (
        lambda: cnn(*normed(2, 4, 3), nn.ReLU(), *normed(4, 3), nn.ReLU(), channels=3), _IMAGES),
    "CNN with batch norm of smooth functions": (
        lambda: cnn(*normed(2, 4, 3), nn.SiLU(), *normed(4, 3), nn.SiLU(), channels=3), _IMAGES),
    "CNN with pooling": (
        lambda: cnn(nn.Conv2d(2, 4, 2, bias=False), nn.LeakyReLU(), nn.MaxPool2d(2, 1),
                    *normed(4, 3), nn.LeakyReLU(), nn.AvgPool2d(2), channels=3), _IMAGES),
    "residual CNN": (
        lambda: cnn(*normed(2, 4, 3), nn.ReLU(), Residual(*normed(4, 3), nn.ReLU(),
                    nn.Conv2d(3, 4, 1, bias=False)), nn.ReLU(), channels=4), _IMAGES),
    "bottleneck": (
        lambda: cnn(*normed(2, 4), nn.ReLU(), Residual(*normed(4, 2), nn.ReLU(), *normed(2, 2, 3),
                    nn.ReLU(), nn.Conv2d(2, 4, 1, bias=False)), nn.ReLU(), channels=4), _IMAGES),
    "linear bottleneck": (
        lambda: cnn(nn.Conv2d(2, 5, 1), nn.SiLU(), nn.Conv2d(5, 2, 1, bias=False),
                    nn.Conv2d(2, 5, 1), nn.SiLU(), channels=5), _IMAGES),
    "depthwise": (
        lambda: cnn(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4, bias=False),
                    nn.Conv2d(4, 3, 1), nn.ReLU(), channels=3), _IMAGES),
    "depthwise with batch norm": (
        lambda: cnn(*normed(2, 4), nn.ReLU(), *normed(4, 4, 3, groups=4), nn.ReLU(),
                    nn.Conv2d(4, 3, 1), nn.ReLU(), channels=3), _IMAGES),
    "transposed convolution": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.ConvTranspose2d(3, 2, 2)),
        rows(20, 2, 4, 4)),
    "GLU of a sigmoid": (lambda: Gated(torch.sigmoid), rows(80, 3)),
    "GLU of SiLU": (lambda: Gated(F.silu), rows(80, 3)),
    "GLU of ReLU": (lambda: Gated(RELU), rows(80, 3)),
    "product of two": (Products, rows(80, 3)),
    "attention, 1 head": (lambda: Attention(1, width=4), _TOKENS),
    "attention, 4 heads": (lambda: Attention(4), _TOKENS),
    "attention with biases": (lambda: Attention(2, bias=True), _TOKENS),
    "attention by products": (lambda: Attention(2, manual=True), _TOKENS),
    "attention in one matrix": (Packed, _TOKENS),
    "attention of torch": (lambda: Packed(own=True), _TOKENS),
    "grouped-query attention": (lambda: Attention(4, kv=2), _TOKENS),
    "attention of unit vectors": (lambda: Attention(2, normed=True), _TOKENS),
    "attention with RoPE": (lambda: Attention(2, rope=True), _TOKENS),
    "RMS norm without weight": (
        lambda: Stream(nn.RMSNorm(6, eps=1e-5, elementwise_affine=False)), rows(60, 6)),
    "RMS norm": (lambda: Stream(nn.RMSNorm(6, eps=1e-5)), rows(60, 6)),
    "RMS norm by hand": (lambda: Stream(RootNorm(6, weight=False)), rows(60, 6)),
    "layer norm": (lambda: Stream(nn.LayerNorm(6)), rows(60, 6)),
    "LoRA": (LowRank, rows(80, 5)),
    "LoRA of rank 4": (lambda: LowRank(4, torch.tanh), rows(80, 5)),
    "linear autoencoder": (
        lambda: nn.Sequential(nn.Linear(5, 2, bias=False), nn.Linear(2, 5)), rows(80, 5)),
    "tied autoencoder": (lambda: Tied(RELU), rows(80, 5)),
    "tied autoencoder of tanh": (lambda: Tied(torch.tanh), rows(80, 5)),
    "tied linear autoencoder": (lambda: Tied(lambda x: x), rows(80, 5)),
    "RNN": (lambda: Recurrent(nn.RNN), rows(30, 5, 3)),
    "RNN of ReLU": (lambda: Recurrent(nn.RNN, nonlinearity="relu"), rows(30, 5, 3)),
    "LSTM": (lambda: Recurrent(nn.LSTM), rows(30, 5, 3)),
    "GRU": (lambda: Recurrent(nn.GRU), rows(30, 5, 3)),
    "Mixer": (lambda: Mixer(F.gelu), rows(40, 4, 3)),
    "Mixer of ReLU": (lambda: Mixer(RELU), rows(40, 4, 3)),
    "embedding": (
        lambda: nn.Sequential(nn.Embedding(24, 2), nn.Linear(2, 3, bias=False), nn.Tanh(),
                              nn.Linear(3, 20)),
        lambda: torch.arange(24)),
    "Gram matrix": (Gram, rows(40, 6, 4)),
}  # fmt: skip

#: name -> dimensions that the Jacobian has and the derivation has not, and what they are
MISSED: dict[str, tuple[int, str]] = {
    "attention of unit vectors": (
        4, "scales of queries and keys: exact only where no norm is below its epsilon"),
    "attention with RoPE": (6, "rotations of the planes of queries and keys"),
    "RMS norm": (15, "rotations of the stream, its norm's weight moved to what follows"),
    "layer norm": (
        43, "shifts of the stream, of the norm's bias and of what reads a mean of zero; rotations"),
}


def build(name: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """Return a network with generic parameters, in evaluation mode, and inputs for it."""
    torch.manual_seed(seed)
    make, draw = CASES[name]
    module = make().double().eval()
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.randn_like(tensor) * (0.8 if tensor.dim() > 1 else 0.4))
        drawn = draw()
        inputs = drawn.double() * 1.5 if drawn.is_floating_point() else drawn
        norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:  # no channel is dead, or never negative
            norm.reset_running_stats()
            norm.train().momentum = 0.9
            norm.weight.add_(1)
        if norms:
            module(inputs)
    return module.eval(), inputs
