"""Attention as one operation."""

from __future__ import annotations

from converters.symmetry.call import Call, Unruled
from converters.symmetry.dims import Dim, cut, factor, multiply, unify
from converters.symmetry.rules.common import align, broadcast, rest_fixed, table
from converters.symmetry.values import Value

__all__ = ["ATTENTION"]


def attention(call: Call) -> list[Value | None]:
    r"""Attend, :math:`y_{lv} = \sum_s \mathrm{softmax}_s(q_{le} k_{se} / c + m_{ls}) v_{sv}`.

    Queries and keys share their features; values have their own. Heads are batch axes. With
    ``enable_gqa`` each head of the keys serves several heads of the queries.
    """
    query, key, value = (call.value(name) for name in ("query", "key", "value"))
    mask = call.get("attn_mask", call.get("attn_bias"))
    lead_q, lead_k = list(query.dims[:-2]), list(key.dims[:-2])
    # Kernels that torch chooses below the level of Python group heads without being told.
    if call.get("enable_gqa", True) and lead_q[-1].size != lead_k[-1].size:
        heads, copies = factor(lead_q[-1], (lead_k[-1].size, lead_q[-1].size // lead_k[-1].size))
        unify(heads, lead_k[-1])
        unify(lead_k[-1], value.dims[-3])
        lead = [*broadcast([lead_q[:-1], lead_k[:-1], value.dims[:-3]]), lead_q[-1]]
        joint: list[Dim] = [*lead[:-1], heads, copies]
    else:
        lead = broadcast([lead_q, lead_k, value.dims[:-2]])
        joint = lead
    rows = query.dims[-2]
    features = align([query.dims[-1], key.dims[-1]])
    columns = align([key.dims[-2], value.dims[-2]])
    call.iterates(*joint, rows, columns, features)
    call.iterates(*joint, rows, columns, value.dims[-1])
    if isinstance(mask, Value):
        broadcast([[*lead, rows, columns], mask.dims])
    if call.get("is_causal"):
        call.fix([rows, columns], "attends to what came before")
    output = Value((*lead, rows, value.dims[-1]))
    inputs = [v for v in (query, key, value, mask) if isinstance(v, Value) and v.constant is None]
    return rest_fixed(call, call.enter("attention", inputs, output))


def multihead(call: Call) -> list[Value | None]:
    """Attend with the projections inside, as torch's fast path does."""
    query, key, value = (call.value(name) for name in ("query", "key", "value"))
    weight, bias = call["qkv_weight"], call["qkv_bias"]
    out_weight, out_bias = call["proj_weight"], call["proj_bias"]
    width, heads = int(call["embed_dim"]), int(call["num_head"])
    padded = call["mask"] is not None and call.get("mask_type") == 1
    if padded or weight.dims[0].size != 3 * width:
        raise Unruled("has a mask or weights of another form")
    for source in (query, key, value):
        align([source.dims[-1], weight.dims[1]])
    parts = [factor(part, (heads, width // heads)) for part in cut(weight.dims[0], [width] * 3)]
    for head, _ in parts[1:]:
        unify(parts[0][0], head)
    unify(parts[0][1], parts[1][1])
    head = parts[0][0]
    for dim, word in ((head, "heads"), (parts[0][1], "qk"), (parts[2][1], "v")):
        call.name(dim, word)
    align([weight.dims[0], bias.dims[0]])
    unify(out_weight.dims[1], multiply((head, parts[2][1])))
    unify(out_weight.dims[0], out_bias.dims[0])
    columns = align([key.dims[1], value.dims[1]])
    batch = broadcast([query.dims[:1], key.dims[:1], value.dims[:1]])
    call.iterates(*batch, head, query.dims[1], columns, parts[0][1])
    call.iterates(*batch, head, query.dims[1], columns, parts[2][1])
    output = Value((*batch, query.dims[1], out_weight.dims[0]))
    roles = {
        "qkv_weight": weight, "qkv_bias": bias, "proj_weight": out_weight, "proj_bias": out_bias,
    }
    first = call.enter("attention", [query, key, value], output, roles, heads=heads)
    results: list[Value | None] = [first, None]
    if call.used(1):
        weights = [*batch, query.dims[1], columns]
        if len(call.shapes[1]) == 4:
            weights.insert(1, head)
        results[1] = Value(tuple(weights), first.sources)
    return results


ATTENTION = {
    **table(
        attention, "scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_attention_math", "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_flash_attention",
    ),
    **table(multihead, "_native_multi_head_attention"),
}
