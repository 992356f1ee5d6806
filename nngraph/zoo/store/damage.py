"""Damage to the files of a zoo: everything is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from nngraph.errors import DataFileError
from nngraph.zoo.store.manifest import Manifest
from nngraph.zoo.store.shards import map_shard, verify_digest
from nngraph.zoo.store.writing import layout_of


def damage(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Yield what is wrong with the finished shards in a folder, one sentence each."""
    digests: dict[str | None, str] = {}
    for shard in manifest.shards:
        if not shard.done:
            continue
        path = folder / shard.file
        if shard.sha256 in digests:
            yield f"{path} holds the same networks as {digests[shard.sha256]}."
        digests[shard.sha256] = shard.file
        layout = layout_of(manifest, shard)
        try:
            verify_digest(path, shard.sha256 or "")
            held = map_shard(path, layout, shard.count)
        except DataFileError as error:
            yield str(error)
            continue
        for parameter in layout.architecture.parameters:
            if parameter.integer:
                continue
            # A sum of finite numbers may overflow; the smallest and the largest do not.
            low, high = held[parameter.name].aminmax()
            if not bool(torch.isfinite(low)) or not bool(torch.isfinite(high)):
                yield f"{path}: tensor {parameter.name!r} has NaN or infinite entries."
