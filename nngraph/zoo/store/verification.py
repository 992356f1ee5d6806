"""Whether a zoo is what its manifest says: everything is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from nngraph.errors import DataFileError
from nngraph.zoo.store.manifest import Manifest
from nngraph.zoo.store.shards import map_shard, read_facts, verify_digest
from nngraph.zoo.store.writing import layout_of, with_receipts
from nngraph.zoo.store.zoo import Zoo

__all__ = ["find_problems", "problems_of"]


def find_problems(path: str | Path) -> list[str]:
    """Return everything that is wrong with the zoo in a folder, one sentence each; nothing is fine.

    Damaged shards are all named, and do not keep the others from being read. Shards that are not
    made yet are no problem. A damaged manifest ends the search.

    Raises:
        DataFileError: if the manifest cannot be read.
    """
    path = Path(path)
    manifest = with_receipts(path, Manifest.read(path))
    found: list[str] = []
    whole = []
    for shard in manifest.shards:
        if not shard.done:
            continue
        try:
            read_facts(path / shard.file, layout_of(manifest, shard), shard)
        except DataFileError as error:
            found.append(str(error))
        else:
            whole.append(shard)
    sound = Zoo(path, Manifest(**{**vars(manifest), "shards": tuple(whole)}))
    found += problems_of(sound)
    return found + _strangers(path, manifest)


def problems_of(zoo: Zoo) -> Iterator[str]:
    """Yield what is wrong with the finished shards of an open zoo."""
    digests: dict[str | None, str] = {}
    for shard in zoo.shards:
        path = zoo.path / shard.file
        if shard.sha256 in digests:
            yield f"{path} holds the same networks as {digests[shard.sha256]}."
        digests[shard.sha256] = shard.file
        layout = layout_of(zoo.manifest, shard)
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
    keys = zoo.group_keys()
    pairs = torch.unique(torch.stack([keys, zoo.split]), dim=1)
    if pairs.shape[1] != len(torch.unique(keys)):
        yield (
            f"{zoo.path}: networks of one group (fact {zoo.manifest.group!r}) are in different "
            "splits."
        )


def _strangers(path: Path, manifest: Manifest) -> list[str]:
    """Name shards in the folder that the manifest does not know."""
    known = {shard.file for shard in manifest.shards}
    return [
        f"{file} is not in the manifest; it is not part of the zoo."
        for file in sorted(path.glob("shard-*.safetensors"))
        if file.name not in known
    ]
