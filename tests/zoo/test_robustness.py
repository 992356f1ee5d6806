"""Zoos under kill -9, on full disks, and written by several processes."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import writers

import nngraph
from nngraph.errors import DataFileError
from nngraph.zoo import Zoo, find_problems

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL and resource limits")


@pytest.fixture(scope="module")
def server() -> Iterator[writers.Server]:
    server = writers.Server()
    yield server
    server.close()


def test_a_fit_survives_kill_9_at_random_moments(server: writers.Server, tmp_path: Path):
    writers.assert_survives_kills(server, writers.fit, tmp_path / "zoo", kills=8)


def test_training_survives_kill_9_at_random_moments(server: writers.Server, tmp_path: Path):
    writers.assert_survives_kills(server, writers.train, tmp_path / "zoo", kills=8)


def test_appending_survives_kill_9_at_random_moments(server: writers.Server, tmp_path: Path):
    writers.assert_survives_kills(server, writers.append, tmp_path / "zoo", kills=8)


def test_a_merge_survives_kill_9_at_random_moments(server: writers.Server, tmp_path: Path):
    parts = []
    for name, steps in (("one", 2), ("two", 3)):
        writers.fit(tmp_path / name, steps)
        parts.append(tmp_path / name)
    writers.assert_survives_kills(server, writers.merge, tmp_path / "zoo", parts, kills=8)


def test_a_limit_on_the_size_of_files_is_told_and_nothing_is_lost(
    server: writers.Server, tmp_path: Path
):
    path = tmp_path / "zoo"
    # Too small for a shard of 4 networks, large enough for the manifest.
    server.start(writers.fit_limited, path, 3 * 32 * 32 * 4)
    assert server.wait() == 7
    assert "cannot be written: File too large" in (tmp_path / "said").read_text()
    assert [entry for entry in path.iterdir() if entry.name.startswith(".")] == []
    writers.fit(path, 4, 32)
    writers.fit(tmp_path / "whole", 4, 32)
    assert writers.contents(path) == writers.contents(tmp_path / "whole")


@pytest.mark.parametrize("when", [3, 6])
def test_a_full_disk_is_told_and_what_was_finished_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: int
):
    real, calls = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls >= 2 * when:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    path = tmp_path / "zoo"
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataFileError, match="cannot be written: No space left on device"):
        writers.fit(path)
    monkeypatch.undo()
    kept = len(Zoo.open(path, partial=True))
    assert find_problems(path) == []
    assert kept == 4 * ((when - 1) // 2)
    writers.fit(path)
    writers.fit(tmp_path / "whole")
    assert writers.contents(path) == writers.contents(tmp_path / "whole")


def test_a_damaged_receipt_is_named(tmp_path: Path):
    path = tmp_path / "zoo"
    zoo_file = path / "shard-00000.done.json"
    writers.fit(path)
    text = (path / "manifest.json").read_text()
    lost = text.replace('"status": "done"', '"status": "missing"', 1)
    lost = re.sub(r'"(facts_)?sha256": "[0-9a-f]{64}"', r'"\1sha256": null', lost, count=2)
    (path / "manifest.json").write_text(lost)
    for damage in (b"", b"[]", b'{"format": "nngraph.zoo.receipt"}', b"\xff", b"[" * 9999):
        zoo_file.write_bytes(damage)
        with pytest.raises(DataFileError, match=r"shard-00000\.done\.json is no receipt"):
            Zoo.open(path, partial=True)
        with pytest.raises(DataFileError, match="is no receipt"):
            writers.fit(path)
    zoo_file.unlink()
    writers.fit(path)
    assert (path / "manifest.json").read_text() == text


_RANK = """
import sys
from collections.abc import Iterator
from pathlib import Path
import writers
writers.fit(Path(sys.argv[1], "fit"))
writers.train(Path(sys.argv[1], "train"))
writers.convert(Path(sys.argv[1], "import"), Path(sys.argv[2]))
"""


def test_two_ranks_of_torchrun_share_fit_train_and_import(tmp_path: Path):
    script = tmp_path / "rank.py"
    script.write_text(_RANK)
    root = Path(nngraph.__file__).parents[1]
    paths = os.pathsep.join([str(root), str(Path(writers.__file__).parent)])
    torch.save(
        {p.name: torch.rand(9, *p.shape) for p in writers.ARCHITECTURE.parameters},
        tmp_path / "stack.pt",
    )
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
         str(script), str(tmp_path / "two"), str(tmp_path / "stack.pt")],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    writers.fit(tmp_path / "fit")
    writers.train(tmp_path / "train")
    writers.convert(tmp_path / "import", tmp_path / "stack.pt")
    for name in ("fit", "train", "import"):
        assert writers.contents(tmp_path / "two" / name) == writers.contents(tmp_path / name)
