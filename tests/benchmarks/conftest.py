"""Benchmark scripts as the tests load them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from benchmark_scripts import FOLDER


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import a script as it is when it is run: its own folder is searched first."""
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")

    def imported(name: str) -> ModuleType:
        # Tests run outside of a checkout too, where rows would be refused.
        monkeypatch.setattr(importlib.import_module("harness"), "COMMIT", "0123abc")
        return importlib.import_module(name)

    yield imported
    for path in FOLDER.glob("*.py"):
        sys.modules.pop(path.stem, None)
    torch.set_num_threads(threads)
