"""Random networks: whatever operations meet, what is claimed must hold on the network itself."""

import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from converters import verify
from converters.symmetry import derive

BATCH, TOKENS = 2, 4


class RandomNetwork(nn.Module):
    """A random program on values of shape ``[batch, tokens, channels]``.

    Each step draws an operation and its operands; the head reads every value, so that nothing is
    without effect.
    """

    def __init__(self, seed: int, steps: int = 9) -> None:
        super().__init__()
        self.seed, self.steps = seed, steps
        self.parts = nn.ParameterDict()
        torch.manual_seed(seed)
        self.run(torch.randn(BATCH, TOKENS, 3))

    def weight(self, *shape: int) -> torch.Tensor:
        self.count += 1
        name = f"w{self.count}"
        if name not in self.parts:
            self.parts[name] = nn.Parameter(torch.randn(shape) / shape[-1] ** 0.5)
        return self.parts[name]

    def forward(self, x):
        return self.run(x)

    def run(self, x):
        choose = random.Random(self.seed)
        self.count = 0
        values = [x @ self.weight(3, choose.choice([4, 6, 8, 12])) for _ in range(2)]
        for _ in range(self.steps):
            step, x, y = choose.choice(STEPS), choose.choice(values[-3:]), choose.choice(values)
            if x.shape[-1] % 2 or not 4 <= x.shape[-1] <= 40:
                step = linear
            value = step(self, choose, x, y)
            values.append(torch.tanh(value))
        return sum(v.flatten(1) @ self.weight(v[0].numel(), 2) for v in values)


def linear(net, choose, x, y):
    return F.linear(x, net.weight(choose.choice([4, 6, 8, 12]), x.shape[-1]))


def residual(net, choose, x, y):
    return x + F.linear(y, net.weight(x.shape[-1], y.shape[-1]), net.weight(x.shape[-1]))


def same_weight(net, choose, x, y):
    w = net.weight(x.shape[-1], x.shape[-1])
    return F.linear(torch.relu(F.linear(x, w)), w if choose.random() < 0.5 else w.t())


def tokens(net, choose, x, y):
    return (net.weight(TOKENS, 5) @ torch.relu(net.weight(5, TOKENS) @ x))


def concatenate(net, choose, x, y):
    return torch.cat([x, y, x] if choose.random() < 0.3 else [y, x], -1)


def chunks(net, choose, x, y):
    parts = x.chunk(2, -1)
    if choose.random() < 0.5 and parts[0].shape == parts[-1].shape:
        return parts[0] * torch.sigmoid(parts[-1])
    return torch.cat([parts[-1], parts[0]], -1)


def piece(net, choose, x, y):
    start = choose.randrange(x.shape[-1] - 1)
    return x[..., start : choose.randrange(start + 1, x.shape[-1]) + 1]


def write(net, choose, x, y):
    x = x.clone()
    x[..., 1:3] = x[..., 1:3] + F.linear(y, net.weight(2, y.shape[-1]))
    return x


def heads(net, choose, x, y):
    inner = choose.choice([2, 3])
    width = 2 * inner
    w = net.weight(3 * width, x.shape[-1])
    layout = choose.choice(["3hd", "h3d", "hd3"])
    sizes = {"3": 3, "h": 2, "d": inner}
    qkv = F.linear(x, w).view(BATCH, TOKENS, *(sizes[c] for c in layout))
    order = [layout.index(c) + 2 for c in "3hd"]
    q, k, v = qkv.permute(order[0], 0, order[1], 1, order[2])
    if choose.random() < 0.3:
        q = q * net.weight(inner)
    if choose.random() < 0.3:
        v = v * net.weight(2, 1, inner)
    y = torch.softmax(q @ k.transpose(-1, -2), -1) @ v
    return y.transpose(1, 2).reshape(BATCH, TOKENS, width)


def channel_attention(net, choose, x, y):
    return x @ torch.softmax(x.transpose(1, 2) @ x, -1)


def regroup(net, choose, x, y):
    return x.view(BATCH, TOKENS, 2, -1).transpose(2, 3).flatten(2)


def grouped(net, choose, x, y):
    w = net.weight(x.shape[-1], x.shape[-1] // 2, 1)
    return F.conv1d(x.transpose(1, 2), w, groups=2).transpose(1, 2)


def per_group_scale(net, choose, x, y):
    return (x.unflatten(-1, (2, -1)) * net.weight(2, 1)).flatten(-2)


def norm(net, choose, x, y):
    width = x.shape[-1]
    if choose.random() < 0.5:
        return F.layer_norm(x, (width,), net.weight(width))
    return F.group_norm(x.transpose(1, 2), 2, net.weight(width)).transpose(1, 2)


def softmax(net, choose, x, y):
    return torch.softmax(x, choose.choice([1, 2]))


def reduce(net, choose, x, y):
    return x - x.amax(-1, keepdim=True) + x.mean(1, keepdim=True)


def sorted_values(net, choose, x, y):
    return x.sort(-1)[0] if choose.random() < 0.5 else x.cumsum(-1)


def rolled(net, choose, x, y):
    return choose.choice([lambda x: x.roll(1, -1), lambda x: x.flip(-1)])(x)


def repeated(net, choose, x, y):
    return x.repeat(1, 1, 2) if choose.random() < 0.5 else x.repeat_interleave(2, -1)


def stacked(net, choose, x, y):
    both = torch.stack([x, torch.relu(x)], choose.choice([2, 3]))
    return (both * net.weight(*both.shape[2:])).flatten(2)


def indexed(net, choose, x, y):
    index = torch.tensor([0, 2, 1]) if choose.random() < 0.5 else torch.arange(1, 3)
    return x[..., index]


def strided(net, choose, x, y):
    return x[..., choose.choice([0, 1]) :: 2]


def padded(net, choose, x, y):
    return F.pad(x, (choose.choice([0, 2]), 2))


def outer(net, choose, x, y):
    return torch.einsum("btc,btd->btcd", x[..., :3], y[..., :2]).flatten(2)


def positions(net, choose, x, y):
    return x + torch.linspace(0, 1, x.shape[-1]) if choose.random() < 0.5 else x + torch.ones(())


def low_rank(net, choose, x, y):
    return F.linear(x, net.weight(6, 2) @ net.weight(2, x.shape[-1]))


def masked(net, choose, x, y):
    x = x.clone()
    x[choose.choice([lambda x: x > 0.3, lambda x: x.sum(-1) > 0])(x)] = 0.5
    return x


def chosen(net, choose, x, y):
    scores = F.linear(y, net.weight(x.shape[-1], y.shape[-1]), net.weight(x.shape[-1]))
    best, places = scores.softmax(-1).topk(2, -1)
    stored = net.weight(x.shape[-1], 6)
    return choose.choice([
        lambda: stored[places].flatten(2),
        lambda: x * torch.zeros_like(x).scatter(-1, places, best),
        lambda: torch.cat([x.gather(-1, places), F.embedding(places[..., 0], stored)], -1),
        lambda: F.one_hot(places, x.shape[-1]).to(x.dtype).sum(-2) * scores,
        lambda: x.gather(-1, x.argsort(-1)),
    ])()


STEPS = [
    masked, chosen,
    linear, linear, residual, residual, same_weight, tokens, concatenate, chunks, piece, write,
    heads, heads, channel_attention, regroup, grouped, per_group_scale, norm, softmax, reduce,
    sorted_values, rolled, repeated, stacked, indexed, strided, padded, outer, positions, low_rank,
]


@pytest.mark.parametrize("seed", range(10))
def test_what_is_claimed_of_a_random_network_holds(seed):
    network, inputs = RandomNetwork(seed), torch.randn(BATCH, TOKENS, 3)
    derivation = derive(network, inputs, strict=True)
    report = verify(derivation, network, inputs, samples=2)
    # A head that reads padding has neurons on which nothing depends: true, and not proven.
    assert report.status != "fails", f"{derivation.spec}\n{report}"
    for check in report.checks:
        assert check.status == "holds" or not check.unseen, f"{derivation.spec}\n{report}"
