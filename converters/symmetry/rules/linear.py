"""Linear maps and products: the indices that are summed over are relabelled together."""

from __future__ import annotations

from converters.symmetry.call import Call, Unruled
from converters.symmetry.dims import Dim, unify
from converters.symmetry.rules.common import align, broadcast, enter, entrywise, table
from converters.symmetry.values import Value


def linear(call: Call) -> Value:
    r""":math:`y_{..o} = \sum_i W_{oi} x_{..i} + b_o`."""
    value, weight, bias = call.value("input"), call["weight"], call["bias"]
    inner = align([value.dims[-1], weight.dims[-1]])
    output = [*value.dims[:-1], *weight.dims[:-1]]
    call.iterates(*output, inner)
    if bias is not None:
        output = broadcast([output, bias.dims])
    operands = {"input": value, "weight": weight, "bias": bias}
    return enter(call, "linear", operands, Value(output))


def product(call: Call, one: Value, other: Value) -> list[Dim]:
    """Contract as ``torch.matmul`` does; a step of every operation that holds a product."""
    left, right = list(one.dims), list(other.dims)
    rows = [] if len(left) == 1 else [left[-2]]
    columns = [] if len(right) == 1 else [right[-1]]
    inner = align([left[-1], right[-1] if len(right) == 1 else right[-2]])
    lead = broadcast([left[:-2], right[:-2]])
    call.iterates(*lead, *rows, inner, *columns)
    return [*lead, *rows, *columns]


def matmul(call: Call) -> Value:
    r""":math:`y_{..rc} = \sum_i a_{..ri} b_{..ic}`."""
    one = call.value("self")
    other = next(call[n] for n in ("other", "mat2", "vec", "tensor") if n in call.arguments)
    return enter(call, "linear", {"left": one, "right": other}, Value(product(call, one, other)))


@entrywise
def outer(call: Call) -> Value:
    """Outer product of vectors."""
    one, other = call.value("self"), call.value("vec2")
    result = Value((*one.dims, *other.dims))
    return enter(call, "linear", {"left": one, "right": other}, result)


def addmm(call: Call) -> Value:
    """A matrix product, or a sum of them over the batch, added to a tensor."""
    names = ("mat1", "mat2"), ("batch1", "batch2"), ("mat", "vec")
    one, other = map(call.value, next(pair for pair in names if pair[1] in call.arguments))
    bias, dims = call.value("self"), product(call, one, other)
    dims = broadcast([dims[call.operation.name == "aten.addbmm" :], bias.dims])
    return enter(call, "linear", {"left": one, "right": other, "bias": bias}, Value(dims))


def grouped(call: Call) -> Value:
    """Multiply each range of rows with a matrix of its own: the matrices are told apart."""
    names = ("self", "mat2") if "self" in call.arguments else ("input", "weight")
    rows, weight = map(call.value, names)
    ends = call.get("offs")
    if (rows.rank, weight.rank) != (2, 3) or not isinstance(ends, Value):
        raise Unruled("multiplies in another layout than rows by a stack of matrices")
    call.fix([rows.dims[0]], "is divided into ranges", natural=True)
    call.fix([weight.dims[0]], "is chosen by the range of a row")
    call.fix(ends.dims, "counts ranges", natural=True)
    inner = align([rows.dims[1], weight.dims[1]])
    call.iterates(rows.dims[0], inner, weight.dims[2])
    result = Value((rows.dims[0], weight.dims[2]))
    return enter(call, "linear", {"left": rows, "right": weight}, result)


def bilinear(call: Call) -> Value:
    r""":math:`y_{..o} = \sum_{ij} x_{..i} W_{oij} z_{..j} + b_o`."""
    one, other = call.value("input1"), call.value("input2")
    weight, bias = call["weight"], call["bias"]
    lead = broadcast([one.dims[:-1], other.dims[:-1]])
    i = align([one.dims[-1], weight.dims[1]])
    j = align([other.dims[-1], weight.dims[2]])
    call.iterates(*lead, weight.dims[0], i, j)
    dims = [*lead, weight.dims[0]]
    if bias is not None:
        dims = broadcast([dims, bias.dims])
    operands = {"input1": one, "input2": other, "weight": weight, "bias": bias}
    return enter(call, "bilinear", operands, Value(dims))


def einsum(call: Call) -> Value:
    """Contract over the letters that the result does not have."""
    equation, operands = str(call["equation"]).replace(" ", ""), call["tensors"]
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    letters: dict[str, list[Dim]] = {}
    dots: list[list[Dim]] = []
    for term, value in zip(terms, operands, strict=True):
        before, ellipsis, after = term.partition("...")
        hidden = len(value.dims) - len(before) - len(after)
        if hidden < 0 or (hidden and not ellipsis):
            raise Unruled(f"has the equation {equation!r}, which does not fit its operands")
        dims = list(value.dims)
        dots.append(dims[len(before) : len(before) + hidden])
        rest = dims[: len(before)] + dims[len(before) + hidden :]
        for letter, dim in zip(before + after, rest, strict=True):
            letters.setdefault(letter, []).append(dim)
    meaning = {letter: align(dims) for letter, dims in letters.items()}
    shared = broadcast(dots)
    call.iterates(*shared, *meaning.values())
    if not arrow:
        once = sorted(c for c in letters if left.count(c) == 1)
        right = ("..." if "..." in left else "") + "".join(once)
    before, ellipsis, after = right.partition("...")
    result = [meaning[c] for c in before]
    result += shared if ellipsis else []
    result += [meaning[c] for c in after]
    named = {f"operand_{i}": value for i, value in enumerate(operands)}
    return enter(call, "linear", named, Value(result), equation=equation)


def trace(call: Call) -> Value:
    """Sum of the diagonal."""
    value = call.value("self")
    one, other = value.dims
    unify(one, other)
    call.drops(one)
    return call.enter("reduce", [value], Value(()))


@entrywise
def cross(call: Call) -> Value:
    """Cross product: three coordinates that are told apart."""
    one, other = call.value("self"), call.value("other")
    dims = broadcast([one.dims, other.dims])
    call.fix([dims[call["dim"]]], "counts the coordinates of a cross product")
    return enter(call, "linear", {"left": one, "right": other}, Value(dims))


LINEAR = {
    **table(linear, "linear"),
    **table(matmul, "matmul", "mm", "bmm", "mv", "dot", "vdot"),
    **table(outer, "outer", "ger"),
    **table(addmm, "addmm", "baddbmm", "addmv", "addbmm"),
    **table(grouped, "_grouped_mm", "transformers.grouped_mm_fallback"),
    **table(bilinear, "bilinear"),
    **table(einsum, "einsum"),
    **table(trace, "trace"),
    **table(cross, "linalg_cross"),
}
