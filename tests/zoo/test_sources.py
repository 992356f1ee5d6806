from __future__ import annotations

import gzip
import struct
import sys
from pathlib import Path

import pytest
import torch

from nngraph.errors import DataFileError, InvalidGraphError, MissingDependencyError
from nngraph.zoo import ImageSource, load_digits_images, load_idx_folder, read_idx

# 2 images of 2 rows and 3 columns, written out by hand.
IMAGES = b"\0\0\x08\x03" + b"\0\0\0\x02" + b"\0\0\0\x02" + b"\0\0\0\x03" + bytes(range(12))
LABELS = b"\0\0\x08\x01" + b"\0\0\0\x02" + b"\x07\x01"


def write(folder: Path, images: bytes = IMAGES, labels: bytes = LABELS, suffix: str = "") -> Path:
    pack = gzip.compress if suffix else bytes
    (folder / f"train-images-idx3-ubyte{suffix}").write_bytes(pack(images))
    (folder / f"train-labels-idx1-ubyte{suffix}").write_bytes(pack(labels))
    return folder


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_folder_of_idx_files_is_read(tmp_path: Path, suffix: str):
    source = load_idx_folder(write(tmp_path, suffix=suffix))
    assert source.images.shape == (2, 2, 3, 1)
    assert source.images[1, 0].squeeze(-1).tolist() == [6, 7, 8]
    assert source.labels.tolist() == [7, 1]
    assert source.class_names == tuple("0123456789")
    assert source.name == "mnist-train"
    assert source.targets()[1, 1, 2, 0] == pytest.approx(11 / 255)


def test_gzip_is_recognised_by_content(tmp_path: Path):
    (tmp_path / "plain-name").write_bytes(gzip.compress(LABELS))
    assert read_idx(tmp_path / "plain-name").tolist() == [7, 1]


def test_class_names_follow_the_name_of_the_data_set(tmp_path: Path):
    assert load_idx_folder(write(tmp_path), name="fashion-mnist").class_names[7] == "Sneaker"
    assert load_idx_folder(tmp_path, name="other").class_names == tuple("01234567")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        pytest.param(b"", "starts with nothing", id="empty"),
        pytest.param(b"PK\3\4" + LABELS, "starts with 50 4b 03 04", id="another format"),
        pytest.param(b"\0\0\x0d\x01\0\0\0\0", "IDX type 0x0d", id="floats"),
        pytest.param(b"\0\0\x08\0", "0 dimensions", id="no dimensions"),
        pytest.param(b"\0\0\x08\xff", "255 dimensions", id="many dimensions"),
        pytest.param(IMAGES[:9], "ends within its header", id="half a header"),
        pytest.param(IMAGES[:-1], "declares 2 x 2 x 3 = 12 bytes but holds", id="truncated"),
        pytest.param(IMAGES + b"\0", "declares 2 x 2 x 3 = 12 bytes but holds", id="trailing"),
        pytest.param(
            b"\0\0\x08\x03" + b"\xff" * 12, "at most 1073741824 are read", id="absurd size"
        ),
        pytest.param(
            b"\0\0\x08\x01" + struct.pack(">I", 2**30 - 1) + b"\0" * 64,
            "declares 1073741823",
            id="large size",
        ),
    ],
)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_what_is_not_idx_is_refused_and_named(
    tmp_path: Path, data: bytes, match: str, packed: bool
):
    path = tmp_path / "some-file"
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(DataFileError, match=match) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-9],
        lambda data: data[:14],
        lambda data: data[:-6] + bytes(2) + data[-4:],
        lambda data: data + b"garbage",
    ],
    ids=["truncated", "short", "wrong checksum", "garbage after"],
)
def test_a_damaged_gzip_file_is_refused(tmp_path: Path, damage):
    path = tmp_path / "file.gz"
    path.write_bytes(damage(gzip.compress(IMAGES)))
    with pytest.raises(DataFileError, match=r"file\.gz is a damaged or truncated gzip"):
        read_idx(path)


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(LABELS + bytes(50_000_000)))
    with pytest.raises(DataFileError, match="declares 2 = 2 bytes but holds more"):
        read_idx(path)


def test_mismatched_files_are_refused(tmp_path: Path):
    write(tmp_path, labels=b"\0\0\x08\x01\0\0\0\x03\1\2\3")
    with pytest.raises(DataFileError, match=r"3 labels but .*images-idx3-ubyte has 2 images"):
        load_idx_folder(tmp_path)
    write(tmp_path, labels=IMAGES)
    with pytest.raises(DataFileError, match=r"shape \(2, 2, 3\); expected 1 dimensions"):
        load_idx_folder(tmp_path)
    write(tmp_path, labels=b"\0\0\x08\x01\0\0\0\x02\x0a\x01")
    with pytest.raises(DataFileError, match="label 10; mnist has 10 classes"):
        load_idx_folder(tmp_path)


def test_missing_files_are_named(tmp_path: Path):
    with pytest.raises(DataFileError, match="neither t10k-images-idx3-ubyte nor"):
        load_idx_folder(write(tmp_path), "test")
    with pytest.raises(DataFileError, match="absent cannot be read"):
        read_idx(tmp_path / "absent")
    with pytest.raises(DataFileError, match="cannot be read"):
        read_idx(tmp_path)
    with pytest.raises(ValueError, match="split is 'val'"):
        load_idx_folder(tmp_path, "val")


def test_digits_are_those_of_scikit_learn():
    pytest.importorskip("sklearn")
    source = load_digits_images()
    assert source.images.shape == (1797, 8, 8, 1)
    assert (float(source.images.min()), float(source.images.max())) == (0, 1)
    assert source.labels[:10].tolist() == list(range(10))
    # The first row of the first image is 0 0 5 13 9 1 0 0, out of 16.
    assert (source.images[0, 0, :, 0] * 16).tolist() == [0, 0, 5, 13, 9, 1, 0, 0]


def test_without_scikit_learn_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'nngraph\[demo\]'"):
        load_digits_images()


@pytest.mark.parametrize(
    ("images", "labels", "match"),
    [
        (torch.zeros(2, 4, 4), [0, 1], r"expected \(n, H, W, C\)"),
        (torch.zeros(0, 4, 4, 1), [], r"none of them 0"),
        (torch.zeros(2, 4, 4, 1, dtype=torch.int32), [0, 1], "dtype torch.int32"),
        (torch.full((2, 4, 4, 1), 2.0), [0, 1], "range from 2 to 2"),
        (torch.full((2, 4, 4, 1), float("nan")), [0, 1], "range from nan"),
        (torch.zeros(2, 4, 4, 1), [0], r"expected integers of shape \(2,\)"),
        (torch.zeros(2, 4, 4, 1), [0.0, 1.0], "expected integers"),
        (torch.zeros(2, 4, 4, 1), [0, 2], "range from 0 to 2; expected 0 to 1"),
    ],
)
def test_a_source_that_does_not_fit_together_is_refused(images, labels, match):
    with pytest.raises(InvalidGraphError, match=match):
        ImageSource("wrong", images, torch.tensor(labels), ("a", "b"))


def test_the_fingerprint_sees_every_pixel_and_label():
    images, labels = torch.zeros(3, 2, 2, 1), torch.tensor([0, 1, 0])
    base = ImageSource("s", images, labels, ("a", "b"))
    assert base.fingerprint() == ImageSource("t", images.clone(), labels, ("a", "b")).fingerprint()
    changed = images.clone()
    changed[2, 1, 1, 0] = 1e-3
    for other in (
        ImageSource("s", changed, labels, ("a", "b")),
        ImageSource("s", images, torch.tensor([0, 1, 1]), ("a", "b")),
        ImageSource("s", images.reshape(3, 1, 4, 1), labels, ("a", "b")),
        base.take(2),
    ):
        assert other.fingerprint() != base.fingerprint()
    with pytest.raises(InvalidGraphError, match="4 images of 's' are asked for; expected 1 to 3"):
        base.take(4)
