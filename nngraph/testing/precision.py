"""One assertion for kernels in low precision: do they err more than plain torch in it?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Function = Callable[..., Sequence[Tensor]]


def assert_as_precise(
    function: Function,
    plain: Function,
    inputs: Sequence[Tensor],
    *,
    factor: float = 2.0,
    seed: int = 0,
) -> list[tuple[float, float]]:
    r"""Assert that ``function`` errs at most ``factor`` times as much as ``plain`` does.

    .. math:: \lVert f(x) - p(x_{64}) \rVert \le \mathrm{factor} \, \lVert p(x) - p(x_{64}) \rVert

    for each output, and for the gradient of each input under a random linear loss. The truth is
    ``plain`` in float64 on the same numbers.

    Args:
        function, plain: take the inputs and return tensors, in the same order.
        inputs: in the precision in question, on any device.
        seed: of the loss.

    Returns:
        both errors, relative to the norm of the truth, for each output and then each gradient.

    Raises:
        AssertionError: naming the output or gradient, if it errs more or is not finite.

    Example:
        >>> x = torch.randn(8, 4, dtype=torch.bfloat16)
        >>> errors = assert_as_precise(lambda x: [x.exp()], lambda x: [x.exp()], [x])
    """
    exact, found_plain, found = (
        _values(f, [v.detach().to(dtype or v.dtype) for v in inputs], seed)
        for f, dtype in ((plain, torch.float64), (plain, None), (function, None))
    )
    outputs = len(exact) - len(inputs)
    errors = []
    for i, (one, other, truth) in enumerate(zip(found, found_plain, exact, strict=True)):
        name = f"output {i}" if i < outputs else f"gradient of input {i - outputs}"
        assert one.shape == truth.shape, (
            f"{name} has shape {tuple(one.shape)}; expected {tuple(truth.shape)}, that of the "
            "plain form."
        )
        assert one.dtype == other.dtype, (
            f"{name} is {one.dtype}; expected {other.dtype}, that of the plain form."
        )
        error, allowed = (float((value.double() - truth).norm()) for value in (one, other))
        assert error <= factor * allowed, (
            f"{name} errs by {error:.3g}; expected at most {factor:g} times {allowed:.3g}, the "
            f"error of the plain form in {one.dtype}."
        )
        scale = max(float(truth.norm()), torch.finfo(torch.float64).tiny)
        errors.append((error / scale, allowed / scale))
    return errors


def _values(function: Function, inputs: list[Tensor], seed: int) -> list[Tensor]:
    """Outputs, and gradients of the inputs under the same random loss in any precision."""
    for value in inputs:
        value.requires_grad_()
    outputs = list(function(*inputs))
    generator = torch.Generator().manual_seed(seed)
    # Numbers of bfloat16, which every precision holds.
    seeds = [
        torch.randn(out.shape, generator=generator).bfloat16().to(out.device, out.dtype)
        for out in outputs
    ]
    gradients = torch.autograd.grad(outputs, inputs, seeds)
    return [value.detach() for value in (*outputs, *gradients)]
