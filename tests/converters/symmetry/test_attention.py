"""Transformers: heads, query/key against value features, and what positions fix."""

import math

import torch
from symmetry_cases import axis_text, check
from torch import nn
from torch.nn import functional as F

HEADS, INNER, WIDTH, TOKENS = 3, 4, 10, 5


class FusedAttention(nn.Module):
    """Queries, keys and values from one projection, laid out 3 x heads x features."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * HEADS * INNER)
        self.proj = nn.Linear(HEADS * INNER, width)

    def forward(self, x):
        b, t, _ = x.shape
        qkv = self.qkv(x).reshape(b, t, 3, HEADS, INNER).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(b, t, HEADS * INNER))


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.pos = nn.Parameter(torch.randn(1, TOKENS, WIDTH))
        self.norm1, self.attn = nn.LayerNorm(WIDTH), FusedAttention()
        self.norm2, self.scale = nn.LayerNorm(WIDTH), nn.Parameter(torch.ones(WIDTH))
        self.fc1, self.fc2 = nn.Linear(WIDTH, 14), nn.Linear(14, WIDTH)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos
        x = x + self.scale * self.attn(self.norm1(x))
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return self.head(self.norm(x)[:, 0])


def test_vit_with_heads_and_features_inside_of_them():
    derivation = check(ViT(), torch.randn(2, 3, 8, 8), {
        "patch": (WIDTH, "patch.weight[0] patch.bias[0] cls[2] pos[2] scale[0] norm1.weight[0] "
                         "norm1.bias[0] norm2.weight[0] norm2.bias[0] norm.weight[0] norm.bias[0] "
                         "attn.qkv.weight[1] attn.proj.weight[0] attn.proj.bias[0] fc1.weight[1] "
                         "fc2.weight[0] fc2.bias[0] head.weight[1]"),
        "attn.heads": (HEADS, "attn.qkv.weight[0] attn.qkv.bias[0] attn.proj.weight[1]"),
        "attn.qk": (INNER, "attn.qkv.weight[0] attn.qkv.bias[0]", "attn.heads"),
        "attn.v": (
            INNER, "attn.qkv.weight[0] attn.qkv.bias[0] attn.proj.weight[1]", "attn.heads"
        ),
        "fc1": (14, "fc1.weight[0] fc1.bias[0] fc2.weight[1]"),
    })
    part = "3 attn.heads x 4 attn."
    assert axis_text(derivation.spec, "attn.qkv.bias") == f"[{part}qk | {part}qk | {part}v]"
    assert axis_text(derivation.spec, "pos") == f"[1] [5] [{WIDTH} patch]"


class Conv1D(nn.Module):
    """A linear map whose weight is [in, out]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / math.sqrt(inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        flat = torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight)
        return flat.view(*x.shape[:-1], -1)


class GPT2(nn.Module):
    """A GPT-2 block between an embedding and the head that is tied to it."""

    def __init__(self) -> None:
        super().__init__()
        width = HEADS * INNER
        self.wte, self.wpe = nn.Embedding(7, width), nn.Embedding(TOKENS, width)
        self.ln_1, self.ln_2, self.ln_f = (nn.LayerNorm(width) for _ in range(3))
        self.c_attn, self.c_proj = Conv1D(width, 3 * width), Conv1D(width, width)
        self.c_fc, self.mlp_proj = Conv1D(width, 9), Conv1D(9, width)
        mask = torch.tril(torch.ones(TOKENS, TOKENS, dtype=torch.bool))
        self.register_buffer("bias", mask.view(1, 1, TOKENS, TOKENS))
        self.lm_head = nn.Linear(width, 7, bias=False)
        self.lm_head.weight = self.wte.weight

    def attend(self, x):
        heads = lambda y: y.view(*y.shape[:-1], HEADS, INNER).permute(0, 2, 1, 3)  # noqa: E731
        q, k, v = map(heads, self.c_attn(x).split(HEADS * INNER, dim=2))
        w = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(INNER)
        w = torch.where(self.bias[:, :, : x.shape[1], : x.shape[1]], w, torch.tensor(-1e4).to(w))
        y = torch.matmul(torch.softmax(w, -1), v).permute(0, 2, 1, 3)
        return self.c_proj(y.reshape(*x.shape[:-1], HEADS * INNER))

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        x = x + self.attend(self.ln_1(x))
        x = x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))
        return self.lm_head(self.ln_f(x))


def test_gpt2_with_a_tied_head_and_a_mask():
    derivation = check(GPT2(), torch.randint(7, (2, TOKENS)), {
        "wte": (12, "wte.weight[1] wpe.weight[1] ln_1.weight[0] ln_1.bias[0] ln_2.weight[0] "
                    "ln_2.bias[0] ln_f.weight[0] ln_f.bias[0] c_attn.weight[0] c_proj.weight[1] "
                    "c_proj.bias[0] c_fc.weight[0] mlp_proj.weight[1] mlp_proj.bias[0]"),
        "heads": (3, "c_attn.weight[1] c_attn.bias[0] c_proj.weight[0]"),
        "qk": (4, "c_attn.weight[1] c_attn.bias[0]", "heads"),
        "v": (4, "c_attn.weight[1] c_attn.bias[0] c_proj.weight[0]", "heads"),
        "c_fc": (9, "c_fc.weight[1] c_fc.bias[0] mlp_proj.weight[0]"),
    })
    assert derivation.spec.aliases == {"wte.weight": ("lm_head.weight",)}
    assert axis_text(derivation.spec, "bias") == "[1] [1] [5] [5]"


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        wide = x.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * wide.to(x.dtype)


class Llama(nn.Module):
    """A Llama block: RMSNorm, rotary positions, 4 query heads on 2 key heads, SwiGLU."""

    def __init__(self, rotary: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, WIDTH)
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Linear(WIDTH, width, bias=False) for width in (16, 8, 8)
        )
        self.o_proj = nn.Linear(16, WIDTH, bias=False)
        self.norm1, self.norm2 = RMSNorm(WIDTH), RMSNorm(WIDTH)
        self.gate, self.up = nn.Linear(WIDTH, 6, bias=False), nn.Linear(WIDTH, 6, bias=False)
        self.down, self.head = nn.Linear(6, WIDTH, bias=False), nn.Linear(WIDTH, 7)
        self.rotary = rotary
        self.register_buffer("inv_freq", 1.0 / 100 ** torch.arange(0, 1, 0.5), persistent=False)

    def rotate(self, x, cos, sin):
        if not self.rotary:
            return x
        first, second = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
        return x * cos + torch.cat((-second, first), -1) * sin

    def attend(self, x):
        b, t, _ = x.shape
        angles = torch.arange(t).float()[:, None] * self.inv_freq[None, :]
        angles = torch.cat((angles, angles), -1)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        q = self.rotate(self.q_proj(x).view(b, t, -1, 4).transpose(1, 2), cos, sin)
        k = self.rotate(self.k_proj(x).view(b, t, -1, 4).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(b, t, -1, 4).transpose(1, 2)
        k, v = (y[:, :, None].expand(b, 2, 2, t, 4).reshape(b, 4, t, 4) for y in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, -1))

    def forward(self, tokens):
        x = self.embed(tokens)
        x = x + self.attend(self.norm1(x))
        x = x + self.down(F.silu(self.gate(self.norm2(x))) * self.up(self.norm2(x)))
        return self.head(x)


LLAMA = {
    "embed": (WIDTH, "embed.weight[1] q_proj.weight[1] k_proj.weight[1] v_proj.weight[1] "
                     "o_proj.weight[0] norm1.weight[0] norm2.weight[0] gate.weight[1] up.weight[1] "
                     "down.weight[0] head.weight[1]"),
    "kv_heads": (2, "q_proj.weight[0] k_proj.weight[0] v_proj.weight[0] o_proj.weight[1]"),
    "copies": (2, "q_proj.weight[0] o_proj.weight[1]", "kv_heads"),
    "qk": (4, "q_proj.weight[0] k_proj.weight[0]", "kv_heads"),
    "v": (4, "v_proj.weight[0] o_proj.weight[1]", "kv_heads"),
    "gate": (6, "gate.weight[0] up.weight[0] down.weight[1]"),
}


def test_llama_rotary_positions_fix_the_features_of_queries_and_keys_alone():
    expected = {name: space for name, space in LLAMA.items() if name != "qk"}
    derivation = check(Llama(), torch.randint(7, (2, TOKENS)), expected)
    assert axis_text(derivation.spec, "k_proj.weight") == "[2 kv_heads x 4] [10 embed]"
    lost = {name for report in derivation.spec.reports for name in report.parameters}
    assert lost == {"q_proj.weight", "k_proj.weight"}


def test_llama_without_positions_has_them_free_within_the_key_heads():
    check(Llama(rotary=False), torch.randint(7, (2, TOKENS)), LLAMA)


class Bert(nn.Module):
    """Separate projections, post-norm, softmax written out, an attention mask as input."""

    def __init__(self) -> None:
        super().__init__()
        width = HEADS * INNER
        self.words, self.types = nn.Embedding(7, width), nn.Embedding(2, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.dense, self.norm1 = nn.Linear(width, width), nn.LayerNorm(width)
        self.inner, self.outer = nn.Linear(width, 9), nn.Linear(9, width)
        self.norm2, self.pooler = nn.LayerNorm(width), nn.Linear(width, 8)
        self.classifier = nn.Linear(8, 2)

    def forward(self, tokens, mask):
        x = self.words(tokens) + self.types(torch.zeros_like(tokens))
        heads = lambda y: y.view(*y.shape[:-1], HEADS, INNER).transpose(1, 2)  # noqa: E731
        q, k, v = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
        scores = q @ k.transpose(-1, -2) / 2 + (1 - mask[:, None, None, :]) * -1e4
        y = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.dense(y))
        x = self.norm2(x + self.outer(F.gelu(self.inner(x))))
        return self.classifier(torch.tanh(self.pooler(x[:, 0])))


def test_bert():
    check(Bert(), (torch.randint(7, (2, TOKENS)), torch.ones(2, TOKENS)), {
        "words": (12, "words.weight[1] types.weight[1] query.weight[1] key.weight[1] "
                      "value.weight[1] dense.weight[0] dense.bias[0] norm1.weight[0] norm1.bias[0] "
                      "inner.weight[1] outer.weight[0] outer.bias[0] norm2.weight[0] norm2.bias[0] "
                      "pooler.weight[1]"),
        "heads": (3, "query.weight[0] query.bias[0] key.weight[0] key.bias[0] value.weight[0] "
                     "value.bias[0] dense.weight[1]"),
        "qk": (4, "query.weight[0] query.bias[0] key.weight[0] key.bias[0]", "heads"),
        "v": (4, "value.weight[0] value.bias[0] dense.weight[1]", "heads"),
        "inner": (9, "inner.weight[0] inner.bias[0] outer.weight[1]"),
        "pooler": (8, "pooler.weight[0] pooler.bias[0] classifier.weight[1]"),
    })


class Biased(nn.Module):
    """Per-head tables: a temperature, and a bias for each relative position."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * HEADS * INNER)
        self.temperature = nn.Parameter(torch.rand(HEADS, 1, 1))
        self.table = nn.Parameter(torch.randn(2 * TOKENS - 1, HEADS))
        position = torch.arange(TOKENS)
        self.out = nn.Linear(HEADS * INNER, 2)
        self.register_buffer("index", position[:, None] - position[None, :] + TOKENS - 1)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, HEADS, 3, INNER).permute(3, 0, 2, 1, 4)
        w = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-1, -2) * self.temperature
        w = w + self.table[self.index.view(-1)].view(t, t, HEADS).permute(2, 0, 1)
        return self.out((w.softmax(-1) @ v).transpose(1, 2).flatten(2))


def test_per_head_parameters_lie_on_the_heads():
    derivation = check(Biased(), torch.randn(2, TOKENS, WIDTH), {
        "heads": (3, "qkv.weight[0] qkv.bias[0] temperature[0] table[1] "
                     "out.weight[1]"),
        "qk": (4, "qkv.weight[0] qkv.bias[0]", "heads"),
        "v": (4, "qkv.weight[0] qkv.bias[0] out.weight[1]", "heads"),
    })
    assert axis_text(derivation.spec, "qkv.bias") == (
        "[3 heads x (4 qk | 4 qk | 4 v)]"
    )


class Torch(nn.Module):
    """torch's own modules."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 6, batch_first=True, norm_first=True)
        self.inp, self.out = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.out(self.layer(self.inp(x)))


def test_torchs_own_transformer_layer():
    attn = "layer.self_attn"
    check(Torch(), torch.randn(2, TOKENS, 3), {
        "inp": (8, f"inp.weight[0] inp.bias[0] {attn}.in_proj_weight[1] {attn}.out_proj.weight[0] "
                   f"{attn}.out_proj.bias[0] layer.linear1.weight[1] layer.linear2.weight[0] "
                   "layer.linear2.bias[0] layer.norm1.weight[0] layer.norm1.bias[0] "
                   "layer.norm2.weight[0] layer.norm2.bias[0] out.weight[1]"),
        f"{attn}.heads": (2, f"{attn}.in_proj_weight[0] {attn}.in_proj_bias[0] "
                             f"{attn}.out_proj.weight[1]"),
        f"{attn}.qk": (4, f"{attn}.in_proj_weight[0] {attn}.in_proj_bias[0]", f"{attn}.heads"),
        f"{attn}.v": (4, f"{attn}.in_proj_weight[0] {attn}.in_proj_bias[0] "
                         f"{attn}.out_proj.weight[1]", f"{attn}.heads"),
        "layer.linear1": (6, "layer.linear1.weight[0] layer.linear1.bias[0] "
                             "layer.linear2.weight[1]"),
    })


class Positions(nn.Module):
    """A table of more positions than this input has."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(9, 4))
        self.embed, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.embed(x) + self.table[: x.shape[1]]))


def test_positions_beyond_the_input_are_not_free():
    derivation = check(Positions(), torch.randn(2, 5, 3), {
        "embed": (4, "embed.weight[0] embed.bias[0] table[1] head.weight[1]"),
    })
    assert axis_text(derivation.spec, "table") == "[9] [4 embed]"
    assert any("never read" in report.reason for report in derivation.spec.reports)
