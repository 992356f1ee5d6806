r"""Weights of norms moved into the linear maps that follow, which opens rotations of a stream.

With :math:`N` a norm without weight and bias,

.. math:: W (w \odot N(x) + b) + c = (W \operatorname{diag}(w)) N(x) + (W b + c),

exact whatever the epsilon. A layer norm takes the mean off besides: where a stream is read by such
norms alone, the mean can be taken off everything that writes to it, :math:`C = I - 1 1^T / n`, and
the layer norm is an RMS norm of the same epsilon, since the variance of what has no mean is the
mean of its squares. RMS norm commutes with rotations of the stream. It commutes with scales of the
stream up to its epsilon alone: these are not claimed. (Ashkboos et al., "SliceGPT", ICLR 2024.)
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from converters.inspection import named_tensors
from converters.symmetry.checking import TOLERANCE
from converters.symmetry.derive import derive_named, permutation_spec
from converters.symmetry.groups.derive import symmetry_spec
from converters.symmetry.located import as_arguments
from converters.symmetry.memory import shared_names, widen
from converters.symmetry.program import ARRANGING, Operation, Program, Ref
from converters.symmetry.running import Network, relative_change
from converters.symmetry.spec import PermutationSpec
from converters.symmetry.tracing import trace
from nngraph.errors import UnsupportedModuleError

_NORMS = ("layer_norm", "native_layer_norm", "rms_norm")
_ROOTS = ("rsqrt", "sqrt")
#: what leaves the last axis of a tensor as it is, if its size stays
_PASSING = ARRANGING - {"t", "flatten", "unflatten", "movedim", "permute", "transpose"} | {
    "dropout", "to", "_to_copy", "expand",
}  # fmt: skip


def fold_norms(
    module: nn.Module, example_inputs: Any, *, kwargs: Mapping[str, Any] | None = None
) -> nn.Module:
    r"""Return a module of the same function whose norms have no weights, where that can be.

    A norm's weight and bias are moved into the linear maps that read it, if nothing else does; a
    layer norm becomes an RMS norm where that opens rotations (:func:`symmetry_spec` finds them).
    Norms that keep their weights are warned of, with the reason. It is run on the example inputs,
    in float64, and held against the module.

    Args:
        module: it is copied, and left as it was.
        example_inputs: one tensor, or a tuple of positional arguments.
        kwargs: keyword arguments of its forward.

    Raises:
        UnsupportedModuleError: if the module cannot be traced, or the copy computes another thing,
            as a copy may whose parts hold references to the original.

    Example:
        >>> spec = symmetry_spec(fold_norms(llama, tokens), tokens)
        >>> [maps for maps in spec.generators if maps.kind == "orthogonal"]
    """
    args, given = as_arguments(example_inputs), kwargs or {}
    before = Network(module, args, given, permutation_spec(module, args, kwargs=given))
    folded = _Folded(deepcopy(module))
    for norm in _norms(trace(folded.module, args, given), folded.module):
        if norm.reason:
            warnings.warn(f"norm {norm.weight!r} keeps its weight: {norm.reason}", stacklevel=2)
        else:
            folded.fold(norm)
    spec = permutation_spec(folded.module, args, kwargs=given)
    change = relative_change(before.run(before.state), folded.run(args, given, spec))
    if change > TOLERANCE:
        raise UnsupportedModuleError(
            f"a copy of {type(module).__name__} with its norms folded computes another thing "
            f"(relative change {change:.1e}); expected the same. Its parts may hold references to "
            "the original, or its forward may read a norm's weight elsewhere."
        )
    for space, paths in _streams(folded.module, args, given).items():
        candidate = deepcopy(folded)
        if not candidate.centre(spec, space, paths):
            continue
        after = symmetry_spec(candidate.module, args, kwargs=given)
        opened = any(m.kind == "orthogonal" and m.space == space for m in after.generators)
        outputs = candidate.run(args, given, after.permutations)
        if opened and relative_change(before.run(before.state), outputs) <= TOLERANCE:
            folded = candidate
    return folded.module


# -- which norms -----------------------------------------------------------------------------------


@dataclass
class _Norm:
    """A weight of a norm, its bias, and the linear maps that read it: weight, axis, bias."""

    weight: str
    bias: str | None = None
    readers: dict[str, tuple[int, str | None]] = field(default_factory=dict)
    reason: str = ""


def _norms(program: Program, module: nn.Module) -> Iterator[_Norm]:
    """Iterate over the weights of norms, with what reads them, or why they stay."""
    names = {ref: name for name, ref in program.parameters.items()}
    shared = shared_names(named_tensors(module))
    users: dict[Ref, list[Operation]] = {}
    makers: dict[Ref, Operation] = {}
    for operation in program.operations:
        for ref in dict.fromkeys(operation.operands):
            users.setdefault(ref, []).append(operation)
        makers.update((ref, operation) for ref in operation.outputs if ref is not None)
    found: dict[Ref, list[Operation]] = {}
    for operation in program.operations:
        weight = _weight_of(operation, names, program, makers)
        if weight is not None:
            found.setdefault(weight, []).append(operation)
    for weight, operations in found.items():
        norm = _Norm(names[weight])
        bias = operations[0].arguments.get("bias")
        norm.bias = names.get(bias) if isinstance(bias, Ref) else None
        reached: dict[str, list[Operation]] = {}
        for operation in operations:
            for reader in _readers(operation, users, program):
                taken = _linear(reader, names)
                if taken is None:
                    norm.reason = f"{reader.name} reads it"
                    break
                norm.readers[taken[0]] = taken[1:]
                reached.setdefault(taken[0], []).append(reader)
        own = [weight, *([bias] if isinstance(bias, Ref) else [])]
        if any(users[ref] != operations for ref in own):
            norm.reason = norm.reason or "something else reads it, too"
        for name, (_, other) in norm.readers.items():
            if users[program.parameters[name]] != reached[name] or any(
                shared.get(each) != () for each in (name, *([other] if other else []))
            ):
                norm.reason = norm.reason or f"{name!r} is used elsewhere, too"
            if norm.bias and not other and type(_owner(module, name)[0]) is not nn.Linear:
                norm.reason = norm.reason or f"{name!r} has no bias to take the norm's"
        if not norm.readers or weight in program.kept:
            norm.reason = norm.reason or "no linear map reads it"
        yield norm


def _weight_of(
    operation: Operation, names: Mapping[Ref, str], program: Program,
    makers: Mapping[Ref, Operation],
) -> Ref | None:  # fmt: skip
    """Return the parameter by which a norm's result is multiplied."""
    given = operation.arguments
    if operation.short_name in _NORMS:
        weight = given["weight"]
        return weight if weight in names and len(given["normalized_shape"]) == 1 else None
    if operation.short_name in ("mul", "multiply"):
        for weight, other in ((given["self"], given["other"]), (given["other"], given["self"])):
            vector = weight in names and len(program.results[weight].shape) == 1
            if vector and isinstance(other, Ref) and _is_normed(other, makers):
                return weight  # type: ignore[no-any-return]
    return None


def _is_normed(ref: Ref, makers: Mapping[Ref, Operation]) -> bool:
    """Whether a tensor is a product with, or a quotient by, the root of something."""
    maker = _before(ref, makers)
    if maker is None or maker.short_name not in ("mul", "multiply", "div"):
        return False
    factors = (_before(operand, makers) for operand in maker.operands)
    return any(factor is not None and factor.short_name in _ROOTS for factor in factors)


def _before(ref: Ref, makers: Mapping[Ref, Operation]) -> Operation | None:
    """Return the operation that makes a tensor, arrangements left out."""
    maker = makers.get(ref)
    while maker is not None and maker.short_name in _PASSING:
        maker = makers.get(maker.operands[0])
    return maker


def _readers(
    operation: Operation, users: Mapping[Ref, Sequence[Operation]], program: Program
) -> Iterator[Operation]:
    """Iterate over what reads the result of an operation, through what only arranges it."""
    pending = [operation.outputs[0]]
    while pending:
        ref = pending.pop()
        if ref is None:
            continue
        if ref in program.kept:
            yield operation
        for user in users.get(ref, ()):
            shape = program.results[ref].shape
            passes = user.short_name in _PASSING and user.operands == [ref]
            same = passes and all(
                made is None or program.results[made].shape[-1:] == shape[-1:]
                for made in user.outputs
            )
            if same and not _is_along_last(user, len(shape)):
                pending += user.outputs
            else:
                yield user


def _is_along_last(operation: Operation, rank: int) -> bool:
    """Whether an arrangement is along the last axis."""
    dim = operation.arguments.get("dim")
    return isinstance(dim, int) and dim % rank == rank - 1


def _linear(
    operation: Operation, names: Mapping[Ref, str]
) -> tuple[str, int, str | None] | None:
    """Return the weight of a linear map, its axis of inputs, and its bias."""
    given = operation.arguments
    if operation.short_name == "linear":
        weight, axis, bias = given["weight"], 1, given["bias"]
    elif operation.short_name == "addmm" and given["beta"] == given["alpha"] == 1:
        weight, axis, bias = given["mat2"], 0, given["self"]
    elif operation.short_name in ("mm", "matmul"):
        weight, axis, bias = given.get("mat2", given.get("other")), 0, None
    else:
        return None
    known = weight in names and (bias is None or bias in names)
    return (names[weight], axis, None if bias is None else names[bias]) if known else None


# -- moving ----------------------------------------------------------------------------------------


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, own = name.rpartition(".")
    return module.get_submodule(path), own


class _Folded:
    """A module whose norms are folded, and its tensors in double precision."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.values = {n: widen(t.detach()).clone() for n, t in named_tensors(module).items()}

    def run(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], spec: PermutationSpec
    ) -> list[Tensor]:
        """Return its outputs in double precision."""
        network = Network(self.module, args, kwargs, spec)
        return network.run(network.coherent({**network.state, **self.values}))

    def fold(self, norm: _Norm) -> None:
        """Move the weight and the bias of a norm into what reads it."""
        weight = self.values[norm.weight]
        shift = None if norm.bias is None else self.values[norm.bias]
        for name, (axis, bias) in norm.readers.items():
            value = self.values[name]
            if shift is not None:
                added = value @ shift if axis == 1 else shift @ value
                if bias is None:
                    bias = f"{name.rpartition('.')[0]}.bias".lstrip(".")
                    like = torch.zeros_like(named_tensors(self.module)[name][:, 0])
                    _owner(self.module, name)[0].register_parameter("bias", nn.Parameter(like))
                    self._put(bias, added)
                else:
                    self._put(bias, self.values[bias] + added)
            self._put(name, value * (weight if axis == 1 else weight[:, None]))
        for name in filter(None, (norm.weight, norm.bias)):
            del self.values[name]
            owner, own = _owner(self.module, name)
            if isinstance(owner, (nn.LayerNorm, nn.RMSNorm)):
                owner.register_parameter(own, None)
                owner.elementwise_affine = False
            else:
                one = torch.full_like(getattr(owner, own).detach(), float(name == norm.weight))
                delattr(owner, own)
                owner.register_buffer(own, one, persistent=False)

    def centre(self, spec: PermutationSpec, space: str, paths: Sequence[str]) -> bool:
        """Take the mean off all that counts a space, and turn layer norms of it into RMS norms."""
        for name, axis in spec.ties(space):
            if len(spec.parameters[name][axis]) != 1 or len(spec.parameters[name][axis][0]) != 1:
                return False
            value = self.values[name]
            self._put(name, value - value.mean(axis, keepdim=True))
        for path in paths:
            old = self.module.get_submodule(path)
            if type(old) is not nn.LayerNorm or old.weight is not None or old.bias is not None:
                return False
            parent, own = _owner(self.module, path)
            setattr(parent, own, nn.RMSNorm(
                old.normalized_shape, eps=old.eps, elementwise_affine=False
            ))
        return True

    def _put(self, name: str, value: Tensor) -> None:
        self.values[name] = value
        named_tensors(self.module)[name].data.copy_(value)


def _streams(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, list[str]]:
    """Return the spaces that layer norms normalise, each with the paths of these."""
    program = trace(module, args, kwargs)
    _, engine, namer = derive_named(program, module)
    found: dict[str, list[str]] = {}
    for operation in program.operations:
        if operation.short_name in ("layer_norm", "native_layer_norm"):
            (segment, *others) = namer.axis(engine.values[operation.arguments["input"]].dims[-1])
            if not others and len(segment) == 1 and segment[0].space is not None:
                paths = found.setdefault(segment[0].space, [])
                if operation.module_path not in paths:
                    paths.append(operation.module_path)
    return found
