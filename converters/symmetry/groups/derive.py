"""From a module and example inputs to what its neurons may be multiplied by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from converters.inspection import named_tensors
from converters.symmetry.derive import derive_named
from converters.symmetry.groups.acting import is_whole
from converters.symmetry.groups.exponents import Exponents, Place
from converters.symmetry.groups.rules import apply_rule
from converters.symmetry.groups.spec import (
    MapKind,
    NeuronMaps,
    Power,
    SymmetrySpec,
    relations,
)
from converters.symmetry.located import as_arguments, input_tensors
from converters.symmetry.naming import Namer
from converters.symmetry.program import Program
from converters.symmetry.refusals import check_supported
from converters.symmetry.spec import PermutationSpec
from converters.symmetry.tracing import trace

#: what takes the place of factors where nothing goes neuron by neuron
_MATRICES: dict[MapKind, MapKind] = {"positive_scale": "linear", "sign": "orthogonal"}


def symmetry_spec(
    module: nn.Module, example_inputs: Any, *, kwargs: Mapping[str, Any] | None = None,
    strict: bool = False,
) -> SymmetrySpec:  # fmt: skip
    """Derive the relabellings, scales, signs and linear maps that leave a function unchanged.

    The permutation spec is its part, and arguments and errors are those of
    :func:`~converters.permutation_spec`. What an operation demands of exponents is a row of a
    linear system, over the rationals for scales and over two elements for signs, and a basis of
    what solves it are the generators. Where no operation goes neuron by neuron, as between queries
    and keys or inside of a low-rank product, invertible matrices take the place of scales, and
    orthogonal ones that of signs.

    Example:
        >>> spec = symmetry_spec(resnet.eval(), torch.randn(1, 3, 32, 32))
        >>> print(spec.dimension)   # of its continuous part
    """
    args, given = as_arguments(example_inputs), kwargs or {}
    check_supported(module, input_tensors(args, given))
    program = trace(module, args, given)
    derivation, engine, namer = derive_named(program, module, strict=strict)
    spec = derivation.spec
    known = Exponents.of_program(program, engine.values, named_tensors(module))
    return SymmetrySpec(spec, tuple(find_maps(known, program, spec, namer)))


def find_maps(
    known: Exponents, program: Program, spec: PermutationSpec, namer: Namer
) -> Iterator[NeuronMaps]:
    """Let operations demand what they must, and iterate over a basis of what is left.

    Matrices take the place of factors where they may.
    """
    for operation in program.operations:
        apply_rule(known, operation)
    for ref in program.kept:
        known.use(ref)
    names = {ref: spec.first_names.get(name, name) for name, ref in program.parameters.items()}
    scales, signs = (system.null_space() for system in known.systems)
    matrices: list[NeuronMaps] = []
    kinds: tuple[tuple[MapKind, Sequence[Mapping[Place, int]]], ...] = (
        ("positive_scale", scales), ("sign", signs),
    )  # fmt: skip
    for kind, solutions in kinds:
        mixed, found = {maps.space for maps in matrices}, list[NeuronMaps]()
        for solution in solutions:
            part = next(iter(solution))[2]
            space = namer.space_of(part)
            if space is None or space in mixed:
                continue
            powers = tuple(sorted(
                Power(names[ref], axis, number, e)
                for (ref, axis, _, number), e in solution.items()
            ))
            mixes = part not in known.entrywise and _may_mix(spec, space, powers)
            found.append(NeuronMaps(space, _MATRICES[kind] if mixes else kind, powers))
        yield from _apart(spec, found, matrices, modulus=2 if kind == "sign" else None)
        matrices = [maps for maps in found if maps.is_matrix]


def _may_mix(spec: PermutationSpec, space: str, powers: Sequence[Power]) -> bool:
    return all(
        p.power in (1, -1) and is_whole(spec.by_name, spec.parameters[p.name], p.axis, space)
        for p in powers
    )


def _apart(
    spec: PermutationSpec, found: Sequence[NeuronMaps], others: Sequence[NeuronMaps],
    modulus: int | None,
) -> Iterator[NeuronMaps]:  # fmt: skip
    """Leave out factors of a space that those of spaces within it make up."""
    for maps in found:
        inner = [o for o in (*found, *others) if maps.space in spec.by_name[o.space].within]
        made_up = maps.kind in ("positive_scale", "sign") and any(
            len(inner) in relation for relation in relations(spec, [*inner, maps], modulus)
        )
        if not made_up:
            yield maps
