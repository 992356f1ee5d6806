"""The judge: all linear maps on weights that respect relabelling, counted, named and compared.

The basis is that of Navon et al. (ICML 2023), generalised to any assignment of parameter axes to
neuron spaces or free axes. It works from the architecture alone and shares no code with the layers
that it judges.
"""

from nngraph.basis.basis import (
    Basis,
    Coefficients,
    EquivariantMap,
    coefficients,
    elements,
    project,
    sample,
)
from nngraph.basis.block import BasisBlock, Element, Matrix
from nngraph.basis.dimension import Dimension, dimension
from nngraph.basis.jacobian import NullSpace, null_space
from nngraph.basis.layer import LayerMap, layer_matrix, stacked
from nngraph.basis.maps import MapBasis, MapBlock, Maps
from nngraph.basis.orbits import coordinate_orbits, map_orbits, pair_orbits
from nngraph.basis.rank import rank_of
from nngraph.basis.report import BlockReport, RankReport
from nngraph.basis.terms import Term
from nngraph.basis.weight_space import Axis, WeightSpace, WeightTensor

__all__ = [
    "Axis", "Basis", "BasisBlock", "BlockReport", "Coefficients", "Dimension", "Element",
    "EquivariantMap", "LayerMap", "MapBasis", "MapBlock", "Maps", "Matrix", "NullSpace",
    "RankReport", "Term", "WeightSpace", "WeightTensor", "coefficients", "coordinate_orbits",
    "dimension", "elements", "layer_matrix", "map_orbits", "null_space", "pair_orbits", "project",
    "rank_of", "sample", "stacked",
]
