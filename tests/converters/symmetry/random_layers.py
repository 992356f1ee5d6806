"""Steps of random programs: indices, norms, convolutions, pools, attention and recurrence."""

import torch
from random_programs import as_numbers, divisor, step

aten = torch.ops.aten


# -- reading and writing at indices ---------------------------------------------------------------


@step(2)
def read(net):
    x = net.any(1, 2, 3)
    place, shape = net.axis(x), list(net.of(x))
    size = shape[place]
    if net.chance():
        return net.call(aten.index_select.default, x, place, net.index([net.size()], size))
    shape[place] = net.draw.choice([1, size])
    return net.call(aten.gather.default, x, place, net.index(shape, size))


@step()
def read_at_many(net):
    x = net.any(2, 3)
    one = net.index([net.size()], net.of(x)[0])
    other = net.index(net.of(one), net.of(x)[1])
    return net.call(aten.index.Tensor, x, [one, other] if net.chance() else [None, other])


@step()
def embedding(net):
    weight = net.any(2)
    index = net.index(net.shape(net.draw.choice([1, 2])), net.of(weight)[0])
    return net.call(aten.embedding.default, weight, index)


@step(3)
def scattered(net):
    x = net.any(1, 2, 3)
    place, shape = net.axis(x), list(net.of(x))
    size = shape[place]
    if net.chance(0.3):
        shape[place] = net.size()
    index, source = net.index(shape, size), net.some(*shape)
    return net.draw.choice([
        lambda: net.call(aten.scatter_add.default, x, place, index, source),
        lambda: net.call(aten.scatter_reduce.two, x, place, index, source, "amax"),
        lambda: net.call(aten.scatter.src, x, place, index, source),
        lambda: net.call(aten.scatter.value, x, place, index, 0.5),
    ])()


@step(2)
def written_in_slices(net):
    x = net.any(1, 2, 3)
    place, shape = net.axis(x), list(net.of(x))
    size, shape[place] = shape[place], net.size()
    index, source = net.index([shape[place]], size), net.some(*shape)
    return net.draw.choice([
        lambda: net.call(aten.index_add.default, x, place, index, source),
        lambda: net.call(aten.index_copy.default, x, place, index, source),
        lambda: net.call(aten.index_reduce.default, x, place, index, source, "amax"),
        lambda: net.call(aten.index_fill.int_Scalar, x, place, index, 0.5),
        lambda: net.call(
            aten.index_put.default, x, [*[None] * place, index], source, net.chance()
        ),
    ])()


@step()
def written_at_mask(net):
    x = net.any(1, 2, 3)
    mask = net.call(aten.gt.Scalar, net.broadcastable(net.of(x)), 0.0)
    if net.chance():
        return net.call(aten.masked_fill.Scalar, x, mask, 0.5)
    return net.call(aten.masked_scatter.default, x, mask, net.some(*net.of(x)))


@step()
def segments(net):
    x = net.any(1, 2)
    n = net.of(x)[0]
    lengths = net.constant(torch.tensor([1, n - 1]))
    return net.call(aten.segment_reduce.default, x, "max", lengths=lengths)


@step()
def bucketed(net):
    borders = net.call(aten.sort.default, net.any(1))[0] if net.chance() else net.any(1)
    return as_numbers(net, [net.call(aten.bucketize.Tensor, net.any(1, 2), borders)])


@step()
def classes(net):
    x = net.any(1, 2)
    return as_numbers(net, [net.call(aten.one_hot.default, net.index(net.of(x), 3), 3)])


# -- norms ----------------------------------------------------------------------------------------


@step(2)
def layer_norm(net):
    x = net.any(1, 2, 3)
    rank = net.draw.randrange(len(net.of(x))) + 1
    shape = net.of(x)[-rank:]
    weight = net.some(*shape) if net.chance(0.7) else None
    if net.chance(0.3):
        return net.call(aten.rms_norm.default, x, shape, weight)
    bias = net.some(*shape) if net.chance() else None
    return net.call(aten.native_layer_norm.default, x, shape, weight, bias, 1e-5)


@step()
def group_norm(net):
    n, c, h = net.size(), 2 * net.size(), net.size()
    x = net.some(n, c, h)
    weight = net.some(c) if net.chance() else None
    groups = net.draw.choice([1, 2, c])
    return net.call(aten.native_group_norm.default, x, weight, weight, n, c, h, groups, 1e-5)


@step()
def batch_norm(net):
    x = net.any(2, 3)
    c = net.of(x)[1]
    weight, bias, mean = (net.some(c) if net.chance() else None for _ in range(3))
    var = None if mean is None else net.call(aten.exp.default, net.some(c))
    training = var is None or net.chance(0.3)
    if training and net.chance():
        return net.call(aten.instance_norm.default, x, weight, bias, None, None, True, 0.1, 1e-5, 0)
    return net.call(aten.native_batch_norm.default, x, weight, bias, mean, var, training, 0.1, 1e-5)


@step()
def weight_norm(net):
    v = net.any(2, 3)
    place = net.draw.choice([0, len(net.of(v)) - 1])
    g = net.some(*(size if i == place else 1 for i, size in enumerate(net.of(v))))
    return net.call(aten._weight_norm.default, v, g, place)


# -- convolutions and pools -----------------------------------------------------------------------


@step(2)
def convolution(net):
    x = net.any(3)
    groups = divisor(net, net.of(x)[1])
    taps, out = net.draw.choice([1, 2, 3]), net.size() * groups
    bias = net.some(out) if net.chance() else None
    if net.chance(0.3):
        w = net.some(net.of(x)[1], out // groups, taps)
        return net.call(aten.conv_transpose1d.default, x, w, bias, [1], [0], [0], groups)
    w = net.some(out, net.of(x)[1] // groups, taps)
    return net.call(aten.conv1d.default, x, w, bias, [1], [taps // 2], [1], groups)


@step(2)
def pool(net):
    n, c, h = net.size(), net.size(), 4
    x = net.some(n, c, h, h)
    found = net.call(aten.max_pool2d_with_indices.default, x, [2, 2], [2, 2])
    if net.chance():
        values = net.some(*net.of(found[0]))
        return net.call(aten.max_unpool2d.default, values, found[1], [h, h])
    return as_numbers(net, found)


@step()
def pool_whole(net):
    x = net.any(3)
    found = net.draw.choice([
        lambda: net.call(aten.adaptive_max_pool1d.default, x, [net.draw.choice([1, 2])]),
        lambda: [net.call(aten.adaptive_avg_pool1d.default, x, [1])],
        lambda: [net.call(aten.avg_pool1d.default, x, [2], [1])],
        lambda: [net.call(aten.upsample_nearest1d.default, x, [4])],
    ])()
    return as_numbers(net, found)


# -- attention and recurrence ---------------------------------------------------------------------


@step(3)
def attention(net):
    query = net.any(2, 3)
    *lead, rows, width = net.of(query)
    key = net.some(*lead, net.size(), width) if net.chance(0.7) else query
    columns = net.of(key)[-2]
    value = key if net.chance(0.4) else net.some(*lead, columns, net.size())
    mask = net.some(rows, columns) if net.chance(0.3) else None
    op = aten.scaled_dot_product_attention.default
    return net.call(op, query, key, value, mask, 0.0, net.chance(0.1) and mask is None)


@step(2)
def attention_in_heads(net):
    b, h, rows, columns, width, inner = net.shape(6)
    query, key = net.some(b, h, rows, width), net.some(b, h, columns, width)
    if net.chance(0.4):
        copies = net.draw.choice([1, 2])
        value = key if net.chance() else net.some(b, h, columns, inner)
        query = net.some(b, h * copies, rows, width)
        op = aten.scaled_dot_product_attention.default
        return net.call(op, query, key, value, None, 0.0, False, scale=None, enable_gqa=True)
    value = key if net.chance() else net.some(b, h, columns, width)
    op = aten._scaled_dot_product_flash_attention_for_cpu.default
    # On other layouts this kernel gives other numbers; torch's own choice never calls it there.
    return net.call(op, *(net.call(aten.contiguous.default, v) for v in (query, key, value)))


@step()
def multihead(net):
    rows, columns, heads = net.size(), net.size(), 2
    width = heads * net.draw.choice([1, 2])
    query = net.some(net.size(), rows, width)
    key = query if net.chance() else net.some(net.of(query)[0], columns, width)
    value = key if net.chance() else net.some(*net.of(key))
    weights = [net.some(3 * width, width), net.some(3 * width), net.some(width, width)]
    op = aten._native_multi_head_attention.default
    found = net.call(
        op, query, key, value, width, heads, *weights, net.some(width), None, True, net.chance()
    )
    return [ref for ref in found if ref is not None]


@step()
def recurrent(net):
    length, batch, inputs, units = net.shape(4)
    name = net.draw.choice(["lstm", "gru", "rnn_tanh"])
    gates = {"lstm": 4, "gru": 3, "rnn_tanh": 1}[name]
    directions, first = net.draw.choice([1, 2]), net.chance()
    x = net.some(*([batch, length] if first else [length, batch]), inputs)
    weights = []
    for _ in range(directions):
        weights += [net.some(gates * units, inputs), net.some(gates * units, units)]
        weights += [net.some(gates * units)] * 2
    states = [net.some(directions, batch, units) for _ in range(2 if name == "lstm" else 1)]
    op = getattr(aten, name).input
    rest = (weights, True, 1, 0.0, False, directions == 2, first)
    return net.call(op, x, states if name == "lstm" else states[0], *rest)


@step()
def recurrent_cell(net):
    batch, inputs, units = net.shape(3)
    x, h, c = net.some(batch, inputs), net.some(batch, units), net.some(batch, units)
    if net.chance():
        weights = [net.some(4 * units, inputs), net.some(4 * units, units)]
        return net.call(aten.lstm_cell.default, x, [h, c], *weights)
    return net.call(
        aten.gru_cell.default, x, h, net.some(3 * units, inputs), net.some(3 * units, units)
    )


@step()
def fourier(net):
    x = net.any(1, 2)
    found = net.call(aten.fft_rfft.default, x, None, net.axis(x))
    return net.call(aten.view_as_real.default, found)
