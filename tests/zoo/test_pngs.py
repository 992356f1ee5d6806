from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from nngraph.errors import DataFileError
from nngraph.zoo import load_png_folder


def save(path: Path, mode: str, colour: object, size: tuple[int, int] = (3, 2)) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.new(mode, size, colour).save(path, format="PNG")  # type: ignore[arg-type]


def test_folders_are_classes(tmp_path: Path):
    save(tmp_path / "dog" / "b.png", "L", 10)
    save(tmp_path / "cat" / "z.PNG", "L", 30)
    save(tmp_path / "cat" / "a.png", "RGB", (20, 20, 20))
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    source = load_png_folder(tmp_path, "pets")
    assert source.images.shape == (3, 2, 3, 1)
    assert source.images[:, 0, 0, 0].tolist() == [20, 30, 10]
    assert source.labels.tolist() == [0, 0, 1]
    assert (source.name, source.class_names) == ("pets", ("cat", "dog"))


def test_a_table_gives_order_and_labels(tmp_path: Path):
    save(tmp_path / "one.png", "RGB", (1, 2, 3))
    save(tmp_path / "deep" / "two.png", "L", 9)
    (tmp_path / "labels.csv").write_text("file,label\none.png,b\ndeep/two.png,a\n")
    source = load_png_folder(tmp_path)
    assert source.images[:, 0, 0].tolist() == [[1, 2, 3], [9, 9, 9]]
    assert source.labels.tolist() == [1, 0]


def test_what_is_transparent_shows_the_background(tmp_path: Path):
    save(tmp_path / "a" / "a.png", "RGBA", (200, 100, 0, 51))
    assert load_png_folder(tmp_path).images[0, 0, 0].tolist() == [40, 20, 0]
    white = load_png_folder(tmp_path, background=1.0)
    assert white.images[0, 0, 0].tolist() == [244, 224, 204]
    save(tmp_path / "a" / "b.png", "P", 3)
    assert len(load_png_folder(tmp_path)) == 2


def bomb(width: int) -> bytes:
    def part(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = struct.pack(">IIBBBBB", width, width, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", b"") + part(b"IEND", b"")


def test_files_that_are_not_to_be_trusted(tmp_path: Path):
    good = tmp_path / "a" / "a.png"
    save(good, "L", 3, (20, 20))
    data = good.read_bytes()
    file = tmp_path / "a" / "b.png"
    for wrong, match in (
        (b"", "is not a PNG image"),
        (b"GIF89a" + data, "is not a PNG image"),
        (data[:40], "is not a PNG image"),
        (data[:45] + b"???" + data[48:], "is not a PNG image"),
        (bomb(2**13), "declares 8192 x 8192 pixels"),
        (bomb(2**15), "b.png"),
        (bomb(2**30), "b.png"),
    ):
        file.write_bytes(wrong)
        with pytest.raises(DataFileError, match=match) as caught:
            load_png_folder(tmp_path)
        assert "b.png" in str(caught.value)
    save(file, "L", 3, (4, 4))
    with pytest.raises(DataFileError, match=r"b.png has 4 x 4 pixels; expected 20 x 20 as a.png"):
        load_png_folder(tmp_path)


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ("file,label\n../secret.png,a\n", r"line 2: '../secret.png' is outside the folder"),
        ("file,label\n/etc/passwd,a\n", "is outside the folder"),
        ("file,label\nnone.png,a\n", "none.png is missing"),
        ("name,class\na.png,a\n", "expected a header file,label"),
        ("file,label\na.png\n", "line 2: no file or no label"),
        ("file,label\n", "has no PNG images"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, table: str, match: str):
    save(tmp_path / "data" / "a.png", "L", 3)
    save(tmp_path / "secret.png", "L", 3)
    (tmp_path / "data" / "labels.csv").write_text(table)
    with pytest.raises(DataFileError, match=match):
        load_png_folder(tmp_path / "data")


def test_no_images_are_no_source(tmp_path: Path):
    with pytest.raises(DataFileError, match="has no PNG images in folders"):
        load_png_folder(tmp_path)
    with pytest.raises(DataFileError, match="is no folder"):
        load_png_folder(tmp_path / "absent")
