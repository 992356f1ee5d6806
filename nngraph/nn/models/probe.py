"""The baseline of probes: a plain network on the answers of networks at learned inputs."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from nngraph.nn.common.mlp import mlp
from nngraph.nn.features import Architectures, Networks
from nngraph.nn.models.base import Metanetwork, Traits
from nngraph.nn.probes.grid import GridReader, grid_points, side_of
from nngraph.nn.probes.probes import StandardAnswers
from nngraph.nn.probes.running import Runner


class ProbeNetwork(Metanetwork):
    r"""A plain network on the answers of the networks at learned inputs; it reads no weights.

    .. math:: \mathrm{reader}\big((f_\theta(u_1), \dots, f_\theta(u_P) - \mu) / \sigma\big)

    The baseline that any model with probes has to beat. Invariant to everything that leaves the
    function of a network unchanged. Reads whatever its runner runs.

    Args:
        probes: number P of learned inputs.
        hidden, dropout: width of the MLP, and dropout in it.
        runner, generator: of the :class:`Probes`.
        reader: ``"mlp"``; or ``"grid"``, for networks of two inputs, such as those of images: the
            inputs start on a square grid, from which they move slowly, and a convolutional
            :class:`~nngraph.nn.probes.grid.GridReader` reads the answers as a picture.
        width: channels of the GridReader's first map.

    Raises:
        ValueError: if there is no such reader, or no such grid.

    Source:
        learned probes and, with ``generator``, ProbeGen (Kahana et al., "Deep Linear Probe
        Generators for Weight Space Learning", ICLR 2025).
    """

    traits = Traits(
        "with probes", "all: reads functions alone", reads_signs=False, takes_runner=True
    )

    def __init__(
        self, architecture: Architectures, num_outputs: int, probes: int = 196, hidden: int = 512,
        dropout: float = 0.2, runner: Runner | None = None, generator: bool = False,
        reader: Literal["mlp", "grid"] = "mlp", width: int = 24,
    ) -> None:
        super().__init__(architecture, num_outputs)
        outputs = self.limits.outputs
        self.probes = StandardAnswers(
            architecture, probes, runner=runner, generator=generator, size=outputs
        )
        self.readout: nn.Module
        if reader == "mlp":
            self.readout = mlp([probes * outputs, hidden, hidden, num_outputs], dropout)
        elif reader == "grid":
            side = side_of(probes, self.limits.inputs)
            self.probes.start_at(grid_points(side))
            self.readout = GridReader(outputs, side, num_outputs, width, hidden, dropout)
        else:
            raise ValueError(f"reader is {reader!r}; expected 'mlp' or 'grid'.")

    def forward(self, networks: Networks) -> Tensor:
        answers: Tensor = self.readout(self.probes.answers(self.read(networks)))
        return answers
