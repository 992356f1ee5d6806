"""Functions of matrices: rows and columns are relabelled as the function allows."""

from __future__ import annotations

from collections.abc import Sequence

from converters.symmetry.call import Call, Unruled
from converters.symmetry.dims import Dim, unify
from converters.symmetry.rules.common import broadcast, table
from converters.symmetry.values import Value, tensors


def _matrix(call: Call) -> Value:
    """Return the matrix, whose rows meet one another, and so do its columns.

    Said of both at once, it would leave each row an order of its columns of its own.
    """
    value = call.value("self" if "self" in call.arguments else "A")
    for place in (value.rank - 2, value.rank - 1):
        call.mixes(value, [place])
    return value


def _fix_unless_symmetric(call: Call, value: Value) -> None:
    """Fix the rows and columns of a matrix that may differ from its mirror image."""
    if not call.engine.symmetric_matrices.holds(call.operation.operands[0]):
        call.fix(value.dims[-2:], "has one triangle read, and is not known to be symmetric")


def _results(call: Call, value: Value, known: dict[int, Sequence[Dim]]) -> list[Value | None]:
    """Return results by number; the factors that are found on the way tell all indices apart."""
    everything = [dim for given in tensors(call.arguments) for dim in given.dims]
    call.drops(*everything, results=known)
    results: list[Value | None] = []
    for number, shape in enumerate(call.shapes):
        dims = known.get(number)
        if dims is None and call.used(number):
            call.fix(value.dims, "is taken apart into factors")
            dims = [call.fixed(size) for size in shape]
        results.append(None if dims is None else value.like(dims))
    return results


def inverse(call: Call) -> list[Value | None]:
    r""":math:`(P A Q)^{-1} = Q^{-1} A^{-1} P^{-1}`: what counted rows counts columns."""
    value = _matrix(call)
    if call.get("hermitian"):
        _fix_unless_symmetric(call, value)
    *lead, rows, columns = value.dims
    return _results(call, value, {0: [*lead, columns, rows], 1: lead})


def solve(call: Call) -> list[Value | None]:
    r""":math:`x = A^{-1} b`: the rows of both are relabelled together."""
    value, other = _matrix(call), call.value("B")
    if not call["left"]:
        raise Unruled("solves from the right")
    *lead, rows, columns = value.dims
    side = [] if other.rank == value.rank - 1 else [other.dims[-1]]
    *lead, rows = broadcast([[*lead, rows], other.dims[: other.rank - len(side)]])
    call.iterates(*lead, rows, *side)
    call.record([*lead, *side])
    return _results(call, value, {0: [*lead, columns, *side], 3: lead})


def determinant(call: Call) -> list[Value | None]:
    """Numbers that change their sign unless rows and columns are relabelled alike."""
    value = _matrix(call)
    *lead, rows, columns = value.dims
    unify(rows, columns)
    return _results(call, value, {0: lead, 1: lead} if "slog" in call.operation.name else {0: lead})


def exponential(call: Call) -> Value:
    r""":math:`e^{P A P^{-1}} = P e^A P^{-1}`."""
    value = _matrix(call)
    unify(*value.dims[-2:])
    return value.like(value.dims)


def eigenvalues(call: Call) -> list[Value | None]:
    """Eigenvalues of a symmetric matrix, in order; the sign of an eigenvector is arbitrary."""
    value = _matrix(call)
    _fix_unless_symmetric(call, value)
    *lead, rows, columns = value.dims
    unify(rows, columns)
    return _results(call, value, {0: [*lead, call.fixed(rows.size)]})


def singular_values(call: Call) -> list[Value | None]:
    """Singular values, in order; the sign of a singular vector is arbitrary."""
    value = _matrix(call)
    return _results(call, value, {1: [*value.dims[:-2], call.fixed(min(value.shape[-2:]))]})


MATRICES = {
    **table(inverse, "linalg_inv_ex", "linalg_pinv"),
    **table(solve, "_linalg_solve_ex"),
    **table(determinant, "_linalg_det", "_linalg_slogdet"),
    **table(exponential, "linalg_matrix_exp"),
    **table(eigenvalues, "_linalg_eigh"),
    **table(singular_values, "_linalg_svd"),
}
