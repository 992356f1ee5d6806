"""Checkpoints in any form that people keep them in: their weights, and what lay beside."""

from converters.checkpoints.adapters import factor_names, is_adapter
from converters.checkpoints.arrays import laid_out, map_array, read_layout
from converters.checkpoints.axes import to_torch_order
from converters.checkpoints.checkpoint import (
    Checkpoint,
    checkpoint_of,
    has_tensors,
    read_checkpoint,
    read_factors,
)
from converters.checkpoints.folders import (
    ADAPTER,
    HUB,
    fetched_folder,
    is_cached,
    is_checkout,
    snapshot_in,
    weights_in,
)
from converters.checkpoints.kinds import CONTAINERS, Container, container_of, kind_of, read_held
from converters.checkpoints.limits import MAX_BYTES, MemoryBudget, checked_path, read_json
from converters.checkpoints.names import WRAPPERS, FittedNames, fit_names, fitted, unwrapped
from converters.checkpoints.pickles import plain
from converters.checkpoints.requests import Held, Request
from converters.checkpoints.safe_files import read_safetensors
from converters.checkpoints.tables import Value, as_value, columns_of, flattened, read_table

__all__ = [
    "ADAPTER",
    "CONTAINERS",
    "HUB",
    "MAX_BYTES",
    "WRAPPERS",
    "Checkpoint",
    "Container",
    "FittedNames",
    "Held",
    "MemoryBudget",
    "Request",
    "Value",
    "as_value",
    "checked_path",
    "checkpoint_of",
    "columns_of",
    "container_of",
    "factor_names",
    "fetched_folder",
    "fit_names",
    "fitted",
    "flattened",
    "has_tensors",
    "is_adapter",
    "is_cached",
    "is_checkout",
    "kind_of",
    "laid_out",
    "map_array",
    "plain",
    "read_checkpoint",
    "read_factors",
    "read_held",
    "read_json",
    "read_layout",
    "read_safetensors",
    "read_table",
    "snapshot_in",
    "to_torch_order",
    "unwrapped",
    "weights_in",
]
