"""Steps of random programs: entry by entry, shapes, products and reductions."""

import torch
from random_programs import Unfit, as_numbers, divisor, step

aten = torch.ops.aten


# -- entry by entry -------------------------------------------------------------------------------


@step(2)
def activation(net):
    x = net.any()
    return net.call(net.draw.choice([aten.tanh, aten.relu, aten.gelu, aten.sin]).default, x)


@step(3)
def combine(net):
    x = net.any()
    y = net.broadcastable(net.of(x))
    return net.call(net.draw.choice([aten.add, aten.mul, aten.sub]).Tensor, x, y)


@step()
def where(net):
    x = net.any()
    y, z = net.broadcastable(net.of(x)), net.broadcastable(net.of(x))
    return net.call(aten.where.self, net.call(aten.gt.Tensor, x, y), x, z)


@step()
def uniform(net):
    x = net.any()
    made = net.call(net.draw.choice([aten.zeros_like, aten.ones_like]).default, x)
    if net.chance():
        return net.call(aten.mul.Tensor, net.call(aten.fill.Scalar, x, 2.0), net.some(*net.of(x)))
    return net.call(aten.add.Tensor, made, net.broadcastable(net.of(x)))


@step()
def positions(net):
    x = net.any(1, 2, 3)
    return net.call(aten.add.Tensor, x, net.constant(torch.arange(net.of(x)[-1]).double()))


@step()
def gated(net):
    x = net.any(1, 2, 3)
    return net.call(aten.glu.default, x, net.axis(x))


@step()
def prelu(net):
    x = net.any(2, 3)
    return net.call(aten.prelu.default, x, net.some(net.of(x)[1]))


# -- shapes ---------------------------------------------------------------------------------------


@step(2)
def split_axis(net):
    x = net.any(1, 2, 3)
    place = net.axis(x)
    shape = list(net.of(x))
    part = divisor(net, shape[place])
    shape[place : place + 1] = [part, shape[place] // part]
    return net.call(aten.view.default, net.call(aten.contiguous.default, x), shape)


@step(2)
def merge_axes(net):
    x = net.any(2, 3, 4)
    shape = list(net.of(x))
    place = net.draw.randrange(len(shape) - 1)
    shape[place : place + 2] = [shape[place] * shape[place + 1]]
    return net.call(aten.reshape.default, x, shape)


@step(2)
def permute(net):
    x = net.any(2, 3, 4)
    order = list(range(len(net.of(x))))
    net.draw.shuffle(order)
    return net.call(aten.permute.default, x, order)


@step()
def expand(net):
    x = net.any(1, 2, 3)
    wide = net.call(aten.unsqueeze.default, x, net.axis(x))
    shape = [net.size() if size == 1 else size for size in net.of(wide)]
    return net.call(aten.expand.default, wide, [net.size(), *shape] if net.chance(0.3) else shape)


@step()
def repeat(net):
    x = net.any(1, 2)
    if net.chance():
        return net.call(aten.repeat_interleave.self_int, x, 2, net.axis(x))
    return net.call(aten.repeat.default, x, [net.draw.choice([1, 2]) for _ in net.of(x)])


@step()
def diagonal(net):
    x = net.any(2, 3)
    one, other = net.draw.sample(range(len(net.of(x))), 2)
    return net.call(aten.diagonal.default, x, 0 if net.chance(0.8) else 1, one, other)


@step()
def windows(net):
    x = net.any(1, 2)
    place = net.axis(x)
    return net.call(aten.unfold.default, x, place, 2, net.draw.choice([1, 2]))


@step()
def moved(net):
    x = net.any(1, 2, 3)
    place = net.axis(x)
    if net.chance():
        return net.call(aten.roll.default, x, [1], [place])
    return net.call(aten.flip.default, x, [place])


@step(2)
def concatenate(net):
    x = net.any(1, 2, 3)
    place = net.axis(x)
    others = [x, net.some(*net.of(x))]
    return net.call(aten.cat.default, others, place)


@step()
def stack(net):
    x = net.any(0, 1, 2)
    place = net.draw.randrange(len(net.of(x)) + 1)
    return net.call(aten.stack.default, [x, net.some(*net.of(x))], place)


@step(2)
def cut(net):
    x = net.any(1, 2, 3)
    place = net.axis(x)
    if net.chance(0.3):
        return net.call(aten.unbind.int, x, place)
    return net.call(aten.split.Tensor, x, max(1, net.of(x)[place] // 2), place)


@step(2)
def piece(net):
    x = net.any(1, 2, 3)
    place = net.axis(x)
    size = net.of(x)[place]
    start = net.draw.randrange(size)
    if net.chance(0.3):
        return net.call(aten.select.int, x, place, start)
    stop = net.draw.randrange(start, size) + 1
    return net.call(aten.slice.Tensor, x, place, start, stop, net.draw.choice([1, 1, 2]))


@step()
def overwrite(net):
    x = net.any(1, 2, 3)
    place = net.axis(x)
    shape = list(net.of(x))
    start = net.draw.randrange(shape[place])
    if net.chance():
        del shape[place]
        return net.call(aten.select_scatter.default, x, net.some(*shape), place, start)
    shape[place] -= start
    return net.call(aten.slice_scatter.default, x, net.some(*shape), place, start)


@step()
def pad(net):
    x = net.any(1, 2)
    return net.call(aten.constant_pad_nd.default, x, [net.draw.choice([0, 1]), 1], 0.5)


@step()
def triangle(net):
    return net.call(net.draw.choice([aten.tril, aten.triu]).default, net.any(2, 3))


@step()
def shuffle(net):
    n, c, h = net.size(), 4 * net.size(), net.size()
    x = net.some(n, c, h, h)
    if net.chance():
        return net.call(aten.pixel_shuffle.default, x, 2)
    return net.call(aten.channel_shuffle.default, x, 2)


# -- products -------------------------------------------------------------------------------------


@step(2)
def linear(net):
    x = net.any(1, 2, 3)
    out = net.size()
    bias = net.some(out) if net.chance() else None
    return net.call(aten.linear.default, x, net.some(out, net.of(x)[-1]), bias)


@step(2)
def matmul(net):
    x, y = net.any(1, 2, 3), net.any(1, 2, 3)
    return net.call(aten.matmul.default, x, y if net.chance(0.7) else x)


@step()
def gram(net):
    x = net.any(2, 3)
    other = net.call(aten.transpose.int, x, -1, -2)
    return net.call(aten.matmul.default, *([x, other] if net.chance() else [other, x]))


@step(2)
def einsum(net):
    values = [net.any(1, 2, 3) for _ in range(net.draw.choice([1, 2, 2, 3]))]
    sizes: dict[str, int] = {}
    terms = []
    for value in values:
        term = ""
        for size in net.of(value):
            fits = [c for c, known in sizes.items() if known == size]
            letter = net.draw.choice(fits) if fits and net.chance(0.7) else "abcdefghi"[len(sizes)]
            sizes.setdefault(letter, size)
            term += letter
        terms.append(term)
    kept = net.draw.sample(sorted(sizes), net.draw.randrange(min(3, len(sizes)) + 1))
    return net.call(aten.einsum.default, ",".join(terms) + "->" + "".join(kept), values)


@step()
def outer(net):
    return net.call(aten.outer.default, net.any(1), net.any(1))


@step()
def added_product(net):
    b, n, k, m = net.shape(4)
    left, right = net.some(b, n, k), net.some(b, k, m)
    if net.chance():
        return net.call(aten.addbmm.default, net.some(n, m), left, right)
    if net.chance():
        return net.call(aten.baddbmm.default, net.some(b, n, m), left, right)
    return net.call(aten.addmm.default, net.some(m), net.some(n, k), net.some(k, m))


@step()
def bilinear(net):
    n, i, j, o = net.shape(4)
    bias = net.some(o) if net.chance() else None
    return net.call(aten.bilinear.default, net.some(n, i), net.some(n, j), net.some(o, i, j), bias)


@step()
def trace(net):
    n = net.size()
    return net.call(aten.trace.default, net.some(n, n))


@step()
def cross(net):
    x = net.any(2, 3)
    return net.call(aten.linalg_cross.default, x, net.some(*net.of(x)), dim=net.axis(x))


@step()
def distances(net):
    n, m, d = net.shape(3)
    x, y = net.some(n, d), net.some(m, d)
    if net.chance():
        y = net.some(n, d)
        if x == y:  # one, up to rounding: whatever orders the entries orders noise
            raise Unfit
        return net.call(aten.cosine_similarity.default, x, y, net.draw.choice([0, 1]))
    return net.call(aten._cdist_forward.default, x, y, 2.0, None)


@step(2)
def matrix(net):
    n = net.size()
    square = net.some(net.size(), n, n) if net.chance(0.3) else net.some(n, n)
    other = square if net.chance(0.3) else net.some(n, net.size())
    unit = net.constant(torch.eye(n, dtype=torch.float64))
    apart = net.call(aten.add.Tensor, net.call(aten.tanh.default, square), unit, alpha=3.0)
    return net.draw.choice([
        lambda: net.call(aten.linalg_inv_ex.default, apart)[0],
        lambda: net.call(aten.linalg_pinv.default, apart),
        lambda: net.call(aten._linalg_solve_ex.default, apart, other)[0],
        lambda: net.call(aten._linalg_det.default, apart)[0],
        lambda: net.call(aten.linalg_matrix_exp.default, square),
        lambda: net.call(aten._linalg_svd.default, square, False, False)[1],
    ])()


# -- reductions -----------------------------------------------------------------------------------


@step(2)
def reduced(net):
    x = net.any(1, 2, 3)
    place, keep = net.axis(x), net.chance()
    op = net.draw.choice([
        aten.sum.dim_IntList, aten.mean.dim, aten.amax.default, aten.logsumexp.default,
        aten.var_mean.correction, aten.linalg_vector_norm.default,
    ])
    if op is aten.linalg_vector_norm.default:
        return net.call(op, x, 2, [place], keep)
    if op is aten.var_mean.correction:
        return net.call(op, x, [place], correction=0, keepdim=keep)
    return net.call(op, x, [place], keep)


@step()
def extremes(net):
    x = net.any(1, 2, 3)
    if net.chance(0.3):
        return net.call(aten.aminmax.default, x, dim=net.axis(x))
    op = net.draw.choice([aten.max, aten.min, aten.median]).dim
    return as_numbers(net, net.call(op, x, net.axis(x), net.chance()))


@step()
def ordered(net):
    x = net.any(1, 2, 3)
    place = net.axis(x)
    k = net.draw.randrange(net.of(x)[place]) + 1
    found = net.draw.choice([
        lambda: net.call(aten.sort.default, x, place),
        lambda: net.call(aten.topk.default, x, k, place),
        lambda: net.call(aten.kthvalue.default, x, k, place),
        lambda: net.call(aten.cummax.default, x, place),
        lambda: [net.call(aten.argsort.default, x, place)],
        lambda: [net.call(aten.argmax.default, x, place, net.chance())],
        lambda: [net.call(aten.cumsum.default, x, place)],
    ])()
    return as_numbers(net, found)


@step(2)
def softmax(net):
    x = net.any(1, 2, 3)
    op = net.draw.choice([aten.softmax, aten.log_softmax]).int
    return net.call(op, x, net.axis(x))


@step()
def counted(net):
    x = net.any(1)
    index = net.computed(net.of(x), 4)
    weights = net.some(*net.of(x)) if net.chance() else None
    return as_numbers(net, [net.call(aten.bincount.default, index, weights, 4)])
