"""Programs that are written operation by operation and run as they are written; and their proof.

What the derivation says is held against every tensor that a program computes, not against its
outputs alone: relabel the parameters, run again, and each tensor must be the old one, relabelled.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from converters.symmetry import PermutationSpec
from converters.symmetry.call import Call
from converters.symmetry.dims import Dim
from converters.symmetry.engine import Engine
from converters.symmetry.naming import Namer
from converters.symmetry.program import Operation, Program, Ref
from converters.symmetry.rules import RULES, fallback
from converters.symmetry.values import Value, tensors


class Recorder:
    """Writes a program: each call is run at once, on numbers in float64."""

    def __init__(self) -> None:
        self.program = Program()
        self.tensors: dict[Ref, Tensor] = {}
        self.operations: list[Operation] = []

    def _new(self, tensor: Tensor) -> Ref:
        ref = self.program.new(tuple(tensor.shape), tensor.dtype)
        self.tensors[ref] = tensor
        return ref

    def parameter(self, tensor: Tensor) -> Ref:
        ref = self._new(tensor)
        self.program.parameters[f"p{len(self.program.parameters)}"] = ref
        return ref

    def constant(self, tensor: Tensor) -> Ref:
        ref = self._new(tensor)
        self.program.constants[ref] = tensor
        return ref

    def call(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Run an operation and write it down; return its result, or the list of its results."""
        found = _run(target, args, kwargs, self.tensors)
        many = isinstance(found, (list, tuple))
        outputs = [
            self._new(t) if isinstance(t, Tensor) else None for t in (found if many else [found])
        ]
        self.operations.append(Operation(target, args, kwargs, tuple(outputs)))
        return outputs if many else outputs[0]

    def run(self, tensors: dict[Ref, Tensor]) -> dict[Ref, Tensor]:
        """Run the program on other parameters; return every tensor."""
        tensors = {**{ref: self.tensors[ref] for ref in self.program.constants}, **tensors}
        for operation in self.operations:
            found = _run(operation.target, operation.args, operation.kwargs, tensors)
            results = found if isinstance(found, (list, tuple)) else [found]
            for ref, tensor in zip(operation.outputs, results, strict=True):
                if ref is not None:
                    tensors[ref] = tensor
        return tensors


def _run(target: Any, args: Any, kwargs: Any, tensors: dict[Ref, Tensor]) -> Any:
    def given(argument: Any) -> Any:
        return tensors[argument].clone() if isinstance(argument, Ref) else argument

    # Some operators write to what they are given, such as a norm to its running statistics.
    args, kwargs = pytree.tree_map(given, (list(args), kwargs), is_leaf=_is_ref)
    with torch.no_grad():
        return target(*args, **kwargs)


def _is_ref(value: Any) -> bool:
    return isinstance(value, Ref)


def pieces(value: Value, tensor: Tensor) -> Iterator[tuple[tuple[Dim, ...], Tensor]]:
    """Iterate over what a value is made of, without tying its pieces together."""
    if value.blocks is None:
        yield value.dims, tensor
        return
    axis, parts = value.blocks
    start = 0
    for part in parts:
        size = part.shape[axis]
        yield from pieces(part, tensor.narrow(axis, start, size))
        start += size


def keep(*tensors: Tensor) -> Tensor:
    """Use tensors, so that no part of a program is left out."""
    return torch.zeros(())


def _keep(call: Call) -> Value:
    call.leaves_out(*tensors(call.arguments))
    return Value()


def run_rules(recorder: Recorder, rules: Any = RULES, whole: bool = False) -> Engine:
    """Run rules over all of a program; ``whole`` takes no operation apart."""
    program = recorder.program
    used = tuple(ref for operation in recorder.operations for ref in operation.outputs if ref)
    program.outputs = [program.new((), torch.float32)]
    program.operations = [*recorder.operations, Operation(keep, used, {}, tuple(program.outputs))]
    engine = (_Whole if whole else Engine)(program, {**rules, "keep": _keep}, fallback)
    engine.run()
    return engine


class _Whole(Engine):
    """Takes no operation apart, so that only its own rule says what it does."""

    def _step_by_pieces(self, operation: Operation) -> bool:
        return False


def spec_of(recorder: Recorder, engine: Engine) -> tuple[PermutationSpec, dict[str, Tensor]]:
    """Return the symmetry of all tensors of a program, and the tensors by name."""
    names = {ref: name for name, ref in recorder.program.parameters.items()}
    dims: dict[str, tuple[Dim, ...]] = {}
    tensors = {}
    # Parameters first: they name the spaces.
    for ref in sorted(recorder.tensors, key=lambda ref: ref not in names):
        value = engine.values[ref]
        if value.constant is None:
            for i, (found, tensor) in enumerate(pieces(value, recorder.tensors[ref])):
                name = names.get(ref, f"{ref.index}.{i}")
                dims[name], tensors[name] = found, tensor
        if value.indexes is not None:
            dims[f"{ref.index}.places"] = (value.indexes,)
            tensors[f"{ref.index}.places"] = torch.arange(value.indexes.size)
    namer = Namer(engine, dims)
    axes = {name: tuple(map(namer.axis, found)) for name, found in dims.items()}
    return PermutationSpec(namer.spaces, axes), tensors


def worst_break(recorder: Recorder, engine: Engine, samples: int = 2) -> tuple[float, str]:
    """Return the largest difference of any tensor from the old one, relabelled; and its name."""
    spec, tensors = spec_of(recorder, engine)
    worst = (0.0, "")
    parameters = recorder.program.parameters
    for seed in range(samples):
        moved = spec.permute(tensors, spec.sample(seed))
        found = recorder.run({ref: moved[name] for name, ref in parameters.items()})
        for ref in set(recorder.tensors) - set(parameters.values()):
            value = engine.values[ref]
            if value.constant is None:
                for i, (_, tensor) in enumerate(pieces(value, found[ref])):
                    name = f"{ref.index}.{i}"
                    if value.indexes is not None:
                        # Indices of neurons: which old neuron stands there now.
                        tensor = moved[f"{ref.index}.places"][tensor]
                    worst = max(worst, (difference(tensor, moved[name]), name))
    return worst


def difference(one: Tensor, other: Tensor) -> float:
    """Return how far two tensors are apart, relative to the larger; infinite for other integers."""
    if one.shape != other.shape:
        return float("inf")
    if one.numel() == 0:
        return 0.0
    if not (one.is_floating_point() or one.is_complex()):
        return 0.0 if torch.equal(one, other) else float("inf")
    finite = torch.isfinite(one)
    if not torch.equal(finite, torch.isfinite(other)):
        return float("inf")
    if not bool(finite.any()):
        return 0.0
    scale = max(1e-3, float(one[finite].abs().max()))
    return float((one - other)[finite].abs().max()) / scale
