"""Reading the parts of a manifest from JSON that is not to be trusted."""

from __future__ import annotations

import re
from typing import Any

from nngraph.zoo.store.shards import Shard

#: More networks than this in one shard are refused when a manifest is read.
_MAX_COUNT = 2**31
_HEX = r"[0-9a-f]{64}"


class Malformed(Exception):
    """What is wrong inside a manifest; the reader adds the file's name."""


def fields_of(data: object, where: str, **types: type) -> dict[str, Any]:
    """Return an object of JSON after checking the types of some of its fields.

    Raises:
        Malformed: if it is not an object, or a field is missing or of another type.
    """
    if not isinstance(data, dict):
        raise Malformed(f"{where} is a {type(data).__name__}; expected an object.")
    for name, kind in types.items():
        if type(data.get(name)) is not kind:
            raise Malformed(
                f"{where} has {name} = {data.get(name)!r:.80}; expected a {kind.__name__}."
            )
    return data


def shard_from_plain(data: object, index: int, architectures: int, origins: int) -> Shard:
    """Read what ``Shard.to_plain`` returned.

    Raises:
        Malformed: if a field is wrong, such as a file outside the folder.
    """
    where = f"shards[{index}]"
    item = fields_of(
        data, where, file=str, count=int, architecture=int, origin=int, status=str, versions=dict
    )
    if not re.fullmatch(r"shard-[0-9]{1,12}\.safetensors", item["file"]):
        raise Malformed(
            f"{where} has file = {item['file']!r:.80}; expected a plain name such as "
            "'shard-00000.safetensors', in the zoo's own folder."
        )
    if not 1 <= item["count"] <= _MAX_COUNT:
        raise Malformed(f"{where} has count = {item['count']}; expected 1 to {_MAX_COUNT}.")
    for name, limit in (("architecture", architectures), ("origin", origins)):
        if not 0 <= item[name] < limit:
            raise Malformed(f"{where} has {name} = {item[name]}; the manifest has {limit}.")
    shard = Shard(item["file"], item["count"], item["architecture"], item["origin"])
    digests = (item.get("sha256"), item.get("facts_sha256"))
    if item["status"] == "missing" and digests == (None, None):
        return shard
    if item["status"] != "done" or not all(
        isinstance(digest, str) and re.fullmatch(_HEX, digest) for digest in digests
    ):
        raise Malformed(
            f"{where} has status {item['status']!r:.40} and sha256 {digests[0]!r:.80}, "
            f"facts_sha256 {digests[1]!r:.80}; expected 'done' with checksums of 64 hexadecimal "
            "digits, or 'missing' with null."
        )
    return shard.finished(str(digests[0]), str(digests[1]), item["versions"])
