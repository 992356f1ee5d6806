"""Modules to neural graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from converters.activations import OPERATORS
from converters.chains.chain import chain_to_graph, to_neural_graph
from converters.chains.program import ProgramReader, Refusal, chain_architecture_of, withheld
from converters.chains.traced import trace_chain
from converters.inspection import named_tensors
from converters.placement.builder import Builder
from converters.placement.layers import PLACERS, place
from converters.placement.scales import slab_scales
from converters.structure import Remembered, Versions, structure_of
from converters.symmetry.derive import Derivation, derive_named
from converters.symmetry.groups.derive import find_maps
from converters.symmetry.groups.exponents import Exponents
from converters.symmetry.groups.rules import SCALING_RULES
from converters.symmetry.groups.spec import SymmetrySpec
from converters.symmetry.located import as_arguments, input_tensors
from converters.symmetry.refusals import check_supported
from converters.symmetry.rules import RULES
from converters.symmetry.tracing import trace
from nngraph.errors import UnsupportedModuleError
from nngraph.graph import ACTIVATIONS, Architecture, NeuralGraph, check_tensor

#: Architectures by the structure of modules; of the last ones, for zoos have few.
_KNOWN = Remembered(64)
#: The tables that architectures follow from besides, which users add to.
_TABLES = Versions((RULES, SCALING_RULES, OPERATORS, ACTIVATIONS, PLACERS))


def to_graph(
    module: nn.Module,
    example_inputs: Any = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    strict: bool = False,
    allow_nonfinite: bool = False,
    differentiable: bool = False,
) -> NeuralGraph:
    """Turn a network into a neural graph: neurons are nodes, weights are edge features.

    With example inputs, any module that ``torch.export`` can trace. Its symmetry is derived
    (:func:`converters.permutation_spec`): every parameter and persistent buffer is in the graph
    exactly once, a shared one under its first name, and each neuron group has the spaces that it
    may be relabelled by. The architecture states the scales and signs of its neurons that
    :func:`converters.symmetry_spec` derives. :func:`converters.verify` proves all that on the
    module itself.

    Without, chains of affine maps alone: an ``nn.Linear``, an ``nn.Sequential`` (nested too), and
    any module whose forward, as traced, is a chain of linear layers with element-wise activations
    between. A flattening of the input is dropped: the graph's inputs are the flattened ones.

    The network is taken as it is in evaluation mode. The parameters keep their state-dict names and
    are not copied; ``edge_index`` and features are made when asked for.

    Args:
        example_inputs: one tensor, or a tuple of positional arguments. Sizes count, values do not.
        kwargs: keyword arguments of the forward.
        strict: refuse operations that have no rule. By default they fix all that they touch.
        allow_nonfinite: whether NaN and infinity among the weights pass.
        differentiable: leave the parameters in their autograd graph; otherwise they are detached.

    Raises:
        UnsupportedModuleError: if the module cannot be traced, or, without example inputs, is no
            such chain; it names the path, operation or line of what is not.
        NonFiniteError: if a weight is NaN or infinite, and they are not allowed.
        InvalidGraphError: if the parameters differ in dtype or device, or hold no dense real
            floating-point numbers.

    A structure is read once: of a module that differs from one before in the numbers of its weights
    alone, and provably so, the graph is made at once.

    Example:
        >>> graph = to_graph(nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1)))
        >>> graph.architecture.widths
        (2, 16, 1)
    """
    if not isinstance(module, nn.Module):
        raise UnsupportedModuleError(
            f"to_graph was given a {type(module).__name__}; expected an nn.Module. For a state "
            "dict use state_dict_to_graph, for lists of weights mlp_to_graph."
        )
    given = None if example_inputs is None else (as_arguments(example_inputs), kwargs or {})
    key, found = structure_of(module, given, (strict, _TABLES.current()))
    known = _KNOWN.get(key)
    if known is not None:
        parameters = {p.name: found[p.name] for p in known.parameters}
        return to_neural_graph(known, parameters, allow_nonfinite, differentiable)
    graph = _read(module, example_inputs, kwargs, strict, allow_nonfinite, differentiable)
    # What it holds by other names than it has in the module's own order is not found again.
    if all(p.name in found for p in graph.architecture.parameters):
        _KNOWN.put(key, graph.architecture)
    return graph


def _read(
    module: nn.Module, example_inputs: Any, kwargs: Mapping[str, Any] | None, strict: bool,
    allow_nonfinite: bool, differentiable: bool,
) -> NeuralGraph:  # fmt: skip
    """Read a module of a structure that is not known."""
    state = named_tensors(module)
    for name, tensor in state.items():
        check_tensor(name, tensor, integer=not isinstance(tensor, nn.Parameter))
    if example_inputs is None:
        named = dict(module.named_parameters())
        return chain_to_graph(trace_chain(module), named, allow_nonfinite, differentiable)
    architecture = to_architecture(module, example_inputs, kwargs=kwargs, strict=strict)
    parameters = {p.name: state[p.name] for p in architecture.parameters}
    return to_neural_graph(architecture, parameters, allow_nonfinite, differentiable)


def to_architecture(
    module: nn.Module, example_inputs: Any, *, kwargs: Mapping[str, Any] | None = None,
    strict: bool = False,
) -> Architecture:  # fmt: skip
    """Return the architecture of a module; it needs no weights, and may be on the meta device.

    The arguments and errors are those of :func:`converters.to_graph`.
    """
    args, given = as_arguments(example_inputs), kwargs or {}
    check_supported(module, input_tensors(args, given))
    program, tensors = trace(module, args, given), named_tensors(module)
    derivation, engine, namer = derive_named(program, module, strict=strict)
    architecture = build_architecture(derivation, tensors)
    if architecture.is_chain:  # of which the activations tell
        return architecture
    known = Exponents.of_program(program, engine.values, tensors)
    spec = derivation.spec
    symmetry = SymmetrySpec(spec, tuple(find_maps(known, program, spec, namer)))
    return replace(architecture, scales=slab_scales(architecture, symmetry))


def build_architecture(derivation: Derivation, tensors: Mapping[str, Tensor]) -> Architecture:
    """Return the architecture of a network of which :func:`converters.symmetry.derive` found this.

    The tensors are its parameters and persistent buffers. A chain of affine maps is described as
    every other converter does it. Anything else is placed layer by layer, and is never described as
    what runs as another function. Scales and signs are not in it, which need the derivation's pass.
    """
    read = ProgramReader(derivation, tensors).read()
    chain = None if isinstance(read, Refusal) else chain_architecture_of(read, derivation.spec)
    if chain is not None:
        return chain
    builder = Builder(derivation, tensors)
    for layer in derivation.layers:
        builder.output_groups.append(place(builder, layer))
    return withheld(builder.finish(), read)
