"""Every page runs, as a reader would run it: its Python blocks one after another.

Commands in blocks that begin with ```` ```sh run ```` run between them.
"""

from __future__ import annotations

import re
import shlex
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
BLOCK = re.compile(r"^```(python|sh run)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = {
    path.relative_to(ROOT).with_suffix("").as_posix(): path
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if BLOCK.search(path.read_text())
}


def program(page: str) -> str:
    """Return the blocks of a page as Python; each line has the number that it has there."""
    lines = ["\n"] * page.count("\n")
    for block in BLOCK.finditer(page):
        start = page.count("\n", 0, block.start(2))
        code = block[2].splitlines(keepends=True)
        if block[1] == "sh run":
            code = commands(block[2])
        lines[start : start + len(code)] = code
    return "".join(lines)


def commands(block: str) -> list[str]:
    """Return a call of the command line for each command; it stands where the command begins."""
    lines: list[str] = []
    for command in re.findall(r"(?:.*\\\n)*.*\n", block):
        program, *words = shlex.split(command.replace("\\\n", " "))
        assert program == "nngraph"
        lines += [f"assert __import__('nngraph.cli').cli.main({words}) == 0\n"]
        lines += ["\n"] * (command.count("\n") - 1)
    return lines


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
    monkeypatch.syspath_prepend(tmp_path)
    exec(compile(program(PAGES[name].read_text()), PAGES[name], "exec"), session.__dict__)
