"""Editing networks of images: the edited network draws the edited image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nngraph.datasets import InputMotion
from nngraph.errors import DataFileError
from nngraph.graph import NeuralGraphStack
from nngraph.nn import EditingNetwork, evaluating
from nngraph.settings import TrainSettings
from nngraph.tasks.image_edits import EDITS
from nngraph.tasks.task import Numbered, Task
from nngraph.zoo import Zoo, load_images, pixel_coordinates, psnr_of, render

#: Networks that are rendered at once to make targets.
_RENDERED = 512


class Edit(Task):
    r"""Edit the image that a network represents, such as thicken the strokes of a digit.

    .. math:: \mathcal{L} = \frac{1}{B P} \sum_b \sum_p
        \big( \tfrac1k \textstyle\sum_c f_{\theta'_{bc}}(p) - \mathrm{edit}(I_b)_p \big)^2

    over all pixels p, in the units of images in [0, 1], as DWSNets and those after it report it;
    NFN's figures are on [-1, 1], four times as large. I is what the network itself draws, clipped;
    with ``data`` the image that it was fitted to, as in the published protocols. The model is an
    :class:`~nngraph.nn.EditingNetwork` on the model of the settings.

    Measures: ``mse``, ``psnr`` in dB (of the mean), ``mse_unedited``, that of doing nothing, and
    the score, ``negative_mse``.

    Args:
        settings: of the run; with ``motion=True`` what is drawn is moved in training, exactly.
        edit: a name of ``EDITS``: "dilate", "erode", "contrast".
        copies: networks that are averaged in place of each one (output-capacity expansion).
        added: neurons that each hidden layer gets besides.
        context, context_options, readout: of the :class:`~nngraph.nn.EditingNetwork`.
        pixels: number of pixels of each training step, drawn at random; default all.
        data: folder of the images that were fitted, as ``nngraph zoo fit --data`` reads it.

    Raises:
        DataFileError: if the networks are not those of images of one size, or of those in ``data``.
        ValueError: if an option is out of range.
    """

    name = "edit"
    score = "negative_mse"
    # The responses of all neurons at all pixels then fit a cache: 1.1 -> 0.6 s per 512 networks.
    batch_size = 32

    def __init__(
        self, zoo: Zoo, settings: TrainSettings, edit: str = "dilate", copies: int = 1,
        added: int = 0, context: str | int = 64, context_options: Mapping[str, Any] | None = None,
        readout: Mapping[str, Any] | None = None, pixels: int | None = None,
        data: str | None = None,
    ) -> None:
        super().__init__(zoo, settings)
        if edit not in EDITS:
            raise ValueError(f"edit is {edit!r}; expected one of {', '.join(EDITS)}.")
        if pixels is not None and pixels < 1:
            raise ValueError(f"pixels is {pixels!r}; expected at least 1, or None for all.")
        if data is not None and settings.motion:
            raise ValueError(
                "motion=True moves what networks draw, which the images in data do not follow; "
                "leave one of them out."
            )
        if len({origin.image_shape for origin in zoo.manifest.origins} - {None}) != 1:
            raise DataFileError(
                f"the networks of {zoo.path} were not fitted to images of one size, and cannot be "
                "edited as images."
            )
        self.edit = EDITS[edit]
        self.height, self.width, _ = zoo.image_shape
        self.pixels, self.data = pixels, data
        self._model = {
            "context": context, "context_options": context_options, "added": added,
            "copies": copies, **(readout or {}),
        }  # fmt: skip
        self._images: Tensor | None = None

    def build_model(self) -> EditingNetwork:
        architectures, settings = self.zoo.architectures, self.settings
        try:
            return EditingNetwork.of(
                architectures if len(architectures) > 1 else architectures[0],
                settings.model, settings.options, **self._model,
            )  # fmt: skip
        except (TypeError, RuntimeError) as error:
            raise ValueError(
                f"an editor cannot be built on the model {settings.model!r} with the options "
                f"{settings.options!r} and the task's options {settings.task_options!r}: {error}. "
                "On the command line options within options are JSON: "
                "--task_options.readout '{\"rank\": 8}'."
            ) from None

    def loss(self, model: nn.Module, batch: Numbered) -> Tensor:
        targets, networks = [], []
        for numbers, stack in batch:
            if self.settings.motion:
                stack = InputMotion()(stack)
                targets.append(self.edit(self.drawn(stack)))
            else:
                targets.append(self.edit(self.images(numbers).to(stack.x.device)))
            networks.append(self.prepare(stack, model, training=True))
        points = pixel_coordinates(self.height, self.width).to(networks[0].x)
        chosen = torch.arange(len(points), device=points.device)
        if self.pixels is not None:
            chosen = torch.randperm(len(points), device=points.device)[: self.pixels]
        errors = [
            (drawn.float() - target.flatten(1, 2)[:, chosen]).square().flatten()
            for drawn, target in zip(model(networks, points[chosen]), targets, strict=True)
        ]
        return torch.cat(errors).mean()

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        errors, before = [], []
        with evaluating(model):
            for drawn, unedited, target in self.edited_images(model, split):
                errors.append((drawn - target).square().flatten(1).mean(1))
                before.append((unedited - target).square().flatten(1).mean(1))
        mse = torch.cat(errors).mean()
        return {
            "negative_mse": -float(mse),
            "mse": float(mse),
            "psnr": float(psnr_of(mse)),
            "mse_unedited": float(torch.cat(before).mean()),
        }

    def edited_images(
        self, model: nn.Module, split: str
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield what edited networks draw, what they drew before, and what they should draw.

        Each ``[n, H, W, C]``, batch by batch, over the networks of a split.
        """
        points = pixel_coordinates(self.height, self.width)
        for batch in self.batches(split):
            networks = [self.prepare(stack, model) for _, stack in batch]
            answers = model(networks, points.to(networks[0].x))
            for (numbers, stack), drawn in zip(batch, answers, strict=True):
                image = self.images(numbers).to(stack.x.device)
                before = render(stack, self.height, self.width)
                yield drawn.reshape(image.shape), before, self.edit(image)

    def images(self, numbers: Tensor) -> Tensor:
        """Return the images of networks before the edit, ``[n, H, W, C]`` in [0, 1]."""
        if self._images is None:
            self._images = self._drawn_by_all() if self.data is None else self._fitted_to(self.data)
        return self._images[numbers]

    def drawn(self, stack: NeuralGraphStack) -> Tensor:
        """Return what networks draw, ``[n, H, W, C]``, clipped to [0, 1]."""
        parts = [stack[i : i + _RENDERED] for i in range(0, len(stack), _RENDERED)]
        with torch.no_grad():
            images = [render(part, self.height, self.width).clamp(0, 1) for part in parts]
        return torch.cat(images)

    def _drawn_by_all(self) -> Tensor:
        images = torch.empty(len(self.zoo), *self.zoo.image_shape)
        for numbers, stack in self.zoo.stacks():
            images[numbers] = self.drawn(stack).to(images)
        return images

    def _fitted_to(self, folder: str) -> Tensor:
        """Read the images that the networks were fitted to."""
        (origin,) = self.zoo.manifest.origins
        source = load_images(str(origin.recipe.get("source")), [folder])
        count = origin.recipe.get("count", len(source))
        if count > len(source) or source.take(count).fingerprint() != origin.source:
            raise DataFileError(
                f"the images in {folder} are not those that the networks of {self.zoo.path} "
                "were fitted to, by their checksum. Leave data out: what networks draw is edited."
            )
        if origin.recipe.get("augmentation"):
            raise DataFileError(
                f"the networks of {self.zoo.path} were fitted to augmented images, which are not "
                f"those in {folder}. Leave data out: what networks draw is edited."
            )
        return source.targets(self.zoo.image)
