"""The algebra of dimensions: laws of cutting, factoring and unifying."""

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from converters.symmetry.dims import (
    atom,
    atoms,
    concatenate,
    cut,
    expand,
    factor,
    find,
    fix,
    is_fixed,
    multiply,
    regroup,
    unify,
)
from converters.symmetry.wreath import NEVER, ONCE, Counts


def sizes(dim):
    """Sizes of the factors of each segment."""
    return [[term.size for term in segment] for segment in expand(dim)]


def free(dim):
    return [part for part in atoms(dim) if part.size > 1 and not part.reasons]


def test_a_view_reaches_back_to_what_was_unified_before():
    weight, bias = atom(12), atom(12)
    unify(weight, bias)
    heads, features = factor(weight, (3, 4))
    assert sizes(bias) == [[3, 4]]
    assert expand(bias) == [[find(heads), find(features)]]


def test_cutting_a_product_at_whole_rows_cuts_its_outer_factor():
    dim = multiply((atom(3), atom(4)))
    first, second = cut(dim, (4, 8))
    assert (sizes(first), sizes(second), sizes(dim)) == ([[4]], [[2, 4]], [[4], [2, 4]])


def test_cutting_through_the_rows_of_a_product_fixes_it():
    dim = multiply((atom(3), atom(4)))
    pieces = cut(dim, (2, 10))
    assert is_fixed(dim)
    assert all(map(is_fixed, pieces))


def test_two_factorisations_without_a_common_refinement_fix_both():
    one, other = multiply((atom(3), atom(4))), multiply((atom(4), atom(3)))
    unify(one, other)
    assert is_fixed(one)
    assert is_fixed(other)


def test_two_factorisations_meet_in_their_common_refinement():
    one, other = multiply((atom(2), atom(12))), multiply((atom(6), atom(4)))
    unify(one, other)
    assert sizes(one) == sizes(other) == [[2, 3, 4]]
    assert not is_fixed(one)


def test_two_concatenations_meet_in_their_common_refinement():
    one, other = concatenate((atom(2), atom(5))), concatenate((atom(4), atom(3)))
    unify(one, other)
    assert sizes(one) == sizes(other) == [[2], [2], [3]]


def test_a_concatenation_inside_of_a_product_interleaves():
    heads, inner = factor(atom(24), (2, 12))
    cut(inner, (4, 8))
    dim = multiply((heads, inner))
    assert sizes(dim) == [[2, 12]]
    four, eight = expand(inner)
    counts = Counts()
    assert counts.of(dim) == {find(heads): ONCE, four[0]: ONCE | NEVER, eight[0]: ONCE | NEVER}
    assert counts.given(dim)[four[0]] == {find(heads): ONCE, four[0]: ONCE}


def test_rows_of_a_concatenation_are_unified_when_it_is_viewed_as_rows():
    one, other = atom(4), atom(4)
    outer, inner = factor(concatenate((one, other)), (2, 4))
    assert find(one) is find(other) is find(inner)
    assert is_fixed(outer)


def test_reasons_spread_by_unification_both_ways():
    one, other = atom(4), atom(4, "because")
    unify(one, other)
    assert find(one).reasons == {"because"}
    third = atom(4)
    unify(third, one)
    fix(third, "more")
    assert find(other).reasons == {"because", "more"}


def test_dimensions_of_size_one_are_never_tied():
    one, other = atom(1), atom(1)
    unify(one, other)
    assert find(one) is not find(other)


shapes = st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4)


@given(shapes, st.randoms(use_true_random=False))
def test_regrouping_keeps_the_number_of_entries_and_returns(shape, random):
    dims = [atom(size) for size in shape]
    total = math.prod(shape)
    wanted = []
    rest = total
    while rest > 1:
        size = random.choice([d for d in range(2, rest + 1) if rest % d == 0])
        wanted.append(size)
        rest //= size
    there = regroup(dims, wanted)
    assert [dim.size for dim in there] == wanted
    back = regroup(there, shape)
    assert [dim.size for dim in back] == shape
    for one, other in zip(dims, back, strict=True):
        if one.size > 1 and not any(part.reasons for part in atoms(one)):
            assert list(atoms(one)) == list(atoms(other))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.data())
def test_cutting_and_joining_again_is_the_same_dimension(parts, data):
    total = sum(parts)
    dim = atom(total)
    cut(dim, parts)
    places = sorted(data.draw(st.sets(st.integers(1, max(total - 1, 1)), max_size=4)))
    ends = [0, *[p for p in places if p < total], total]
    pieces = cut(dim, [b - a for a, b in itertools.pairwise(ends)])
    assert [p.size for p in pieces] == [b - a for a, b in itertools.pairwise(ends)]
    assert sizes(concatenate(pieces)) == sizes(dim)
    assert free(concatenate(pieces)) == free(dim)
    assert sum(part.size for part in atoms(dim)) == total
