"""Every page runs, as a reader would run it: its Python blocks one after another."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from converters.symmetry.rules import RULES
from nngraph.graph import ACTIVATIONS
from nngraph.nn import MODELS
from nngraph.tasks import TASKS

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = {
    path.relative_to(ROOT).with_suffix("").as_posix(): path
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if BLOCK.search(path.read_text())
}


def program(page: str) -> str:
    """Return the Python blocks of a page; each line has the number that it has there."""
    lines = ["\n"] * page.count("\n")
    for block in BLOCK.finditer(page):
        start = page.count("\n", 0, block.start(1))
        code = block[1].splitlines(keepends=True)
        lines[start : start + len(code)] = code
    return "".join(lines)


@pytest.fixture(autouse=True)
def _registries() -> Iterator[None]:
    """Take back what a page registers."""
    before = [(registry, dict(registry)) for registry in (ACTIVATIONS, MODELS, RULES, TASKS)]
    yield
    for registry, entries in before:
        registry.clear()
        registry.update(entries)


def test_pages_are_found():
    assert {"README", "docs/quickstart", "docs/tutorials/edit_an_inr"} <= set(PAGES)


# Outside of tests warnings are no errors; those for users have no place on a page.
@pytest.mark.filterwarnings("default", "error::UserWarning")
@pytest.mark.parametrize("name", PAGES)
def test_page_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # In this process, which has torch already; classes are looked up in the module of their name.
    session = ModuleType("session")
    monkeypatch.setitem(sys.modules, "session", session)
    monkeypatch.chdir(tmp_path)
    exec(compile(program(PAGES[name].read_text()), PAGES[name], "exec"), session.__dict__)
