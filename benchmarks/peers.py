"""Published models as plain layers that need torch alone, beside ours: training steps in turns.

What stands beside a model is written from the equations of its paper, at its published size, with
nothing but linear maps, means and norms; no code of the authors is in it. Ratios over 1 say how
many times faster ours is.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

# First, since it sets what torch reads when it is imported.
import harness
import models
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nngraph.graph import Architecture, NeuralGraphStack
from nngraph.nn import MODELS, input_features
from nngraph.testing import random_stack

KEYS = ("model", "options", "architecture", "batch", "threads", "cpu")
#: Widths and networks of a batch.
CASES = (((2, 32, 32, 1), 64), ((2, 128, 128, 1), 8), ((2, *[32] * 8, 1), 8))

Tensors = Sequence[Tensor]


class PlainNPLayer(nn.Module):
    r"""Every linear map of weights ``[B, C, out, in]`` and biases ``[B, C, out]`` of a network.

    Source:
        Zhou et al., 2023, equation 3: means of all tensors; of rows and columns of a weight and of
        its neighbours; biases likewise. Inputs and outputs count as relabelled.
    """

    def __init__(self, depth: int, before: int, after: int) -> None:
        super().__init__()

        def matrices(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, after, before) / math.sqrt(4 * depth * before))

        self.entries, self.rows, self.columns = (matrices(depth) for _ in range(3))
        self.before, self.after = matrices(depth - 1), matrices(depth - 1)
        self.biases, self.bias_rows, self.to_weights = (matrices(depth) for _ in range(3))
        self.bias_columns, self.to_next = matrices(depth - 1), matrices(depth - 1)
        self.means = matrices(2 * depth, 2 * depth)
        self.constants = nn.Parameter(torch.zeros(2 * depth, after))

    def forward(self, weights: Tensors, biases: Tensors) -> tuple[list[Tensor], list[Tensor]]:
        """Map the weights and biases of all layers."""
        depth = len(weights)
        rows, columns = [w.mean(3) for w in weights], [w.mean(2) for w in weights]
        means = torch.stack([value.flatten(2).mean(2) for value in (*weights, *biases)], 1)
        of_tensors = torch.einsum("bsc,tsdc->btd", means, self.means) + self.constants
        new_weights, new_biases = [], []
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            at_rows = self.rows[i] @ rows[i] + self.to_weights[i] @ bias
            at_columns = self.columns[i] @ columns[i]
            new_bias = self.biases[i] @ bias + self.bias_rows[i] @ rows[i]
            if i:
                at_columns = at_columns + self.before[i - 1] @ rows[i - 1]
                at_columns = at_columns + self.to_next[i - 1] @ biases[i - 1]
            if i + 1 < depth:
                at_rows = at_rows + self.after[i] @ columns[i + 1]
                new_bias = new_bias + self.bias_columns[i] @ columns[i + 1]
            new = torch.unflatten(self.entries[i] @ weight.flatten(2), 2, weight.shape[2:])
            new = new + at_rows.unsqueeze(3) + at_columns.unsqueeze(2)
            new_weights.append(new + of_tensors[:, i, :, None, None])
            new_biases.append(new_bias + of_tensors[:, depth + i, :, None])
        return new_weights, new_biases


class PlainNFN(nn.Module):
    """NFN-NP at its size for INRs of MNIST: Fourier features, three layers, means, an MLP."""

    def __init__(
        self, depth: int, channels: int = 512, layers: int = 3, waves: int = 128, hidden: int = 1000
    ) -> None:
        super().__init__()
        self.depth = depth
        self.register_buffer("frequency", torch.randn(waves))
        # Besides the waves, where a parameter's input and output are.
        sizes = [2 * waves + 2, *[channels] * layers]
        self.layers = nn.ModuleList(
            PlainNPLayer(depth, *pair) for pair in pairwise(sizes)
        )
        self.scales = nn.Parameter(torch.ones(layers, 2 * depth, channels))
        self.shifts = nn.Parameter(torch.zeros(layers, 2 * depth, channels))
        self.head = nn.Sequential(
            nn.Linear(2 * depth * channels, hidden), nn.ReLU(), nn.Linear(hidden, hidden),
            nn.ReLU(), nn.Linear(hidden, 10),
        )  # fmt: skip

    def forward(self, tensors: Tensors) -> Tensor:
        """Answer for networks of weights, inputs first, and then biases."""
        values = [self._waves(tensor.unsqueeze(1)) for tensor in tensors]
        for number, layer in enumerate(self.layers):
            weights, biases = layer(values[: self.depth], values[self.depth :])
            values = []
            for i, value in enumerate((*weights, *biases)):
                shape = (-1, *[1] * (value.dim() - 2))
                normal = F.layer_norm(value, value.shape[1:])
                scale, shift = (v[number, i].view(shape) for v in (self.scales, self.shifts))
                values.append(torch.relu_(torch.addcmul(shift, normal, scale)))
        means = torch.cat([value.flatten(2).mean(2) for value in values], 1)
        return self.head(means)  # type: ignore[no-any-return]

    def _waves(self, values: Tensor) -> Tensor:
        angle = values * self.get_buffer("frequency").view(-1, *[1] * (values.dim() - 2))
        return torch.cat([angle.cos(), angle.sin(), values, values], 1)


#: Model -> options of ours at the published channels and layers, and what stands beside it.
PEERS: dict[str, tuple[tuple[dict[str, Any], ...], Callable[[Architecture], nn.Module]]] = {
    "nfn-np": (
        ({"channels": 512, "edge_channels": 64}, {"channels": 512}),
        lambda architecture: PlainNFN(len(architecture.groups) - 1),
    ),
}


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser("peers.py", description=__doc__)
    made.add_argument("--model", nargs="+", default=[*PEERS], choices=[*PEERS])
    made.add_argument("--repeats", type=int, default=5)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--out", type=Path, default=harness.RESULTS / "peers.csv")
    return made


def peer_step(model: nn.Module, networks: NeuralGraphStack) -> Callable[[], None]:
    """Return a function that takes one step of AdamW with plain layers on a stack of MLPs."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    labels = torch.arange(len(networks)) % 10
    values = networks.parameters()
    tensors = [v for v in values.values() if v.dim() == 3]
    tensors += [v for v in values.values() if v.dim() == 2]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(tensors), labels).backward()
        optimizer.step()

    return step


def check_symmetry(model: nn.Module, networks: NeuralGraphStack) -> None:
    """Hold what stands beside to be what it is called: the same for relabelled networks.

    Raises:
        SystemExit: if it is not.
    """
    values = networks.parameters()
    names = [name for name, value in values.items() if value.dim() == 3]
    tensors = [values[n] for n in names] + [v for v in values.values() if v.dim() == 2]
    order = torch.randperm(tensors[0].shape[1], generator=torch.Generator().manual_seed(0))
    moved = list(tensors)
    moved[0], moved[1] = tensors[0][:, order], tensors[1][:, :, order]
    moved[len(names)] = tensors[len(names)][:, order]
    with torch.no_grad():
        error = float((model(tensors) - model(moved)).abs().max())
    if not error < 1e-4:
        raise SystemExit(f"relabelling changes what stands beside by {error:.1e}; not timed.")


def main(argv: Sequence[str] | None = None) -> None:
    """Time, weigh, write and print every pair."""
    made = parser()
    arguments = made.parse_args(argv)
    harness.keep_memory()
    torch.set_num_threads(arguments.threads)
    rows: list[dict[str, Any]] = []
    for name in arguments.model:
        choices, peer_of = PEERS[name]
        for widths, batch in CASES:
            architecture = Architecture.mlp(list(widths), models.SINE)
            networks = random_stack(architecture, batch, 0, torch.float32)
            torch.manual_seed(0)
            peer = peer_of(architecture)
            check_symmetry(peer, networks)
            beside = peer_step(peer, networks)
            for options in choices:
                own = MODELS[name](architecture, 10, **options)
                own.fit_statistics(networks)
                step = models.training_step(own, [input_features(networks)])
                timing, other = harness.measure_together([step, beside], arguments.repeats, 1)
                rows.append(
                    {
                        "model": name, "options": options, "architecture": str(architecture),
                        "batch": batch, "faster": float(f"{other.cpu_ms / timing.cpu_ms:.3g}"),
                        **timing.to_dict(),
                        **{f"{key}_beside": value for key, value in other.to_dict().items()},
                        "parameters": sum(p.numel() for p in own.parameters()),
                        "parameters_beside": sum(p.numel() for p in peer.parameters()),
                        "peak_mib": round(harness.peak_growth_mib(step), 1),
                        "peak_mib_beside": round(harness.peak_growth_mib(beside), 1),
                        "repeats": arguments.repeats,
                        "command": harness.command_line(made, arguments), **harness.machine(),
                    }
                )  # fmt: skip
                harness.write_rows(arguments.out, rows[-1:], KEYS)
    columns = (
        "model", "options", "architecture", "batch", "faster", "cpu_ms", "cpu_ms_beside",
        "parameters", "parameters_beside", "peak_mib", "peak_mib_beside",
    )  # fmt: skip
    print(harness.markdown(rows, columns))


if __name__ == "__main__":
    main()
