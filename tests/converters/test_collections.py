"""Public collections are opened by their own layouts: small files of the same form."""

import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_files import state

from converters.checkpoints import CONTAINERS
from converters.collections import (
    LAYOUTS,
    check_manifest,
    open_collection,
    open_inrs_of_nfn,
    open_training_folders,
)
from nngraph.errors import DataFileError


def same(found, expected):
    return found.keys() == dict(expected).keys() and all(
        torch.equal(found[key], value) for key, value in expected.items()
    )


def save(path, seed=0, **around):
    path.parent.mkdir(parents=True, exist_ok=True)
    held = state(seed)
    torch.save({around.pop("key"): held, **around} if around else held, path)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


# -- the small CNN zoo -----------------------------------------------------------------------------

SHAPES = {"conv2d": ((3, 3, 1, 2), (2,)), "conv2d_1": ((3, 3, 2, 2), (2,)),
          "dense": ((2, 10), (10,))}  # fmt: skip


def small_cnn_zoo(folder):
    """Rows of two runs at three steps, laid out as the published files are: biases first."""
    folder.mkdir()
    lines, start = ["varname,start_idx,end_idx,size,shape"], 0
    for layer, (kernel, bias) in SHAPES.items():
        for kind, shape in (("bias", bias), ("kernel", kernel)):
            size = int(np.prod(shape))
            text = f'sequential/{layer}/{kind}:0,{start},{start + size},{size},"{shape}"'
            lines.append(text)
            start += size
    write(folder / "layout.csv", "\n".join(lines))
    np.save(folder / "weights.npy", np.random.default_rng(0).random((6, start), np.float32))
    rows = ["config.activation,config.l2reg,modeldir,step,test_accuracy"]
    rows += [f"{'relu' if i < 3 else 'tanh'},0.{i},/a/{i // 3},{i % 3},{i / 8}" for i in range(6)]
    with gzip.open(folder / "metrics.csv.gz", "wt") as file:
        file.write("\n".join(rows))
    return folder


def test_the_small_cnn_zoo(tmp_path):
    folder = small_cnn_zoo(tmp_path / "cifar10")
    zoo = open_collection("small-cnn-zoo", folder)
    assert len(zoo) == 6
    assert zoo.groups == ("/a/0",) * 3 + ("/a/1",) * 3
    assert zoo.facts["config.activation"] == ("relu",) * 3 + ("tanh",) * 3
    assert zoo.facts["test_accuracy"] == tuple(i / 8 for i in range(6))
    assert zoo.facts["step"] == (0, 1, 2, 0, 1, 2)
    tensors = zoo.read(4)
    assert list(tensors) == [f"{layer}.{kind}" for layer in SHAPES for kind in ("bias", "weight")]
    assert tensors["conv2d_1.weight"].shape == (2, 2, 3, 3)
    row = np.load(folder / "weights.npy")[4]
    assert np.array_equal(tensors["conv2d.weight"][1, 0], row[2:20].reshape(3, 3, 1, 2)[:, :, 0, 1])
    assert np.array_equal(tensors["dense.weight"], row[-20:].reshape(2, 10).T)


def test_weights_and_metrics_must_be_as_many(tmp_path):
    folder = small_cnn_zoo(tmp_path / "a")
    np.save(folder / "weights.npy", np.load(folder / "weights.npy")[:5])
    with pytest.raises(DataFileError, match=r"weights of shape \(5, .*and 6 rows"):
        open_collection("small-cnn-zoo", folder)


# -- folders of training runs ----------------------------------------------------------------------


def run_folder(folder, run, steps, file="checkpoints", **settings):
    place = folder / f"NN_tune_trainable_{run}"
    write(place / "params.json", {"model::type": "CNN", "optim::lr": 0.1 * run, **settings})
    lines = [
        {"training_iteration": i, "train_acc": -999 if i == 0 else 0.1 * i, "test_acc": 0.2 * i,
         "time_total_s": 3.0, "pid": 12, "config": {"seed": 1}} for i in range(max(steps) + 1)
    ]  # fmt: skip
    write(place / "result.json", "\n".join(map(json.dumps, lines)))
    for step in steps:
        save(place / f"checkpoint_{step:06d}" / file, 10 * run + step)
    return place


def test_training_folders(tmp_path):
    for run in (1, 2):
        place = run_folder(tmp_path, run, [0, 1, 3])
        (place / "checkpoint_000001" / "optimizer").write_bytes(b"x")
        (place / "checkpoint_000009").mkdir()
    zoo = open_collection("training-folders", tmp_path)
    assert len(zoo) == 6
    assert zoo.groups == ("NN_tune_trainable_1",) * 3 + ("NN_tune_trainable_2",) * 3
    assert zoo.facts["step"] == (0, 1, 3, 0, 1, 3)
    assert zoo.facts["train_acc"] == (None, 0.1, pytest.approx(0.3)) * 2
    assert zoo.facts["test_acc"] == (0.0, 0.2, pytest.approx(0.6)) * 2
    assert zoo.facts["config.optim::lr"] == (0.1,) * 3 + (0.2,) * 3
    assert not {"pid", "time_total_s", "config.seed"} & set(zoo.facts)
    assert same(zoo.read(5), state(23))
    assert zoo.notes == (
        "2 checkpoints without a file: NN_tune_trainable_1/checkpoint_000009, "
        "NN_tune_trainable_2/checkpoint_000009",
    )


def test_the_wild_park(tmp_path):
    root = tmp_path / "cifar10_zooV2"
    settings = {"model": {"channels": [3, 8, 4], "activation": ["relu", "tanh"], "residual": [-1]}}
    for run in (1, 2, 3):
        run_folder(root, run, [1, 2], file="checkpoint.pt", **settings)
    names = [f"NN_tune_trainable_{run}/checkpoint_{step:06d}/checkpoint.pt"
             for run in (1, 2, 3) for step in (1, 2)]  # fmt: skip
    splits = {
        part: {"path": [f"somewhere/cifar10_zooV2/{names[i]}" for i in which],
               "score": [0.1 * i for i in which], "step": [1 + i % 2 for i in which]}
        for part, which in (("train", [2, 0]), ("val", [3]), ("test", [5]))
    }  # fmt: skip
    splits["test"]["path"].append("somewhere/else/checkpoint.pt")
    splits["test"]["score"].append(0.5)
    splits["test"]["step"].append(1)
    write(tmp_path / "cnn_park_splits.json", splits)
    zoo = open_collection("cnn-wild-park", tmp_path)
    assert zoo.names == tuple(f"cifar10_zooV2/{names[i]}" for i in (2, 0, 3, 5))
    assert zoo.splits == ("train", "train", "val", "test")
    assert zoo.facts["score"] == pytest.approx((0.2, 0.0, 0.3, 0.5))
    assert zoo.facts["config.model.channels"] == ("3,8,4",) * 4
    assert zoo.facts["config.model.activation"] == ("relu,tanh",) * 4
    assert zoo.groups[0] == "cifar10_zooV2/NN_tune_trainable_2"
    assert same(zoo.read(0), state(21))
    assert zoo.notes == (
        "1 rows of the splits without a file: somewhere/else/checkpoint.pt",
        f"2 files that are in no split: cifar10_zooV2/{names[1]}, cifar10_zooV2/{names[4]}",
    )


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ([1], "no JSON object"),
        ({"train": {"score": [1]}}, "'train' has no list of paths"),
        ({"train": {"path": ["a"], "score": [1, 2]}}, "not of one length"),
        ({"train": {"path": ["../../../etc/passwd", 3, None]}}, "no networks are found"),
    ],
)
def test_files_of_splits_are_trusted_in_nothing(tmp_path, splits, words):
    run_folder(tmp_path / "runs", 1, [1])
    write(tmp_path / "s.json", splits)
    with pytest.raises(DataFileError, match=words):
        open_training_folders(tmp_path / "runs", splits=tmp_path / "s.json")


# -- INRs ------------------------------------------------------------------------------------------


def inrs_of_dwsnets(folder):
    images = ("training_5_0", "training_3_12", "testing_5_0")
    names = [f"mnist_png_{image}/checkpoints/model_final.pth" for image in images]
    for seed, name in enumerate(names):
        save(folder / name, seed)
    return names


def test_inrs_of_dwsnets(tmp_path):
    names = inrs_of_dwsnets(tmp_path / "mnist-inrs")
    zoo = open_collection("inrs-dwsnets", tmp_path / "mnist-inrs")
    assert sorted(zoo.names) == sorted(names)
    told = zip(zoo.splits, zoo.facts["label"], strict=True)
    known = dict(zip(zoo.names, told, strict=True))
    assert known == {names[0]: ("train", "5"), names[1]: ("train", "3"), names[2]: ("test", "5")}
    assert len(set(zoo.groups)) == 3
    write(tmp_path / "mnist_splits.json", {
        "train": {"path": [f"dataset/mnist-inrs/{names[1]}"], "label": ["3"]},
        "val": {"path": [f"dataset/mnist-inrs/{names[0]}"], "label": ["5"]},
        "test": {"path": [f"dataset/mnist-inrs/{names[2]}"], "label": ["5"]},
    })  # fmt: skip
    zoo = open_collection("inrs-dwsnets", tmp_path / "mnist-inrs")
    assert zoo.names == (names[1], names[0], names[2])
    assert zoo.splits == ("train", "val", "test")
    assert zoo.facts == {"label": ("3", "5", "5"), "image": (12, 0, 0)}
    assert same(zoo.read(1), state(0))


def test_inrs_of_nfn(tmp_path):
    for image, label in ((0, 7), (1, 2), (2, 7), (3, 0)):
        for fit in ("randinit_smaller", "randinit_smaller_aug0"):
            save(tmp_path / f"{fit}_{label}s" / f"net{image}.pth", image)
    zoo = open_inrs_of_nfn(tmp_path, split_points=(2, 3))
    known = set(zip(zoo.facts["image"], zoo.facts["label"], zoo.splits, zoo.groups, strict=True))
    assert known == {(0, "7", "train", "image 0"), (1, "2", "train", "image 1"),
                     (2, "7", "val", "image 2"), (3, "0", "test", "image 3")}  # fmt: skip
    assert sorted(set(zoo.facts["fit"])) == ["randinit_smaller", "randinit_smaller_aug0"]
    assert len(zoo) == 8
    assert same(zoo.read(0), state(zoo.facts["image"][0]))
    assert set(open_collection("inrs-nfn", tmp_path).splits) == {"train"}


def test_implicit_zoo(tmp_path):
    for part, images in (("train", (0, 1)), ("test", (0,))):
        for image in images:
            file = tmp_path / part / "ckpts" / f"{image + 3:02d}" / f"{image:06d}_0000042.ckpt"
            save(file, image, key="params", image_idx=image)
        write(tmp_path / part / "0_2.json", {str(image): 30.5 + image for image in images})
    zoo = open_collection("implicit-zoo", tmp_path)
    assert zoo.splits == ("test", "train", "train")
    assert zoo.groups == ("test image 0", "train image 0", "train image 1")
    assert zoo.facts == {"label": ("03", "03", "04"), "image": (0, 0, 1), "seed": (42,) * 3,
                         "psnr": (30.5, 30.5, 31.5)}  # fmt: skip
    assert same(zoo.read(2), state(1))


# -- all of them -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYOUTS)
def test_other_folders_are_refused(tmp_path, name):
    with pytest.raises(DataFileError):
        open_collection(name, tmp_path)
    with pytest.raises(DataFileError, match="is no folder"):
        open_collection(name, tmp_path / "nowhere")


def test_layouts_have_names(tmp_path):
    with pytest.raises(DataFileError, match="expected one of small-cnn-zoo, training-folders"):
        open_collection("mnist", tmp_path)
    assert all(layout.about and layout.paper for layout in LAYOUTS.values())


def test_a_manifest_is_held_against_the_files(tmp_path):
    folder = small_cnn_zoo(tmp_path / "zoo")
    zoo = open_collection("small-cnn-zoo", folder)
    digest = hashlib.sha256((folder / "weights.npy").read_bytes()).hexdigest()
    write(tmp_path / "m.json", {"count": 6, "sha256": {"weights.npy": digest.upper()}})
    check_manifest(zoo, folder, tmp_path / "m.json")
    wrong = {"count": 7, "sha256": {"weights.npy": "0", "x.npy": "0", "../m.json": "0"}}
    write(tmp_path / "m.json", wrong)
    words = "6 networks in place of 7; weights.npy has another hash; x.npy is missing; '../m.json'"
    with pytest.raises(DataFileError, match=words):
        check_manifest(zoo, folder, tmp_path / "m.json")
    write(tmp_path / "m.json", {"files": 3})
    with pytest.raises(DataFileError, match="is no manifest"):
        check_manifest(zoo, folder, tmp_path / "m.json")


def test_the_page_names_every_layout_and_every_container_that_is_read():
    page = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()
    read = [container.name for container in CONTAINERS if container.read is not None]
    assert [name for name in (*LAYOUTS, *read) if f"`{name}`" not in page] == []
