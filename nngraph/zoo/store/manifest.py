"""The manifest of a zoo: what it holds, how it was made, and which shards are finished."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from nngraph.errors import ArchitectureError, DataFileError, InvalidGraphError
from nngraph.files import read_bounded
from nngraph.graph import Architecture
from nngraph.zoo.store.facts import SPLITS, Fact, plain
from nngraph.zoo.store.shards import DTYPES, Shard, write_whole

MANIFEST = "manifest.json"
#: Version of the manifest. It changes whenever an older reader would misread a newer zoo.
SCHEMA_VERSION = 2
_FORMAT = "nngraph.zoo"
_MAX_BYTES = 2**28
#: More networks than this in one shard are refused when a manifest is read.
_MAX_COUNT = 2**31


class Malformed(Exception):
    """What is wrong inside a manifest; the reader adds the file's name."""


@dataclass(frozen=True)
class Origin:
    """How some of the shards were made.

    Args:
        source: SHA-256 of what the groups are numbered in, such as the images of a source. Groups
            of two origins are the same groups exactly if their sources are the same.
        recipe: all that determines the weights: source, counts, splits, settings, seed.
        image_shape: ``(H, W, C)`` of the images that the networks were fitted to, if they were.
        command: the command line that made them, if one did; where folders are is left out.
    """

    source: str
    recipe: dict[str, Any]
    image_shape: tuple[int, int, int] | None = None
    command: str | None = field(default=None, compare=False)

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain data."""
        return plain(self)


@dataclass(frozen=True)
class SplitPolicy:
    """How groups that a zoo does not have yet are split: fractions of ``SPLITS``, and a seed."""

    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0


@dataclass(frozen=True)
class Manifest:
    """Everything about a zoo but its numbers.

    Args:
        architectures: of the networks; all networks of a shard have the same.
        facts: what is known of each network; ``"split"`` and the group are among them.
        group: name of the fact by whose number networks are split: no group is in two splits.
        target: name of the fact that models are to tell.
        origins: how the shards were made.
        shards: in order; network n of the zoo lies in the shard that its number falls into.
        dtype: of the weights.
        policy: how groups are split that come later.
        history: what was done to the zoo since: merges and filters.
    """

    architectures: tuple[Architecture, ...]
    facts: tuple[Fact, ...]
    group: str
    target: str
    origins: tuple[Origin, ...]
    shards: tuple[Shard, ...]
    dtype: str = "float32"
    policy: SplitPolicy = SplitPolicy()
    history: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        names = [fact.name for fact in self.facts]
        if len(set(names)) < len(names):
            raise InvalidGraphError(f"two facts have one name, among {', '.join(names)}.")
        for what, name in (("group", self.group), ("target", self.target), ("split", "split")):
            if name not in names:
                raise InvalidGraphError(
                    f"the {what} is the fact {name!r}; expected one of {', '.join(names)}."
                )
            if self.fact(name).is_text:
                raise InvalidGraphError(
                    f"the {what} is the fact {name!r}, a text; expected a number or a class."
                )
        if self.fact("split").values != SPLITS:
            raise InvalidGraphError(f"the fact 'split' has not the values {', '.join(SPLITS)}.")
        if self.dtype not in DTYPES:
            raise InvalidGraphError(
                f"the weights have dtype {self.dtype!r:.40}; expected one of {', '.join(DTYPES)}."
            )

    def fact(self, name: str) -> Fact:
        """Return a fact by its name; an InvalidGraphError if there is none."""
        for fact in self.facts:
            if fact.name == name:
                return fact
        raise InvalidGraphError(
            f"the zoo has no fact {name!r}; it has {', '.join(fact.name for fact in self.facts)}."
        )

    @property
    def starts(self) -> list[int]:
        """First network of each shard, and the number of networks at the end."""
        return list(accumulate((shard.count for shard in self.shards), initial=0))

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe of the first origin; a zoo that was merged has several origins."""
        return self.origins[0].recipe if self.origins else {}

    def with_done(self, done: dict[int, Shard]) -> Manifest:
        """Return the manifest with some shards replaced."""
        shards = tuple(done.get(i, shard) for i, shard in enumerate(self.shards))
        return replace(self, shards=shards)

    # -- files ------------------------------------------------------------------------------------

    def to_plain(self) -> dict[str, Any]:
        """Return the manifest as plain data."""
        return {
            "format": _FORMAT,
            "version": SCHEMA_VERSION,
            "target": self.target,
            "group": self.group,
            "dtype": self.dtype,
            "policy": plain(self.policy),
            "facts": [plain(fact) for fact in self.facts],
            "architectures": [architecture.to_dict() for architecture in self.architectures],
            "origins": [origin.to_plain() for origin in self.origins],
            "history": list(self.history),
            "shards": [shard.to_plain() for shard in self.shards],
        }

    def write(self, folder: Path) -> None:
        """Write the manifest into a zoo's folder, atomically."""
        text = json.dumps(self.to_plain(), indent=1, allow_nan=False) + "\n"
        write_whole(folder / MANIFEST, text.encode())

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
        text = read_bounded(path, _MAX_BYTES)
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataFileError(f"{path} is not valid JSON: {error!s:.200}.") from None
        try:
            return cls.from_plain(data)
        except (Malformed, ArchitectureError, InvalidGraphError) as error:
            raise DataFileError(f"{path}: {error}") from None

    @classmethod
    def from_plain(cls, data: object) -> Manifest:
        """Return what :meth:`to_plain` gave; else Malformed, Architecture- or InvalidGraphError."""
        top = _fields(data, "the manifest", format=str, version=int)
        if top["format"] != _FORMAT:
            raise Malformed(f"format is {top['format']!r:.80}; expected {_FORMAT!r}.")
        if top["version"] != SCHEMA_VERSION:
            raise Malformed(
                f"version is {top['version']}; this nngraph reads version {SCHEMA_VERSION}. "
                "Read the zoo with the nngraph that wrote it, or make it again."
            )
        _fields(
            data, "the manifest", target=str, group=str, dtype=str, policy=dict, facts=list,
            architectures=list, origins=list, history=list, shards=list,
        )  # fmt: skip
        origins = tuple(_origin(item, i) for i, item in enumerate(top["origins"]))
        counts = {"architecture": len(top["architectures"]), "origin": len(origins)}
        shards = tuple(_shard(item, i, counts) for i, item in enumerate(top["shards"]))
        if len({shard.file for shard in shards}) < len(shards):
            raise Malformed("two shards have one file name.")
        if not all(isinstance(item, dict) for item in top["history"]):
            raise Malformed("history is not a list of objects.")
        return cls(
            architectures=tuple(Architecture.from_dict(item) for item in top["architectures"]),
            facts=tuple(_fact(item, i) for i, item in enumerate(top["facts"])),
            origins=origins,
            shards=shards,
            policy=_policy(top["policy"]),
            history=tuple(top["history"]),
            **{name: top[name] for name in ("group", "target", "dtype")},
        )


def _fields(data: object, where: str, **types: type) -> dict[str, Any]:
    """Return an object of JSON after checking the types of some of its fields."""
    if not isinstance(data, dict):
        raise Malformed(f"{where} is a {type(data).__name__}; expected an object.")
    for name, kind in types.items():
        if type(data.get(name)) is not kind:
            raise Malformed(
                f"{where} has {name} = {data.get(name)!r:.80}; expected a {kind.__name__}."
            )
    return data


def _fact(data: object, index: int) -> Fact:
    item = _fields(data, f"facts[{index}]", name=str, dtype=str, values=list)
    return Fact(item["name"], item["dtype"], tuple(item["values"]))


def _origin(data: object, index: int) -> Origin:
    where = f"origins[{index}]"
    item = _fields(data, where, source=str, recipe=dict)
    shape, command = item.get("image_shape"), item.get("command")
    if shape is not None:
        sizes = shape if isinstance(shape, list) and len(shape) == 3 else [0]
        if not all(type(n) is int and 1 <= n <= 2**16 for n in sizes):
            raise Malformed(
                f"{where}: image_shape is {shape!r:.80}; expected height, width, channels."
            )
        shape = (shape[0], shape[1], shape[2])
    if not (command is None or isinstance(command, str)):
        raise Malformed(f"{where}: command is {command!r:.80}; expected words, or null.")
    return Origin(item["source"], item["recipe"], shape, command)


def _policy(data: dict[str, Any]) -> SplitPolicy:
    item = _fields(data, "policy", fractions=list, seed=int)
    fractions = item["fractions"]
    if len(fractions) != 3 or not all(
        isinstance(f, (int, float)) and not isinstance(f, bool) and 0 <= f <= 1 for f in fractions
    ):
        raise Malformed(f"policy has fractions = {fractions!r:.80}; expected three in [0, 1].")
    return SplitPolicy((fractions[0], fractions[1], fractions[2]), item["seed"])


def _shard(data: object, index: int, counts: dict[str, int]) -> Shard:
    where = f"shards[{index}]"
    item = _fields(
        data, where, file=str, count=int, architecture=int, origin=int, status=str, versions=dict
    )
    if not re.fullmatch(r"shard-[0-9]{1,12}\.safetensors", item["file"]):
        raise Malformed(
            f"{where} has file = {item['file']!r:.80}; expected a plain name such as "
            "'shard-00000.safetensors', in the zoo's own folder."
        )
    if not 1 <= item["count"] <= _MAX_COUNT:
        raise Malformed(f"{where} has count = {item['count']}; expected 1 to {_MAX_COUNT}.")
    for name, limit in counts.items():
        if not 0 <= item[name] < limit:
            raise Malformed(f"{where} has {name} = {item[name]}; the manifest has {limit}.")
    shard = Shard(item["file"], item["count"], item["architecture"], item["origin"])
    whole, facts = item.get("sha256"), item.get("facts_sha256")
    if item["status"] == "missing" and whole is None and facts is None:
        return shard
    if item["status"] != "done" or not (is_digest(whole) and is_digest(facts)):
        raise Malformed(
            f"{where} has status {item['status']!r:.40} and sha256 {whole!r:.80}, "
            f"facts_sha256 {facts!r:.80}; expected 'done' with checksums of 64 hexadecimal "
            "digits, or 'missing' with null."
        )
    return shard.finished(str(whole), str(facts), item["versions"])


def is_digest(value: object) -> bool:
    """Whether a value of JSON is a SHA-256 in hexadecimal."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None
