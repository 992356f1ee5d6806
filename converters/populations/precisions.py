"""Precisions of weights, and numbers that are none."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from nngraph.errors import InvalidGraphError, NonFiniteError
from nngraph.zoo import DTYPES


def dtypes_of(values: Mapping[str, Tensor]) -> set[torch.dtype]:
    """Return the dtypes of numbers that are not whole."""
    return {v.dtype for v in values.values() if v.dtype.is_floating_point or v.dtype.is_complex}


def widest(dtypes: Collection[torch.dtype]) -> torch.dtype:
    """Return the narrowest dtype that holds all of these exactly."""
    if not dtypes or not set(dtypes) <= set(DTYPES.values()):
        raise InvalidGraphError(
            f"the weights are {', '.join(sorted(map(str, dtypes))) or 'no real numbers'}; expected "
            f"{', '.join(DTYPES)}."
        )
    return functools.reduce(torch.promote_types, dtypes)


def chosen_dtype(dtypes: Collection[torch.dtype], asked: str | None) -> str:
    """Return the name of a zoo's dtype: the one asked for, or the widest of its networks."""
    if asked is None:
        wide = widest(dtypes)
        return next(name for name, dtype in DTYPES.items() if dtype == wide)
    if asked not in DTYPES:
        raise InvalidGraphError(f"dtype is {asked!r}; expected one of {', '.join(DTYPES)}.")
    return asked


def converted(values: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return values in one dtype; whole numbers stay."""
    return {k: v.to(dtype) if v.dtype.is_floating_point else v for k, v in values.items()}


def check_finite(source: Path, names: Sequence[str], values: Mapping[str, Tensor]) -> None:
    """Refuse stacked networks that hold NaN or infinities, by the name of the first of them."""
    for name, value in values.items():
        finite = torch.isfinite(value.flatten(1) if value.dim() > 1 else value.unsqueeze(1))
        if bool(finite.all()):
            continue
        which = int((~finite.all(1)).nonzero()[0])
        raise NonFiniteError(
            f"{source}, {names[which]}: parameter {name!r} has {int((~finite[which]).sum())} of "
            f"{finite.shape[1]} entries that are NaN or infinite as {value.dtype}; a zoo holds "
            "finite numbers. Leave this network out, or mend it in its file."
        )
