"""Making zoos out of zoos: merge, filter, and append networks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nngraph.errors import DataFileError, InvalidGraphError
from nngraph.graph import Architecture, check_parameters
from nngraph.zoo.store.facts import SPLITS, Fact, check_facts
from nngraph.zoo.store.manifest import Manifest, Origin, SplitPolicy
from nngraph.zoo.store.shards import DTYPES, Shard, jobs_of, map_shard, verify_digest, write_shard
from nngraph.zoo.store.splits import split_of_groups
from nngraph.zoo.store.writing import (
    continue_or_begin,
    fold_receipts,
    layout_of,
    locked,
    remove_leftovers,
    versions,
    write_zoo,
)
from nngraph.zoo.store.zoo import Zoo


def create_zoo(
    path: str | Path,
    facts: Sequence[Fact],
    *,
    group: str,
    target: str,
    dtype: str = "float32",
    policy: SplitPolicy | None = None,
) -> Zoo:
    """Make an empty zoo that networks are then appended to; an equal empty one is left as it is.

    Args:
        facts: what is known of each network beside its split.
        group: name of the fact whose number decides the split.
        target: name of the fact that models are to tell.
        dtype: of the weights: float16, bfloat16, float32 or float64.
        policy: fractions of the splits, and the seed that draws them.

    Raises:
        InvalidGraphError: if a name is unknown.
        DataFileError: if the folder holds something else.
    """
    path = Path(path)
    columns = (*facts, Fact("split", "int64", SPLITS))
    wanted = Manifest((), columns, group, target, (), (), dtype, policy or SplitPolicy())
    path.mkdir(parents=True, exist_ok=True)
    with locked(path):
        continue_or_begin(path, wanted)
    return Zoo.open(path)


def append_networks(
    path: str | Path,
    architecture: Architecture,
    parameters: Mapping[str, Tensor],
    facts: Mapping[str, Tensor],
    origin: Origin,
) -> Zoo:
    """Append networks to a zoo, as one shard: all of them are there afterwards, or none.

    A group that the zoo has already keeps its split; a new one gets it by the zoo's policy.

    Args:
        parameters: ``[B, *shape]`` by name, in the zoo's dtype.
        facts: ``[B]`` by name, all but the split.
        origin: where they come from; one that the zoo has already is recognised.

    Raises:
        InvalidGraphError: if parameters or facts do not fit.
        DataFileError: if the zoo is damaged, or another process is writing into it.
    """
    path = Path(path)
    count = len(next(iter(parameters.values()), ()))
    if not count:
        raise InvalidGraphError("there are no networks to append; expected at least one.")
    values = check_parameters(architecture, parameters, (count,))
    with locked(path):
        remove_leftovers(path)
        zoo = Zoo(path, fold_receipts(path))
        manifest = zoo.manifest
        found = next((v.dtype for v in values.values() if v.dtype.is_floating_point), None)
        if found != DTYPES[manifest.dtype]:
            raise InvalidGraphError(
                f"the weights are {found}; the zoo {path} holds {manifest.dtype}. Convert them."
            )
        expected = tuple(fact for fact in manifest.facts if fact.name != "split")
        told = check_facts(expected, facts, count)
        told["split"] = _split_of(zoo, origin.source, told[manifest.group])
        number = 1 + max((int(shard.file[6:-12]) for shard in manifest.shards), default=-1)
        architectures, kind = _with(manifest.architectures, architecture)
        origins, made = _with(manifest.origins, origin)
        shard = Shard.numbered(number, count, kind, made)
        grown = replace(
            manifest, architectures=architectures, origins=origins,
            shards=(*manifest.shards, shard),
        )  # fmt: skip
        layout = layout_of(grown, shard)
        tensors = {**values, **{fact.key: told[fact.name] for fact in manifest.facts}}
        digests = write_shard(path / shard.file, layout, tensors)
        # Until this is written the file is no part of the zoo; a later append replaces it.
        grown.with_done({len(grown.shards) - 1: shard.finished(*digests, versions())}).write(path)
    return Zoo.open(path, partial=True)


def _split_of(zoo: Zoo, source: str, groups: Tensor) -> Tensor:
    """Return the split of each group of a source: the one it has, or the policy's."""
    split = split_of_groups(groups, zoo.manifest.policy)
    mine = torch.tensor([origin.source == source for origin in zoo.manifest.origins]).bool()
    here = mine[zoo.origin_index]
    found = zoo.facts[zoo.manifest.group][here], zoo.split[here]
    held = dict(zip(*(each.tolist() for each in found), strict=True))
    known = torch.tensor([held.get(group, -1) for group in groups.tolist()])
    return torch.where(known >= 0, known, split)


def merge_zoos(path: str | Path, zoos: Sequence[Zoo | str | Path]) -> Zoo:
    """Merge zoos of the same facts into a new one; shards are copied as they are, and checked.

    Goes on where it was stopped when it is called again with the same zoos.

    Raises:
        DataFileError: if a zoo is damaged or not finished, two of them hold the same networks, or
            they differ in facts, group, target or dtype, or put one group into different splits.
    """
    parts = [zoo if isinstance(zoo, Zoo) else Zoo.open(zoo) for zoo in zoos]
    wanted, copied = _merged(parts)

    def make(index: int) -> Mapping[str, Tensor]:
        part, shard = copied[index]
        file = part.path / shard.file
        verify_digest(file, shard.sha256 or "")
        return map_shard(file, layout_of(part.manifest, shard), shard.count)

    write_zoo(path, wanted, make)
    return Zoo.open(path)


def _merged(parts: Sequence[Zoo]) -> tuple[Manifest, list[tuple[Zoo, Shard]]]:
    """Return the manifest of the merged zoo, and which part's shard each of its shards is."""
    if not parts:
        raise InvalidGraphError("there are no zoos to merge; expected at least one.")
    first = parts[0].manifest
    architectures: tuple[Architecture, ...] = ()
    origins: tuple[Origin, ...] = ()
    shards: list[Shard] = []
    copied: list[tuple[Zoo, Shard]] = []
    digests: dict[str | None, str] = {}
    for part in parts:
        if not part.complete:
            raise DataFileError(f"{part.path} is not finished; finish it before it is merged.")
        for what in ("facts", "group", "target", "dtype"):
            theirs, ours = getattr(part.manifest, what), getattr(first, what)
            if theirs != ours:
                raise DataFileError(
                    f"{part.path} and {parts[0].path} differ in {what}: {theirs!s:.200} and "
                    f"{ours!s:.200}; zoos are merged that agree in it."
                )
        for shard in part.shards:
            if shard.sha256 in digests:
                raise DataFileError(
                    f"{part.path / shard.file} holds the same networks as "
                    f"{digests[shard.sha256]}; a network is merged once."
                )
            digests[shard.sha256] = str(part.path / shard.file)
            architectures, kind = _with(architectures, part.architectures[shard.architecture])
            origins, made = _with(origins, part.manifest.origins[shard.origin])
            shards.append(Shard.numbered(len(shards), shard.count, kind, made))
            copied.append((part, shard))
    _refuse_leaks(parts)
    step = {"operation": "merge", "zoos": [_digest_of(part) for part in parts]}
    before = [entry for part in parts for entry in part.manifest.history]
    manifest = replace(
        first, architectures=architectures, origins=origins, shards=tuple(shards),
        history=(*before, step),
    )  # fmt: skip
    return manifest, copied


def _refuse_leaks(parts: Sequence[Zoo]) -> None:
    held: dict[tuple[str, int], tuple[int, Path]] = {}
    for part in parts:
        columns = part.origin_index, part.facts[part.manifest.group], part.split
        for origin, group, split in zip(*(each.tolist() for each in columns), strict=True):
            source = part.manifest.origins[origin].source
            before, where = held.setdefault((source, group), (split, part.path))
            if before != split:
                raise DataFileError(
                    f"{part.manifest.group} {group} is in one split in {where} and in another in "
                    f"{part.path}; merging them would leak test networks into training. Make them "
                    "with the same splits and seed."
                )


def filter_zoo(
    path: str | Path,
    zoo: Zoo | str | Path,
    keep: Tensor,
    description: Sequence[str] = (),
    shard_size: int = 1024,
) -> Zoo:
    """Write some networks of a zoo as a new one; their splits and facts stay.

    Goes on where it was stopped when it is called again with the same networks.

    Args:
        keep: ``[B]`` bool, which networks.
        description: what was kept, in words, for the new zoo's history.

    Raises:
        InvalidGraphError: if ``keep`` does not fit, or keeps nothing.
        DataFileError: if the zoo is damaged, or the new folder holds something else.
    """
    source = zoo if isinstance(zoo, Zoo) else Zoo.open(zoo)
    if keep.dtype != torch.bool or tuple(keep.shape) != (len(source),):
        raise InvalidGraphError(
            f"keep is {keep.dtype} of shape {tuple(keep.shape)}; expected bool of shape "
            f"({len(source)},), one per network."
        )
    if not bool(keep.any()):
        raise InvalidGraphError("no network is kept; expected at least one.")
    # A shard holds one architecture and origin: pairs of them are numbered.
    kept, many = torch.nonzero(keep).squeeze(1), len(source.manifest.origins)
    pairs = source.architecture_index[kept] * many + source.origin_index[kept]
    plan = [(*divmod(pair, many), kept[rows]) for pair, rows in jobs_of(pairs, shard_size)]
    used = sorted({kind for kind, _, _ in plan})
    made = sorted({origin for _, origin, _ in plan})
    shards = tuple(
        Shard.numbered(i, len(numbers), used.index(kind), made.index(origin))
        for i, (kind, origin, numbers) in enumerate(plan)
    )
    step: dict[str, Any] = {
        "operation": "filter", "zoo": _digest_of(source), "where": list(description),
        "kept": hashlib.sha256(keep.numpy().tobytes()).hexdigest(),
    }  # fmt: skip
    wanted = replace(
        source.manifest,
        architectures=tuple(source.architectures[kind] for kind in used),
        origins=tuple(source.manifest.origins[origin] for origin in made),
        shards=shards,
        history=(*source.manifest.history, step),
    )

    def make(index: int) -> dict[str, Tensor]:
        kind, _, numbers = plan[index]
        told = {fact.key: source.facts[fact.name][numbers] for fact in wanted.facts}
        return {**source.parameters(kind, numbers), **told}

    write_zoo(path, wanted, make)
    return Zoo.open(path)


def _digest_of(zoo: Zoo) -> str:
    """Return a checksum of what a zoo holds: of its shards' checksums."""
    text = "".join(shard.sha256 or "" for shard in zoo.shards)
    return hashlib.sha256(text.encode()).hexdigest()


def _with(values: tuple[Any, ...], value: Any) -> tuple[tuple[Any, ...], int]:
    """Return values with one more, unless it is among them, and where it is."""
    values = values if value in values else (*values, value)
    return values, values.index(value)
