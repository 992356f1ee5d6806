"""Attention as one operation: the composition of the products and the softmax that it is."""

from __future__ import annotations

from converters.symmetry.call import Call, Unruled
from converters.symmetry.dims import Dim, atom, cut, factor, multiply, unify
from converters.symmetry.rules.common import broadcast, rest_fixed, table
from converters.symmetry.rules.linear import product
from converters.symmetry.values import Value


def _attend(
    call: Call, query: Value, key: Value, value: Value, mask: Value | None = None
) -> tuple[Value, Value]:
    """Return the weights of attention and what it gives, with the records of its three steps."""
    keys = key.like([*key.dims[:-2], key.dims[-1], key.dims[-2]])
    scores = Value(tuple(product(call, query, keys)))
    if mask is not None:
        broadcast([scores.dims, mask.dims])
    call.record(scores.dims)
    call.mixes(scores, [scores.rank - 1])
    return scores, Value(tuple(product(call, scores, value)))


def attention(call: Call) -> list[Value | None]:
    r"""Attend, :math:`y_{lv} = \sum_s \mathrm{softmax}_s(q_{le} k_{se} / c + m_{ls}) v_{sv}`.

    Queries and keys share their features; values have their own. Heads are batch axes. With
    ``enable_gqa`` each head of the keys serves several heads of the queries.
    """
    query, key, value = (call.value(name) for name in ("query", "key", "value"))
    mask = call.get("attn_mask", call.get("attn_bias"))
    given = (query, key, value)
    # Kernels that torch chooses below the level of Python group heads without being told.
    if call.get("enable_gqa", True) and query.rank > 2 and query.shape[-3] != key.shape[-3]:
        query, key, value, mask = _shared_heads(query, key, value, mask)
    weights, output = _attend(call, query, key, value, mask)
    if call.get("is_causal"):
        call.fix([weights.dims[-2], weights.dims[-1]], "attends to what came before")
    if query.rank > len(call.shape):
        output = Value((*output.dims[:-4], given[0].dims[-3], *output.dims[-2:]))
    inputs = [v for v in (*given, mask) if isinstance(v, Value) and v.constant is None]
    return _with_sums(call, call.enter("attention", inputs, output), value)


def _shared_heads(
    query: Value, key: Value, value: Value, mask: Value | None
) -> tuple[Value, Value, Value, Value | None]:
    """Give each head of keys and values a further axis, for the heads of queries that it serves."""
    heads = key.shape[-3]
    shape = (heads, query.shape[-3] // heads)

    def opened(tensor: Value) -> Value:
        split = factor(tensor.dims[-3], shape) if tensor.shape[-3] > 1 else [atom(1), atom(1)]
        return tensor.like([*tensor.dims[:-3], *split, *tensor.dims[-2:]])

    def widened(tensor: Value) -> Value:
        return tensor.like([*tensor.dims[:-2], atom(1), *tensor.dims[-2:]])

    masked = opened(mask) if mask is not None and mask.rank > 2 else mask
    return opened(query), widened(key), widened(value), masked


def _with_sums(call: Call, first: Value, value: Value) -> list[Value | None]:
    """Return what attention gives, and the logarithms of the sums of its softmax, row by row."""
    results = rest_fixed(call, first)
    if len(call.shapes) > 1 and call.used(1) and call.shapes[1] == call.shape[:-1]:
        call.drops(*call.dropped_by(0), value.dims[-1], results=(1,))
        results[1] = Value(first.dims[:-1], first.sources)
    return results


def multihead(call: Call) -> list[Value | None]:
    """Attend with the projections inside, as torch's fast path does."""
    sources = [call.value(name) for name in ("query", "key", "value")]
    weight, bias = call.value("qkv_weight"), call.value("qkv_bias")
    out_weight, out_bias = call.value("proj_weight"), call.value("proj_bias")
    width, heads = int(call["embed_dim"]), int(call["num_head"])
    mask = call["mask"]
    if weight.shape[0] != 3 * width:
        raise Unruled("has weights of another form")
    if mask is not None and call["mask_type"] == 1:
        # What is left out of each example.
        mask = mask.like([mask.dims[0], atom(1), atom(1), mask.dims[1]])
    unify(weight.dims[0], bias.dims[0])
    parts = [factor(part, (heads, width // heads)) for part in cut(weight.dims[0], [width] * 3)]
    for (head, features), word in zip(parts, ("qk", "qk", "v"), strict=True):
        call.name(head, "heads")
        call.name(features, word)
    projected = [
        _projected(call, source, Value((multiply(part), weight.dims[1])))
        for source, part in zip(sources, parts, strict=True)
    ]
    query, key, value = (
        Value((source.dims[0], head, source.dims[1], features))
        for source, (head, features) in zip(projected, parts, strict=True)
    )
    weights, output = _attend(call, query, key, value, mask)
    batch, head, rows, features = output.dims
    joined = Value((batch, rows, multiply((head, features))))
    output = _projected(call, joined, out_weight)
    unify(output.dims[-1], out_bias.dims[0])
    roles: dict[str, Value | None] = {
        "qkv_weight": weight, "qkv_bias": bias, "proj_weight": out_weight, "proj_bias": out_bias,
    }
    first = call.enter("attention", sources, output, roles, heads=heads)
    results: list[Value | None] = [first, None]
    if call.used(1):
        call.drops(*call.dropped_by(0), out_weight.dims[0], results=(1,))
        averaged: list[Dim] = [dim for i, dim in enumerate(weights.dims) if i != 1]
        dims = weights.dims if len(call.shapes[1]) == 4 else averaged
        results[1] = Value(tuple(dims), first.sources)
    return results


def _projected(call: Call, source: Value, weight: Value) -> Value:
    result = Value(tuple(product(call, source, weight.like([weight.dims[1], weight.dims[0]]))))
    call.record(result.dims)
    return result


ATTENTION = {
    **table(attention, "scaled_dot_product_attention",
            "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_attention_math",
            "_scaled_dot_product_efficient_attention", "_scaled_dot_product_flash_attention"),
    **table(multihead, "_native_multi_head_attention"),
}
