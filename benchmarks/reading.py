"""How fast networks are read: one at random, as graphs of a data set, and as a shuffled stream."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import harness
import torch
from torch.utils.data import DataLoader

from nngraph.datasets import NeuralGraphDataset, ZooStream
from nngraph.zoo import ImageSource, Zoo, fit_zoo

KEYS = ("what", "networks", "architecture", "cpu")


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser("reading.py", description=__doc__)
    made.add_argument("--count", type=int, default=20_000, help="networks of the zoo")
    made.add_argument("--width", type=int, default=32, help="of both hidden layers")
    made.add_argument("--reads", type=int, default=5000, help="networks read one by one")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--out", type=Path, default=harness.RESULTS / "reading.csv")
    return made


def zoo_of(folder: Path, count: int, width: int) -> Zoo:
    """Make a zoo of networks that are not trained."""
    images, labels = torch.zeros(count, 2, 2, 1), torch.arange(count) % 2
    source = ImageSource("blank", images, labels, ("a", "b"))
    widths = [2, width, width, 1]
    return fit_zoo(folder / "zoo", source, widths=widths, steps=0, progress=False)


def check(zoo: Zoo) -> None:
    """Check that one network, a graph and the stream are what the stack holds."""
    stack = zoo.stack()
    numbers = torch.randperm(len(zoo), generator=torch.Generator().manual_seed(0))[:50]
    for number in numbers.tolist():
        assert torch.equal(zoo.network(number).edge_attr, stack.edge_attr[number])
    total = sum(float(batch.edge_attr.double().sum()) for batch in ZooStream(zoo, None))
    assert abs(total - float(stack.edge_attr.double().sum())) < 1e-6 * stack.edge_attr.numel()


def each(function: Callable[[int], object], numbers: Sequence[int]) -> tuple[float, float]:
    """Return the median and the 90 % quantile of microseconds per call, after a warm-up."""
    for number in numbers[:200]:
        function(number)
    times = []
    for number in numbers:
        start = time.perf_counter()
        function(number)
        times.append((time.perf_counter() - start) * 1e6)
    median, high = torch.tensor(times).quantile(torch.tensor([0.5, 0.9])).tolist()
    return median, high


def main(argv: Sequence[str] | None = None) -> None:
    """Make a zoo, read it in each way, write rows and print them."""
    made = parser()
    arguments = made.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = zoo_of(Path(folder), arguments.count, arguments.width).path
        zoo = Zoo.open(path)
        check(zoo)
        order = torch.randperm(len(zoo), generator=torch.Generator().manual_seed(1))
        numbers = order[: arguments.reads].tolist()
        dataset = NeuralGraphDataset(Zoo.open(path), in_memory=False)
        timed = {
            "one network at random": each(zoo.network, numbers),
            "one network at random, tensors made": each(lambda i: zoo.network(i).x, numbers),
            "a graph of the data set on disk, with its facts": each(dataset.get, numbers),
        }
        about = {
            "networks": len(zoo),
            "architecture": str(zoo.architecture),
            "zoo_mib": round(sum(f.stat().st_size for f in path.iterdir()) / 2**20, 1),
        }
        end = {"command": harness.command_line(made, arguments), **harness.machine()}
        for what, (median, high) in timed.items():
            times = {"us_per_network": round(median, 2), "us_per_network_q90": round(high, 2)}
            rows.append({"what": what, **about, **times, **end})
        for workers in (0, 2):
            stream = ZooStream(Zoo.open(path), None, batch_size=256)
            start = time.perf_counter()
            read = sum(len(b) for b in DataLoader(stream, batch_size=None, num_workers=workers))
            seconds = time.perf_counter() - start
            assert read == len(zoo)
            rows.append(
                {
                    "what": f"an epoch of the stream, {workers} workers, checksums included",
                    **about,
                    "us_per_network": round(seconds / read * 1e6, 2),
                    "us_per_network_q90": None,
                    **end,
                }
            )
    harness.write_rows(arguments.out, rows, KEYS)
    print(harness.markdown(rows, ("what", "networks", "us_per_network", "us_per_network_q90")))


if __name__ == "__main__":
    main()
