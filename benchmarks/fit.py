"""How fast a population is made: fit networks to images, write the zoo, and count per second."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import harness
import torch

from nngraph.zoo import ImageSource, fit_zoo, load_digits_images, load_idx_folder

KEYS = ("source", "networks", "architecture", "steps", "threads", "cpu")


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser("fit.py", description=__doc__)
    made.add_argument(
        "--idx", type=Path, metavar="DIR",
        help="folder with the IDX files of MNIST or Fashion-MNIST; default: scikit-learn's digits",
    )  # fmt: skip
    made.add_argument("--noise", type=int, metavar="SIZE", help="random SIZE x SIZE images instead")
    made.add_argument("--count", type=int, default=1000, help="networks")
    made.add_argument("--steps", type=int, help="of each fit; default: that of the library")
    made.add_argument("--width", type=int, default=32, help="of both hidden layers")
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--out", type=Path, default=harness.RESULTS / "fit.csv", help="result file")
    return made


def source_of(arguments: argparse.Namespace) -> ImageSource:
    """Return the images that the command line names."""
    if arguments.noise:
        size = arguments.noise
        images = torch.rand(
            arguments.count, size, size, 1, generator=torch.Generator().manual_seed(0)
        )
        return ImageSource(f"noise{size}", images, torch.arange(len(images)) % 2, ("even", "odd"))
    if arguments.idx is not None:
        return load_idx_folder(arguments.idx)
    return load_digits_images()


def main(argv: Sequence[str] | None = None) -> None:
    """Fit, count, write a row and print it."""
    made = parser()
    arguments = made.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    source = source_of(arguments)
    with tempfile.TemporaryDirectory() as folder:
        cpu, wall = time.process_time(), time.perf_counter()
        zoo = fit_zoo(
            Path(folder) / "zoo", source, count=arguments.count, steps=arguments.steps,
            widths=[2, arguments.width, arguments.width, source.images.shape[-1]],
            threads=arguments.threads,
        )  # fmt: skip
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        psnr = zoo.psnr
    row = {
        "source": source.name,
        "networks": len(zoo),
        "architecture": str(zoo.architecture),
        "steps": zoo.manifest.recipe["fit"]["steps"],
        "networks_per_s": round(len(zoo) / wall, 2),
        "wall_s": round(wall, 2),
        "cpu_s": round(cpu, 2),
        "psnr_db_mean": round(float(psnr.mean()), 2),
        "psnr_db_q10": round(float(psnr.quantile(0.1)), 2),
        "matmul_gflops": round(harness.matmul_gflops(), 1),
        "command": harness.command_line(made, arguments),
        **harness.machine(),
    }
    harness.write_rows(arguments.out, [row], KEYS)
    print(
        harness.markdown(
            [row],
            ("source", "networks", "architecture", "steps", "networks_per_s", "wall_s", "cpu_s",
             "psnr_db_mean", "threads"),
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
