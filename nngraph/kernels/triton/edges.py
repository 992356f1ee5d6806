r"""The edge update in one pass over the edges on a GPU, forward and backward: the backend "triton".

.. math:: e'_{ij} = e_{ij} + \mathrm{silu}(\hat e_{ij} A^T + s_j + t_i + b_{k(ij)})

with the means of e' at both ends and over each block, for dense blocks. Forward reads e and writes
e'; backward reads e and the gradient of e' and writes that of e, and makes all else anew: nothing
else of the size of the edges exists. All between the two is float32, also for bfloat16 and float16
(float64 for float64), and sums are made in an order that depends on shapes alone. Products of
float32 are products of float32: "tf32", on tensor cores, would be several times faster and keep 10
of the 23 bits of each factor, so that it would err thousands of times as much as plain torch.

The kernels are held against the plain form in Triton's interpreter, and compiled for compute
capability 9.0. They have not been run or timed on a GPU; ``benchmarks/gpu.py`` does both. Backward
at 128 channels of float32 takes 178 KiB of shared memory, which devices of other capabilities may
lack: Triton then refuses it.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nngraph.errors import InvalidGraphError, MissingDependencyError
from nngraph.graph import Bucket, Topology
from nngraph.kernels.modes import derivatives, follows_operations
from nngraph.kernels.tiled.fused import Updated, UpdateGiven, applied
from nngraph.kernels.tiled.tiles import EPS, Sums

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
#: Of A with C padded to a power of two, the most: it stays on the chip, as does its gradient.
MATRIX_BYTES = 2**16
#: Bytes of a tile: what a program holds of each array of edges at a time. More of float32 leaves no
#: registers, and its products, which use no tensor cores, take minutes to compile.
TILE_BYTES = 2**13
#: Tiles that a strip has side by side, at the most: its sums over sources are written once.
STEPS = 32
#: Programs of a launch, at the most: several for each multiprocessor, and a part of the gradient
#: of A for each.
PROGRAMS = 1024


def edge_update(given: UpdateGiven, e: Tensor, weight: Tensor, *ends: Tensor | None) -> Updated:
    """See :func:`nngraph.kernels.edge_update`.

    Raises:
        MissingDependencyError: if triton is not installed.
        InvalidGraphError: if the graph is irregular, the features are not on a CUDA device (or
            anywhere, under Triton's interpreter), not of one type among :data:`DTYPES`, or have
            more channels than a program can hold.
    """
    features = [e, weight, *(value for value in ends if value is not None)]
    _check_place(given.topology, features)
    if follows_operations(e):
        return given.plain(e, weight, *ends)
    _check_kind(features)
    return applied(_TritonEdgeUpdate, given, e, weight, *ends)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _interpreted() -> bool:
    """Whether the programs run in Triton's interpreter; it reads TRITON_INTERPRET when imported."""
    return type(_programs().forward).__name__ == "InterpretedFunction"


@lru_cache(maxsize=1)
def _programs() -> ModuleType:
    try:
        return import_module("nngraph.kernels.triton.programs")
    except ImportError as error:
        raise MissingDependencyError(
            "the backend 'triton' needs triton, which is not installed. Install it with "
            "`pip install triton`, or use the backend 'dense'."
        ) from error


def _check_place(topology: Topology, features: list[Tensor]) -> None:
    interpreted = _interpreted()
    if topology.buckets is None:
        raise InvalidGraphError(
            "the backend 'triton' was asked of an irregular graph, whose edges are in no blocks; "
            "expected 'scatter', 'reference' or 'auto'."
        )
    devices = sorted({str(value.device) for value in (topology.nodes.in_degree, *features)})
    if len(devices) > 1 or (features[0].device.type != "cuda" and not interpreted):
        raise InvalidGraphError(
            f"the backend 'triton' was given tensors on {', '.join(devices)}; expected all, those "
            "of the topology too (Topology.to), on one CUDA device. Move them there, or use the "
            "backend 'dense'."
        )


def _check_kind(features: list[Tensor]) -> None:
    kinds = sorted({str(value.dtype) for value in features})
    if len(kinds) > 1 or features[0].dtype not in DTYPES:
        raise InvalidGraphError(
            f"the backend 'triton' was given tensors of {' and '.join(kinds)}; expected one of "
            f"{', '.join(map(str, DTYPES))} for all. Cast them, or use the backend 'dense'."
        )
    channels, size = features[0].shape[-1], features[0].element_size()
    if _padded(channels) ** 2 * size > MATRIX_BYTES:
        most = 1
        while (2 * most) ** 2 * size <= MATRIX_BYTES:
            most *= 2
        raise InvalidGraphError(
            f"the backend 'triton' was given {channels} channels of {kinds[0]}; expected at most "
            f"{most}, for which A stays on the chip. Use the backend 'dense'."
        )


def _padded(size: int) -> int:
    """The power of two from ``size`` on."""
    return 1 << max(size - 1, 0).bit_length()


def _tile(rows: int, columns: int, edge_bytes: int) -> tuple[int, int]:
    """Rows and columns of a tile: powers of two, at least 16 edges, as products need."""
    edges = max(16, TILE_BYTES // edge_bytes)
    # Sums over rows are written for each tile, those over columns for each strip: more rows. At 16
    # and more, both together are a tenth of the edges or less.
    high = min(_padded(rows), max(16, edges // 8))
    wide = min(_padded(columns), edges // high)
    high = min(_padded(rows), edges // wide)
    return high, max(wide, 16 // high)


def _launch(
    given: UpdateGiven, bucket: Bucket, direction: str, inputs: list[Any], sums: Sums,
    grad_weight: Tensor | None = None,
) -> None:  # fmt: skip
    """Run the programs of a direction on a bucket; take in its sums, and its part of A's gradient.

    Args:
        inputs: what these programs are given before places for sums, e first.
    """
    e = inputs[0]
    channels = e.shape[-1]
    padded = max(16, _padded(channels))
    high, wide = _tile(bucket.rows, bucket.columns, padded * e.element_size())
    across = -(-bucket.columns // wide)
    # Strips of nearly equal width, none of more than STEPS tiles.
    span = wide * -(-across // max(1, -(-across // STEPS)))
    tiles, spans = -(-bucket.rows // high), -(-bucket.columns // span) if across else 0
    # What programs write of sums at targets and at sources, to be added up.
    at_target = sums.like.new_empty(len(e), bucket.count, spans, bucket.rows, channels)
    at_source = sums.like.new_empty(len(e), bucket.count, tiles, bucket.columns, channels)
    jobs = len(e) * bucket.count * tiles * spans
    each = -(-jobs // PROGRAMS)
    topology = given.topology
    arguments = (
        bucket.source.index, bucket.target.index, bucket.source.start, bucket.target.start,
        bucket.start, bucket.first_block, topology.num_edges, topology.num_nodes,
        len(topology.blocks.size), bucket.count, bucket.parts, bucket.rows, bucket.columns, jobs,
        each,
    )  # fmt: skip
    language = import_module("triton.language")
    options = {
        "C": channels, "PADDED": padded, "ROWS": high, "COLUMNS": wide, "SPAN": span, "EPS": EPS,
        "NORMALISE": given.normalise,
        "ACC": language.float64 if e.dtype == torch.float64 else language.float32,
        "EMULATE": e.dtype == torch.bfloat16 and _interpreted(),
        "num_warps": 8,
    }  # fmt: skip
    if jobs:
        programs = -(-jobs // each)
        parts = []
        if grad_weight is not None:
            parts = [sums.like.new_empty(programs, *grad_weight.shape)]
        # Triton would start programs on the current device, not on that of the tensors.
        with torch.cuda.device(e.device) if e.is_cuda else nullcontext():
            getattr(_programs(), direction)[(programs,)](
                *inputs, *parts, at_target, at_source, *arguments, **options
            )
        if grad_weight is not None:
            grad_weight += parts[0].sum(0)
    sums.add(bucket, at_target.sum(2), at_source.sum(2))


def _sums(topology: Topology, like: Tensor) -> Sums:
    """Sums in the type that all between loads and stores has."""
    kind = torch.promote_types(like.dtype, torch.float32)
    return Sums(topology, like.new_empty((len(like), 0, like.shape[-1]), dtype=kind))


class _TritonEdgeUpdate(torch.autograd.Function):
    """The update with a backward pass of its own; higher derivatives use the plain form."""

    @staticmethod
    def forward(ctx: Any, given: UpdateGiven, *inputs: Tensor | None) -> Updated:
        ctx.given = given
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)
        given_to = _contiguous(*inputs)
        e, out = given_to[0], torch.empty_like(given_to[0])
        sums = _sums(given.topology, e)
        for bucket in given.topology.buckets or ():
            _launch(given, bucket, "forward", [*given_to, out], sums)
        incoming, outgoing, blocks = (mean.to(e.dtype) for mean in sums.means())
        return out, incoming, outgoing, blocks

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        given: UpdateGiven = ctx.given
        saved = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, *derivatives(given.plain, saved, ctx.needs_input_grad[1:], gradients)
        e, weight, *_, block = saved
        sums, grad_e = _sums(given.topology, e), e.new_empty(e.shape)
        grad_weight = sums.like.new_zeros(weight.shape)
        inputs = _contiguous(*saved, gradients[0], *sums.gradients(gradients[1:]), grad_e)
        for bucket in given.topology.buckets or ():
            _launch(given, bucket, "backward", inputs, sums, grad_weight)
        at_targets, at_sources, at_blocks = (total.to(e.dtype) for total in sums.all())
        of_block = None if block is None else at_blocks
        return None, grad_e, grad_weight.to(e.dtype), at_sources, at_targets, of_block


def _contiguous(*values: Tensor | None) -> list[Any]:
    return [None if value is None else value.contiguous() for value in values]
