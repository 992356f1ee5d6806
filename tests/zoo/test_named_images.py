"""Images by name: each source is given what it takes, and nothing else."""

from __future__ import annotations

import pytest
import torch

from nngraph.errors import DataFileError
from nngraph.zoo import SOURCES, ImageSource, Source, load_images, load_train_and_test


def blank(*folders: str) -> ImageSource:
    """Ten images; the name says what was asked for."""
    images, labels = torch.zeros(10, 4, 4, 1), torch.arange(10) % 2
    return ImageSource(" ".join(folders), images, labels, ("even", "odd"))


@pytest.mark.parametrize("name", [*SOURCES, "another"])
def test_another_number_of_folders_is_refused(name: str):
    count = SOURCES[name].folders if name in SOURCES else 1
    with pytest.raises(ValueError, match=f"given {count + 1} folders; expected {count}"):
        load_images(name, ["folder"] * (count + 1))


def test_another_name_is_that_of_idx_files(tmp_path):
    with pytest.raises(DataFileError, match="t10k"):
        load_images("another", [tmp_path], "test")


def test_a_source_of_parts_is_asked_for_each(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(SOURCES, "mine", Source(blank, folders=1, parts=True))
    assert load_images("mine", ["here"], "test").name == "here test"
    assert [part.name for part in load_train_and_test("mine", ["here"])] == [
        "here train",
        "here test",
    ]


def test_a_fifth_of_a_source_without_parts_is_for_testing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(SOURCES, "mine", Source(blank))
    assert [len(part) for part in load_train_and_test("mine")] == [8, 2]
    assert load_images("mine", part="test").name == ""
