"""The permutation symmetry of any PyTorch module, derived from its computation and proven on it."""

from converters.inspection import named_tensors
from converters.symmetry.axes import (
    Axis,
    AxisFactor,
    Segment,
    axis_size,
    change_factors,
    segment_size,
)
from converters.symmetry.call import Call
from converters.symmetry.checking import TOLERANCE, SpaceCheck
from converters.symmetry.derive import Derivation, Step, derive, permutation_spec
from converters.symmetry.groups import (
    SCALING_RULES,
    MapKind,
    NeuronMaps,
    SymmetryElement,
    SymmetrySpec,
    canonicalise,
    fold_norms,
    symmetry_spec,
)
from converters.symmetry.located import as_arguments
from converters.symmetry.relabelling import coordinates
from converters.symmetry.rules import RULES
from converters.symmetry.rules.pointwise import pointwise
from converters.symmetry.running import Draws, ForwardFailed, Network, relative_change
from converters.symmetry.spec import FixedReport, PermutationSpec
from nngraph.graph import Space

__all__ = [
    "RULES",
    "SCALING_RULES",
    "TOLERANCE",
    "Axis",
    "AxisFactor",
    "Call",
    "Derivation",
    "Draws",
    "FixedReport",
    "ForwardFailed",
    "MapKind",
    "Network",
    "NeuronMaps",
    "PermutationSpec",
    "Segment",
    "Space",
    "SpaceCheck",
    "Step",
    "SymmetryElement",
    "SymmetrySpec",
    "as_arguments",
    "axis_size",
    "canonicalise",
    "change_factors",
    "coordinates",
    "derive",
    "fold_norms",
    "named_tensors",
    "permutation_spec",
    "pointwise",
    "relative_change",
    "segment_size",
    "symmetry_spec",
]
