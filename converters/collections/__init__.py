"""Public collections of networks, each opened by its own layout."""

from converters.collections.collection import Collection, check_manifest
from converters.collections.layouts import (
    LAYOUTS,
    Layout,
    open_collection,
    open_implicit_zoo,
    open_inrs_of_dwsnets,
    open_inrs_of_nfn,
    open_small_cnn_zoo,
    open_training_folders,
    open_wild_park,
)

__all__ = [
    "LAYOUTS",
    "Collection",
    "Layout",
    "check_manifest",
    "open_collection",
    "open_implicit_zoo",
    "open_inrs_of_dwsnets",
    "open_inrs_of_nfn",
    "open_small_cnn_zoo",
    "open_training_folders",
    "open_wild_park",
]
