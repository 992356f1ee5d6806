from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nngraph.errors import ArchitectureError, DataFileError, InvalidGraphError
from nngraph.graph import Architecture, NeuralGraphStack
from nngraph.zoo import (
    FitSettings,
    ImageSource,
    Zoo,
    fit_images,
    render,
    suggested_settings,
)
from nngraph.zoo.splits import split_of_images

SHARDS = ["shard-00000.safetensors", "shard-00001.safetensors", "shard-00002.safetensors"]
MakeZoo = Callable[..., Zoo]


def contents(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


def test_a_zoo_holds_what_was_fitted(make_zoo: MakeZoo):
    zoo = make_zoo()
    assert sorted(entry.name for entry in zoo.path.iterdir()) == ["manifest.json", *SHARDS]
    assert len(zoo) == 20
    assert zoo.image.tolist() == list(range(10)) * 2
    assert zoo.view.tolist() == [0] * 10 + [1] * 10
    assert zoo.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0] * 2
    assert zoo.architecture.widths == (2, 4, 3, 1)
    assert (zoo.class_names, zoo.image_shape, zoo.complete) == (("a", "b", "c"), (4, 5, 1), True)
    # Shard 1 again, by hand: networks 8 to 15 are images 8, 9, 0, ..., 5.
    images = torch.rand(10, 4, 5, 1, generator=torch.Generator().manual_seed(0))
    result = fit_images(
        zoo.architecture,
        images[[8, 9, 0, 1, 2, 3, 4, 5]],
        FitSettings(steps=5, pixels=0, chunk=3),
        stream=1,
    )
    stack = zoo.stack()
    for name, value in stack.parameters().items():
        assert torch.equal(value[8:16], result.parameters[name])
    assert torch.equal(zoo.psnr[8:16], result.psnr)
    assert torch.equal(stack.y, zoo.labels)
    zoo.verify()


def test_networks_are_read_in_the_order_asked_for(make_zoo: MakeZoo):
    zoo = make_zoo()
    whole = zoo.stack()
    chosen = torch.tensor([19, 3, 8, 3, 0])
    some = zoo.stack(chosen)
    assert isinstance(some, NeuralGraphStack)
    assert torch.equal(some.x, whole.x[chosen])
    assert torch.equal(some.edge_attr, whole.edge_attr[chosen])
    assert torch.equal(some.y, zoo.labels[chosen])
    for split in ("train", "val", "test"):
        assert torch.equal(zoo.stack(split).x, whole.x[zoo.indices(split)])
    assert len(zoo.stack(torch.tensor([], dtype=torch.int64))) == 0
    for wrong in (torch.tensor([20]), torch.tensor([-1]), torch.tensor([0.5]), torch.tensor(1)):
        with pytest.raises(InvalidGraphError, match=r"networks (are|range)"):
            zoo.stack(wrong)
    with pytest.raises(InvalidGraphError, match="split is 'valid'; expected one of train, val"):
        zoo.stack("valid")


def test_no_image_is_in_two_splits(make_zoo: MakeZoo):
    zoo = make_zoo()
    seen = [set(zoo.image[zoo.indices(split)].tolist()) for split in ("train", "val", "test")]
    assert [len(images) for images in seen] == [6, 2, 2]
    assert set.union(*seen) == set(range(10))
    assert sorted(torch.cat([zoo.indices(s) for s in ("train", "val", "test")]).tolist()) == list(
        range(20)
    )


def test_splits_are_seeded_and_checked():
    split = split_of_images(1000, (0.8, 0.1, 0.1), 0)
    assert torch.bincount(split).tolist() == [800, 100, 100]
    assert torch.equal(split, split_of_images(1000, (0.8, 0.1, 0.1), 0))
    assert not torch.equal(split, split_of_images(1000, (0.8, 0.1, 0.1), 1))
    assert split_of_images(3, (0, 0, 1), 0).tolist() == [2, 2, 2]
    assert split_of_images(3, (0.5, 0.5, 0), 0).bincount(minlength=3).tolist() == [2, 1, 0]
    for wrong in ((0.8, 0.2), (0.8, 0.1, 0.2), (1.2, -0.1, -0.1), (float("nan"), 0, 0)):
        with pytest.raises(InvalidGraphError, match="that sum to 1"):
            split_of_images(10, wrong, 0)


def test_images_come_back_from_the_weights(make_zoo: MakeZoo):
    zoo = make_zoo(widths=None, steps=80, lr=1e-3, views=1)
    assert zoo.architecture.widths == (2, 32, 32, 1)
    assert 25 < float(zoo.psnr.min()) < 60
    images = torch.rand(10, 4, 5, 1, generator=torch.Generator().manual_seed(0))
    error = (render(zoo.stack(), 4, 5) - images).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(-10 * torch.log10(error), zoo.psnr, rtol=0, atol=1e-2)
    assert render(zoo.stack(), 9, 9).shape == (10, 9, 9, 1)
    with pytest.raises(ArchitectureError, match="pass the one they fit"):
        render(zoo.stack().parameters(), 4, 5)
    other = Architecture.mlp([3, 1], [])
    with pytest.raises(ArchitectureError, match="are not images"):
        render({}, 4, 5, other)


def test_info_is_plain_and_says_how_it_was_made(make_zoo: MakeZoo):
    zoo = make_zoo()
    info = json.loads(json.dumps(zoo.info()))
    assert info["networks"] == 20
    assert (info["groups"], info["group"], info["target"]) == (10, "image", "label")
    assert info["splits"] == {"train": 12, "val": 4, "test": 4}
    assert info["facts"]["label"] == {"a": 8, "b": 6, "c": 6}
    view = info["facts"]["view"]
    assert (view["mean"], view["min"], view["max"]) == (0.5, 0, 1)
    assert view["histogram"]["counts"] == [10, *[0] * 8, 10]
    (architecture,) = info["architectures"]
    assert architecture["parameters"] == 2 * 4 + 4 + 4 * 3 + 3 + 3 + 1
    assert (architecture["networks"], architecture["architecture"]) == (20, "2-4-3-1 sine(w0=10)")
    (origin,) = info["origins"]
    assert (origin["image_shape"], origin["command"]) == ([4, 5, 1], None)
    assert origin["recipe"]["fit"] == {
        "steps": 5, "lr": 1e-3, "pixels": 0, "seed": 0, "chunk": 3, "psnr": None, "check": 25,
        "init": "independent",
    }  # fmt: skip
    manifest = (zoo.path / "manifest.json").read_text()
    assert str(zoo.path.parent) not in manifest


def test_defaults_follow_the_size_of_the_image():
    assert suggested_settings((8, 8))[0] == 10
    assert suggested_settings((28, 28))[0] == 30


# -- interruption ----------------------------------------------------------------------------


def test_the_same_call_makes_the_same_bits(make_zoo: MakeZoo):
    first, second = make_zoo("first"), make_zoo("second", threads=1)
    assert contents(first.path) == contents(second.path)
    assert contents(make_zoo("first").path) == contents(second.path)


@pytest.mark.parametrize("lost", [[0], [1], [0, 2], [0, 1, 2]])
def test_lost_shards_are_made_again_with_the_same_bits(make_zoo: MakeZoo, lost: list[int]):
    before = contents(make_zoo().path)
    for index in lost:
        (make_zoo().path / SHARDS[index]).unlink()
    assert contents(make_zoo().path) == before


def test_an_exception_between_shards_leaves_a_zoo_that_continues(
    make_zoo: MakeZoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = contents(make_zoo("whole").path)

    def fails(*args: Any, stream: int, **kwargs: Any) -> Any:
        if stream == 1:
            raise KeyboardInterrupt
        return fit_images(*args, stream=stream, **kwargs)

    monkeypatch.setattr("nngraph.zoo.population.fit_images", fails)
    with pytest.raises(KeyboardInterrupt):
        make_zoo("cut")
    monkeypatch.undo()
    with pytest.raises(DataFileError, match="2 of 3 shards are missing"):
        Zoo.open(tmp_path / "cut")
    part = Zoo.open(tmp_path / "cut", partial=True)
    assert (len(part), part.complete, len(part.stack())) == (8, False, 8)
    assert part.info()["shards_done"] == 1
    (tmp_path / "cut" / ".nngraph-writing-abc").write_bytes(b"half a shard")
    make_zoo("cut")
    assert contents(tmp_path / "cut") == whole


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"steps": 6}, "steps is 5 there and 6 here"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"lr": 0.5}, "lr is 0.001 there and 0.5 here"),
        ({"views": 1}, "views is 2 there and 1 here"),
        ({"count": 9}, "there"),
        ({"w0": 20.0}, "architecture is"),
        ({"widths": [2, 5, 1]}, "architecture is"),
        ({"shard_size": 5}, "shard_size is 8 there and 5 here"),
        ({"splits": (0.5, 0.3, 0.2)}, "splits is"),
    ],
)
def test_a_zoo_made_with_other_settings_is_refused(make_zoo: MakeZoo, changes: Any, match: str):
    before = contents(make_zoo().path)
    path = make_zoo().path
    with pytest.raises(DataFileError, match=f"made with other settings: .*{match}"):
        make_zoo(**changes)
    assert contents(path) == before


def test_other_images_under_the_same_name_are_refused(make_zoo: MakeZoo):
    path = make_zoo().path
    images = torch.rand(10, 4, 5, 1, generator=torch.Generator().manual_seed(1))
    other = ImageSource("tiny", images, torch.arange(10) % 3, ("a", "b", "c"))
    with pytest.raises(DataFileError, match="source_sha256 is"):
        make_zoo(source=other)
    assert Zoo.open(path).complete


def test_a_folder_of_something_else_is_refused(make_zoo: MakeZoo, tmp_path: Path):
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "thesis.txt").write_text("all of it")
    with pytest.raises(DataFileError, match=r"has no manifest.json but holds 'thesis.txt'"):
        make_zoo()
    assert contents(tmp_path / "zoo") == {"thesis.txt": b"all of it"}


@pytest.mark.skipif(os.name != "posix", reason="needs flock")
def test_two_fits_at_once_are_refused(make_zoo: MakeZoo, tmp_path: Path):
    import fcntl

    path = make_zoo().path
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(DataFileError, match="being written by another process"):
            make_zoo()
    finally:
        os.close(descriptor)
    make_zoo()


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"views": 0}, InvalidGraphError, "views is 0"),
        ({"shard_size": 1.5}, InvalidGraphError, "shard_size is 1.5"),
        ({"count": 11}, InvalidGraphError, "11 images of 'tiny'"),
        ({"count": 0}, InvalidGraphError, "0 images of 'tiny'"),
        ({"widths": [3, 4, 1]}, ArchitectureError, "2 inputs"),
        (
            {"widths": [2, 4, 3]},
            InvalidGraphError,
            "has 3 outputs but an image of 'tiny' has 1 channels",
        ),
        ({"splits": (1, 1, 1)}, InvalidGraphError, "sum to 1"),
    ],
)
def test_wrong_arguments_leave_no_folder(
    make_zoo: MakeZoo, tmp_path: Path, changes: Any, error: type[Exception], match: str
):
    with pytest.raises(error, match=match):
        make_zoo(**changes)
    assert not (tmp_path / "zoo").exists()


# -- files that are not to be trusted --------------------------------------------------------


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


def test_the_default_dtype_of_torch_does_not_matter(make_zoo: MakeZoo):
    images = torch.rand(10, 4, 5, 1, generator=torch.Generator().manual_seed(0))
    source = ImageSource("noise", images, torch.arange(10) % 3, ("a", "b", "c"))
    torch.set_default_dtype(torch.float64)
    try:
        path = make_zoo("double", source=source).path
        assert Zoo.open(path).stack().x.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
    assert contents(path) == contents(make_zoo("single", source=source).path)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from nngraph.files import write_atomically

    write_atomically(tmp_path / "file", b"old")

    def fails(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(tmp_path / "file", b"new")
    assert contents(tmp_path) == {"file": b"old"}


def test_an_architecture_with_its_own_names_is_stored_under_them(make_zoo: MakeZoo):
    from nngraph.graph import Activation

    architecture = Architecture.mlp([2, 4, 1], Activation("sine", w0=30), names=["0", "network"])
    assert architecture.parameters[2].name == "network.weight"
    make_zoo("fine", widths=None, architecture=architecture)
    with pytest.raises(InvalidGraphError, match="widths and w0 are then part of it"):
        make_zoo("two", architecture=architecture)
