"""The manifest of a zoo: what it holds, how it was made, and which shards are finished."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nngraph.errors import ArchitectureError, DataFileError
from nngraph.files import write_atomically
from nngraph.graph import Architecture
from nngraph.zoo.shards import read_bounded

__all__ = ["MANIFEST", "Manifest", "Shard"]

MANIFEST = "manifest.json"
#: Version of the manifest. It changes whenever an older reader would misread a newer zoo.
SCHEMA_VERSION = 1
_FORMAT = "nngraph.zoo"
_MAX_BYTES = 2**26
#: More networks than this in one shard are refused when a manifest is read.
_MAX_COUNT = 2**31


@dataclass(frozen=True)
class Shard:
    """A shard: file name, number of networks, and, once it is finished, checksum and versions."""

    file: str
    count: int
    sha256: str | None = None
    versions: dict[str, str] = field(default_factory=dict, compare=False)

    @property
    def done(self) -> bool:
        """Whether the shard was fitted and written."""
        return self.sha256 is not None


@dataclass(frozen=True)
class Manifest:
    """Everything about a zoo but its numbers.

    Args:
        architecture: of all networks.
        class_names: name of each label.
        image_shape: ``(H, W, C)`` of the images the networks were fitted to.
        recipe: all that determines the weights: source, counts, splits, fit settings.
        shards: in order; network n of the zoo lies in the shard that its number falls into.
    """

    architecture: Architecture
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    recipe: dict[str, Any]
    shards: tuple[Shard, ...]

    @property
    def starts(self) -> list[int]:
        """First network of each shard, and the number of networks at the end."""
        starts = [0]
        for shard in self.shards:
            starts.append(starts[-1] + shard.count)
        return starts

    def with_done(self, index: int, sha256: str, versions: dict[str, str]) -> Manifest:
        """Return the manifest with shard ``index`` marked as finished."""
        shards = list(self.shards)
        shards[index] = replace(shards[index], sha256=sha256, versions=versions)
        return replace(self, shards=tuple(shards))

    def write(self, folder: Path) -> None:
        """Write the manifest into a zoo's folder, atomically."""
        data = {
            "format": _FORMAT,
            "version": SCHEMA_VERSION,
            "architecture": self.architecture.to_dict(),
            "class_names": list(self.class_names),
            "image_shape": list(self.image_shape),
            "recipe": self.recipe,
            "shards": [
                {
                    "file": shard.file,
                    "count": shard.count,
                    "status": "done" if shard.done else "missing",
                    "sha256": shard.sha256,
                    "versions": shard.versions,
                }
                for shard in self.shards
            ],
        }
        text = json.dumps(data, indent=1, allow_nan=False) + "\n"
        write_atomically(folder / MANIFEST, text.encode())

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of a zoo.

        Raises:
            DataFileError: naming the file, if it is missing, malformed, of an unknown version, or
                names a file outside the folder.
        """
        path = folder / MANIFEST
        if not path.exists():
            raise DataFileError(
                f"{folder} is not a zoo: it has no {MANIFEST}. Make one with nngraph.zoo.fit_zoo "
                "or the command 'nngraph zoo fit'."
            )
        try:
            data = json.loads(read_bounded(path, _MAX_BYTES))
        except (ValueError, RecursionError) as error:
            if isinstance(error, DataFileError):
                raise
            raise DataFileError(f"{path} is not valid JSON: {error!s:.200}.") from None
        try:
            return cls._parse(data)
        except (_Malformed, ArchitectureError) as error:
            raise DataFileError(f"{path}: {error}") from None

    @classmethod
    def _parse(cls, data: object) -> Manifest:
        top = _fields(
            data,
            "the manifest",
            format=str, version=int, architecture=dict, class_names=list, image_shape=list,
            recipe=dict, shards=list,
        )  # fmt: skip
        if top["format"] != _FORMAT:
            raise _Malformed(f"format is {top['format']!r:.80}; expected {_FORMAT!r}.")
        if top["version"] != SCHEMA_VERSION:
            raise _Malformed(
                f"version is {top['version']}; this nngraph reads version {SCHEMA_VERSION}. "
                "Read the zoo with the nngraph that wrote it, or a newer one."
            )
        names, shape = top["class_names"], top["image_shape"]
        if not all(isinstance(name, str) for name in names):
            raise _Malformed("class_names are not all strings.")
        if len(shape) != 3 or not all(type(n) is int and 1 <= n <= 2**16 for n in shape):
            raise _Malformed(f"image_shape is {shape!r:.80}; expected height, width, channels.")
        shards = tuple(_shard(item, i) for i, item in enumerate(top["shards"]))
        if len({shard.file for shard in shards}) < len(shards):
            raise _Malformed("two shards have one file name.")
        return cls(
            Architecture.from_dict(top["architecture"]),
            tuple(names),
            (shape[0], shape[1], shape[2]),
            top["recipe"],
            shards,
        )


class _Malformed(Exception):
    """What is wrong inside a manifest; the reader adds the file's name."""


def _fields(data: object, where: str, **types: type) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise _Malformed(f"{where} is a {type(data).__name__}; expected an object.")
    for name, kind in types.items():
        if type(data.get(name)) is not kind:
            raise _Malformed(
                f"{where} has {name} = {data.get(name)!r:.80}; expected a {kind.__name__}."
            )
    return data


def _shard(data: object, index: int) -> Shard:
    where = f"shards[{index}]"
    item = _fields(data, where, file=str, count=int, status=str, versions=dict)
    if not re.fullmatch(r"shard-[0-9]{1,12}\.safetensors", item["file"]):
        raise _Malformed(
            f"{where} has file = {item['file']!r:.80}; expected a plain name such as "
            "'shard-00000.safetensors', in the zoo's own folder."
        )
    if not 1 <= item["count"] <= _MAX_COUNT:
        raise _Malformed(f"{where} has count = {item['count']}; expected 1 to {_MAX_COUNT}.")
    digest = item.get("sha256")
    if item["status"] == "missing" and digest is None:
        return Shard(item["file"], item["count"])
    if (
        item["status"] != "done"
        or not isinstance(digest, str)
        or not re.fullmatch(r"[0-9a-f]{64}", digest)
    ):
        raise _Malformed(
            f"{where} has status {item['status']!r:.40} and sha256 {digest!r:.80}; expected 'done' "
            "with a checksum of 64 hexadecimal digits, or 'missing' with null."
        )
    return Shard(item["file"], item["count"], digest, item["versions"])
