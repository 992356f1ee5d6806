"""Writing into a zoo's folder: one writer at a time, and at any moment a zoo that can go on.

A writer first puts down the manifest, with every shard that is to come marked as missing. A shard
that is finished is there whole, and beside it its *receipt*, a small file with its checksums; at
the end the receipts are folded into the manifest. So writers of one run (the ranks of ``torchrun``)
share no file, and a process that is killed loses the shard it was at and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nngraph.errors import DataFileError
from nngraph.files import TEMPORARY, read_bounded
from nngraph.progress import progress_bar
from nngraph.ranks import Ranks
from nngraph.zoo.store.manifest import MANIFEST, Manifest, is_digest
from nngraph.zoo.store.shards import (
    Shard,
    ShardLayout,
    read_facts,
    verify_digest,
    write_shard,
    write_whole,
)

_RECEIPT = "nngraph.zoo.receipt"
_MAX_RECEIPT = 2**16


def layout_of(manifest: Manifest, shard: Shard) -> ShardLayout:
    """Return what each network of a shard has."""
    return ShardLayout(manifest.architectures[shard.architecture], manifest.facts, manifest.dtype)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep a second process from writing into the folder, where the system has such locks."""
    try:
        import fcntl
    except ImportError:  # Windows: two processes would write the same bits, atomically
        yield
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataFileError(
                f"{path} is being written by another process; wait for it, or stop it."
            ) from None
        yield
    finally:
        os.close(descriptor)


def write_zoo(
    path: str | Path,
    wanted: Manifest,
    make: Callable[[int], Mapping[str, Tensor]],
    begin: Callable[[Manifest], object] | None = None,
) -> None:
    """Write the shards of a zoo that are missing, this process its share of them.

    Goes on where it was stopped when it is called again with an equal manifest.

    Args:
        wanted: of the whole zoo, all of its shards missing.
        make: returns the parameters and facts of shard i.
        begin: told the manifest as it was found, before the first shard is made.

    Raises:
        DataFileError: if the folder holds something else, a zoo made otherwise or a damaged shard,
            if another process is writing into it, or if it cannot be written.
    """
    path = Path(path)
    ranks = Ranks.of_environment()
    if ranks.leads:
        path.mkdir(parents=True, exist_ok=True)
    with locked(path) if ranks.leads else contextlib.nullcontext():
        manifest = ranks.first_alone(lambda: continue_or_begin(path, wanted))
        if begin is not None:
            begin(manifest)
        missing = [index for index, shard in enumerate(manifest.shards) if not shard.done]
        for i in ranks.share(len(missing)):
            finish_shard(path, manifest, missing[i], make(missing[i]))
        ranks.wait()
        ranks.first_alone(lambda: bool(fold_receipts(path)))


def write_with_bar(
    path: Path, wanted: Manifest,
    make: Callable[[int, Callable[..., None]], Mapping[str, Tensor]],
    *, desc: str, unit: str, shown: bool, networks: int = 1,
) -> None:  # fmt: skip
    """Write a zoo as :func:`write_zoo` does, with a progress bar, whose unit is some ``networks``.

    ``make`` is given a function besides, to tell it units that are done and what they reached.
    """
    ranks = Ranks.of_environment()
    with progress_bar(unit=unit, desc=desc, shown=shown and ranks.leads) as bar:

        def begin(found: Manifest) -> None:
            bar.reset(total=found.starts[-1] // networks)
            bar.update(sum(shard.count for shard in found.shards if shard.done) // networks)

        def show(done: int, **reached: str) -> None:
            bar.set_postfix(**reached, refresh=False)
            bar.update(done * ranks.world)

        write_zoo(path, wanted, lambda index: make(index, show), begin)


def continue_or_begin(path: Path, wanted: Manifest) -> Manifest:
    """Return the manifest to work on, after checking that what is there belongs to it.

    Finished shards are held against their checksums; those that are gone are to be written again.
    The caller holds the lock. Nothing is changed where there is an error.
    """
    remove_leftovers(path)
    if not (path / MANIFEST).exists():
        if others := sorted(entry.name for entry in path.iterdir()):
            raise DataFileError(
                f"{path} has no {MANIFEST} but holds {others[0]!r}; expected an empty folder or a "
                "zoo. Choose another folder."
            )
        wanted.write(path)
        return wanted
    found = Manifest.read(path)
    if difference := difference_of(found, wanted):
        raise DataFileError(
            f"{path / MANIFEST} was made with other settings: {difference}. Use the same settings "
            "to continue it, or another folder."
        )
    found = with_receipts(path, found)
    lost = {}
    for index, shard in enumerate(found.shards):
        if not shard.done:
            continue
        file = path / shard.file
        if file.exists() or file.is_symlink():
            read_facts(file, layout_of(found, shard), shard)
            verify_digest(file, shard.sha256 or "")
        else:
            lost[index] = shard.missing()
    if lost:
        found = found.with_done(lost)
        found.write(path)
        for shard in lost.values():
            receipt_file(path, shard).unlink(missing_ok=True)
    return found


def remove_leftovers(path: Path) -> None:
    """Remove files that a killed process was writing; the caller holds the lock, nobody is now."""
    for leftover in path.glob(f"{TEMPORARY}*"):
        leftover.unlink(missing_ok=True)


def finish_shard(path: Path, manifest: Manifest, index: int, tensors: Mapping[str, Tensor]) -> None:
    """Write shard ``index``, then its receipt: a receipt never names a shard that is not there."""
    shard = manifest.shards[index]
    whole, facts = write_shard(path / shard.file, layout_of(manifest, shard), tensors)
    receipt = {
        "format": _RECEIPT, "sha256": whole, "facts_sha256": facts, "versions": versions()
    }  # fmt: skip
    write_whole(receipt_file(path, shard), (json.dumps(receipt) + "\n").encode())


def receipt_file(path: Path, shard: Shard) -> Path:
    """Return where the receipt of a shard is."""
    return path / f"{shard.file.removesuffix('.safetensors')}.done.json"


def with_receipts(path: Path, manifest: Manifest) -> Manifest:
    """Return the manifest with those shards finished too whose receipts are there."""
    done = {}
    for index, shard in enumerate(manifest.shards):
        file = receipt_file(path, shard)
        if shard.done or not file.exists():
            continue
        text = read_bounded(file, _MAX_RECEIPT)
        try:
            data = json.loads(text)
            digests = data["sha256"], data["facts_sha256"]
            right = data["format"] == _RECEIPT and isinstance(data["versions"], dict)
            right &= all(map(is_digest, digests))
        except (ValueError, KeyError, TypeError, RecursionError):
            right = False
        if not right:
            raise DataFileError(
                f"{file} is no receipt of a shard; expected its checksums. Delete it, and the "
                "same command makes the shard again."
            )
        done[index] = shard.finished(*digests, data["versions"])
    return manifest.with_done(done)


def fold_receipts(path: Path) -> Manifest:
    """Put the receipts into the manifest, which then needs none; the caller holds the lock."""
    manifest = with_receipts(path, Manifest.read(path))
    manifest.write(path)
    for shard in manifest.shards:
        receipt_file(path, shard).unlink(missing_ok=True)
    return manifest


def versions() -> dict[str, str]:
    """Return the versions of what decides the bits of a shard."""
    return {
        # Not imported: the package's own module names the converters, which the library does not.
        "nngraph": str(sys.modules["nngraph"].__version__),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def difference_of(found: Manifest, wanted: Manifest) -> str | None:
    """Name the first setting in which two zoos differ, with both values."""
    theirs, ours = _flat(found), _flat(wanted)
    for name in [*ours, *theirs]:
        if theirs.get(name) != ours.get(name):
            return f"{name} is {theirs.get(name)!r:.100} there and {ours.get(name)!r:.100} here"
    if found.architectures != wanted.architectures:
        return "the architectures differ in names or groups"
    theirs_planned = [shard.missing() for shard in found.shards]
    if theirs_planned != [shard.missing() for shard in wanted.shards]:
        return "the shards differ in names or sizes"
    return None


def _flat(manifest: Manifest) -> dict[str, Any]:
    """Return the settings of a zoo by name; those of its origins and their parts without a path."""
    names = [str(architecture) for architecture in manifest.architectures]
    values: dict[str, Any] = {"architecture": names[0] if len(names) == 1 else names}
    for origin in manifest.origins:
        parts = {"source_sha256": origin.source, "image_shape": origin.image_shape}
        for name, value in {**origin.recipe, **parts}.items():
            inner = value.items() if isinstance(value, dict) else [(name, value)]
            for key, entry in inner:
                while key in values:  # another origin has it too
                    key += "'"
                values[key] = entry
    values |= {name: getattr(manifest, name) for name in ("group", "target", "dtype")}
    facts = [(fact.name, fact.dtype, fact.values) for fact in manifest.facts]
    return {**values, "facts": facts, "policy": manifest.policy, "history": list(manifest.history)}
