"""Numbers that modules keep of the sizes of their tensors, and what they become."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from converters.symmetry import Axis, Segment, axis_size, segment_size
from nngraph.pruning.removal import Removal

#: A number that counted so many, and what it counts now.
Change: TypeAlias = "tuple[int, int]"

#: Axes of more parts than these have no sums of some of them, only of the first ones.
MANY_PARTS = 8

#: Numbers that are geometry or order, whatever size they are by chance equal to.
_GEOMETRY = re.compile(
    r"kernel|stride|padding|dilation|patch|window|image|img|grid|pool|resolution|depth|layer|"
    r"idx|index|level|stage|id$|_dim$|axis|version|expan|ratio|max_|block_size|upscale"
)
#: Beside torch's layers that have a row in :data:`LAYERS`, those that are nothing but sizes.
_SHAPING = (nn.Unflatten, nn.ChannelShuffle, nn.MultiheadAttention)


@dataclass(frozen=True)
class SizeSlot:
    """A number in an attribute of a module, and what it may become, likeliest first."""

    path: str
    attribute: str
    place: int | None
    options: tuple[int, ...]


# -- torch's own layers: what they keep is read off their new tensors ------------------------------


def _convolution(layer: Any) -> dict[str, Any]:
    wide, narrow = layer.weight.shape[0], layer.weight.shape[1] * layer.groups
    names = ("in_channels", "out_channels")
    return dict(zip(names if layer.transposed else names[::-1], (wide, narrow), strict=True))


def _recurrent(layer: Any) -> dict[str, Any]:
    found = {"input_size": layer.weight_ih_l0.shape[1]}
    if layer.proj_size:
        found["proj_size"] = layer.weight_hh_l0.shape[1]
    gates = {"LSTM": 4, "GRU": 3}.get(layer.mode, 1)
    return found | {"hidden_size": layer.weight_ih_l0.shape[0] // gates}


def _attention(layer: Any) -> dict[str, Any]:
    keys = layer.in_proj_weight if layer.k_proj_weight is None else layer.k_proj_weight
    values = layer.in_proj_weight if layer.v_proj_weight is None else layer.v_proj_weight
    width = layer.out_proj.weight.shape[0]
    return {
        "embed_dim": width, "kdim": keys.shape[1], "vdim": values.shape[1],
        "head_dim": width // layer.num_heads,
    }


def _width(attribute: str) -> Callable[[Any], dict[str, Any]]:
    def found(layer: Any) -> dict[str, Any]:
        tensor = layer.weight if layer.weight is not None else getattr(layer, "running_mean", None)
        return {} if tensor is None else {attribute: tensor.shape[0]}

    return found


#: torch's layers -> the sizes they keep, by their tensors; the first that fits
LAYERS: tuple[tuple[Any, Callable[[Any], dict[str, Any]]], ...] = (
    (nn.Linear, lambda m: dict(zip(("out_features", "in_features"), m.weight.shape, strict=True))),
    (nn.modules.conv._ConvNd, _convolution),
    (nn.modules.batchnorm._NormBase, _width("num_features")),
    (nn.GroupNorm, _width("num_channels")),
    ((nn.LayerNorm, nn.RMSNorm), lambda m: (
        {} if m.weight is None else {"normalized_shape": tuple(m.weight.shape)}
    )),
    ((nn.Embedding, nn.EmbeddingBag), lambda m: dict(
        zip(("num_embeddings", "embedding_dim"), m.weight.shape, strict=True)
    )),
    (nn.RNNBase, _recurrent),
    (nn.modules.rnn.RNNCellBase, lambda m: {
        "input_size": m.weight_ih.shape[1], "hidden_size": m.weight_hh.shape[1],
    }),
    (nn.MultiheadAttention, _attention),
    (nn.PReLU, _width("num_parameters")),
    (nn.Bilinear, lambda m: dict(
        zip(("out_features", "in1_features", "in2_features"), m.weight.shape, strict=True)
    )),
)

#: Numbers of torch's layers that no shape tells: they are found as those of other modules are.
_UNTOLD = ("groups", "num_groups", "num_heads")


def layer_sizes(layer: nn.Module) -> dict[str, Any]:
    """Return what one of torch's layers, or one derived from it, keeps of its tensors' sizes."""
    return next((sizes(layer) for kind, sizes in LAYERS if isinstance(layer, kind)), {})


# -- other modules: numbers that equal what an axis counts -----------------------------------------


def size_slots(module: nn.Module, removal: Removal) -> list[SizeSlot]:
    """Return the numbers in attributes of modules that may count what has become fewer.

    Those of a module are looked for among what its tensors and its children's count, and, where
    these have none, its parent's.
    """
    by_owner: dict[str, list[Change]] = {}
    groups: dict[str, list[Change]] = {}
    for (name, axes), smaller in zip(
        removal.spec.parameters.items(), removal.smaller.parameters.values(), strict=True
    ):
        for pair in zip(axes, smaller, strict=True):
            for known in (name, *removal.spec.aliases.get(name, ())):
                owner = known.rpartition(".")[0]
                by_owner.setdefault(owner, []).extend(changes(*pair))
                groups.setdefault(owner, []).extend(leading(*pair))
    result = []
    for path, child in module.named_modules():
        near = _near(child, path, by_owner)
        if not near and path:
            parent = path.rpartition(".")[0]
            near = _near(module.get_submodule(parent), parent, by_owner)
        if any(old != new for old, new in near):
            result += list(_size_slots_of(child, path, near, groups.get(path, [])))
    return result


def _near(module: nn.Module, path: str, by_owner: Mapping[str, list[Change]]) -> list[Change]:
    children = (f"{path}.{name}" if path else name for name, _ in module.named_children())
    return [change for owner in (path, *children) for change in by_owner.get(owner, ())]


def _size_slots_of(
    module: nn.Module, path: str, near: Sequence[Change], groups: Sequence[Change]
) -> Iterator[SizeSlot]:
    is_layer = any(isinstance(module, kind) for kind, _ in LAYERS)
    plain = type(module).__module__.startswith("torch.nn.") and not isinstance(module, _SHAPING)
    told = layer_sizes(module) if is_layer else {}
    for name, value in vars(module).items():
        if name.startswith("_") or name in told:
            continue
        if name not in _UNTOLD and (plain or is_layer):
            continue
        whole = not isinstance(value, (list, tuple, torch.Size))
        for place, number in enumerate([value] if whole else value):
            if type(number) is not int or number < 2:
                continue
            known = [*near, *groups] if name in _UNTOLD else near
            options = list(dict.fromkeys(new for old, new in known if old == number))
            options = sorted(options, key=lambda new: new == number)
            if _GEOMETRY.search(name) and name not in _UNTOLD and not name.endswith("head_dim"):
                options = [number, *options]
            options = list(dict.fromkeys([*options, number]))
            if len(options) > 1:
                yield SizeSlot(path, name, None if whole else place, tuple(options))


def changes(old: Axis, new: Axis) -> list[Change]:
    """Return what can be counted along an axis, and how much it is along one that is smaller.

    Runs of factors first (heads, features of a head), then segments, sums of them, the whole.
    """
    found: list[Change] = []
    for one, other in zip(old, new, strict=True):
        found += _products(one, other)
    if len(old) > 1:
        ends = range(1, len(old) + 1)
        runs = [
            (i, j) for j in ends for i in (range(j) if len(old) <= MANY_PARTS else (0,))
            if j - i > 1
        ]
        found += [(axis_size(old[i:j]), axis_size(new[i:j])) for i, j in runs]
    return list(dict.fromkeys(found))


def _products(old: Segment, new: Segment) -> Iterator[Change]:
    for i, j in itertools.combinations(range(len(old) + 1), 2):
        yield segment_size(old[i:j]), segment_size(new[i:j])
    for one, other in zip(old, new, strict=True):
        if one.parts:
            yield from changes(one.parts, other.parts)


def leading(old: Axis, new: Axis) -> Iterator[Change]:
    """Iterate over sums of leading factors, as groups of a concatenation are counted."""
    trailing = {math.prod(f.size for f in segment[k:]) for segment in old
                for k in range(1, len(segment) + 1)}
    for size in trailing:
        cuts = [
            next((k for k in range(len(s) + 1) if segment_size(s[k:]) == size), None) for s in old
        ]
        if None not in cuts:
            yield tuple(  # type: ignore[misc]
                sum(segment_size(s[:k]) for s, k in zip(axis, cuts, strict=True))
                for axis in (old, new)
            )
