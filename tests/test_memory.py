"""What the process does with memory that it frees."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from nngraph.memory import keep_memory

#: Twenty arrays of 2048 pages, one after another: how many pages are fetched from the system.
COUNT = """
import resource, sys
from nngraph.memory import keep_memory
assert keep_memory(sys.argv[1] == "keep")
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    bytearray(2**23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the GNU C library")
def test_pages_are_fetched_once_where_memory_is_kept():
    pages = [
        int(subprocess.run([sys.executable, "-c", COUNT, word], check=True, capture_output=True,
                           text=True).stdout)
        for word in ("keep", "give")
    ]  # fmt: skip
    assert pages[0] < 5000
    assert pages[1] > 30000


def test_other_libraries_stay_as_they_are(monkeypatch: pytest.MonkeyPatch):
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert not keep_memory()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_memory()
