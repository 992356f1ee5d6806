"""Low-rank changes of a network's weights, as adapters keep them: networks of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from converters.checkpoints import factor_names
from converters.inspection import submodule_at
from converters.populations.columns import natural
from nngraph.errors import InvalidGraphError

#: What applies a factor, by its number of axes.
_APPLIED: dict[int, Callable[[Tensor, Tensor], Tensor]] = {
    2: F.linear, 3: F.conv1d, 4: F.conv2d, 5: F.conv3d
}  # fmt: skip


class LowRankPairs(nn.Module):
    r"""The factors of an adapter, a chain without biases for each layer that it changes.

    .. math:: y = B A x

    The layers are side by side: what joins them is in the base alone. Factors of convolutions are
    convolutions. There are no weights in it, but shapes, on the meta device.

    Raises:
        InvalidGraphError: if there are other tensors than pairs of factors.

    Shape:
        for each layer ``[1, in]``, or ``[1, in, *window]`` -> ``[1, out]``, ...
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        pairs = factor_names(tensors)
        paired = {name for pair in pairs.values() for name in pair.values()}
        if other := [name for name in tensors if name not in paired]:
            raise InvalidGraphError(
                f"the adapter has {len(other)} tensors beside its low-rank factors, such as "
                f"{other[0]!r:.120}, so that no architecture can be told. Give the architecture, "
                "or a module with these parameters."
            )
        self._pairs: list[tuple[str, str]] = []
        # By their names: files of safetensors do not keep an order.
        for layer, pair in sorted(pairs.items(), key=lambda item: natural(item[0])):
            shapes = {key: tuple(tensors[name].shape) for key, name in pair.items()}
            ranks = [shapes[key][place] for key, place in (("A", 0), ("B", 1)) if key in shapes]
            axes = {len(shape) for shape in shapes.values()}
            if len(ranks) < 2 or ranks[0] != ranks[1] or len(axes) > 1 or not axes <= {*_APPLIED}:
                raise InvalidGraphError(
                    f"the adapter's factors of {layer!r:.120} are {shapes}; expected A (rank, in) "
                    "and B (out, rank)."
                )
            self._pairs.append((pair["A"], pair["B"]))
        for name in (name for pair in self._pairs for name in pair):
            *path, last = name.split(".")
            value = nn.Parameter(torch.empty(tensors[name].shape, device="meta"))
            submodule_at(self, path).register_parameter(last, value)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Return an input for each layer."""
        shapes = (self.get_parameter(down).shape[1:] for down, _ in self._pairs)
        return tuple(torch.zeros(1, *shape, device="meta") for shape in shapes)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run every layer by itself."""
        found = []
        for x, names in zip(inputs, self._pairs, strict=True):
            for name in names:
                weight = self.get_parameter(name)
                x = _APPLIED[weight.dim()](x, weight)
            found.append(x)
        return tuple(found)
