"""Tensors whose values do not depend on the tensors they are made from: only sizes count."""

from __future__ import annotations

import torch

from converters.symmetry.call import Call, Unruled
from converters.symmetry.dims import atom
from converters.symmetry.rules.common import entrywise, table
from converters.symmetry.values import Constant, Value


@entrywise
def uniform(call: Call) -> Value:
    """Make a tensor of equal entries, sized like another."""
    name = call.operation.name
    number = call["fill_value"] if "fill_value" in call.arguments else float("ones" in name)
    if not isinstance(number, (int, float)):
        return arbitrary(call)
    entry = torch.full((), number, dtype=call.dtype)
    constant = Constant(call.shape, entry.expand(call.shape))
    return Value(map(atom, call.shape), (), constant)


@entrywise
def arbitrary(call: Call) -> Value:
    """Make a tensor with entries that nothing is known of."""
    return Value(map(atom, call.shape), (), Constant(call.shape, None))


def noise(call: Call) -> Value:
    """Draw random entries: two runs differ anyway."""
    raise Unruled("draws random numbers, so that the function is not one function")


CONSTANTS = {
    **table(uniform, "new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like"),
    **table(arbitrary, "new_empty", "empty_like", "new_empty_strided"),
    **table(noise, "rand_like", "randn_like", "randint_like", "bernoulli"),
}
