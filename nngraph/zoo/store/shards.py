"""One shard of a zoo: a safetensors file of stacked networks, written whole and read warily.

A shard of B networks holds every parameter of its architecture as ``[B, *shape]`` under its own
name, and every fact as ``[B]`` under ``network.`` and its name. What a shard must hold follows from
its :class:`ShardLayout` and B, so that a file is checked to the byte before its data are read.
Weights are read by mapping the file into memory: only what is looked at is read.
"""

from __future__ import annotations

import hashlib
import json
import math
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from nngraph.errors import ArchitectureError, DataFileError
from nngraph.files import write_atomically
from nngraph.graph import Architecture
from nngraph.zoo.store.facts import Fact, plain

#: Dtypes that weights may have.
DTYPES = {name: getattr(torch, name) for name in ("float16", "bfloat16", "float32", "float64")}
#: What safetensors calls them.
_CODES = {
    torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_MAX_HEADER = 2**22


@dataclass(frozen=True)
class Shard:
    """A shard: its file, how many networks of which architecture and origin, its checksums.

    ``architecture`` and ``origin`` are indices into the manifest's. The checksums, of the whole
    file and of the facts alone, and the versions of what wrote it are there once it is finished.
    """

    file: str
    count: int
    architecture: int = 0
    origin: int = 0
    sha256: str | None = None
    facts_sha256: str | None = None
    versions: dict[str, str] = field(default_factory=dict, compare=False)

    @classmethod
    def numbered(cls, number: int, count: int, architecture: int = 0, origin: int = 0) -> Shard:
        """Return a shard that is to be written, with the file name of its number."""
        return cls(f"shard-{number:05d}.safetensors", count, architecture, origin)

    @property
    def done(self) -> bool:
        """Whether the shard was written."""
        return self.sha256 is not None

    def finished(self, sha256: str, facts_sha256: str, versions: dict[str, str]) -> Shard:
        """Return the shard with its checksums."""
        return replace(self, sha256=sha256, facts_sha256=facts_sha256, versions=versions)

    def missing(self) -> Shard:
        """Return the shard without its checksums: to be written."""
        return Shard(self.file, self.count, self.architecture, self.origin)

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**plain(self), "status": "done" if self.done else "missing"}


@dataclass(frozen=True)
class ShardLayout:
    """What every network of a shard has: parameters of an architecture in a dtype, and facts."""

    architecture: Architecture
    facts: tuple[Fact, ...]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        keys = {fact.key for fact in self.facts}
        for parameter in self.architecture.parameters:
            if parameter.name in keys:
                raise ArchitectureError(
                    f"parameter {parameter.name!r} has the name of a fact of the zoo; rename it."
                )

    @cached_property
    def entries(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Dtype and shape of what one network has, by name of the tensor."""
        # A buffer of whole numbers, such as a count of batches, keeps its own dtype.
        entries = {
            p.name: (getattr(torch, p.integer) if p.integer else DTYPES[self.dtype], p.shape)
            for p in self.architecture.parameters
        }
        return {**entries, **{fact.key: (fact.torch_dtype, ()) for fact in self.facts}}

    def nbytes(self, name: str, count: int) -> int:
        """Bytes of a tensor of ``count`` networks."""
        dtype, shape = self.entries[name]
        return dtype.itemsize * math.prod(shape) * count


def jobs_of(kinds: Tensor, size: int) -> list[tuple[int, Tensor]]:
    """Return kind and networks of each shard of at most ``size``, for the kind of each network."""
    return [
        (kind, part)
        for kind in torch.unique(kinds).tolist()
        for part in torch.split(torch.nonzero(kinds == kind).squeeze(1), size)
    ]


def write_shard(path: Path, layout: ShardLayout, tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    """Write a shard atomically; return the SHA-256 of the file and of its facts."""
    data = safetensors.torch.save({name: tensors[name].contiguous() for name in layout.entries})
    write_whole(path, data)
    return hashlib.sha256(data).hexdigest(), _facts_digest(layout.facts, tensors)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file of a zoo whole or not at all, such as on a full disk."""
    try:
        write_atomically(path, data)
    except OSError as error:
        raise DataFileError(
            f"{path} cannot be written: {error.strerror or error}. What was finished before is "
            "kept; make room and run the same command again."
        ) from None


def _facts_digest(facts: tuple[Fact, ...], values: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for fact in facts:
        digest.update(fact.key.encode() + b"\0")
        digest.update(values[fact.key].contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_shard(path: Path, layout: ShardLayout, count: int) -> dict[str, int]:
    """Return where each tensor of a shard begins in the file, after checking all but its data."""
    total = sum(layout.nbytes(name, count) for name in layout.entries)
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise DataFileError(f"{path} is not a regular file; expected a shard of the zoo.")
        size = status.st_size
        if not total + 8 <= size <= total + 8 + _MAX_HEADER:
            raise DataFileError(
                f"{path} has {size} bytes; {count} networks of {layout.architecture} take "
                f"{total} and a header. The file is truncated, or of another zoo."
            )
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length != size - 8 - total:
                raise DataFileError(
                    f"{path} declares a header of {length} bytes; expected {size - 8 - total}. "
                    "The file is damaged, or not a safetensors file of this zoo."
                )
            header = file.read(length)
    except FileNotFoundError:
        raise DataFileError(f"{path} is missing; expected a shard of the zoo.") from None
    except OSError as error:
        raise DataFileError(f"{path} cannot be read: {error.strerror or error}.") from None
    return _offsets(path, header, layout, count, 8 + length)


def _offsets(
    path: Path, header: bytes, layout: ShardLayout, count: int, base: int
) -> dict[str, int]:
    try:
        entries = json.loads(header)
    except (ValueError, RecursionError):
        raise DataFileError(f"{path} has a header that is not JSON; the file is damaged.") from None
    if not isinstance(entries, dict):
        raise DataFileError(f"{path} has a header that is not a JSON object; the file is damaged.")
    entries.pop("__metadata__", None)
    expected = layout.entries
    if set(entries) != set(expected):
        different = sorted(set(entries) ^ set(expected))[0]
        what = "unknown" if different in entries else "missing"
        raise DataFileError(
            f"{path}: tensor {different[:80]!r} is {what}; expected {', '.join(expected)}."
        )
    spans: list[tuple[int, int]] = []
    for name, (dtype, shape) in expected.items():
        entry: Any = entries[name]
        wanted = (_CODES[dtype], [count, *shape])
        fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
        found = (fields.get("dtype"), fields.get("shape"))
        if found != wanted:
            raise DataFileError(f"{path}: tensor {name!r} is {found!s:.200}; expected {wanted}.")
        span: Any = fields.get("data_offsets")
        valid = isinstance(span, list) and len(span) == 2 and all(type(s) is int for s in span)
        nbytes = layout.nbytes(name, count)
        if not valid or span[1] - span[0] != nbytes:
            raise DataFileError(
                f"{path}: tensor {name!r} lies at {span!s:.80}; expected {nbytes} bytes. "
                "The file is damaged."
            )
        spans.append((span[0], span[1]))
    ordered = sorted(spans)
    if [stop for _, stop in ordered[:-1]] != [start for start, _ in ordered[1:]] or ordered[0][0]:
        raise DataFileError(f"{path}: tensors overlap or leave gaps; the file is damaged.")
    offsets = {name: base + start for name, (start, _) in zip(expected, spans, strict=True)}
    for name, offset in offsets.items():
        if offset % expected[name][0].itemsize:  # such a file cannot be mapped
            raise DataFileError(f"{path}: tensor {name!r} is not aligned; the file is damaged.")
    return offsets


def read_facts(path: Path, layout: ShardLayout, shard: Shard) -> dict[str, Tensor]:
    """Read the facts of a shard alone by name, and hold them against their checksum and range."""
    offsets = check_shard(path, layout, shard.count)
    values: dict[str, Tensor] = {}
    with path.open("rb") as file:
        for fact in layout.facts:
            file.seek(offsets[fact.key])
            data = file.read(layout.nbytes(fact.key, shard.count))
            if len(data) != layout.nbytes(fact.key, shard.count):
                raise DataFileError(f"{path} was truncated while it was read.")
            value = values[fact.key] = torch.frombuffer(bytearray(data), dtype=fact.torch_dtype)
            if problem := fact.problem(value):
                raise DataFileError(f"{path}: {problem}. The file is damaged.")
    found = _facts_digest(layout.facts, values)
    if found != shard.facts_sha256:
        raise DataFileError(
            f"{path} has facts of SHA-256 {found}; the manifest says {shard.facts_sha256}. The "
            "file is damaged or was changed."
        )
    return {fact.name: values[fact.key] for fact in layout.facts}


def map_shard(path: Path, layout: ShardLayout, count: int) -> dict[str, Tensor]:
    """Map a shard into memory, private to this process: what is written reaches no file."""
    offsets = check_shard(path, layout, count)
    size = path.stat().st_size
    whole = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    tensors = {}
    for name, (dtype, shape) in layout.entries.items():
        part = whole[offsets[name] : offsets[name] + layout.nbytes(name, count)]
        tensors[name] = part.view(dtype).view(count, *shape)
    return tensors


def verify_digest(path: Path, sha256: str) -> None:
    """Hold a file against its checksum."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while data := file.read(2**20):
                digest.update(data)
    except OSError as error:
        raise DataFileError(f"{path} cannot be read: {error.strerror or error}.") from None
    if digest.hexdigest() != sha256:
        raise DataFileError(
            f"{path} has SHA-256 {digest.hexdigest()}; the manifest says {sha256}. The file is "
            "damaged or was changed. Delete it and run the same command again to make it anew."
        )
