"""Several processes, parts of a step, and other ways to make the same step: the same curve."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nngraph.tasks import TrainSettings, train
from nngraph.tasks.batches import draw_batches, share_of

Settings = Callable[..., TrainSettings]
#: Nothing that is drawn per network: each process draws its own.
FIXED: dict[str, Any] = {"motion": False, "options": {"dropout": 0.0}, "batch_size": 9, "epochs": 3}
CODE = """
import json, sys, torch
torch.set_num_threads(1)
from nngraph.tasks import TrainSettings, train
for settings, out in json.loads(sys.argv[1]):
    train(TrainSettings(**settings), out, progress=False)
"""


def curve(out: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]


def assert_same_curve(one: Path, other: Path) -> None:
    first, second = curve(one), curve(other)
    assert [row["step"] for row in first] == [row["step"] for row in second]
    for row, like in zip(first, second, strict=True):
        assert row == pytest.approx(like, rel=1e-4, abs=1e-5)


def test_two_processes_learn_as_one_does(settings: Settings, tmp_path: Path):
    # 24 networks in batches of 9, 9 and 6: shares of 5 and 4, and of 3.
    chosen = [settings("message-passing", **FIXED), settings("symmetric", **FIXED, ema=0.5)]
    work = [(s.to_dict(), str(tmp_path / f"two-{s.model}")) for s in chosen]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
        "--no-python", sys.executable, "-c", CODE, json.dumps(work),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    for s in chosen:
        train(s, tmp_path / f"one-{s.model}", progress=False)
        assert_same_curve(tmp_path / f"one-{s.model}", tmp_path / f"two-{s.model}")
    assert sorted(path.name for path in (tmp_path / "two-symmetric").iterdir()) == [
        "config.json", "metrics.jsonl", "model.safetensors", "report.json",
    ]  # fmt: skip


@pytest.mark.parametrize("model", ["message-passing", "symmetric"])
def test_parts_of_a_step_add_up(model: str, settings: Settings, tmp_path: Path):
    train(settings(model, **FIXED), tmp_path / "whole", progress=False)
    train(settings(model, **FIXED, accumulate=4), tmp_path / "parts", progress=False)
    assert_same_curve(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(("size", "world", "parts"), [(9, 2, 1), (10, 3, 2), (2, 4, 3), (1, 1, 5)])
def test_shares_weigh_every_network_alike(size: int, world: int, parts: int):
    batch = torch.arange(size) * 7
    total = torch.zeros(size, dtype=torch.float64)
    for rank in range(world):
        shares = share_of(batch, rank, world, parts)
        assert shares  # every process has to take part
        for numbers, weight in shares:
            total[numbers // 7] += weight / len(numbers) / world
    assert torch.allclose(total, torch.full_like(total, 1 / size), rtol=1e-12)


def test_batches_hold_every_network_once_and_architectures_side_by_side():
    kinds = torch.tensor([0, 1, 2, 0, 1] * 20)
    numbers = torch.arange(100) + 3
    drawn = [
        draw_batches(numbers, kinds, 16, 8, torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    for batches in drawn:
        assert torch.cat(batches).sort().values.tolist() == numbers.tolist()
        assert [len(batch) for batch in batches] == [16] * 6 + [4]
        # Sets of 8: two of them in a batch of 16, three where one lies across its border.
        assert all(len(set(kinds[batch - 3].tolist())) <= 3 for batch in batches)
        switches = [int((kinds[batch - 3].diff() != 0).sum()) for batch in batches]
        assert max(switches) <= 3
    assert all(torch.equal(a, b) for a, b in zip(drawn[0], drawn[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(drawn[0], drawn[2], strict=True))


def test_networks_of_one_architecture_are_shuffled_one_by_one():
    generator = torch.Generator().manual_seed(0)
    numbers = torch.arange(64)
    batches = draw_batches(numbers, torch.zeros(64, dtype=torch.int64), 64, 8, generator)
    together = (batches[0][:-1] // 8 == batches[0][1:] // 8).double().mean()
    assert float(together) < 0.5
