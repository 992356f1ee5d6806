"""What holds of the backend "triton": run as a script, in Triton's interpreter or on a GPU.

Prints for each case what failed, or nothing, as JSON. A process of its own, since Triton reads
``TRITON_INTERPRET`` when it is imported.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch import Tensor

from nngraph import kernels
from nngraph.errors import InvalidGraphError
from nngraph.graph import Architecture
from nngraph.graph.topology.topology import Topology
from nngraph.kernels.triton import edges as triton_edges
from nngraph.testing import assert_as_precise, structured_architectures

mlp = Architecture.mlp
STRUCTURED = dict(structured_architectures())
MIXED = [mlp([2, 5, 3]), mlp([2, 3]), mlp([3, 5, 3])]


def draw(
    topology: Topology, lead: tuple[int, ...], channels: int, device: str,
    dtype: torch.dtype = torch.float64,
) -> list[Tensor]:  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    rows = (topology.num_edges, channels, topology.num_nodes, topology.num_nodes)
    shapes = [(*(lead if i != 1 else ()), size, channels) for i, size in enumerate(rows)]
    shapes.append((*lead, len(topology.blocks.size), channels))
    drawn = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    return [value.to(device, dtype).requires_grad_() for value in drawn]


def update(topology: Topology, backend: str, *given: Tensor, normalise: bool = True):
    return tuple(kernels.edge_update(topology, *given, normalise=normalise, backend=backend))


def same(
    topology: Topology, given: Sequence[Tensor], normalise: bool = True,
    reads: Sequence[Sequence[int]] = ((0, 1, 2, 3),),
) -> None:  # fmt: skip
    """Values and gradients are those of the reference, in float64, whatever a loss reads."""
    found, expected = (
        update(topology, backend, *given, normalise=normalise)
        for backend in ("triton", "reference")
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    seeds = [torch.randn_like(value) for value in expected]
    for read in reads:
        gradients = [
            torch.autograd.grad(
                [out[i] for i in read], given, [seeds[i] for i in read], retain_graph=True
            )
            for out in (found, expected)
        ]
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)


def precise(dtype: torch.dtype, device: str) -> None:
    """Errs at most twice as much as plain torch; no more, in 16 bits, since sums have 32.

    On 24 channels, which are no power of two.
    """
    topology = Topology.of(mlp([2, 8, 8, 1])).to(device)
    e, weight, *others = (v.detach() for v in draw(topology, (3,), 24, device, dtype))
    assert_as_precise(
        partial(update, topology, "triton"), partial(update, topology, "reference"),
        [e, weight / 5, *others], factor=2 if dtype == torch.float32 else 1,
    )  # fmt: skip


def stack(device: str) -> None:
    topology = Topology.of(mlp([2, 4, 3])).to(device)
    same(topology, draw(topology, (3,), 3, device), reads=((0, 1, 2, 3), (0,), (1,), (2,), (3,)))
    same(topology, draw(topology, (2, 1), 3, device)[:4])


def no_norm(device: str) -> None:
    topology = Topology.of(mlp([2, 4, 1])).to(device)
    same(topology, draw(topology, (), 16, device), normalise=False)


def structured(name: str, device: str) -> None:
    topology = Topology.of(STRUCTURED[name]).to(device)
    same(topology, draw(topology, (2,), 2, device))


def ragged(device: str) -> None:
    topology = Topology.of_batch(MIXED).to(device)
    assert any(b.source.index is not None and b.count > 1 for b in topology.buckets)
    same(topology, draw(topology, (), 3, device))


def cut(device: str) -> None:
    """Several tiles, strips and jobs for a program, none of which divides the next."""
    topology = Topology.of(mlp([5, 19])).to(device)
    given = draw(topology, (2,), 3, device)
    with smaller(TILE_BYTES=1, STEPS=2, PROGRAMS=3):
        same(topology, given)


@contextmanager
def smaller(**sizes: int):
    kept = {name: getattr(triton_edges, name) for name in sizes}
    try:
        for name, size in sizes.items():
            setattr(triton_edges, name, size)
        yield
    finally:
        for name, size in kept.items():
            setattr(triton_edges, name, size)


def any_memory_order(device: str) -> None:
    topology = Topology.of(mlp([2, 3])).to(device)
    drawn = [value.detach() for value in draw(topology, (2,), 3, device)]
    given = [value.mT.contiguous().mT.requires_grad_() for value in drawn]
    assert not any(value.is_contiguous() for value in given[:4])
    same(topology, given)
    # One source for all networks.
    same(topology, [given[0], given[1], given[2][0].detach().requires_grad_(), *given[3:]])


def no_networks(device: str) -> None:
    topology = Topology.of(mlp([2, 3, 1])).to(device)
    same(topology, draw(topology, (0,), 3, device))


def second_derivatives(device: str) -> None:
    topology = Topology.of(mlp([2, 3])).to(device)
    given, found = draw(topology, (2,), 3, device), []
    for backend in ("triton", "reference"):
        out = update(topology, backend, *given)
        first = torch.autograd.grad(
            sum(v.square().sum() for v in out), given[:4], create_graph=True
        )
        found.append(torch.autograd.grad(sum(v.square().sum() for v in first), given))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-11)


def only_what_is_asked_for(device: str) -> None:
    topology = Topology.of(mlp([2, 3])).to(device)
    e, weight, *others = (value.detach() for value in draw(topology, (2,), 3, device))
    weight.requires_grad_()
    update(topology, "triton", e, weight, *others)[1].sum().backward()
    assert weight.grad is not None
    assert e.grad is None


def plain_where_torch_follows(device: str) -> None:
    """torch.compile, torch.func and autocast see plain operations."""
    topology = Topology.of(mlp([2, 3, 1])).to(device)
    given = draw(topology, (2,), 3, device)
    compiled = torch.compile(
        partial(update, topology, "triton"), fullgraph=True, backend="eager"
    )
    expected = update(topology, "reference", *given)
    torch.testing.assert_close(compiled(*given), expected, rtol=1e-10, atol=1e-12)

    def loss(e: Tensor) -> Tensor:
        return sum(v.square().sum() for v in update(topology, "triton", e, *given[1:]))

    (gradient,) = torch.autograd.grad(sum(v.square().sum() for v in expected), given[:1])
    torch.testing.assert_close(torch.func.grad(loss)(given[0]), gradient)
    with torch.autocast(device, torch.bfloat16):
        single = [value.float() for value in given]
        found, plain = (update(topology, b, *single) for b in ("triton", "dense"))
    torch.testing.assert_close(found, plain, rtol=0, atol=0)


def refusals(device: str) -> None:
    topology = Topology.of(mlp([2, 3, 1])).to(device)
    given = draw(topology, (), 3, device)
    with pytest.raises(InvalidGraphError, match=r"float32 and torch\.float64; expected one of"):
        update(topology, "triton", given[0].float(), *given[1:])
    with pytest.raises(InvalidGraphError, match=r"complex64; expected one of"):
        update(topology, "triton", *(value.to(torch.complex64) for value in given))
    for dtype, most in ((torch.float64, 64), (torch.float32, 128), (torch.bfloat16, 128)):
        wide = [value.to(dtype) for value in draw(topology, (), most + 1, device)]
        with pytest.raises(InvalidGraphError, match=f"{most + 1} channels .* at most {most}, "):
            update(topology, "triton", *wide)


CASES: dict[str, Callable[[str], None]] = {
    **{
        f"precise-{str(dtype)[6:]}": partial(precise, dtype)
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    },
    "stack": stack,
    "no-norm": no_norm,
    "ragged": ragged,
    **{name: partial(structured, name) for name in ("convolutions", "grouped", "heads")},
    "cut": cut,
    "any-memory-order": any_memory_order,
    "no-networks": no_networks,
    "second-derivatives": second_derivatives,
    "only-what-is-asked-for": only_what_is_asked_for,
    "plain-where-torch-follows": plain_where_torch_follows,
    "refusals": refusals,
}


def main(device: str) -> None:
    torch.set_num_threads(1)
    failures = {}
    for name, case in CASES.items():
        torch.manual_seed(0)
        try:
            case(device)
            failures[name] = ""
        except Exception:
            failures[name] = traceback.format_exc()
    print(json.dumps(failures))


if __name__ == "__main__":
    main(sys.argv[1])
