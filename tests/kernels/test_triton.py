"""The backend "triton": in Triton's interpreter, on a GPU if there is one, and as machine code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from nngraph import kernels
from nngraph.errors import InvalidGraphError, MissingDependencyError
from nngraph.graph import Architecture
from nngraph.graph.topology.topology import Topology
from nngraph.kernels.triton import edges as triton_edges
from nngraph.testing import IrregularTopology

ROOT = Path(__file__).parents[2]
TRIANGLE = Topology.of(Architecture.mlp([2, 3, 1]))


def features(
    topology: Topology, channels: int = 3, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    rows = (topology.num_edges, channels, topology.num_nodes, topology.num_nodes)
    return [torch.ones(size, channels, dtype=dtype) for size in (*rows, len(topology.blocks.size))]


def test_a_missing_package_is_named_with_its_install_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "nngraph.kernels.triton.programs", raising=False)
    triton_edges._programs.cache_clear()
    with pytest.raises(MissingDependencyError, match="pip install triton"):
        kernels.edge_update(TRIANGLE, *features(TRIANGLE), backend="triton")


@pytest.mark.parametrize(
    ("name", "ask"),
    [
        ("gather", lambda x, e: kernels.gather(TRIANGLE, x, "source", "triton")),
        ("reduce_sum", lambda x, e: kernels.reduce(TRIANGLE, e, "source", "mean", "triton")),
        ("edge_affine", lambda x, e: kernels.edge_affine(TRIANGLE, e, x, x, "triton")),
        ("propagate", lambda x, e: kernels.propagate(TRIANGLE, e[:, 0], x, backend="triton")),
        (
            "streamed_edge_means",
            lambda x, e: kernels.streamed_edge_means(
                TRIANGLE, e, e[:3], x[:2], [], backend="triton"
            ),
        ),
    ],
)
def test_other_primitives_refuse_it(name: str, ask: Callable[[Tensor, Tensor], object]):
    e, _, x, *_ = features(TRIANGLE)
    with pytest.raises(ValueError, match=f"asked for '{name}', and serves edge_update alone"):
        ask(x, e)


if find_spec("triton") is not None:
    from triton_cases import CASES

    #: In the interpreter, and on a GPU where there is one.
    DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]

    @lru_cache(maxsize=len(DEVICES))
    def failures(device: str) -> dict[str, str]:
        """What each case says on a device, from one process."""
        own = {"TRITON_INTERPRET": "1"} if device == "cpu" else {}
        kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("triton_cases.py")), device],
            env={**kept, **own, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
        return found

    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("case", CASES)
    def test_it_is_the_plain_update(case: str, device: str):
        assert failures(device)[case] == ""

    def test_other_devices_and_irregular_graphs_are_refused():
        with pytest.raises(InvalidGraphError, match=r"on cpu; expected all, .* CUDA device"):
            kernels.edge_update(TRIANGLE, *features(TRIANGLE), backend="triton")
        given = features(TRIANGLE)
        given[1] = given[1].to("meta")
        with pytest.raises(InvalidGraphError, match="on cpu, meta; expected all"):
            kernels.edge_update(TRIANGLE, *given, backend="triton")
        graph = IrregularTopology.of_edges(torch.tensor([[0, 1], [1, 0]]), 2)
        with pytest.raises(InvalidGraphError, match="irregular graph"):
            kernels.edge_update(graph, *features(graph), backend="triton")

    def launches(
        topology: Topology, given: list[Tensor], monkeypatch: pytest.MonkeyPatch
    ) -> list[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
        """Programs that a forward and a backward pass start, with what they are given."""
        programs = triton_edges._programs()
        started: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

        class Recorder:
            def __init__(self, name: str) -> None:
                self.program = getattr(programs, name)

            def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
                return lambda *arguments, **options: started.append(
                    (self.program, arguments, options)
                )

        fake = SimpleNamespace(forward=Recorder("forward"), backward=Recorder("backward"))
        monkeypatch.setattr(triton_edges, "_programs", lambda: fake)
        monkeypatch.setattr(triton_edges, "_check_place", lambda *_: None)
        for value in given:
            value.requires_grad_()
        out = kernels.edge_update(topology, *given, backend="triton")
        torch.autograd.grad([out.edges], given, [torch.ones_like(out.edges)])
        return started

    def compiled(program: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Machine code for compute capability 9.0, specialised as Triton specialises a call."""
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        kinds = {
            torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16",
            torch.float64: "fp64", torch.int64: "i64",
        }  # fmt: skip
        warps = {"num_warps": options["num_warps"]}
        given = dict(zip(program.arg_names, arguments, strict=False)) | {
            name: value for name, value in options.items() if name not in warps
        }
        assert list(given) == program.arg_names
        signature, constants, aligned = {}, {}, {}
        for place, (name, value) in enumerate(given.items()):
            if isinstance(value, Tensor):
                signature[name] = f"*{kinds[value.dtype]}"
            elif name in options or value is None or value == 1:
                signature[name], constants[place,] = "constexpr", value
            else:
                signature[name] = "i32"
            if isinstance(value, Tensor) or (signature[name] == "i32" and value % 16 == 0):
                aligned[place,] = [["tt.divisibility", 16]]
        source = ASTSource(program, signature, constants, aligned)
        return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=warps)

    # The interpreter takes what no compiler would: names of Python, numbers for tensors.
    @pytest.mark.parametrize("widths", [(1, 1), (16, 16)])
    def test_it_compiles_for_a_gpu(
        widths: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
        topology = Topology.of(Architecture.mlp(widths))
        given = features(topology, 16, torch.bfloat16)
        for program, arguments, options in launches(topology, given, monkeypatch):
            code = compiled(program, arguments, options)
            assert len(code.asm["cubin"]) > 0
            assert "bf16.bf16" in code.asm["ptx"]  # products on tensor cores
