"""Names in a checkpoint and names in an architecture, brought together."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from nngraph.errors import InvalidGraphError
from nngraph.graph import Architecture

#: Modules around the network, which put their names into its state dict.
WRAPPERS = frozenset({
    "module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module",
})  # fmt: skip
#: Last parts of names of buffers that may be left out of an architecture, beside whole numbers.
_BUFFERS = ("inv_freq", "masked_bias")
_SHOWN = 4


class Expected(Protocol):
    """A tensor that a checkpoint is to have, under any of its names."""

    @property
    def name(self) -> str:
        """The first of its names."""

    @property
    def aliases(self) -> tuple[str, ...]:
        """Its other names."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""


@dataclass(frozen=True)
class FittedNames:
    """Tensors under the names of an architecture.

    Args:
        tensors: one or all of the names of each parameter.
        prefix: what stood before the names in the file, such as ``"model."``.
        aside: names in the file that are no parameters: of other modules, and buffers.
        names: what each tensor is called in the file.
    """

    tensors: dict[str, Tensor]
    prefix: str
    aside: tuple[str, ...]
    names: dict[str, str]


def unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors without the names of wrappers that stand before all of their names."""
    found = dict(tensors)
    while found and all(name.partition(".")[0] in WRAPPERS for name in found):
        bare = {name.partition(".")[2]: value for name, value in found.items()}
        if len(bare) < len(found) or "" in bare:
            break
        found = bare
    return found


def fitted(
    tensors: Mapping[str, Tensor], architecture: Architecture, prefix: str | None = None
) -> FittedNames:
    """Return the tensors of a checkpoint under the names that an architecture has for them.

    As they are where that fits; otherwise without a common prefix (``model.``), or without the
    names of wrappers (``module.``, ``_orig_mod.``) anywhere, where *that* makes every parameter
    fit by name and shape. A tied parameter may be there under any of its names.

    Args:
        prefix: the one that is meant, where several fit, ``"ema."`` for instance.

    Raises:
        InvalidGraphError: if nothing fits, or several do; the message says what is missing.
    """
    return fit_names(tensors, architecture.parameters, prefix)


def fit_names(
    tensors: Mapping[str, Tensor], parameters: Sequence[Expected], prefix: str | None = None,
    optional: Collection[str] = (),
) -> FittedNames:  # fmt: skip
    """Return the tensors of a checkpoint under the names of parameters, as :func:`fitted` does.

    Args:
        optional: names of those that may be missing.

    Raises:
        InvalidGraphError: as :func:`fitted` does.
    """
    known = {n for p in parameters for n in (p.name, *p.aliases)}
    needed = [p for p in parameters if p.name not in optional]
    for names in _namings(tensors):
        leads = _prefixes(names, needed) if prefix is None else [prefix]
        under = {
            lead: {n[len(lead) :]: tensors[f] for n, f in names.items() if n.startswith(lead)}
            for lead in leads
        }
        fits = [lead for lead, inner in under.items() if not _misfits(inner, needed)]
        if len(fits) > 1 and "" not in fits:
            raise InvalidGraphError(
                f"the architecture fits under {', '.join(map(repr, fits))}; name the prefix that "
                "is meant (prefix=)."
            )
        if fits:
            lead, inner = fits[0], under[fits[0]]
            odd = [n for n, v in inner.items() if n not in known and not _is_buffer(n, v)]
            if odd:
                raise InvalidGraphError(
                    f"the checkpoint has {len(odd)} tensors that the architecture has not, "
                    f"{', '.join(map(repr, odd[:_SHOWN]))}; give that of the whole network."
                )
            aside = [n for n in names if not (n.startswith(lead) and n[len(lead) :] in known)]
            own = {n: v for n, v in inner.items() if n in known}
            return FittedNames(own, lead, tuple(aside), {n: names[lead + n] for n in own})
    inner = unwrapped(tensors)
    problems = _misfits(inner, needed)
    more = f", and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    there = ", ".join(f"{n!r:.60} {tuple(v.shape)}" for n, v in list(inner.items())[:_SHOWN])
    raise InvalidGraphError(
        f"the tensors do not fit the architecture: {'; '.join(problems[:_SHOWN])}{more}. Found are "
        f"{there or 'none'}{' ...' if len(inner) > _SHOWN else ''}."
    )


def _namings(tensors: Mapping[str, Tensor]) -> Iterator[Mapping[str, str]]:
    """Yield names and what they are in the file: the same; then without those of wrappers."""
    yield {name: name for name in tensors}
    bare = {
        ".".join(part for part in name.split(".") if part not in WRAPPERS): name
        for name in tensors
    }
    if len(bare) == len(tensors) and bare.keys() != tensors.keys():
        yield bare


def _prefixes(named: Collection[str], parameters: Sequence[Expected]) -> list[str]:
    ends = [f".{name}" for p in parameters[:1] for name in (p.name, *p.aliases)]
    leads = {n[: 1 - len(end)] for n in named for end in ends if n.endswith(end)}
    return ["", *sorted(leads, key=lambda lead: (len(lead), lead))]


def _misfits(inner: Mapping[str, Tensor], parameters: Sequence[Expected]) -> list[str]:
    problems = []
    for p in parameters:
        shapes = [tuple(inner[n].shape) for n in (p.name, *p.aliases) if n in inner]
        if not shapes:
            problems.append(f"{p.name!r} {p.shape} is missing")
        elif wrong := [shape for shape in shapes if shape != p.shape]:
            problems.append(f"{p.name!r} has shape {wrong[0]} in place of {p.shape}")
    return problems


def _is_buffer(name: str, value: Tensor) -> bool:
    return not value.dtype.is_floating_point or name.endswith(_BUFFERS)
