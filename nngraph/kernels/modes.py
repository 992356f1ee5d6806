"""When a function with a backward pass of its own must stand aside for plain operations."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["follows_operations"]


def follows_operations(like: Tensor) -> bool:
    """Whether torch compiles, casts or transforms what is called now.

    ``torch.compile`` fuses plain operations itself, autocast chooses a precision for each, and the
    transforms of ``torch.func`` need a rule for each.
    """
    kind = like.device.type
    return (
        torch.compiler.is_compiling()
        # Some devices, such as "meta", know no autocast.
        or (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind))
        or torch._C._are_functorch_transforms_active()
    )
