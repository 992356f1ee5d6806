"""Where a run computes: device, precision and processes, by lightning-fabric."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nngraph.errors import MissingDependencyError
from nngraph.nn import traits_of
from nngraph.ranks import Ranks
from nngraph.settings import TrainSettings

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_PRECISIONS: dict[str, Any] = {
    "float32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed",
}  # fmt: skip


def precision_of(settings: TrainSettings, model: nn.Module) -> str:
    """Return the precision of a run: what the settings ask for, or where ``"auto"`` what helps.

    That is bfloat16 on a GPU for a model that bears it, and else float32: on CPUs the conversions
    cost more than the products save, and float16 has no use where there is bfloat16.
    """
    if settings.precision != "auto":
        return settings.precision
    on_gpu = torch.device(settings.device).type == "cuda"
    return "bf16" if on_gpu and traits_of(model).bears_bfloat16 else "float32"


def new_fabric(settings: TrainSettings, precision: str) -> Fabric:
    """Return what places models on devices and joins processes, ready for use.

    Under ``torchrun`` the processes that it started, on all of its machines, train one model.
    """
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.strategies import DDPStrategy, SingleDeviceStrategy
    except ImportError:
        raise MissingDependencyError(
            "training needs lightning-fabric, which is not installed. "
            "Install it with: pip install 'nngraph[train]' (or pip install lightning-fabric)."
        ) from None
    device, ranks = torch.device(settings.device), Ranks.of_environment()
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    known = device.type if device.type in ("cpu", "cuda", "mps") else "cpu"
    options: dict[str, Any] = {"accelerator": known, "precision": _PRECISIONS[precision]}
    if ranks.world == 1:
        fabric = Fabric(strategy=SingleDeviceStrategy(device), devices=1, **options)
    else:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.world))
        # A step may leave parameters alone: maps of layers deeper than any of its networks.
        strategy = DDPStrategy(find_unused_parameters=True, broadcast_buffers=False)
        fabric = Fabric(strategy=strategy, devices=here, num_nodes=ranks.world // here, **options)
    fabric.launch()
    return fabric
