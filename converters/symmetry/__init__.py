"""The permutation symmetry of any PyTorch module, derived from its computation and proven on it."""

from converters.symmetry.call import Call
from converters.symmetry.checking import SpaceCheck
from converters.symmetry.derive import Derivation, Layer, derive, permutation_spec
from converters.symmetry.rules import RULES
from converters.symmetry.rules.pointwise import pointwise
from converters.symmetry.spec import Axis, Factor, FixedReport, PermutationSpec, Segment, Space
from converters.symmetry.verification import Verification, verify

__all__ = [
    "RULES",
    "Axis",
    "Call",
    "Derivation",
    "Factor",
    "FixedReport",
    "Layer",
    "PermutationSpec",
    "Segment",
    "Space",
    "SpaceCheck",
    "Verification",
    "derive",
    "permutation_spec",
    "pointwise",
    "verify",
]
