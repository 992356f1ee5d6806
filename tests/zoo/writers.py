"""Writers of zoos that tests run in processes of their own, to kill them."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import nngraph
from converters import import_zoo
from nngraph.errors import DataFileError
from nngraph.graph import Architecture
from nngraph.zoo import (
    Fact,
    ImageSource,
    Origin,
    Zoo,
    append_networks,
    create_zoo,
    find_problems,
    fit_zoo,
    merge_zoos,
    train_zoo,
)
from nngraph.zoo.store.manifest import MANIFEST


def contents(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in sorted(folder.iterdir())}


def noise(n: int = 40, seed: int = 0) -> ImageSource:
    images = torch.rand(n, 6, 6, 1, generator=torch.Generator().manual_seed(seed))
    return ImageSource("noise", images, torch.arange(n) % 4, ("a", "b", "c", "d"))


def fit(path: Path, steps: int = 15, width: int = 8) -> None:
    torch.set_num_threads(1)
    fit_zoo(
        path, noise(), widths=[2, width, width, 1], steps=steps, shard_size=4, threads=1,
        progress=False,
    )  # fmt: skip


def fit_limited(path: Path, size: int) -> None:
    """Fit where no file may be larger than so many bytes; end with code 7 and say why beside it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        fit(path, 4, 32)
    except (DataFileError, OSError) as error:
        path.with_name("said").write_text(f"{type(error).__name__} {error}")
        os._exit(7)


def train(path: Path) -> None:
    torch.set_num_threads(1)
    train_zoo(
        path, noise(), noise(seed=1), recipe="small-mlp", count=24, steps=(6, 9), checkpoints=3,
        shard_runs=2, threads=1, progress=False,
    )  # fmt: skip


def merge(path: Path, parts: list[Path]) -> None:
    torch.set_num_threads(1)
    merge_zoos(path, parts)


def convert(path: Path, source: Path) -> None:
    torch.set_num_threads(1)
    import_zoo(path, source, shard_size=2)


ARCHITECTURE = Architecture.mlp([2, 3, 1])


def append(path: Path, count: int = 12) -> None:
    """Append one network of each run that is not there yet."""
    torch.set_num_threads(1)
    facts = (Fact("run"), Fact("score", "float32"))
    if not (path / MANIFEST).exists():
        create_zoo(path, facts, group="run", target="score")
    for run in range(len(Zoo.open(path, partial=True)), count):
        values = {
            p.name: torch.full((1, *p.shape), float(run)) for p in ARCHITECTURE.parameters
        }
        told = {"run": torch.tensor([run]), "score": torch.tensor([run / 2])}
        append_networks(path, ARCHITECTURE, values, told, Origin("c" * 64, {}))


def assert_survives_kills(
    server: Server, target: Callable[..., None], path: Path, *rest: Any, kills: int
) -> None:
    """Kill a writer at random moments, again and again, and check that nothing is lost or double.

    After every kill the zoo has no problems and at least the networks that it had before; a run
    that is left alone ends with the bits of one that was never killed.
    """
    rng = random.Random(0)
    undisturbed = path.with_name("undisturbed")
    started = time.perf_counter()
    server.start(target, undisturbed, *rest)
    assert server.wait() == 0
    length = time.perf_counter() - started
    whole, done = contents(undisturbed), 0
    before = 0
    while done < kills:
        process = server.start(target, path, *rest)
        time.sleep(rng.uniform(0, length))
        os.kill(process, signal.SIGKILL)  # not reaped before wait(): the number is still its own
        if server.wait() == 0:  # it was faster
            assert contents(path) == whole
            shutil.rmtree(path)
            before = 0
            continue
        done += 1
        if not (path / MANIFEST).exists():
            assert before == 0
            continue
        assert [p for p in find_problems(path) if "not in the manifest" not in p] == []
        networks = len(Zoo.open(path, partial=True))
        assert networks >= before
        before = networks
    server.start(target, path, *rest)
    assert server.wait() == 0
    assert contents(path) == whole
    assert find_problems(path) == []


class Server:
    """A process that has imported torch and has no threads: it forks writers in milliseconds."""

    def __init__(self) -> None:
        paths = [str(Path(nngraph.__file__).parents[1]), str(Path(__file__).parent)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", "import writers; writers.serve()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self.answer() == 0

    def answer(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def tell(self, words: list[Any]) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words, default=str) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def start(self, target: Callable[..., None], *args: Any) -> int:
        """Start a writer and return its process number."""
        return self.tell([target.__name__, *args])

    def wait(self) -> int:
        """Return the writer's exit code when it has ended."""
        return self.tell([])

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait() == 0


def serve() -> None:
    """Fork a writer for every line on stdin that names one; wait for it at an empty one."""
    print(0, flush=True)
    child = 0
    for line in sys.stdin:
        if name_and_args := json.loads(line):
            name, path, *rest = name_and_args
            child = os.fork()
            if child == 0:
                globals()[name](Path(path), *rest)
                os._exit(0)
            print(child, flush=True)
        else:
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
