"""Scales, signs and linear maps of neurons, derived from the same trace as relabellings."""

from converters.symmetry.groups.canonical import canonicalise
from converters.symmetry.groups.derive import symmetry_spec
from converters.symmetry.groups.folding import fold_norms
from converters.symmetry.groups.rules import SCALING_RULES
from converters.symmetry.groups.spec import MapKind, NeuronMaps, SymmetryElement, SymmetrySpec

__all__ = [
    "SCALING_RULES", "MapKind", "NeuronMaps", "SymmetryElement", "SymmetrySpec", "canonicalise",
    "fold_norms", "symmetry_spec",
]
