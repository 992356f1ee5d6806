"""Operators without a rule, taken apart into operators that have one.

Most of them are compositions of others: ``hstack`` is ``cat``, ``kron`` is a product of two views.
Torch's own kernels and its table of decompositions say of what. An operation without a rule is
traced through them on fake tensors, and its pieces, which compute the same, stand in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch._decomp import decomposition_table
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from converters.symmetry.program import Operation, Program, Ref
from converters.symmetry.reading import read_operations
from converters.symmetry.tracing import mutates, quiet, without_writes

#: An operation of more pieces is a loop over entries rather than a composition.
MAX_PIECES = 1000


@dataclass
class Expansion:
    """Takes operations of a program apart; it gets new tensors for what is between the pieces."""

    program: Program
    #: whether an operation has a rule
    ruled: Callable[[Operation], bool]
    graphs: dict[str, fx.GraphModule | None] = field(default_factory=dict)

    def expand_all(self) -> None:
        """Put its pieces in the place of each operation without a rule, where torch has pieces.

        What computes on constants alone is left as it is: it is run, and needs no rule.
        """
        constants = set(self.program.constants)
        found: list[Operation] = []
        for operation in self.program.operations:
            if constants.issuperset(operation.operands):
                constants.update(ref for ref in operation.outputs if ref is not None)
                found.append(operation)
            else:
                found += [operation] if self.ruled(operation) else self.expand(operation)
        self.program.operations = found

    def expand(self, operation: Operation, within: tuple[Any, ...] = ()) -> list[Operation]:
        """Return the pieces of an operation, or the operation itself if it has none.

        What it is a piece of itself, ``within``, is not taken apart once more.
        """
        pieces = list(self._expanded(operation, within))
        return pieces if len(pieces) <= MAX_PIECES else [operation]

    def _expanded(self, operation: Operation, within: tuple[Any, ...]) -> Iterator[Operation]:
        pieces = None if operation.target in within else self._pieces(operation)
        if pieces is None:
            yield operation
            return
        for piece in pieces:
            if self.ruled(piece) or not piece.operands:
                yield piece
            else:
                yield from self._expanded(piece, (*within, operation.target))

    def _pieces(self, operation: Operation) -> list[Operation] | None:
        """Take an operation apart once."""
        refs = list(dict.fromkeys(operation.operands))
        graph = self._graph(operation, refs)
        if graph is None:
            return None
        pieces, results = read_operations(self.program, graph, refs)
        wanted = [ref for ref in operation.outputs if ref is not None]
        alias = torch.ops.aten.alias.default
        pieces += [Operation(alias, (r,), {}, (w,)) for r, w in zip(results, wanted, strict=True)]
        path, line = operation.module_path, operation.line
        return [replace(piece, module_path=path, line=line) for piece in pieces]

    def _graph(self, operation: Operation, refs: list[Ref]) -> fx.GraphModule | None:
        decomposition = _decomposition(operation)
        numbers: set[float] = {n for ref in refs for n in self.program.results[ref].shape}
        leaves = pytree.tree_leaves((operation.args, operation.kwargs))
        numbers.update(leaf for leaf in leaves if isinstance(leaf, (int, float)))
        if decomposition is None or numbers & self.program.unknown:
            return None
        shown = {ref: (place, self.program.results[ref]) for place, ref in enumerate(refs)}
        used = [ref is not None for ref in operation.outputs]
        key = repr((str(operation.target), _with(shown, operation), used))
        if key not in self.graphs:
            self.graphs[key] = self._traced(operation, refs, decomposition)
        return self.graphs[key]

    def _traced(
        self, operation: Operation, refs: list[Ref], decomposition: Callable[..., Any]
    ) -> fx.GraphModule | None:
        def run(*flat: Tensor) -> list[Any]:
            args, kwargs = _with(dict(zip(refs, flat, strict=True)), operation)
            outcome = operation.target(*args, **kwargs)
            results = [outcome] if isinstance(outcome, Tensor) else list(outcome)
            return [r for r, ref in zip(results, operation.outputs, strict=True) if ref is not None]

        results = [self.program.results[ref] for ref in refs]
        try:
            with quiet(), torch.no_grad(), FakeTensorMode():
                flat = [torch.empty(result.shape, dtype=result.dtype) for result in results]
                table = {operation.target: decomposition}
                graph = make_fx(run, table, tracing_mode="fake", pre_dispatch=True)(*flat)
                if any(map(mutates, graph.graph.nodes)):
                    graph = without_writes(graph, flat)
                # Results that nothing uses are not asked for, so that they fix nothing.
                graph.graph.eliminate_dead_code()
        except Exception:  # torch's own code, on what it was not made for: it stays in one piece
            return None
        fake = any(isinstance(value, FakeTensor) for value in vars(graph).values())
        return None if fake or any(map(_is_strange, graph.graph.nodes)) else graph


def _decomposition(operation: Operation) -> Callable[..., Any] | None:
    """Return what an operator is composed of, as a function."""
    target = operation.target
    if operation.is_random or not isinstance(target, torch._ops.OpOverload):
        return None
    return target.decompose if target._can_decompose() else decomposition_table.get(target)


def _with(tensors: Mapping[Ref, Any], operation: Operation) -> tuple[Any, dict[str, Any]]:
    """Return the arguments of an operation with other tensors, on the CPU."""

    def given(argument: Any) -> Any:
        if isinstance(argument, torch.device):
            return torch.device("cpu")
        return tensors.get(argument, argument) if isinstance(argument, Ref) else argument

    args, kwargs = pytree.tree_map(given, (operation.args, operation.kwargs))
    return args, kwargs


def _is_strange(node: fx.Node) -> bool:
    """Whether a graph of pieces must not hold it: writing in place, sizes that depend on data."""
    sizes = [
        size for value in pytree.tree_leaves(node.meta.get("val")) if isinstance(value, Tensor)
        for size in value.shape
    ]
    return mutates(node) or any(isinstance(size, torch.SymInt) for size in sizes)
