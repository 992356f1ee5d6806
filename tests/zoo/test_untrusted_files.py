"""Zoos whose files are not to be trusted: malformed, damaged, forged, too large."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nngraph.errors import DataFileError
from nngraph.graph import Architecture
from nngraph.zoo import Zoo

SHARDS = ["shard-00000.safetensors", "shard-00001.safetensors", "shard-00002.safetensors"]
MakeZoo = Callable[..., Zoo]


def contents(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads((path / "manifest.json").read_text())
    change(data)
    (path / "manifest.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    "name",
    ["../outside.safetensors", "/etc/passwd", "a/b.safetensors", "..", "shard-0.safetensors\n", ""],
)
def test_a_manifest_cannot_name_files_elsewhere(make_zoo: MakeZoo, name: str):
    path = make_zoo().path
    edit(path, lambda data: data["shards"][1].update(file=name))
    with pytest.raises(DataFileError, match=r"manifest.json: shards\[1\] has file = .*plain name"):
        Zoo.open(path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: d.update(format="other"), "format is 'other'"),
        (lambda d: d.update(version=1), "version is 1; this nngraph reads version 2"),
        (lambda d: d.update(version=3), "this nngraph reads version 2"),
        (lambda d: d.update(version=True), "version = True"),
        (lambda d: d.pop("policy"), "policy = None; expected a dict"),
        (lambda d: d["policy"].update(fractions=[1, 2]), "policy has fractions"),
        (lambda d: d.update(history=[1]), "history is not a list of objects"),
        (lambda d: d.update(group="nothing"), "the group is the fact 'nothing'"),
        (lambda d: d.update(target="../x"), "the target is the fact"),
        (lambda d: d.update(dtype="int4"), "dtype 'int4'"),
        (lambda d: d["origins"][0].pop("recipe"), "recipe = None; expected a dict"),
        (lambda d: d["origins"][0].update(command=3), "command is 3"),
        (lambda d: d.update(shards={}), "expected a list"),
        (lambda d: d["facts"][0].update(values=[1]), "has values"),
        (lambda d: d["facts"][0].update(values=["\x1b[2J"]), "expected printable names"),
        (lambda d: d["facts"][0].update(name="../label"), "a fact is called '../label'"),
        (lambda d: d["facts"][0].update(dtype="object"), "dtype 'object'"),
        (lambda d: d["facts"].append(dict(d["facts"][1])), "two facts have one name"),
        (lambda d: d["facts"].pop(), "the split is the fact 'split'"),
        (lambda d: d["facts"][-1].update(values=["a"]), "'split' has not the values"),
        (lambda d: d["origins"][0].update(image_shape=[4, 5]), "image_shape is"),
        (lambda d: d["shards"][0].update(architecture=1), "architecture = 1; the manifest has 1"),
        (lambda d: d["shards"][0].update(origin=-1), "origin = -1"),
        (lambda d: d["shards"].append(dict(d["shards"][0])), "two shards have one file name"),
        (lambda d: d["shards"].append(7), r"shards\[3\] is a int"),
        (lambda d: d["shards"][0].update(count=0), "count = 0"),
        (lambda d: d["shards"][0].update(count=2**40), "count = 1099511627776"),
        (lambda d: d["shards"][0].update(status="maybe"), "status 'maybe'"),
        (lambda d: d["shards"][0].update(sha256=None), "status 'done' and sha256 None"),
        (lambda d: d["shards"][0].update(sha256="../x"), "64 hexadecimal digits"),
        (lambda d: d["architectures"][0].update(version=9), "version 9"),
        (lambda d: d["architectures"][0].pop("groups"), "lacks the field 'groups'"),
    ],
)
def test_a_malformed_manifest_is_refused_and_named(make_zoo: MakeZoo, change: Any, match: str):
    path = make_zoo().path
    edit(path, change)
    with pytest.raises(DataFileError, match=match) as caught:
        Zoo.open(path)
    assert "manifest.json" in str(caught.value)


def test_giant_sizes_are_refused_before_anything_of_that_size_is_made(make_zoo: MakeZoo):
    path = make_zoo().path
    giant = Architecture.mlp([2, 2**33, 1])
    edit(path, lambda data: data.update(architectures=[giant.to_dict()]))
    with pytest.raises(DataFileError, match="truncated, or of another zoo"):
        Zoo.open(path)
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_bytes(b" " * (2**28 + 1))
    with pytest.raises(DataFileError, match="expected at most"):
        Zoo.open(path)
    (path / "manifest.json").write_text(text.replace('"count": 8', '"count": 2147483648'))
    with pytest.raises(DataFileError, match="truncated, or of another zoo"):
        Zoo.open(path)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_a_manifest_that_is_no_manifest_is_refused(make_zoo: MakeZoo, text: bytes):
    path = make_zoo().path
    (path / "manifest.json").write_bytes(text)
    with pytest.raises(DataFileError, match=r"manifest\.json"):
        Zoo.open(path)


def test_a_folder_without_a_manifest_is_no_zoo(tmp_path: Path):
    with pytest.raises(DataFileError, match=r"is not a zoo: it has no manifest\.json"):
        Zoo.open(tmp_path)
    with pytest.raises(DataFileError, match="is not a zoo"):
        Zoo.open(tmp_path / "absent")


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def damage(data: bytes) -> bytes:
        header, rest = header_of(data)
        change(header)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + rest

    return damage


def rename(header: dict[str, Any]) -> None:
    header["0.wait"] = header.pop("0.weight")


def misalign(header: dict[str, Any]) -> None:
    header["__metadata__"] = {"a": ""}
    while len(json.dumps(header)) % 8 != 4:
        header["__metadata__"]["a"] += "1"


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "has 0 bytes"),
    "truncated": (lambda data: data[:-1], "expected"),
    "longer": (lambda data: data + b"\0", "declares a header"),
    "huge": (lambda data: data + bytes(2**22 + 1), "truncated, or of another zoo"),
    "another format": (lambda data: b"PK\3\4" + data[4:], "declares a header of"),
    "huge header": (lambda data: struct.pack("<Q", 2**60) + data[8:], "declares a header of"),
    "header not JSON": (lambda data: data[:8] + b"?" + data[9:], "not JSON"),
    "tensor renamed": (with_header(rename), "'0.wait' is unknown|'0.weight' is missing"),
    "other dtype": (
        with_header(lambda h: h["0.bias"].update(dtype="I32")),
        r"'0.bias' is \('I32', \[8, 4\]\); expected \('F32', \[8, 4\]\)",
    ),
    "other shape": (with_header(lambda h: h["0.bias"].update(shape=[4, 8])), r"\[4, 8\]"),
    "entry no object": (with_header(lambda h: h.update({"0.bias": 3})), "'0.bias' is"),
    "offsets": (
        with_header(lambda h: h["0.bias"].update(data_offsets=[0, 10**15])),
        "'0.bias' lies at",
    ),
    "overlap": (
        with_header(lambda h: h["0.bias"].update(data_offsets=[4, 4 + 8 * 4 * 4])),
        "overlap or leave gaps",
    ),
    "not aligned": (with_header(misalign), "is not aligned"),
    "fact changed": (lambda data: damaged_column(data, "network.view", 1), "facts of SHA-256"),
    "label out of range": (lambda data: damaged_column(data, "network.label", 3), "label ranges"),
    "split out of range": (lambda data: damaged_column(data, "network.split", -1), "split ranges"),
}


def damaged_column(data: bytes, name: str, value: int) -> bytes:
    header, rest = header_of(data)
    start = header[name]["data_offsets"][0]
    base = len(data) - len(rest)
    return data[: base + start] + struct.pack("<q", value) + data[base + start + 8 :]


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_shard_is_refused_when_the_zoo_is_opened(make_zoo: MakeZoo, case: str):
    damage, match = DAMAGE[case]
    path = make_zoo().path
    shard = path / SHARDS[0]
    shard.write_bytes(damage(shard.read_bytes()))
    before = contents(path)
    with pytest.raises(DataFileError, match=match) as caught:
        Zoo.open(path)
    assert SHARDS[0] in str(caught.value)
    with pytest.raises(DataFileError, match=r"shard-00000"):
        make_zoo()
    assert contents(path) == before


def test_a_flipped_bit_is_found_when_weights_are_read(make_zoo: MakeZoo):
    path = make_zoo().path
    shard = path / SHARDS[1]
    header, rest = header_of(shard.read_bytes())
    data = bytearray(shard.read_bytes())
    data[len(data) - len(rest) + header["1.weight"]["data_offsets"][0] + 1] ^= 1
    shard.write_bytes(bytes(data))
    zoo = Zoo.open(path)
    assert len(zoo.stack(torch.tensor([0, 19]))) == 2  # shards 0 and 2 are whole
    for read in (zoo.stack, zoo.verify, make_zoo):
        with pytest.raises(DataFileError, match=r"shard-00001\.safetensors has SHA-256"):
            read()
    assert shard.read_bytes() == bytes(data)


def test_swapped_and_linked_shards_are_refused(make_zoo: MakeZoo, tmp_path: Path):
    path = make_zoo().path
    first, second = (path / name for name in SHARDS[:2])
    data = first.read_bytes(), second.read_bytes()
    first.write_bytes(data[1])
    second.write_bytes(data[0])
    with pytest.raises(DataFileError, match="SHA-256"):
        Zoo.open(path).verify()
    (tmp_path / "elsewhere").write_bytes(data[0])
    first.unlink()
    first.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataFileError, match="is not a regular file"):
        Zoo.open(path)
    first.unlink()
    with pytest.raises(DataFileError, match=r"shard-00000.safetensors is missing"):
        Zoo.open(path)


def test_verify_finds_what_a_consistent_forgery_hides(make_zoo: MakeZoo):
    from safetensors.torch import save

    path = make_zoo().path

    def forge(change: Callable[[dict[str, torch.Tensor]], object]) -> None:
        tensors = load_file(path / SHARDS[0])
        change(tensors)
        data = save(tensors)
        (path / SHARDS[0]).write_bytes(data)
        digest, facts = hashlib.sha256(data).hexdigest(), hashlib.sha256()
        for fact in ("label", "image", "view", "steps", "psnr", "split"):
            facts.update(f"network.{fact}".encode() + b"\0")
            facts.update(tensors[f"network.{fact}"].numpy().tobytes())
        told = {"sha256": digest, "facts_sha256": facts.hexdigest()}
        edit(path, lambda manifest: manifest["shards"][0].update(told))

    original = contents(path)
    forge(lambda tensors: tensors["0.bias"].fill_(float("nan")))
    with pytest.raises(DataFileError, match=r"'0.bias' has NaN"):
        Zoo.open(path).verify()
    for name, data in original.items():
        (path / name).write_bytes(data)
    forge(lambda tensors: tensors["network.split"].add_(1).remainder_(3))
    with pytest.raises(DataFileError, match=r"group \(fact 'image'\) are in different"):
        Zoo.open(path).verify()
