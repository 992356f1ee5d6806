"""Adapters of peft: low-rank changes of a base's weights, put into the base."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nngraph.errors import DataFileError

#: What stands before the names of a base's layers in an adapter.
_LEAD = "base_model.model."
#: Weights of an adapter by the middle of their names: down, up.
_FACTORS = re.compile(r"(.+)\.lora_(embedding_)?([AB])(\.[^.]+)??(\.weight)?")


def is_adapter(names: Iterable[str]) -> bool:
    """Whether tensors of these names are an adapter's, of any kind."""
    names = list(names)
    return bool(factor_names(names)) or (bool(names) and all(n.startswith(_LEAD) for n in names))


def factor_names(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the names of an adapter's factors, ``"A"`` down and ``"B"`` up, by their layer."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        if match := _FACTORS.fullmatch(name):
            found.setdefault(match[1], {})[match[3]] = name
    return found


def merged(
    path: Path, config: Any, adapter: Mapping[str, Tensor], base: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    r"""Return a base with a LoRA adapter put in, :math:`W + s B A`.

    :math:`s` is ``lora_alpha / r``, over the root of ``r`` with ``use_rslora``; ``alpha_pattern``
    gives other alphas to layers by their names. Whole tensors of the adapter (``modules_to_save``,
    biases) take the place of the base's.

    Args:
        path: of the adapter, for messages.
        config: what is in its ``adapter_config.json``.

    Raises:
        DataFileError: if it is an adapter of another kind, or does not fit the base.
    """
    if not isinstance(config, dict) or config.get("peft_type") != "LORA" or config.get("use_dora"):
        kind = config.get("peft_type") if isinstance(config, dict) else None
        kind = "DoRA" if kind == "LORA" else kind
        raise DataFileError(
            f"{path} is an adapter of kind {kind!r:.40}; expected LORA, without DoRA. Merge it "
            "with peft's merge_and_unload, and save the model."
        )
    found = dict(base)
    pairs: dict[tuple[str, bool], dict[str, Tensor]] = {}
    for name, value in adapter.items():
        inner = name.removeprefix(_LEAD)
        if match := _FACTORS.fullmatch(inner):
            # Embeddings are [entries, width], and so are weights where the base says so.
            turned = match[2] is not None or config.get("fan_in_fan_out") is True
            pairs.setdefault((match[1], turned), {})[match[3]] = value
            continue
        inner = re.sub(r"\.(modules_to_save|base_layer)(\.default)?", "", inner)
        target = _target(path, inner, found)
        if found[target].shape != value.shape:
            raise DataFileError(
                f"{path}: {name!r:.99} has shape {tuple(value.shape)}; the base has "
                f"{tuple(found[target].shape)}."
            )
        found[target] = value
    if not pairs:
        raise DataFileError(f"{path} has no tensors lora_A and lora_B.")
    for (layer, turned), factors in pairs.items():
        target = _target(path, f"{layer}.weight", found)
        change = _change(path, layer, factors) * _scale(path, layer, factors["A"].shape[0], config)
        change, weight = change.T if turned else change, found[target]
        if change.shape != weight.flatten(1).shape:
            raise DataFileError(
                f"{path} changes {target!r:.99} by {tuple(change.shape)}, which does not fit its "
                f"shape {tuple(weight.shape)}."
            )
        found[target] = (weight.to(change.dtype) + change.reshape(weight.shape)).to(weight.dtype)
    return found


def _change(path: Path, layer: str, factors: Mapping[str, Tensor]) -> Tensor:
    """Return the product of an adapter's factors, ``[out, in * window]``, in float32 at least."""
    if factors.keys() != {"A", "B"} or any(f.dim() < 2 for f in factors.values()):
        raise DataFileError(f"{path}: {layer!r:.99} has one of lora_A and lora_B only.")
    wide = functools.reduce(torch.promote_types, (f.dtype for f in factors.values()), torch.float32)
    down, up = (factors[key].to(wide).flatten(1) for key in "AB")
    if up.shape[1] != down.shape[0]:
        raise DataFileError(
            f"{path}: {layer!r:.99} has factors {tuple(up.shape)} and {tuple(down.shape)}, which "
            "have no product."
        )
    return up @ down


def _target(path: Path, name: str, base: Mapping[str, Tensor]) -> str:
    if name in base:
        return name
    near = [n for n in base if n.endswith(f".{name}") or name.endswith(f".{n}")]
    if len(near) != 1:
        raise DataFileError(
            f"{path} changes {name!r:.99}, which the base does not have; expected one of "
            f"{', '.join(map(repr, list(base)[:5]))} ... Give the base that it was made for."
        )
    return near[0]


def _scale(path: Path, layer: str, rank: int, config: dict[str, Any]) -> float:
    alpha = config.get("lora_alpha")
    patterns = config.get("alpha_pattern") or {}
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        # As names, not as expressions: those of a file can take any time.
        if layer == pattern or layer.endswith(f".{pattern}"):
            alpha = value
    if not isinstance(alpha, int | float) or rank == 0:
        raise DataFileError(f"{path} has lora_alpha = {alpha!r:.40}; expected a number.")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
