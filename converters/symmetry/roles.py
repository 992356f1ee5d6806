"""What neurons are for, where it can be told: heads, and features of queries, keys and values.

For names only; nothing else depends on it. Attention is found as one operation, or as a product, a
softmax of it, and a product with that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from converters.symmetry.call import Entry
from converters.symmetry.dims import Dim, atoms

#: What may stand between the product of queries and keys, the softmax, and the product with values.
_BETWEEN = ("add", "scale", "multiply", "pointwise", "activation", "softmax", "concatenate")


def find_roles(entries: Sequence[Entry]) -> dict[Dim, str]:
    """Return names for atoms that attention uses, with the path of its module."""
    roles: dict[Dim, str] = {}
    users: dict[int, list[int]] = {}
    for index, entry in enumerate(entries):
        for source in entry.inputs:
            users.setdefault(source, []).append(index)
    for index, entry in enumerate(entries):
        if entry.kind == "attention" and len(entry.values) >= 3 and not entry.parameters:
            query, _, value = (v.shown for v in entry.values[:3])
            _name(roles, entry, query[:-2], query[-1:], value[-1:])
        elif entry.kind == "softmax":
            scores = next(_before(entries, index), None)
            if scores is None:
                continue
            left, right = (set(_all(value.shown)) for value in scores.values[:2])
            result = set(_all(scores.output_dims))
            _name(roles, scores, scores.output_dims[:-2], sorted_atoms(left & right - result), ())
            for after in _after(entries, users, index):
                mixed = set(_all(entry.output_dims))
                own = [a for a in _all(after.output_dims) if a not in mixed]
                _name(roles, scores, (), (), own)
    return roles


def sorted_atoms(found: Iterable[Dim]) -> list[Dim]:
    """Return atoms in the order in which they were made."""
    return sorted(found, key=lambda dim: dim.serial)


def _all(dims: Iterable[Dim]) -> Iterator[Dim]:
    for dim in dims:
        yield from (part for part in atoms(dim) if part.size > 1)


def _is_product(entry: Entry) -> bool:
    return entry.kind == "linear" and len(entry.values) == 2 and not entry.parameters


def _before(entries: Sequence[Entry], index: int) -> Iterator[Entry]:
    """Find the product from which a softmax comes."""
    pending, seen = list(entries[index].inputs), {index}
    while pending:
        source = pending.pop(0)
        if source in seen:
            continue
        seen.add(source)
        if _is_product(entries[source]):
            yield entries[source]
        elif entries[source].kind in _BETWEEN:
            pending += entries[source].inputs


def _after(
    entries: Sequence[Entry], users: dict[int, list[int]], index: int
) -> Iterator[Entry]:
    """Find the products with what a softmax gives."""
    pending, seen = list(users.get(index, ())), {index}
    while pending:
        user = pending.pop(0)
        if user in seen:
            continue
        seen.add(user)
        if _is_product(entries[user]):
            yield entries[user]
        elif entries[user].kind in _BETWEEN:
            pending += users.get(user, ())


def _name(
    roles: dict[Dim, str],
    entry: Entry,
    heads: Iterable[Dim],
    features: Iterable[Dim],
    values: Iterable[Dim],
) -> None:
    prefix = f"{entry.module_path}." if entry.module_path else ""
    for dim in heads:
        parts = [part for part in _all([dim]) if not _positions(part)]
        words = ["heads"] if len(parts) == 1 else ["kv_heads"] + ["copies"] * (len(parts) - 1)
        for part, word in zip(parts, words, strict=False):
            roles.setdefault(part, prefix + word)
    for dims, word in ((features, "qk"), (values, "v")):
        for part in _all(dims):
            if not _positions(part):
                roles.setdefault(part, prefix + word)


def _positions(dim: Dim) -> bool:
    return any(getattr(reason, "natural", False) for reason in dim.reasons)
