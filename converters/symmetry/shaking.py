"""Parameters on which a proof is made: moved off special values, and kept in range.

Zero biases and unit scales would let a wrong relabelling pass. So would noise that is too strong: a
softmax that it saturates, or neurons that it kills, no longer see what is wrong. There are several
strengths, therefore, and what one draw does not see is looked for in the next.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from converters.symmetry.running import Draw, ForwardFailed, Network
from converters.symmetry.spec import PermutationSpec
from nngraph.errors import NonFiniteError, UnsupportedModuleError

#: (share of the parameters that is kept, strength of the noise) of each draw in turn
STRENGTHS = ((1.0, 1.0), (1.0, 0.3), (0.5, 0.5), (0.0, 0.7), (0.2, 0.2), (1.0, 0.05), (0.0, 2.0))


class Draws:
    """A network on parameters that are shaken, each time in another way, made when asked for.

    Without shaking there is one, of the parameters as they are. A draw on which the outputs are not
    finite, or the forward fails, is passed over; if there is no other, that is raised.
    """

    def __init__(
        self, network: Network, spec: PermutationSpec, seed: int, shake: bool = True
    ) -> None:
        self.network, self.spec, self.seed, self.shake = network, spec, seed, shake
        self._made: list[Draw] = []
        self._source = self._draws()

    def __iter__(self) -> Iterator[Draw]:
        for number in itertools.count():
            if number == len(self._made):
                following = next(self._source, None)
                if following is None:
                    return
                self._made.append(following)
            yield self._made[number]

    def first(self, count: int) -> list[Draw]:
        """Return so many of them, the same ones again and again if there are not enough."""
        made = list(itertools.islice(self, count))
        return list(itertools.islice(itertools.cycle(made), count))

    def _draws(self) -> Iterator[Draw]:
        if not self.shake:
            yield Draw(self.network, self.network.state)
            return
        failed: Exception | None = None
        for number, (kept, strength) in enumerate(STRENGTHS):
            state = shaken(self.network.state, self.spec, self.seed + number, kept, strength)
            try:
                draw = Draw(self.network, self.network.coherent(state))
            except (NonFiniteError, ForwardFailed) as error:
                failed = failed or error
            else:
                yield draw
        if failed is not None and not self._made:
            raise _explained(self.network, failed)


def _explained(network: Network, error: Exception) -> Exception:
    """Say whether it is the shaking that is to blame."""
    try:
        Draw(network, network.state)
    except (NonFiniteError, UnsupportedModuleError) as own:
        return own
    return type(error)(
        f"with noise added to its parameters the network cannot be run: {error} "
        "Expected a network that runs on any parameters of its kind; pass shake=False to prove it "
        "on its own parameters."
    )


def shaken(
    state: Mapping[str, Tensor], spec: PermutationSpec, seed: int, kept: float, strength: float
) -> dict[str, Tensor]:
    r"""Return tensors with noise: :math:`\theta' = a \theta + b \sigma \epsilon`.

    Here :math:`a` is the share that is ``kept``, :math:`b` the ``strength`` of the noise, and
    :math:`\sigma` the spread of a tensor's own entries, and at least what keeps the size of
    features through a layer: with the tiny weights of a fresh attention layer, its softmax would
    hardly see a mistake. Buffers that cannot be relabelled are tables, and stay. Those that can are
    statistics: they are multiplied by positive numbers, so that a variance stays one.
    """
    generator = torch.Generator().manual_seed(seed + 1)
    result = dict(state)
    for name in spec.parameters:
        tensor = state[name]
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor)
        if name not in spec.buffers:
            result[name] = kept * tensor + strength * _spread(tensor) * noise
        elif any(map(spec.is_free, spec.parameters[name])):
            offset = 0.1 * noise if name.endswith("mean") else 0.0
            result[name] = tensor * torch.exp(0.2 * noise) + offset
        for other in spec.aliases.get(name, ()):
            result[other] = result[name]
    return result


def _spread(tensor: Tensor) -> float:
    spread = float(tensor.std()) if tensor.numel() > 1 else 0.0
    least = 0.3 if tensor.dim() < 2 else (tensor[0].numel() or 1) ** -0.5
    return max(spread, least)
