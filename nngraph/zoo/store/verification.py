"""Verification of a zoo against its manifest: everything is read."""

from __future__ import annotations

from pathlib import Path

from nngraph.errors import DataFileError
from nngraph.zoo.store.manifest import Manifest
from nngraph.zoo.store.shards import read_facts
from nngraph.zoo.store.writing import layout_of, with_receipts
from nngraph.zoo.store.zoo import Zoo


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
    found += sound.problems()
    return found + _strangers(path, manifest)


def _strangers(path: Path, manifest: Manifest) -> list[str]:
    """Name shards in the folder that the manifest does not know."""
    known = {shard.file for shard in manifest.shards}
    return [
        f"{file} is not in the manifest; it is not part of the zoo."
        for file in sorted(path.glob("shard-*.safetensors"))
        if file.name not in known
    ]
