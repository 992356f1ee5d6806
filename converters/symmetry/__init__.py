"""The permutation symmetry of any PyTorch module, derived from its computation and proven on it."""

from converters.symmetry.axes import Axis, AxisFactor, Segment
from converters.symmetry.call import Call
from converters.symmetry.checking import SpaceCheck
from converters.symmetry.derive import Derivation, Step, derive, permutation_spec
from converters.symmetry.groups import (
    SCALING_RULES,
    MapKind,
    NeuronMaps,
    SymmetryElement,
    SymmetrySpec,
    symmetry_spec,
)
from converters.symmetry.rules import RULES
from converters.symmetry.rules.pointwise import pointwise
from converters.symmetry.spec import FixedReport, PermutationSpec
from nngraph.graph import Space

__all__ = [
    "RULES",
    "SCALING_RULES",
    "Axis",
    "AxisFactor",
    "Call",
    "Derivation",
    "FixedReport",
    "MapKind",
    "NeuronMaps",
    "PermutationSpec",
    "Segment",
    "Space",
    "SpaceCheck",
    "Step",
    "SymmetryElement",
    "SymmetrySpec",
    "derive",
    "permutation_spec",
    "pointwise",
    "symmetry_spec",
]
