"""Any module that torch can trace to its architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from converters.chains.program import Refusal, chain_architecture_of, read_chain, withheld
from converters.placement.builder import Builder
from converters.placement.layers import place
from converters.symmetry.derive import Derivation, derive
from nngraph.graph import Architecture


def to_architecture(
    module: nn.Module,
    example_inputs: Any,
    *,
    kwargs: Mapping[str, Any] | None = None,
    strict: bool = False,
) -> Architecture:
    """Return the architecture of a module; it needs no weights, and may be on the meta device.

    The arguments and errors are those of :func:`converters.to_graph`.
    """
    derivation = derive(module, example_inputs, kwargs=kwargs, strict=strict)
    return build_architecture(derivation, state_of(module))


def build_architecture(derivation: Derivation, tensors: Mapping[str, Tensor]) -> Architecture:
    """Return the architecture of a network whose layers are known.

    A chain of affine maps is described as every other converter does it. Anything else is placed
    layer by layer, and is never described as what runs as another function.

    Args:
        derivation: what :func:`converters.symmetry.derive.derive` found.
        tensors: parameters and persistent buffers by the names of the spec.
    """
    read = read_chain(derivation, tensors)
    if not isinstance(read, Refusal):
        chain = chain_architecture_of(read, derivation.spec)
        if chain is not None:
            return chain
    builder = Builder(derivation, tensors)
    for layer in derivation.layers:
        builder.output_groups.append(place(builder, layer))
    return withheld(builder.finish(), read)


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers by every name that the state dict has for them."""
    tensors: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    tensors.update(module.named_buffers(remove_duplicate=False))
    return {name: tensors[name] for name in module.state_dict() if name in tensors}
