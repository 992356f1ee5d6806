"""Quick looks at a zoo as PNG: the images that its networks represent, and its weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nngraph.drawing.figures import new_figure, save_figure
from nngraph.errors import InvalidGraphError
from nngraph.zoo import Zoo, render

#: Of a larger architecture the first so many tensors are drawn.
_MAX_TENSORS = 16
#: Networks per architecture that a histogram is made of, at the most.
_MAX_NETWORKS = 2048


def draw_contact_sheet(
    zoo: Zoo, path: str | Path, networks: Tensor | None = None, enlarge: int = 2
) -> Path:
    """Draw the images that networks represent, side by side, each under its label and PSNR.

    Args:
        path: PNG file to write.
        networks: their numbers; default 64 of all, evenly.
        enlarge: pixels drawn per pixel of the images, each evaluated by itself.

    Raises:
        InvalidGraphError: if the networks represent no images.
        DataFileError: if the file cannot be written.
    """
    height, width, channels = zoo.image_shape
    if networks is None:
        networks = torch.linspace(0, len(zoo) - 1, min(len(zoo), 64)).round().to(torch.int64)
    networks = torch.unique(zoo.chosen(networks))
    if not len(networks):
        raise InvalidGraphError("there are no networks to draw; expected at least one.")
    pictures = torch.empty(len(networks), height * enlarge, width * enlarge, channels)
    for numbers, stack in zoo.stacks(networks):
        drawn = render(stack.to(torch.float32), height * enlarge, width * enlarge)
        pictures[torch.searchsorted(networks, numbers)] = drawn.clamp(0, 1)
    figure, panels = _panels(len(networks), math.ceil(math.sqrt(len(networks))), 1.1, 1.3)
    for axes, picture, number in zip(panels, pictures, networks.tolist(), strict=True):
        axes.axis("off")
        axes.imshow(
            picture.numpy() if channels == 3 else picture[..., 0].numpy(),
            cmap="gray", vmin=0, vmax=1, interpolation="nearest",
        )  # fmt: skip
        axes.set_title(_caption(zoo, number), fontsize=6, pad=2)
    return save_figure(figure, path, dpi=120)


def _panels(count: int, columns: int, width: float, height: float) -> tuple[Any, list[Any]]:
    """Return a figure of so many panels of a size, in rows, and the panels."""
    rows = math.ceil(count / columns)
    figure = new_figure(width * columns, height * rows)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[count:]:
        axes.axis("off")
    figure.set_layout_engine("constrained")
    return figure, panels[:count]


def _caption(zoo: Zoo, number: int) -> str:
    words = [str(number)]
    if zoo.class_names:
        words.append(zoo.class_names[int(zoo.labels[number])])
    if "psnr" in zoo.facts:
        words.append(f"{float(zoo.psnr[number]):.0f} dB")
    return " · ".join(words)


def draw_histograms(zoo: Zoo, path: str | Path, kind: int = 0, bins: int = 80) -> Path:
    """Draw a histogram of the entries of each parameter, over networks of one architecture.

    Args:
        path: PNG file to write.
        kind: index of the architecture.
        bins: intervals of each histogram.

    Raises:
        InvalidGraphError: if there is no such architecture.
        DataFileError: if the file cannot be written.
    """
    if not 0 <= kind < len(zoo.architectures):
        raise InvalidGraphError(
            f"architecture {kind} is asked for; expected 0 to {len(zoo.architectures) - 1}."
        )
    numbers = torch.nonzero(zoo.architecture_index == kind).squeeze(1)[:_MAX_NETWORKS]
    values = zoo.parameters(kind, numbers)
    real = [p for p in zoo.architectures[kind].parameters if not p.integer][:_MAX_TENSORS]
    figure, panels = _panels(len(real), min(4, len(real)), 3.2, 2.2)
    for axes, parameter in zip(panels, real, strict=True):
        entries = values[parameter.name].flatten().double().numpy()
        axes.hist(entries, bins=bins, color="#4477aa")
        axes.set_title(
            f"{parameter.name}  {' x '.join(map(str, parameter.shape))}\n"
            f"mean {entries.mean():.2g}, std {entries.std():.2g}",
            fontsize=7,
        )
        axes.tick_params(labelsize=6)
        axes.set_yticks([])
    figure.suptitle(f"{len(numbers)} x {zoo.architectures[kind]}", fontsize=9)
    return save_figure(figure, path, dpi=120)
