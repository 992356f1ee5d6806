"""The basis as a picture."""

from __future__ import annotations

import sys

import pytest
from basis_cases import SPACES, mlp

from nngraph.drawing import draw_basis
from nngraph.errors import ArchitectureError, DataFileError, MissingDependencyError
from nngraph.graph.architecture import Architecture


@pytest.mark.parametrize("ending", [".png", ".svg"])
def test_a_picture_is_saved_whole(tmp_path, ending):
    pytest.importorskip("matplotlib")
    path = draw_basis(Architecture.mlp([1, 2, 1]), tmp_path / "new" / f"basis{ending}", dpi=40)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG" if ending == ".png" else b"<?xml")
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    if ending == ".svg":
        assert data.rstrip().endswith(b"</svg>")


def test_any_space_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    for i, what in enumerate((SPACES["recurrent, width 1"], SPACES["free only"])):
        assert draw_basis(what, tmp_path / f"{i}.png", dpi=30).stat().st_size > 1000


def test_what_cannot_be_drawn(tmp_path, monkeypatch):
    with pytest.raises(ArchitectureError, match="narrower network"):
        draw_basis(mlp(2, 32, 32, 1), tmp_path / "a.png")
    with pytest.raises(DataFileError, match=r"expected a name in \.png"):
        draw_basis(mlp(2, 3, 1), tmp_path / "a.jpeg")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        draw_basis(mlp(2, 3, 1), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
