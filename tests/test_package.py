"""The package as a whole: what it exports, and what importing it imports."""

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import nngraph

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", nngraph.__all__)
def test_every_public_name_is_there(name: str):
    assert getattr(nngraph, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        nngraph.nothing  # noqa: B018


def test_all_public_names_are_listed():
    assert sorted(nngraph._HOME) == nngraph.__all__ == sorted(nngraph.__all__)
    assert set(nngraph.__all__) <= set(dir(nngraph))


def test_whatever_the_site_describes_lists_its_public_names():
    pages = [path.read_text() for path in (ROOT / "docs/reference").glob("*.md")]
    faces = [face for page in pages for face in re.findall(r"face:: (\S+)", page)]
    assert "nngraph.validation" in faces
    for face in faces:
        module = import_module(face)
        assert all(hasattr(module, name) for name in module.__all__), face


def test_no_two_classes_share_a_name():
    homes: dict[str, list[str]] = {}
    for top in ("nngraph", "converters"):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    homes.setdefault(node.name, []).append(path.relative_to(ROOT).as_posix())
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


def test_the_version_is_the_one_of_the_package():
    text = (ROOT / "pyproject.toml").read_text()
    assert re.search(r'^version = "(.*)"$', text, re.MULTILINE)[1] == nngraph.__version__


def test_importing_the_package_imports_neither_torch_nor_the_converters():
    code = "import sys, nngraph; print([m for m in ('torch', 'converters') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert result.stdout.decode().strip() == "[]"


def test_the_library_imports_without_its_optional_packages():
    optional = [
        "torch_scatter", "triton", "ogb", "sklearn", "matplotlib", "onnx", "lightning",
        "lightning_fabric", "tensorboard", "converters",
    ]  # fmt: skip
    code = f"""
import sys
for name in {optional!r}:
    sys.modules[name] = None
import nngraph.basis, nngraph.datasets, nngraph.kernels, nngraph.nn, nngraph.tasks, nngraph.zoo
"""
    subprocess.run([sys.executable, "-c", code], check=True)
