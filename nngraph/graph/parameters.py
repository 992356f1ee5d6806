"""Parameters of an architecture to and from node and edge features, for one network or a stack."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

from nngraph.errors import InvalidGraphError, NonFiniteError
from nngraph.graph.architecture import Architecture
from nngraph.graph.layout import INTEGERS, Parameter, Slab, read_slab, whole_slab, write_slab

#: Convertible bit for bit; the formats of fewer bits have no arithmetic of their own in torch.
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_REAL = frozenset(DTYPES)
_REAL_OR_WHOLE = _REAL.union(getattr(torch, name) for name in INTEGERS)


def check_tensor(name: str, value: object, integer: bool = False) -> Tensor:
    """Return ``value`` if a graph can carry it: a dense tensor of real floating-point numbers.

    Args:
        integer: whether it may be a buffer of whole numbers.

    Raises:
        InvalidGraphError: if it is anything else.
    """
    dtypes = _REAL_OR_WHOLE if integer else _REAL
    lazy = isinstance(value, UninitializedTensorMixin)
    # The first question first, as every network is asked it; quantised tensors have other dtypes.
    if (
        isinstance(value, Tensor) and not lazy and value.dtype in dtypes
        and value.layout == torch.strided
    ):
        return value
    what = f"parameter {name!r}"
    if not isinstance(value, Tensor):
        raise InvalidGraphError(
            f"{what} is a {type(value).__name__}; expected a tensor. For an array use "
            "torch.from_numpy."
        )
    if lazy:
        raise InvalidGraphError(
            f"{what} has no shape yet: its lazy module has not been run. Run the module once first."
        )
    if value.is_quantized:
        raise InvalidGraphError(
            f"{what} is quantised ({value.dtype}); expected real numbers. Dequantise the network "
            "first, or convert the one it was made of."
        )
    if value.layout != torch.strided:
        raise InvalidGraphError(
            f"{what} has layout {value.layout}; expected a dense tensor. Convert it with "
            ".to_dense()."
        )
    raise InvalidGraphError(
        f"{what} has dtype {value.dtype}; expected floating point, one of "
        f"{', '.join(map(str, DTYPES))}. Convert the network first, for example with "
        "module.to(torch.float32)."
    )


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
        InvalidGraphError: if a name is missing or unknown, a shape differs, the tensors differ in
            dtype or device, one is none that :func:`check_tensor` takes, or numbers are looked at
            and there are none.
        NonFiniteError: if a tensor has a NaN or an infinity and they are not allowed.
    """
    names = {parameter.name: parameter for parameter in architecture.parameters}
    if missing := [name for name in names if name not in parameters]:
        raise InvalidGraphError(
            f"parameter {missing[0]!r} is missing; got {_listed(parameters)}, "
            f"expected {_listed(names)}."
        )
    if unknown := [name for name in parameters if name not in names]:
        raise InvalidGraphError(
            f"parameter {unknown[0]!r} is not in the architecture {architecture}; "
            f"expected {_listed(names)}."
        )
    first: Tensor | None = None
    checked: dict[str, Tensor] = {}
    for name, parameter in names.items():
        value = check_tensor(name, parameters[name], parameter.integer is not None)
        checked[name] = value
        expected = (*lead, *parameter.shape)
        if tuple(value.shape) != expected:
            raise InvalidGraphError(
                f"parameter {name!r} has shape {tuple(value.shape)}; expected {expected}."
            )
        if parameter.integer is not None:
            if value.dtype != getattr(torch, parameter.integer):
                raise InvalidGraphError(
                    f"buffer {name!r} has dtype {value.dtype}; expected {parameter.integer}."
                )
            continue
        first = value if first is None else first
        if value.dtype != first.dtype or value.device != first.device:
            raise InvalidGraphError(
                f"parameter {name!r} is {value.dtype} on {value.device} where {next(iter(names))!r}"
                f" is {first.dtype} on {first.device}; a graph has one dtype and one device. "
                "Convert the network first, for example with module.to(torch.float32)."
            )
        if not allow_nonfinite:
            _check_finite(name, value)
    return checked


def _check_finite(name: str, value: Tensor) -> None:
    if value.is_meta:
        raise InvalidGraphError(
            f"parameter {name!r} is on the meta device and has no numbers. Load the weights first, "
            "for example with module.to_empty(device='cpu') and module.load_state_dict(...)."
        )
    if math.isfinite(value.detach().sum()):  # one pass; that of finite numbers may overflow
        return
    finite = torch.isfinite(value)
    if not bool(finite.all()):
        raise NonFiniteError(
            f"parameter {name!r} has {int((~finite).sum())} of {value.numel()} entries that are "
            "NaN or infinite; expected finite numbers. Pass allow_nonfinite=True to convert them "
            "as they are."
        )


def pack(
    architecture: Architecture, parameters: Mapping[str, Tensor], lead: tuple[int, ...] = ()
) -> tuple[Tensor, Tensor]:
    """Return node features ``[*lead, N, F]`` and edge features ``[*lead, E, taps]``.

    Where no parameter is they are 0. The edge features share memory with the weights where these
    lie one after the other in memory, as a single weight does; else they are copied once.
    """
    like = next((v for v in parameters.values() if v.dtype.is_floating_point), torch.empty(0))
    pieces = []
    for block in architecture.blocks:
        edges = (*lead, block.stop - block.start)
        if block.identity:
            entries = like.new_ones(*edges, 1)
        else:
            value = parameters[block.parameter.name]
            entries = read_slab(value, block.parameter, block.slab).reshape(*edges, block.taps)
        pieces.append(entries)
    if architecture.num_taps > 1:
        edge_attr = torch.cat(
            [pad(piece, (0, architecture.num_taps - piece.shape[-1])) for piece in pieces], dim=-2
        )
    elif pieces:
        edge_attr = _joined([piece.squeeze(-1) for piece in pieces]).unsqueeze(-1)
    else:
        edge_attr = like.new_zeros(*lead, 0, 1)
    entries_of = {
        column: read_slab(parameters[column.parameter.name], column.parameter, column.slab)
        for column in architecture.columns
    }
    if not any(value.requires_grad for value in parameters.values()):
        x = like.new_zeros(*lead, architecture.num_nodes, len(architecture.column_names))
        for column, entries in entries_of.items():
            rows = slice(column.start, column.stop)
            x[..., rows, column.column : column.column + column.width] = entries
        return x, edge_attr
    # Out of place, so that gradients reach the parameters and higher derivatives exist.
    columns = []
    for index in range(len(architecture.column_names)):
        parts = [like.new_zeros(*lead, size) for size in architecture.widths]
        for column, entries in entries_of.items():
            if column.column <= index < column.column + column.width:
                parts[column.group] = entries[..., index - column.column]
        columns.append(torch.cat(parts, dim=-1))
    return torch.stack(columns, dim=-1), edge_attr


def pack_integers(
    architecture: Architecture, parameters: Mapping[str, Tensor], lead: tuple[int, ...] = ()
) -> Tensor:
    """Return the buffers of whole numbers one after another: ``[*lead, I]``, int64."""
    values = [parameters[p.name].reshape(*lead, p.numel) for p in architecture.integers]
    return torch.cat([value.long() for value in values], dim=-1)


def unpack(
    architecture: Architecture, x: Tensor, edge_attr: Tensor, integers: Tensor | None = None
) -> dict[str, Tensor]:
    """Return every parameter of ``x [*lead, N, F]`` and ``edge_attr [*lead, E, C]`` by its name.

    Views, where a parameter is one slab in the order of the graph; others are put together. The
    weights are the first edge channels. The names stand in the order of the architecture.

    Args:
        integers: what :func:`pack_integers` made, for architectures that have such buffers.
    """
    lead = edge_attr.shape[:-2]
    values: dict[str, Tensor] = {}

    def place(parameter: Parameter, slab: Slab, entries: Tensor) -> None:
        whole = whole_slab(entries, parameter, slab)
        if whole is not None:
            values[parameter.name] = whole
            return
        if parameter.name not in values:
            values[parameter.name] = entries.new_empty(*lead, *parameter.shape)
        write_slab(entries, values[parameter.name], parameter, slab)

    for block in architecture.blocks:
        if not block.identity:
            entries = edge_attr[..., block.start : block.stop, : block.taps]
            sizes = (block.parts, block.rows, block.columns)
            place(block.parameter, block.slab, torch.unflatten(entries, -2, sizes))
    for column in architecture.columns:
        wide = slice(column.column, column.column + column.width)
        place(column.parameter, column.slab, x[..., column.start : column.stop, wide])
    start = 0
    for parameter in architecture.integers:
        if integers is None:
            raise InvalidGraphError(
                f"the whole numbers of {parameter.name!r} are missing; expected a tensor "
                "`integers` beside x and edge_attr."
            )
        part = integers[..., start : start + parameter.numel]
        dtype = getattr(torch, str(parameter.integer))
        values[parameter.name] = part.reshape((*lead, *parameter.shape)).to(dtype)
        start += parameter.numel
    return {parameter.name: values[parameter.name] for parameter in architecture.parameters}


def _joined(tensors: list[Tensor]) -> Tensor:
    """Concatenate along the last axis; a view where the tensors are neighbours in one storage."""
    first = tensors[0]
    if len(tensors) == 1:
        return first
    if first.device.type != "meta" and not any(t.requires_grad for t in tensors):
        offset, total = first.storage_offset(), sum(t.shape[-1] for t in tensors)
        storage, stride = first.untyped_storage().data_ptr(), first.stride()
        starts = accumulate((t.shape[-1] for t in tensors), initial=offset)
        if stride[-1] == 1 and all(
            (t.untyped_storage().data_ptr(), t.storage_offset(), t.stride()) == (storage, s, stride)
            for t, s in zip(tensors, starts, strict=False)
        ):
            return first.as_strided((*first.shape[:-1], total), stride)
    return torch.cat(tensors, dim=-1)


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    shown = ", ".join(map(repr, found[:8]))
    return shown + (f" and {len(found) - 8} more" if len(found) > 8 else "") or "nothing"
