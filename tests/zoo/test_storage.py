from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

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
from nngraph.zoo.store.splits import split_of_images

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

    monkeypatch.setattr("nngraph.zoo.fitting.population.fit_images", fails)
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


# -- the rest -----------------------------------------------------------------------------------


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
