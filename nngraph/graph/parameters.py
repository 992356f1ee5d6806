"""Parameters of an architecture to and from node and edge features, for one network or a stack."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nngraph.errors import InvalidGraphError, NonFiniteError
from nngraph.graph.architecture import Architecture

__all__ = ["check_parameters", "pack", "unpack"]


def check_parameters(
    architecture: Architecture,
    parameters: Mapping[str, Tensor],
    lead: tuple[int, ...] = (),
    allow_nonfinite: bool = True,
) -> dict[str, Tensor]:
    """Return the parameters in the architecture's order after checking them against it.

    Args:
        lead: leading shape that every tensor has before its own, ``(B,)`` for a stack.
        allow_nonfinite: whether NaN and infinity pass.

    Raises:
        InvalidGraphError: if a name is missing or unknown, a shape differs, or the tensors differ
            in dtype or device, or are not floating-point.
        NonFiniteError: if a tensor has a NaN or an infinity and they are not allowed.
    """
    names = [parameter.name for parameter in architecture.parameters]
    if missing := [name for name in names if name not in parameters]:
        raise InvalidGraphError(
            f"parameter {missing[0]!r} is missing; got {_listed(parameters)}, "
            f"expected {_listed(names)}."
        )
    if unknown := [name for name in parameters if name not in set(names)]:
        raise InvalidGraphError(
            f"parameter {unknown[0]!r} is not in the architecture {architecture}; "
            f"expected {_listed(names)}."
        )
    first: Tensor | None = None
    checked: dict[str, Tensor] = {}
    for parameter in architecture.parameters:
        value = parameters[parameter.name]
        if not isinstance(value, Tensor):
            raise InvalidGraphError(
                f"parameter {parameter.name!r} is a {type(value).__name__}; expected a tensor."
            )
        expected = (*lead, *parameter.shape)
        if tuple(value.shape) != expected:
            raise InvalidGraphError(
                f"parameter {parameter.name!r} has shape {tuple(value.shape)}; expected {expected}."
            )
        if not value.dtype.is_floating_point:
            raise InvalidGraphError(
                f"parameter {parameter.name!r} has dtype {value.dtype}; expected floating point."
            )
        first = value if first is None else first
        if value.dtype != first.dtype or value.device != first.device:
            raise InvalidGraphError(
                f"parameter {parameter.name!r} is {value.dtype} on {value.device} where "
                f"{names[0]!r} is {first.dtype} on {first.device}; a graph has one dtype and one "
                "device. Convert the network first, for example with module.to(torch.float32)."
            )
        if not allow_nonfinite and not bool(torch.isfinite(value).all()):
            raise NonFiniteError(
                f"parameter {parameter.name!r} has {int((~torch.isfinite(value)).sum())} of "
                f"{value.numel()} entries that are NaN or infinite; expected finite numbers. "
                "Pass allow_nonfinite=True to convert them as they are."
            )
        checked[parameter.name] = value
    return checked


def pack(
    architecture: Architecture,
    parameters: Mapping[str, Tensor],
    lead: tuple[int, ...] = (),
) -> tuple[Tensor, Tensor]:
    """Return node features ``[*lead, N, F]`` and edge features ``[*lead, E, 1]``.

    A column that no parameter fills is 0 there. The edge features share memory with the weights
    where these already lie one after the other in memory, as a single weight does; otherwise they
    are copied once.
    """
    weights = [
        parameters[b.parameter.name].reshape(*lead, b.stop - b.start) for b in architecture.blocks
    ]
    like = next(iter(parameters.values()), None)
    dtype, device = (None, None) if like is None else (like.dtype, like.device)
    weight = _joined(weights) if weights else torch.zeros(*lead, 0, dtype=dtype, device=device)
    edge_attr = weight.unsqueeze(-1)
    if like is None or not like.requires_grad:
        x = torch.zeros(
            (*lead, architecture.num_nodes, len(architecture.column_names)),
            dtype=dtype,
            device=device,
        )
        for column in architecture.columns:
            x[..., column.start : column.stop, column.column] = parameters[column.parameter.name]
        return x, edge_attr
    # Out of place, so that gradients reach the parameters and higher derivatives exist.
    columns = []
    for index in range(len(architecture.column_names)):
        parts = [
            torch.zeros(*lead, size, dtype=dtype, device=device) for size in architecture.widths
        ]
        for column in architecture.columns:
            if column.column == index:
                parts[column.group] = parameters[column.parameter.name]
        columns.append(torch.cat(parts, dim=-1))
    return torch.stack(columns, dim=-1), edge_attr


def unpack(architecture: Architecture, x: Tensor, edge_attr: Tensor) -> dict[str, Tensor]:
    """Return every parameter as a view of ``x [*lead, N, F]`` and ``edge_attr [*lead, E, C]``.

    The weight is the first edge channel. The names stand in the order of the architecture.
    """
    lead = edge_attr.shape[:-2]
    weights = {
        b.parameter.name: edge_attr[..., b.start : b.stop, 0].view(*lead, *b.parameter.shape)
        for b in architecture.blocks
    }
    columns = {c.parameter.name: x[..., c.start : c.stop, c.column] for c in architecture.columns}
    values = {**weights, **columns}
    return {parameter.name: values[parameter.name] for parameter in architecture.parameters}


def _joined(tensors: list[Tensor]) -> Tensor:
    """Concatenate along the last axis; a view where the tensors are neighbours in one storage."""
    first = tensors[0]
    if len(tensors) == 1:
        return first
    if first.device.type != "meta" and not any(t.requires_grad for t in tensors):
        offset, total = first.storage_offset(), sum(t.shape[-1] for t in tensors)
        storage = first.untyped_storage().data_ptr()
        neighbours = True
        for tensor in tensors:
            neighbours &= (
                tensor.untyped_storage().data_ptr() == storage
                and tensor.storage_offset() == offset
                and tensor.stride() == first.stride()
                and tensor.stride(-1) == 1
            )
            offset += tensor.shape[-1]
        if neighbours:
            return first.as_strided((*first.shape[:-1], total), first.stride())
    return torch.cat(tensors, dim=-1)


def _listed(names: object) -> str:
    found = list(names)  # type: ignore[call-overload]
    shown = ", ".join(map(repr, found[:8]))
    return shown + (f" and {len(found) - 8} more" if len(found) > 8 else "") or "nothing"
