r"""The edge update as programs of Triton: what each reads, makes and adds up. Needs triton.

A program takes a run of jobs. A job is a strip of one array of one network: ``ROWS`` targets by at
most ``SPAN`` sources, visited ``COLUMNS`` sources at a time. A tile of edges is read once, and all
that follows from it is made on the chip. Its sums over sources stay there until the strip ends; its
sums over targets are written tile by tile, each to a place of its own, and added up afterwards, so
that no two programs write to one place and equal inputs give equal bits, which atomics would not.

Names: ``C`` channels, ``PADDED`` the power of two above them, ``ACC`` the type of sums and of all
that is between loads and stores. Factors of products are rounded to the type of the edges, as plain
torch rounds them. ``EMULATE`` is for bfloat16 in Triton's interpreter, which cuts numbers off where
a GPU rounds, and whose products of bfloat16 are wrong. What is no ``constexpr`` has no annotation:
Triton takes those for its own.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _strip(job, count, rows, columns, ROWS: tl.constexpr, SPAN: tl.constexpr):
    """Network, array, their number counted together, tile of rows and span of columns of a job."""
    spans, tiles = tl.cdiv(columns, SPAN), tl.cdiv(rows, ROWS)
    pair = job // (spans * tiles)
    return pair // count, pair % count, pair, (job // spans) % tiles, job % spans


@triton.jit
def _first(index, start, array, size):
    """First neuron of an array: its neurons lie one after the other, wherever that run starts."""
    if index is None:
        return start + array * size
    else:
        return tl.load(index + array * size)


@triton.jit
def _neurons(features, first, at, size, C: tl.constexpr, PADDED: tl.constexpr, ACC: tl.constexpr):
    """Features ``[n, PADDED]`` of the neurons ``at`` of an array; 0 where there is none."""
    channel = tl.arange(0, PADDED)
    there = (at < size)[:, None] & (channel < C)[None, :]
    place = (first + at)[:, None] * C + channel[None, :]
    return tl.load(features + place, mask=there, other=0.0).to(ACC)


@triton.jit
def _targets(
    features, block, first, at, size, row, C: tl.constexpr, PADDED: tl.constexpr, ACC: tl.constexpr
):
    """As :func:`_neurons`, and what row ``row`` of the blocks says to all of them."""
    found = _neurons(features, first, at, size, C, PADDED, ACC)
    if block is not None:
        channel = tl.arange(0, PADDED)
        own = tl.load(block + row * C + channel, mask=channel < C, other=0.0).to(ACC)
        found += own[None, :]
    return found


@triton.jit
def _write_sums(sums, out, first, at, size, C: tl.constexpr, PADDED: tl.constexpr):
    channel = tl.arange(0, PADDED)
    there = (at < size)[:, None] & (channel < C)[None, :]
    tl.store(out + (first + at)[:, None] * C + channel[None, :], sums, mask=there)


@triton.jit
def _normalised(
    edges, C: tl.constexpr, PADDED: tl.constexpr, EPS: tl.constexpr, NORMALISE: tl.constexpr
):
    """Edges ``[n, PADDED]`` with mean 0 and variance 1 over C channels, and what scaled them."""
    if NORMALISE:
        channel = tl.arange(0, PADDED)
        apart = edges - (tl.sum(edges, 1) / C)[:, None]
        apart = tl.where((channel < C)[None, :], apart, 0.0)
        scale = 1.0 / tl.sqrt(tl.sum(apart * apart, 1) / C + EPS)
        return apart * scale[:, None], scale
    else:
        return edges, tl.sum(edges, 1)


@triton.jit
def _rounded(values, TYPE: tl.constexpr, EMULATE: tl.constexpr):
    """Values in ``TYPE``, to the nearest; where that is emulated, numbers of it in float32."""
    if EMULATE:
        bits = values.to(tl.float32).to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
        return bits.to(tl.float32, bitcast=True)
    else:
        return values.to(TYPE)


@triton.jit
def _matrix(
    weight, C: tl.constexpr, PADDED: tl.constexpr, EMULATE: tl.constexpr, MIRROR: tl.constexpr
):
    """The weight ``[PADDED, PADDED]`` with zeros around it, transposed if ``MIRROR``."""
    one = tl.arange(0, PADDED)
    place = one[:, None] + one[None, :] * C if MIRROR else one[:, None] * C + one[None, :]
    there = (one < C)[:, None] & (one < C)[None, :]
    found = tl.load(weight + place, mask=there, other=0.0)
    return _rounded(found, weight.dtype.element_ty, EMULATE)


@triton.jit
def forward(
    e, weight, source, target, block,
    out, incoming, outgoing,
    source_index, target_index, source_start, target_start,
    first_edge, first_block, edges, nodes, blocks,
    count, parts, rows, columns, jobs, each,
    C: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    SPAN: tl.constexpr, EPS: tl.constexpr, NORMALISE: tl.constexpr, ACC: tl.constexpr,
    EMULATE: tl.constexpr,
):  # fmt: skip
    """Write e', and the parts of its sums at targets and at sources."""
    TYPE: tl.constexpr = e.dtype.element_ty
    SIZE: tl.constexpr = ROWS * COLUMNS
    matrix = _matrix(weight, C, PADDED, EMULATE, True)
    channel = tl.arange(0, PADDED)
    row = tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    # Within a tile, whose first edge is counted in 64 bits: there may be more than 2^31 numbers.
    within = tl.reshape(row[:, None] * columns + column[None, :], [SIZE])[:, None] * C
    within += channel[None, :]
    begin = tl.program_id(0).to(tl.int64) * each
    for step in range(0, tl.minimum(each, jobs - begin)):
        network, array, pair, tile, span = _strip(begin + step, count, rows, columns, ROWS, SPAN)
        at_row = tile * ROWS + row
        first = network * nodes + _first(target_index, target_start, array, rows)
        own = network * blocks + first_block + array // parts
        targets = _targets(target, block, first, at_row, rows, own, C, PADDED, ACC)
        first = network * nodes + _first(source_index, source_start, array, columns)
        start = network * edges + first_edge + (array * rows + tile * ROWS) * columns
        tiles = tl.cdiv(rows, ROWS)
        sums = tl.zeros([ROWS, PADDED], ACC)
        for at in range(0, SPAN, COLUMNS):
            at_column = span * SPAN + at + column
            sources = _neurons(source, first, at_column, columns, C, PADDED, ACC)
            there = (at_row < rows)[:, None] & (at_column < columns)[None, :]
            mask = tl.reshape(there, [SIZE])[:, None] & (channel < C)[None, :]
            place = (start + span * SPAN + at) * C
            tile_edges = tl.load(e + place + within, mask=mask, other=0.0).to(ACC)
            normal, _ = _normalised(tile_edges, C, PADDED, EPS, NORMALISE)
            total = tl.dot(
                _rounded(normal, TYPE, EMULATE), matrix, input_precision="ieee", out_dtype=ACC
            )
            total = tl.reshape(total, [ROWS, COLUMNS, PADDED])
            total += sources[None, :, :] + targets[:, None, :]
            made = tl.reshape(tile_edges, [ROWS, COLUMNS, PADDED]) + total * tl.sigmoid(total)
            made = tl.where(there[:, :, None], made, 0.0)
            written = _rounded(tl.reshape(made, [SIZE, PADDED]), TYPE, EMULATE)
            tl.store(out + place + within, written, mask=mask)
            sums += tl.sum(made, 1)
            first_sum = (pair * tiles + tile) * columns
            _write_sums(tl.sum(made, 0), outgoing, first_sum, at_column, columns, C, PADDED)
        first_sum = (pair * tl.cdiv(columns, SPAN) + span) * rows
        _write_sums(sums, incoming, first_sum, at_row, rows, C, PADDED)


@triton.jit
def backward(
    e, weight, source, target, block,
    above, to_source, to_target, to_block,
    grad_e, grad_weight, at_target, at_source,
    source_index, target_index, source_start, target_start,
    first_edge, first_block, edges, nodes, blocks,
    count, parts, rows, columns, jobs, each,
    C: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    SPAN: tl.constexpr, EPS: tl.constexpr, NORMALISE: tl.constexpr, ACC: tl.constexpr,
    EMULATE: tl.constexpr,
):  # fmt: skip
    """Write the gradient of e, and the parts of those of A, of the targets and of the sources.

    ``above`` is the gradient of e', or ``None`` for 0; ``to_source``, ``to_target`` and
    ``to_block`` are those of its sums. What enters the silu is made anew from e.
    """
    TYPE: tl.constexpr = e.dtype.element_ty
    SIZE: tl.constexpr = ROWS * COLUMNS
    matrix = _matrix(weight, C, PADDED, EMULATE, True)
    mirrored = _matrix(weight, C, PADDED, EMULATE, False)
    channel = tl.arange(0, PADDED)
    row = tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    within = tl.reshape(row[:, None] * columns + column[None, :], [SIZE])[:, None] * C
    within += channel[None, :]
    total_weight = tl.zeros([PADDED, PADDED], ACC)
    begin = tl.program_id(0).to(tl.int64) * each
    for step in range(0, tl.minimum(each, jobs - begin)):
        network, array, pair, tile, span = _strip(begin + step, count, rows, columns, ROWS, SPAN)
        at_row = tile * ROWS + row
        first = network * nodes + _first(target_index, target_start, array, rows)
        own = network * blocks + first_block + array // parts
        targets = _targets(target, block, first, at_row, rows, own, C, PADDED, ACC)
        from_target = _targets(to_target, to_block, first, at_row, rows, own, C, PADDED, ACC)
        first = network * nodes + _first(source_index, source_start, array, columns)
        start = network * edges + first_edge + (array * rows + tile * ROWS) * columns
        tiles = tl.cdiv(rows, ROWS)
        sums = tl.zeros([ROWS, PADDED], ACC)
        for at in range(0, SPAN, COLUMNS):
            at_column = span * SPAN + at + column
            sources = _neurons(source, first, at_column, columns, C, PADDED, ACC)
            from_source = _neurons(to_source, first, at_column, columns, C, PADDED, ACC)
            there = (at_row < rows)[:, None] & (at_column < columns)[None, :]
            mask = tl.reshape(there, [SIZE])[:, None] & (channel < C)[None, :]
            place = (start + span * SPAN + at) * C
            tile_edges = tl.load(e + place + within, mask=mask, other=0.0).to(ACC)
            normal, scale = _normalised(tile_edges, C, PADDED, EPS, NORMALISE)
            factor = _rounded(normal, TYPE, EMULATE)
            total = tl.dot(factor, matrix, input_precision="ieee", out_dtype=ACC)
            total = tl.reshape(total, [ROWS, COLUMNS, PADDED])
            total += sources[None, :, :] + targets[:, None, :]

            gradient = from_source[None, :, :] + from_target[:, None, :]
            gradient = tl.where(there[:, :, None], gradient, 0.0)
            if above is not None:
                higher = tl.load(above + place + within, mask=mask, other=0.0).to(ACC)
                gradient += tl.reshape(higher, [ROWS, COLUMNS, PADDED])
            part = tl.sigmoid(total)
            inner = gradient * part * (1.0 + total * (1.0 - part))
            sums += tl.sum(inner, 1)
            first_sum = (pair * tiles + tile) * columns
            _write_sums(tl.sum(inner, 0), at_source, first_sum, at_column, columns, C, PADDED)

            inner = _rounded(tl.reshape(inner, [SIZE, PADDED]), TYPE, EMULATE)
            total_weight += tl.dot(tl.trans(inner), factor, input_precision="ieee", out_dtype=ACC)
            through = tl.dot(inner, mirrored, input_precision="ieee", out_dtype=ACC)
            if NORMALISE:
                along = tl.sum(through * normal, 1) / C
                through -= (tl.sum(through, 1) / C)[:, None] + normal * along[:, None]
                through *= scale[:, None]
            found = tl.reshape(gradient, [SIZE, PADDED]) + through
            tl.store(grad_e + place + within, _rounded(found, TYPE, EMULATE), mask=mask)
        first_sum = (pair * tl.cdiv(columns, SPAN) + span) * rows
        _write_sums(sums, at_target, first_sum, at_row, rows, C, PADDED)
    one = tl.arange(0, PADDED)
    there = (one < C)[:, None] & (one < C)[None, :]
    place = tl.program_id(0).to(tl.int64) * C * C + one[:, None] * C + one[None, :]
    tl.store(grad_weight + place, total_weight, mask=there)
