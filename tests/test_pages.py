"""Every tutorial runs, as a reader would run it: its Python blocks one after another."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))


# Outside of tests warnings are no errors.
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    # In this process, which has torch already; classes are looked up in the module of their name.
    session = ModuleType("session")
    monkeypatch.setitem(sys.modules, "session", session)
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks), path.name, "exec"), session.__dict__)
