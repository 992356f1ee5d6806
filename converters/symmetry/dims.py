r"""The algebra of tensor dimensions: atoms, their products and their concatenations.

A dimension of a tensor is a term: an **atom** (a set of neurons that has not been cut so far), a
**product** of terms (row-major, outermost first: what ``view`` makes of several dimensions) or a
**concatenation** of terms (what ``cat`` makes). Terms live in a union-find structure: two
dimensions that one operation aligns are *unified*, and from then on are one. A later operation may
cut a dimension (a slice) or factor it (a view). Then its atom gets parts, and so does everything
that was ever unified with it, such as the axis of the weight that made it.

An atom without a *reason* may be relabelled by any permutation; a reason says why it may not. Where
two structures have no common refinement (3 x 4 against 4 x 3), everything in them is fixed: less
symmetry than there may be, never more.

A pass takes near-linear time in the number of operations: unification compresses paths, each cut
makes parts once, many neighbours in a concatenation that are fixed or of size 1 become one part,
and an atom that would be cut into very many is fixed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

from converters.symmetry.reasons import MAX_CUTS, STRUCTURE, TOO_MANY_CUTS, joint

ATOM, PRODUCT, CONCATENATION = "atom", "product", "concatenation"

#: So many neighbours of a concatenation that are fixed, or of size 1, are told from one another.
MAX_APART = 16

_serial = itertools.count()


class Dim:
    """One term; ``find`` gives the term that it has been unified with.

    Attributes:
        size: number of indices.
        kind: atom, product or concatenation.
        children: the parts of a product or concatenation.
        reasons: why an atom is fixed; empty for an atom that may be relabelled.
        hint: what the indices count, such as ``"attn.heads"``; for names only.
        cuts: how often the atom was cut of which this is a part; one list for all of its parts.
        serial: position in the order of creation.
    """

    __slots__ = ("children", "cuts", "hint", "kind", "parent", "reasons", "serial", "size")

    def __init__(self, size: int, kind: str = ATOM, children: Sequence[Dim] = ()) -> None:
        self.size = size
        self.kind = kind
        self.children: tuple[Dim, ...] = tuple(children)
        self.reasons: frozenset[object] = frozenset()
        self.hint: str | None = None
        self.cuts: list[int] | None = None
        self.parent: Dim | None = None
        self.serial = next(_serial)

    def __repr__(self) -> str:
        dim = find(self)
        if dim.kind == ATOM:
            return f"{dim.size}{'!' if dim.reasons else ''}#{dim.serial}"
        return "(" + (" x " if dim.kind == PRODUCT else " | ").join(map(repr, dim.children)) + ")"


def find(dim: Dim) -> Dim:
    """Return the term that stands for ``dim``."""
    root = dim
    while root.parent is not None:
        root = root.parent
    while dim.parent is not None:
        dim.parent, dim = root, dim.parent
    return root


def atom(size: int, reason: object = None, hint: str | None = None) -> Dim:
    """Return a new atom, fixed if there is a reason."""
    dim = Dim(size)
    dim.hint = hint
    if reason is not None:
        dim.reasons = frozenset((reason,))
    return dim


def multiply(dims: Iterable[Dim]) -> Dim:
    """Return the product of dimensions, outermost first, as ``view`` makes it."""
    factors = [factor for dim in dims for factor in _factors(dim)]
    if not factors:
        return atom(1)
    if len(factors) == 1:
        return factors[0]
    return Dim(math.prod(f.size for f in factors), PRODUCT, factors)


def concatenate(dims: Iterable[Dim]) -> Dim:
    """Return the concatenation of dimensions, as ``cat`` makes it."""
    parts = _joined([part for dim in dims for part in _flat(dim)])
    if len(parts) == 1:
        return parts[0]
    return Dim(sum(part.size for part in parts), CONCATENATION, parts)


def _factors(dim: Dim) -> Iterator[Dim]:
    dim = _now(dim)
    if dim.kind == PRODUCT:
        for child in dim.children:
            yield from _factors(child)
    elif dim.size != 1:
        yield dim


def _flat(dim: Dim) -> Iterator[Dim]:
    pending = [dim]
    while pending:
        part = find(pending.pop())
        if part.kind == CONCATENATION:
            pending += reversed(part.children)
        elif part.size:
            yield part


def _joined(parts: list[Dim]) -> list[Dim]:
    """Let many neighbours that nothing can relabel, fixed or of size 1, be one part."""
    if len(parts) <= MAX_APART:
        return parts
    joined: list[Dim] = []
    for dead, run in itertools.groupby(parts, is_fixed):
        found = list(run)
        if dead and len(found) > MAX_APART:
            whole = atom(sum(part.size for part in found))
            whole.reasons = joint(part.reasons for dim in found for part in atoms(dim))
            found = [whole]
        joined += found
    return joined


def _parts(dim: Dim) -> tuple[Dim, ...]:
    """Return the parts of a concatenation; any other dimension is its only part."""
    dim = _now(dim)
    if dim.kind == CONCATENATION:
        return dim.children
    return (dim,) if dim.size else ()


def _now(dim: Dim) -> Dim:
    """Return the term that stands for a dimension, a concatenation in as few parts as it has."""
    dim = find(dim)
    if dim.kind == CONCATENATION:
        parts = _joined(list(_flat(dim)))
        if len(parts) == 1:
            _become(dim, parts[0])
            return parts[0]
        dim.children = tuple(parts)
    return dim


def _become(dim: Dim, other: Dim) -> None:
    """Let ``dim`` be the same term as ``other``."""
    dim, other = find(dim), find(other)
    if dim is not other:
        if other.hint is None:
            other.hint = dim.hint
        dim.parent = other


def _split_atom(dim: Dim, kind: str, sizes: Sequence[int]) -> list[Dim]:
    parts = []
    for size in sizes:
        part = atom(size)
        part.reasons, part.cuts = dim.reasons, dim.cuts
        parts.append(part)
    _become(dim, Dim(dim.size, kind, parts))
    return parts


def _may_cut(dim: Dim, sizes: Sequence[int]) -> bool:
    """Count the cuts of an atom; whether they are few enough to know its parts."""
    dim.cuts = dim.cuts or [0]
    dim.cuts[0] += max(0, sum(size > 1 for size in sizes) - 1)
    return dim.cuts[0] < MAX_CUTS


def cut(dim: Dim, sizes: Sequence[int]) -> list[Dim]:
    """Cut a dimension into consecutive pieces; all that is unified with it is cut as well.

    If these cut through the rows of a product, or are too many, they and all of it are fixed.
    """
    dim = _now(dim)
    assert sum(sizes) == dim.size
    if 0 in sizes:
        found = iter(cut(dim, [size for size in sizes if size])) if dim.size else iter(())
        return [next(found) if size else atom(0) for size in sizes]
    if len(sizes) == 1:
        return [dim]
    if dim.kind == ATOM:
        if dim.reasons:
            # Nothing is gained by knowing the parts of what is fixed: unbinding a sequence step by
            # step would make a term as long as the sequence.
            return [_fixed_like(dim, size) for size in sizes]
        if not _may_cut(dim, sizes):
            return _cut_fixed(dim, sizes, TOO_MANY_CUTS)
        return _split_atom(dim, CONCATENATION, sizes)
    if dim.kind == CONCATENATION:
        return _cut_parts(dim, sizes)
    outer, *rest = _factors(dim)
    inner = multiply(rest)
    step = math.gcd(*sizes)
    if step % inner.size == 0:
        pieces = [
            multiply((piece, inner)) for piece in cut(outer, [size // inner.size for size in sizes])
        ]
        _become(dim, concatenate(pieces))
        return pieces
    return _cut_fixed(dim, sizes, STRUCTURE)


def _fixed_like(dim: Dim, size: int) -> Dim:
    part = atom(size)
    part.reasons = joint(part.reasons for part in atoms(dim))
    return part


def _cut_fixed(dim: Dim, sizes: Sequence[int], reason: object) -> list[Dim]:
    fix(dim, reason)
    return [_fixed_like(dim, size) for size in sizes]


def _cut_parts(dim: Dim, sizes: Sequence[int]) -> list[Dim]:
    pending = list(_parts(dim)[::-1])
    pieces = []
    for size in sizes:
        group, needed = [], size
        while needed:
            part = pending.pop()
            if part.size > needed:
                part, rest = cut(part, (needed, part.size - needed))
                pending.append(rest)
            group.append(part)
            needed -= part.size
        pieces.append(concatenate(group))
    return pieces


def overwrite(dim: Dim, start: int, other: Dim) -> Dim:
    """Return a dimension of which consecutive indices are another one; itself if both are fixed."""
    stop = start + other.size
    if is_fixed(_now(dim)) and is_fixed(other):
        return find(dim)
    before, own, after = cut(dim, (start, other.size, dim.size - stop))
    return find(dim) if own is find(other) else concatenate((before, other, after))


def factor(dim: Dim, sizes: Sequence[int]) -> list[Dim]:
    """Factor a dimension row-major, outermost first; all that is unified with it is factored too.

    If it has another structure already, with no common refinement, it and its factors are fixed.
    """
    dim = _now(dim)
    assert math.prod(sizes) == dim.size
    if len(sizes) == 1:
        return [dim]
    if 1 in sizes:
        found = iter(factor(dim, [size for size in sizes if size != 1] or [1]))
        if dim.size == 1:
            return [atom(1) for _ in sizes]
        return [atom(1) if size == 1 else next(found) for size in sizes]
    if dim.kind == ATOM:
        return _split_atom(dim, PRODUCT, sizes)
    if dim.kind == PRODUCT:
        return regroup(list(_factors(dim)), sizes)
    outer, inner = _rows(dim, sizes[0])
    return [outer, *factor(inner, sizes[1:])]


def regroup(dims: Sequence[Dim], sizes: Sequence[int]) -> list[Dim]:
    """Read consecutive dimensions as others, as ``view`` does; without a refinement fixed."""
    pending = [dim for dim in dims if dim.size != 1][::-1]
    wanted = list(sizes)[::-1]
    result: list[Dim] = []
    while wanted:
        size = wanted.pop()
        group: list[Dim] = []
        needed = size
        while needed > 1:
            part = pending.pop()
            if needed % part.size == 0:
                group.append(part)
                needed //= part.size
            elif part.size % needed == 0:
                head, rest = factor(part, (needed, part.size // needed))
                pending.append(rest)
                group.append(head)
                needed = 1
            else:
                result += _no_refinement([*group, part], size, pending, wanted)
                break
        else:
            result.append(multiply(group))
    return result


def _no_refinement(group: list[Dim], size: int, pending: list[Dim], wanted: list[int]) -> list[Dim]:
    """Fix the dimensions up to the next boundary that old and new sizes share."""
    sizes = [size]
    while (have := math.prod(dim.size for dim in group)) != (want := math.prod(sizes)):
        if have < want:
            group.append(pending.pop())
        else:
            sizes.append(wanted.pop())
    for dim in group:
        fix(dim, STRUCTURE)
    return [atom(size, STRUCTURE) for size in sizes]


def _rows(dim: Dim, count: int) -> tuple[Dim, Dim]:
    """Read a concatenation as ``count`` rows of one structure."""
    inner_size = dim.size // count
    parts = _parts(dim)
    if all(part.size % inner_size == 0 for part in parts):
        outers, inners = [], []
        for part in parts:
            if part.size == inner_size:
                outer, inner = atom(1), part
            else:
                outer, inner = factor(part, (part.size // inner_size, inner_size))
            outers.append(outer)
            inners.append(inner)
    else:
        inners = cut(dim, [inner_size] * count)
        outers = [atom(count, STRUCTURE)]
    for inner in inners[1:]:
        unify(inners[0], inner)
    return concatenate(outers), find(inners[0])


def unify(one: Dim, other: Dim) -> None:
    """Let two dimensions of equal size be relabelled together, index by index."""
    one, other = _now(one), _now(other)
    if one is other:
        return
    assert one.size == other.size, (one, other)
    if one.size == 1:
        return
    if one.kind == ATOM or other.kind == ATOM:
        if one.kind != ATOM:
            one, other = other, one
        _fix_also(other, one.reasons)
        if other.kind == ATOM and one.serial < other.serial:
            one, other = other, one
            _fix_also(other, one.reasons)
        _become(one, other)
        return
    if one.kind == other.kind:
        if _unify_children(one, other):
            _become(one, other)
        return
    if one.kind == PRODUCT:
        one, other = other, one
    # A concatenation against a product: whole rows of the product, or no common structure.
    sizes = [part.size for part in _parts(one)]
    for part, piece in zip(_parts(one), cut(other, sizes), strict=True):
        unify(part, piece)


def _unify_children(one: Dim, other: Dim) -> bool:
    product = one.kind == PRODUCT
    children = _factors if product else _parts
    left, right = list(children(one))[::-1], list(children(other))[::-1]
    while left and right:
        a, b = left.pop(), right.pop()
        if a.size == b.size:
            unify(a, b)
            continue
        stack = left if a.size > b.size else right
        big, small = (a, b) if a.size > b.size else (b, a)
        if product:
            if big.size % small.size:
                fix(one, STRUCTURE)
                fix(other, STRUCTURE)
                return False
            head, rest = factor(big, (small.size, big.size // small.size))
        else:
            head, rest = cut(big, (small.size, big.size - small.size))
        unify(head, small)
        stack.append(rest)
    return True


def atoms(dim: Dim) -> Iterator[Dim]:
    """Iterate over the atoms of a dimension, size-1 atoms included."""
    pending = [dim]
    while pending:
        part = find(pending.pop())
        if part.kind == ATOM:
            yield part
        else:
            pending += reversed(part.children)


def fix(dim: Dim, reason: object) -> None:
    """Let nothing in a dimension be relabelled, for a reason."""
    _fix_also(dim, frozenset((reason,)))


def _fix_also(dim: Dim, reasons: frozenset[object]) -> None:
    for part in atoms(dim):
        if not reasons <= part.reasons:
            part.reasons |= reasons


def is_fixed(dim: Dim) -> bool:
    """Whether nothing in the dimension may be relabelled."""
    dim = find(dim)
    if dim.kind == ATOM:
        return bool(dim.reasons) or dim.size == 1
    return all(part.reasons or part.size == 1 for part in atoms(dim))


def expand(dim: Dim) -> list[list[Dim]]:
    """Return a dimension as segments, each a list of factors, outermost first.

    A factor is an atom, or a concatenation that stands below the outermost factor of its segment,
    where its parts interleave.
    """
    dim = _now(dim)
    if dim.kind == ATOM:
        return [[dim]]
    if dim.kind == CONCATENATION:
        return [segment for child in dim.children for segment in expand(child)]
    outer, *rest = _factors(dim)
    return [segment + rest for segment in expand(outer)]
