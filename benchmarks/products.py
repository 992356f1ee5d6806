"""The matrix products that a function makes, taken down and made again by themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Products"]

_AT = torch.ops.aten
#: Where the two factors stand among the arguments of each operation.
_FACTORS = {
    _AT.mm: 0, _AT.bmm: 0, _AT.addmm: 1, _AT.addmm_: 1, _AT.baddbmm: 1, _AT.baddbmm_: 1,
}  # fmt: skip
#: Size and strides of a factor.
_Layout = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Products:
    """How often each product was made, by the layouts of its factors.

    Attributes:
        counts: number of calls.
    """

    counts: dict[tuple[_Layout, _Layout], int]

    @classmethod
    def of(cls, function: Callable[[], object]) -> Products:
        """Call a function and take down its products, those of backward passes too."""
        recorder = _Recorder()
        with recorder:
            function()
        return cls(dict(recorder.counts))

    @property
    def operations(self) -> float:
        """Additions and multiplications of all of them."""
        total = 0.0
        for (one, other), count in self.counts.items():
            batch = one[0][0] if len(one[0]) == 3 else 1
            total += 2.0 * count * batch * one[0][-2] * one[0][-1] * other[0][-1]
        return total

    def alone(self, device: str = "cpu") -> Callable[[], None]:
        """Return a function that makes them all, each as often, to memory that it has already.

        Equal products read the same numbers, which are then in the cache more often than not.
        """
        jobs = []
        for (one, other), count in self.counts.items():
            factors = _numbers(one, device), _numbers(other, device)
            product = torch.bmm if len(one[0]) == 3 else torch.mm
            jobs.append((product, factors, product(*factors), count))

        def run() -> None:
            for product, factors, out, count in jobs:
                for _ in range(count):
                    product(*factors, out=out)

        return run


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[_Layout, _Layout]] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        first = _FACTORS.get(func.overloadpacket)
        if first is not None:
            one, other = args[first : first + 2]
            if one.numel() and other.numel():
                self.counts[_layout(one), _layout(other)] += 1
        return func(*args, **(kwargs or {}))


def _layout(factor: Tensor) -> _Layout:
    return tuple(factor.shape), tuple(factor.stride())


def _numbers(layout: _Layout, device: str) -> Tensor:
    size, stride = layout
    extent = 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    return torch.randn(extent, device=device).as_strided(size, stride)
