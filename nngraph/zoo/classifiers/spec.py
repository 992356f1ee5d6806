"""Small image classifiers, MLPs and CNNs: as data, as graphs, and as torch modules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from nngraph.errors import ArchitectureError
from nngraph.graph import (
    Activation,
    Architecture,
    NeuronGroup,
    NeuronScale,
    Parameter,
    ScaleKind,
    Slab,
    scale_kinds,
    scales_of_values,
)
from nngraph.zoo.store.facts import plain

#: Images up to this wide are not made smaller any more.
_SMALL = 4


@dataclass(frozen=True)
class HiddenLayer:
    """One hidden layer: an affine map, a batch norm if any, what is added, the activation."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    residual: bool


@dataclass(frozen=True)
class ClassifierSpec:
    r"""An image classifier.

    Hidden layer l is :math:`h_l = a(\mathrm{norm}(W_l h_{l-1} + b_l) + h_{l-1})`, with the norm and
    the addition if asked for; the bias is the norm's where there is one. Of a CNN the maps are
    convolutions, which halve the image (stride 2) until it is at most 4 pixels wide, but not where
    something is added; the mean over the image goes into the output. An MLP reads pixels in a row.

    Args:
        image_shape: ``(H, W, C)``.
        classes: number of outputs.
        widths: channels or units of the hidden layers.
        kernels: of the convolutions, odd; ``()`` for an MLP.
        activation: of the hidden layers, by name.
        norm: whether hidden layers have a batch norm.
        residual: whether a layer's input is added where it is as wide as the layer.

    Raises:
        ArchitectureError: if a number is out of range, or lengths differ.
    """

    image_shape: tuple[int, int, int]
    classes: int
    widths: tuple[int, ...]
    kernels: tuple[int, ...] = ()
    activation: str = "relu"
    norm: bool = False
    residual: bool = False

    def __post_init__(self) -> None:
        for name in ("image_shape", "widths", "kernels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        sizes = (*self.image_shape, self.classes, *self.widths)
        odd = all(isinstance(k, int) and k % 2 == 1 and k > 0 for k in self.kernels)
        if (
            len(self.image_shape) != 3
            or not self.widths
            or not all(type(n) is int and n > 0 for n in sizes)
            or not odd
            or (self.kernels and len(self.kernels) != len(self.widths))
        ):
            raise ArchitectureError(
                f"a classifier has image shape {self.image_shape}, {self.classes} classes, widths "
                f"{self.widths} and kernels {self.kernels}; expected whole numbers above 0, and no "
                "kernels or an odd one per hidden layer."
            )
        Activation(self.activation)

    @property
    def convolutional(self) -> bool:
        """Whether it is a CNN."""
        return bool(self.kernels)

    @property
    def layers(self) -> tuple[HiddenLayer, ...]:
        """The hidden layers."""
        height, width, channels = self.image_shape
        size, inputs = max(height, width), channels
        if not self.convolutional:
            inputs = height * width * channels
        layers = []
        for i, outputs in enumerate(self.widths):
            added = self.residual and i > 0 and outputs == inputs
            stride = 2 if self.convolutional and not added and size > _SMALL else 1
            size = math.ceil(size / stride)
            kernel = self.kernels[i] if self.convolutional else 1
            layers.append(HiddenLayer(inputs, outputs, kernel, stride, added))
            inputs = outputs
        return tuple(layers)

    def architecture(self) -> Architecture:
        """Return the classifier as neuron groups and parameters, named as :meth:`module`'s are."""
        layers = self.layers
        activation = Activation(self.activation)
        groups = [NeuronGroup("input", layers[0].inputs, "input")]
        parameters: list[Parameter] = []
        residuals: list[tuple[int, int]] = []
        space = ""
        for i, layer in enumerate(layers):
            before = len(groups) - 1
            space = space if layer.residual else f"hidden.{i}"
            taps = (layer.kernel, layer.kernel) if self.convolutional else ()
            size, now = (layer.outputs,), before + 1
            shape, axes = (*size, layer.inputs, *taps), (now, before, *(None for _ in taps))
            parameters.append(Parameter(f"layers.{i}.weight", shape, axes))
            if self.norm:
                groups.append(NeuronGroup(f"hidden.{i}.map", layer.outputs, "hidden", space=space))
                now += 1
                parameters += [
                    Parameter(f"norms.{i}.weight", size, slabs=(Slab("b", now, now - 1),)),
                    Parameter(f"norms.{i}.bias", size, (now,), "bias"),
                    Parameter(f"norms.{i}.running_mean", size, (now,), "running_mean"),
                    Parameter(f"norms.{i}.running_var", size, (now,), "running_var"),
                    Parameter(f"norms.{i}.num_batches_tracked", (), integer="int64"),
                ]
            else:
                parameters.append(Parameter(f"layers.{i}.bias", size, (now,), "bias"))
            groups.append(NeuronGroup(f"hidden.{i}", layer.outputs, "hidden", activation, space))
            if layer.residual:
                residuals.append((before, now))
        groups.append(NeuronGroup("output", self.classes, "output"))
        last = len(groups) - 1
        parameters += [
            Parameter("head.weight", (self.classes, self.widths[-1]), (last, last - 1)),
            Parameter("head.bias", (self.classes,), (last,), "bias"),
        ]
        order = ("layers", "norms", "head")  # of the state dict
        parameters.sort(key=lambda parameter: order.index(parameter.name.split(".")[0]))
        plain = Architecture(tuple(groups), tuple(parameters), tuple(residuals))
        return plain if plain.is_chain else replace(plain, scales=_scales(plain))

    def module(self) -> Classifier:
        """Return the classifier as a torch module with torch's own first weights."""
        return Classifier(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the description as plain data."""
        return plain(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ClassifierSpec:
        """Read what :meth:`to_dict` returned; an ArchitectureError if it is malformed."""
        try:
            return cls(**data)
        except TypeError as error:
            raise ArchitectureError(f"{data!r:.200} describes no classifier: {error}.") from None


class Classifier(nn.Module):
    """A :class:`ClassifierSpec` as a torch module: images ``[N, C, H, W]`` -> ``[N, classes]``."""

    def __init__(self, spec: ClassifierSpec) -> None:
        super().__init__()
        self.spec = spec
        layers = spec.layers
        self.layers = nn.ModuleList(
            nn.Conv2d(
                layer.inputs, layer.outputs, layer.kernel, layer.stride, layer.kernel // 2,
                bias=not spec.norm,
            )
            if spec.convolutional
            else nn.Linear(layer.inputs, layer.outputs, bias=not spec.norm)
            for layer in layers
        )  # fmt: skip
        if spec.norm:
            kind = nn.BatchNorm2d if spec.convolutional else nn.BatchNorm1d
            self.norms = nn.ModuleList(kind(layer.outputs) for layer in layers)
        # Modules, so that what the neurons answer can be read off their outputs.
        self.activations = nn.ModuleList(_Applied(Activation(spec.activation)) for _ in layers)
        self.head = nn.Linear(spec.widths[-1], spec.classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        value = images if self.spec.convolutional else images.flatten(1)
        for i, layer in enumerate(self.spec.layers):
            mapped = self.layers[i](value)
            if self.spec.norm:
                mapped = self.norms[i](mapped)
            value = self.activations[i](mapped + value if layer.residual else mapped)
        if self.spec.convolutional:
            value = value.mean(dim=(2, 3))
        logits: Tensor = self.head(value)
        return logits


class _Applied(nn.Module):
    """An activation as a module."""

    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, value: Tensor) -> Tensor:
        return self.activation(value)


def _scales(architecture: Architecture) -> tuple[NeuronScale, ...]:
    """Return what each hidden layer may be multiplied by, as its activation allows.

    Layers that are added are multiplied alike, and what comes into a norm by itself.
    """
    values: list[tuple[ScaleKind, list[int]]] = []
    for space in architecture.spaces:
        own = [i for i, group in enumerate(architecture.groups) if group.space == space]
        maps = [i for i in own if architecture.groups[i].name.endswith(".map")]
        values += [(kind, [i]) for i in maps for kind in ("positive_scale", "sign")]
        values += [
            (kind, [i for i in own if i not in maps]) for kind in scale_kinds(architecture, own[-1])
        ]
    return scales_of_values(architecture, values)
