"""From a module to a :class:`Program`: ``torch.export``, and ``make_fx`` where that fails.

Requires a module that :func:`check_supported` takes. Ensures that the program has no in-place
operations, that layers such as ``linear`` and ``lstm`` are one operation each, and that tensors
which share their storage are one parameter.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from converters.inspection import evaluating
from converters.symmetry.located import input_tensors, map_tensors, returned_tensors
from converters.symmetry.program import Program
from converters.symmetry.reading import Reader
from converters.symmetry.refusals import refusal
from converters.symmetry.snapshot import Snapshot, settings_kept
from nngraph.errors import UnsupportedModuleError


def trace(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Program:
    """Record the operations of one forward, in evaluation mode; one that cannot be is refused."""
    inputs = input_tensors(args, kwargs)
    with evaluating(module), quiet(), settings_kept():
        recorded = _Recorded(module, (args, dict(kwargs)), list(inputs.values()))
        reader = Reader(module, recorded.kept, list(inputs))
        errors: list[Exception] = []
        for record in (_export, _make_fx):
            try:
                return record(recorded, tuple(inputs.values()), reader)
            except UnsupportedModuleError:
                raise
            except Exception as error:  # whatever the user's forward does under tracing
                errors.append(error)
            finally:
                recorded.snapshot.put_back()
        plain = _plain_error(recorded, tuple(inputs.values()))
    raise refusal(module, inputs, errors, plain) from errors[0]


class _Recorded(nn.Module):
    """A network as a function of tensors: takes those in its inputs, gives those in its results.

    Behind the results come the values after the forward of persistent buffers, which it ``kept``.
    """

    def __init__(self, module: nn.Module, arguments: Any, tensors: Sequence[Tensor]) -> None:
        super().__init__()
        self.module, self.arguments = module, arguments
        self.places = {id(tensor): i for i, tensor in enumerate(tensors)}
        self.snapshot = Snapshot(module, tensors)
        state = module.state_dict()
        self.kept = [n for n, _ in module.named_buffers(remove_duplicate=False) if n in state]

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        self.snapshot.set_apart()
        args, kwargs = map_tensors(lambda old: tensors[self.places[id(old)]], self.arguments)
        found = returned_tensors(self.module(*args, **kwargs))
        if not found:
            raise UnsupportedModuleError(
                "the forward returns no tensor, so that nothing it computes is seen; expected its "
                "results. Return them."
            )
        after = dict(self.module.named_buffers(remove_duplicate=False))
        return found + [after[name] for name in self.kept]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what torch's tracers print, warn and log about code that is not ours from the user."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _plain_error(recorded: _Recorded, inputs: tuple[Tensor, ...]) -> Exception | None:
    """Return what the forward raises without any tracing, on copies of all that it may write to."""
    state = {f"module.{name}": b.clone() for name, b in recorded.module.named_buffers()}
    try:
        torch.func.functional_call(recorded, state, tuple(x.detach().clone() for x in inputs))
    except Exception as error:  # whatever the user's forward does
        # What has no values cannot be run; that is no fault of the inputs.
        is_meta = any(t.is_meta for t in (*recorded.parameters(), *recorded.buffers(), *inputs))
        return None if is_meta and isinstance(error, NotImplementedError) else error
    finally:
        recorded.snapshot.put_back()
    return None


def _export(recorded: _Recorded, inputs: tuple[Tensor, ...], reader: Reader) -> Program:
    exported = torch.export.export(recorded, inputs, strict=False)
    return reader.read_exported(exported.run_decompositions({}))


def _make_fx(recorded: _Recorded, inputs: tuple[Tensor, ...], reader: Reader) -> Program:
    """Record one forward below the level of Python, without in-place operations."""
    module = recorded.module
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    names = [f"module.{name}" for name in tensors]

    def run(*flat: Tensor) -> Any:
        recorded.snapshot.put_back()
        values = dict(zip(names, flat, strict=False))
        return torch.func.functional_call(recorded, values, flat[len(names) :])

    flat = [*tensors.values(), *inputs]
    with torch.no_grad():
        graph = make_fx(run, tracing_mode="fake", pre_dispatch=True)(*flat)
        if any(mutates(node) for node in graph.graph.nodes):
            # Only below the level at which linear is one operation are mutations taken out.
            graph = without_writes(run, flat)
    return reader.read_graph(graph, list(tensors))


def without_writes(run: Callable[..., Any], flat: Sequence[Tensor]) -> fx.GraphModule:
    """Record a function from tensors to a list of them, in-place operations replaced."""
    pure = torch.func.functionalize(run, remove="mutations")
    return make_fx(pure, tracing_mode="fake")(*flat)


def mutates(node: fx.Node) -> bool:
    """Whether a node writes into a tensor that it takes."""
    return bool(getattr(getattr(node.target, "_schema", None), "is_mutable", False))
