"""Whether a traced network is a chain of affine maps: read off its program, every operation of it.

What :func:`nngraph.graph.forward` and :func:`converters.to_module` run are chains. So a network is
described as one only where its program is one, and where it is not, a description that looks like
one says where: :func:`withheld` marks that group as ``other``, which cannot be run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from converters.chains import reading
from converters.chains.chain import chain_architecture
from converters.chains.reading import ChainReader, NeuronValues, NoChain, Weight
from converters.symmetry.derive import Derivation
from converters.symmetry.program import Operation, Ref, references
from converters.symmetry.spec import PermutationSpec
from nngraph.graph import Activation, Architecture, ChainLayer, chain_layers


@dataclass(frozen=True)
class Refusal:
    """Where a program stops being a chain: by which operator, after which of its groups."""

    operator: str
    group: int


_Value: TypeAlias = "NeuronValues | Weight | float | Refusal | None"


def base_name(operation: Operation) -> str:
    """Return the name of an operator as functions have it: ``to_copy`` of ``aten._to_copy``.

    Operators of other libraries keep their whole name: their ``relu`` may be any function.
    """
    library, _, name = operation.name.rpartition(".")
    return name.strip("_") if library == "aten" else operation.name


class ProgramReader:
    """Follows the values of a program."""

    def __init__(self, derivation: Derivation, tensors: Mapping[str, Tensor]) -> None:
        self.derivation = derivation
        self.program = derivation.program
        self.results = self.program.results
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self.reader = ChainReader(shapes, exact=False)
        self.values: dict[Ref, _Value] = {}
        #: sizes of the input before its features, once it has been reshaped
        self.rows: tuple[int, ...] | None = None

    def read(self) -> tuple[ChainLayer, ...] | Refusal:
        """Return the affine maps that are applied one after another, or what else is done."""
        program = self.program
        inputs, outputs = list(program.inputs.values()), program.outputs
        for ref in inputs:
            self.values[ref] = NeuronValues()
        for name, ref in program.parameters.items():
            self.values[ref] = Weight(name)
        for operation in program.operations:
            self._step(operation)
        last = self._known(outputs[0]) if outputs else None
        depth = len(last.maps) if isinstance(last, NeuronValues) else 0
        if isinstance(last, Refusal):
            return last
        if len(inputs) != 1 or not self.results[inputs[0]].dtype.is_floating_point:
            return Refusal("inputs", 0)
        if len(outputs) != 1 or program.updates:
            return Refusal("outputs", depth)
        try:
            maps = self.reader.finish(last)
        except NoChain:
            return Refusal("outputs", depth)
        read, spec = {name for m in maps for name in (m.weight, m.bias)}, self.derivation.spec
        if any(read.isdisjoint(_every(name, spec)) for name in spec.parameters):
            return Refusal("parameters", depth)
        fits = self._gives_rows(inputs[0], outputs[0], maps)
        return tuple(maps) if fits else Refusal("outputs", depth)

    def _gives_rows(self, given: Ref, returned: Ref, maps: list[ChainLayer]) -> bool:
        """Whether the output has the rows of the input, as it is or as it was reshaped."""
        if not self.results[returned].shape:
            return False
        first, last = (self.reader.shapes[maps[i].weight] for i in (0, -1))
        shape, (*rows, width) = self.results[given].shape, self.results[returned].shape
        same = shape[-1:] == first[1:] and tuple(rows) == shape[:-1]
        return width == last[0] and (same or tuple(rows) == self.rows)

    # -- one operation ----------------------------------------------------------------------------

    def _known(self, ref: Ref) -> _Value:
        if ref not in self.values:
            self.values[ref] = self.derivation.number(ref)
        return self.values[ref]

    def _step(self, operation: Operation) -> None:
        taken = [self.values.get(ref) for ref in operation.operands]
        refused = [value for value in taken if isinstance(value, Refusal)]
        result: _Value
        made = operation.outputs[0]
        # the number that it gives whatever it takes, as zeros_like does
        known = None if made is None else self.derivation.number(made)
        if known is not None:
            result = known
        elif refused:
            result = refused[0]
        elif any(isinstance(value, (NeuronValues, Weight)) for value in taken):
            try:
                result = self._result(operation)
            except NoChain as error:
                neurons = [value for value in taken if isinstance(value, NeuronValues)]
                last = max(neurons, key=lambda value: len(value.maps), default=None)
                result = None if last is None else Refusal(
                    ", ".join(last.operators) if error.made_before else operation.name,
                    len(last.maps),
                )
        else:
            return  # of constants alone, which the derivation knows
        for place, ref in enumerate(operation.outputs):
            if ref is not None:
                self.values[ref] = result if not place or isinstance(result, Refusal) else None

    def _result(self, operation: Operation) -> _Value:
        name, arguments = base_name(operation), operation.arguments
        first, made = next(iter(arguments.values()), None), operation.outputs[0]
        value = self._known(first) if isinstance(first, Ref) else None
        if made is None:
            raise NoChain("gives something else than its first result")
        if isinstance(value, NeuronValues) and isinstance(first, Ref):
            self._check_kept(value, first, made, name)
            if name in reading.RESHAPES | reading.SELECTIONS | reading.CASTS:
                return value
        given = {key: self._argument(argument) for key, argument in arguments.items()}
        result = self.reader.apply(name, operation.name, given)
        if isinstance(result, NeuronValues) and result.operators:
            self._check_entries(arguments, made)
        return result

    def _argument(self, argument: Any) -> Any:
        if isinstance(argument, Ref):
            known = self._known(argument)
            if known is None:
                raise NoChain("takes a tensor that is no number")
            return known
        if isinstance(argument, (int, float)) and argument in self.program.unknown:
            raise NoChain("takes a number that depends on the data")
        if isinstance(argument, (list, tuple)) and any(True for _ in references(argument)):
            raise NoChain("takes a list of tensors")
        return argument

    def _check_kept(self, value: NeuronValues, ref: Ref, made: Ref, name: str) -> None:
        """Check that an operation that only changes shape or type changes nothing that counts."""
        before, after = self.results[ref], self.results[made]
        if name in reading.RESHAPES | reading.SELECTIONS and before.dtype != after.dtype:
            raise NoChain("reads the bits as another type")
        if name in reading.SELECTIONS and before.shape != after.shape:
            raise NoChain("takes some of the entries")
        flattens = not value.maps and not value.operators and len(after.shape) == 2
        if name in reading.RESHAPES and before.shape[-1:] != after.shape[-1:] and not flattens:
            raise NoChain("reshapes to something else than rows")
        if name in reading.RESHAPES and not value.maps:
            self.rows = after.shape[:-1]
        if name in reading.CASTS and (after.dtype != self._type() or before.shape != after.shape):
            raise NoChain("changes the type")

    def _check_entries(self, arguments: Mapping[str, Any], made: Ref) -> None:
        """Check that entries are combined one by one, in the type of the network."""
        shapes = {
            self.results[ref].shape
            for ref in references(list(arguments.values()))
            if isinstance(self._known(ref), NeuronValues)
        }
        result = self.results[made]
        if {result.shape} != shapes:
            raise NoChain("combines entries of different places")
        # Comparisons make masks, which are numbers again where they are multiplied.
        if result.dtype not in (self._type(), torch.bool):
            raise NoChain("changes the type")

    def _type(self) -> Any:
        return self.results[next(iter(self.program.inputs.values()))].dtype


# -- from chains to architectures -----------------------------------------------------------------


def chain_architecture_of(
    maps: tuple[ChainLayer, ...], spec: PermutationSpec
) -> Architecture | None:
    """Describe a chain as every converter does; ``None`` if its symmetry is known to be less."""
    first = {n: name for name in spec.parameters for n in _every(name, spec)}
    architecture = chain_architecture(maps, {n: spec.shape(name) for n, name in first.items()})
    parameters = tuple(
        replace(p, name=first[p.name], aliases=_every(first[p.name], spec)[1:])
        for p in architecture.parameters
    )
    architecture = replace(architecture, parameters=parameters)
    return None if _chain_spaces(architecture, spec) is None else architecture


def _every(name: str, spec: PermutationSpec) -> tuple[str, ...]:
    return (name, *spec.aliases.get(name, ()))


def _chain_spaces(architecture: Architecture, spec: PermutationSpec) -> dict[str, str] | None:
    """Return for each space of a chain the space of the spec that is the same neurons.

    ``None`` if the spec has others, or if hidden neurons of the chain are fixed there.
    """
    names: dict[str, str] = {}
    for parameter in architecture.parameters:
        for axis, group in enumerate(parameter.axes):
            segments = spec.parameters[parameter.name][axis]
            if group is None or architecture.groups[group].size == 1:
                continue
            own = architecture.groups[group].space
            found = {factor.space for segment in segments for factor in segment}
            if own is None and found != {None}:
                return None
            if isinstance(own, str):
                if len(segments) != 1 or len(segments[0]) != 1 or found == {None}:
                    return None
                (space,) = found
                if space is None or names.setdefault(own, space) != space:
                    return None
    return names if len(set(names.values())) == len(names) else None


def spec_spaces(architecture: Architecture, spec: PermutationSpec) -> dict[str, str]:
    """Return for each space of a network's architecture the space of its spec.

    A chain names its spaces by their order, and a spec by the layers; all others have one name.
    """
    names = _chain_spaces(architecture, spec) if architecture.is_chain else None
    return {name: name for name in architecture.spaces} if names is None else names


def withheld(architecture: Architecture, read: tuple[ChainLayer, ...] | Refusal) -> Architecture:
    """Return an architecture that nobody runs as another function than its network's, ``read``."""
    others = any(group.activation.name == "other" for group in architecture.groups)
    if others or not architecture.is_chain:
        return architecture  # not what can be run
    if not isinstance(read, Refusal):
        if chain_layers(architecture) == read:
            return architecture
        read = Refusal("parameters", len(architecture.groups) - 1)
    at = min(read.group, len(architecture.groups) - 1)
    groups = list(architecture.groups)
    groups[at] = replace(groups[at], activation=Activation("other", operator=read.operator))
    return replace(architecture, groups=tuple(groups))
