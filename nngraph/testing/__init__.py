"""Public helpers for stating laws: networks to try them on, and one assertion for every layer."""

from nngraph.testing.equivariance import (
    assert_equivariant,
    assert_invariant,
    assert_not_equivariant,
    equivariance_error,
)
from nngraph.testing.irregular import IrregularTopology
from nngraph.testing.networks import (
    every_activation,
    random_architectures,
    random_features,
    random_parameters,
    random_stack,
    structured_architectures,
)
from nngraph.testing.precision import assert_as_precise

__all__ = [
    "IrregularTopology", "assert_as_precise", "assert_equivariant", "assert_invariant",
    "assert_not_equivariant", "equivariance_error", "every_activation", "random_architectures",
    "random_features", "random_parameters", "random_stack", "structured_architectures",
]
