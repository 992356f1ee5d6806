"""When a function with a backward pass of its own stands aside for plain operations, and how."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


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


def derivatives(
    plain: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor | None],
    needed: Sequence[bool],
    gradients: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]:
    """Return the gradients of a function's plain form, which torch differentiates again.

    Of the ``inputs`` those that are ``needed``, for ``gradients`` of the outputs, ``None`` for 0.
    """
    with torch.enable_grad():
        pairs = [
            (value, gradient)
            for value, gradient in zip(plain(*inputs), gradients, strict=True)
            if gradient is not None and value.requires_grad
        ]
        if not pairs:
            return (None,) * len(needed)
        asked = [v for v, need in zip(inputs, needed, strict=False) if need and v is not None]
        values, above = zip(*pairs, strict=True)
        found = iter(
            torch.autograd.grad(values, asked, above, create_graph=True, allow_unused=True)
        )
    return tuple(next(found) if need else None for need in needed)
