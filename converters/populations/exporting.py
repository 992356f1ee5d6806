"""Zoos into files that other programs read: plain checkpoints, and data sets of Hugging Face."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from converters.populations.exported import EXPORT, TABLE, networks_of
from nngraph.errors import MissingDependencyError
from nngraph.files import new_folder
from nngraph.zoo import SPLITS, Zoo, plain_column

_CARD = """---
pretty_name: {name}
tags: [weight-space-learning, model-zoo, nngraph]
configs:
- config_name: default
  data_files: {facts}
---
# {name}

{count} neural networks, to learn from their weights. `shard-*.safetensors` hold the weights of
networks of one architecture, stacked: every parameter `[B, ...]` under its name in a state dict,
facts under `network.*`. `{facts}` has a row for each network: the shard and the row in it, its
architecture, and what is known of it. The folder is a zoo of nngraph as it is:
`Zoo.open("this folder")`, `nngraph train predict --zoo "this folder"`.

    import torch
    from safetensors import safe_open
    with safe_open("{shard}", "pt") as shard:
        weights = {{name: shard.get_slice(name)[0] for name in shard.keys()}}  # the first network

## Networks

| architecture | networks | parameters |
| --- | --- | --- |
{architectures}

Weights are {dtype}. No group of networks (`{group}`) is in two splits: {splits}.

## What is known of each

| fact | |
| --- | --- |
{told}

Models are to tell `{target}`.

## How it was made

{made}
"""


def export_checkpoints(zoo: Zoo, path: str | Path) -> Path:
    """Write one file of ``torch.save`` for each network, a state dict, and a table of the facts.

    ``networks/000000.pt``, ... are in the order of the zoo; ``table.csv`` has their names in its
    column ``file``. ``nngraph.export.json`` keeps what they do not say, so that ``import_zoo``
    gives the zoo back.

    Args:
        path: folder to make.

    Raises:
        DataFileError: if the folder is there already, or the zoo is damaged.
    """
    with new_folder(Path(path)) as work:
        (work / "networks").mkdir()
        names = []
        for kind, numbers in networks_of(zoo.manifest):
            architecture = zoo.architectures[kind]
            tied = {alias: p.name for p in architecture.parameters for alias in p.aliases}
            values = zoo.parameters(kind, numbers)
            for row, number in enumerate(numbers.tolist()):
                names.append(f"networks/{number:06d}.pt")
                state = {name: value[row].clone() for name, value in values.items()}
                state |= {alias: state[name] for alias, name in tied.items()}
                torch.save(state, work / names[-1])
        text = _csv({**_free("file", zoo, names), **_facts(zoo), **_architecture(zoo)})
        (work / TABLE).write_bytes(text)
        missing = tuple(shard.missing() for shard in zoo.shards)
        told = {
            "format": EXPORT, "version": 1, "sha256": hashlib.sha256(text).hexdigest(),
            "manifest": replace(zoo.manifest, shards=missing).to_plain(),
        }  # fmt: skip
        (work / f"{EXPORT}.json").write_text(json.dumps(told, indent=1, allow_nan=False) + "\n")
    return Path(path)


def export_huggingface(
    zoo: Zoo, path: str | Path, table: Literal["parquet", "jsonl"] = "parquet"
) -> Path:
    """Write a zoo as a folder that may be uploaded to Hugging Face as a data set.

    Shards of safetensors, the facts as a table, and a data card that says what the networks are and
    how they were made. It stays a zoo: ``Zoo.open`` reads it.

    Args:
        path: folder to make.
        table: kind of the table of facts; parquet needs pyarrow.

    Raises:
        DataFileError: if the folder is there already, or the zoo is damaged.
        MissingDependencyError: for parquet without pyarrow.
    """
    facts = f"facts.{table}"
    with new_folder(Path(path)) as work:
        zoo.manifest.write(work)
        shards: list[str] = []
        rows: list[int] = []
        for index, shard in enumerate(zoo.shards):
            zoo.mapped(index)  # held against its checksum
            shutil.copyfile(zoo.path / shard.file, work / shard.file)
            shards += [shard.file] * shard.count
            rows += range(shard.count)
        where = {**_free("shard", zoo, shards), **_free("row", zoo, rows)}
        columns = {**where, **_facts(zoo), **_architecture(zoo)}
        _WRITERS[table](work / facts, columns)
        (work / "README.md").write_text(_card(Path(path).name, zoo, facts))
    return Path(path)


def _free(name: str, zoo: Zoo, values: list[Any]) -> dict[str, list[Any]]:
    """Return a column under a name that no fact has."""
    while name in zoo.facts:
        name += "_"
    return {name: values}


def _facts(zoo: Zoo) -> dict[str, list[Any]]:
    return {fact.name: plain_column(fact, zoo.facts[fact.name]) for fact in zoo.manifest.facts}


def _architecture(zoo: Zoo) -> dict[str, list[Any]]:
    names = [str(architecture) for architecture in zoo.architectures]
    return _free("architecture", zoo, [names[kind] for kind in zoo.architecture_index.tolist()])


def _csv(columns: dict[str, list[Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue().encode()


def _write_jsonl(path: Path, columns: dict[str, list[Any]]) -> None:
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write_parquet(path: Path, columns: dict[str, list[Any]]) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingDependencyError(
            "parquet tables are written by pyarrow, which is not installed. Install it with: pip "
            "install pyarrow; or choose table='jsonl'."
        ) from None
    parquet.write_table(pyarrow.table(columns), path)


_WRITERS = {"parquet": _write_parquet, "jsonl": _write_jsonl}


def _card(name: str, zoo: Zoo, facts: str) -> str:
    """Return a data card: what the networks are, what is known of them, how they were made."""
    info = zoo.info()
    architectures = "\n".join(
        f"| {a['architecture']} | {a['networks']} | {a['parameters']:,} |"
        for a in info["architectures"]
    )
    told = []
    for fact in zoo.manifest.facts:
        if fact.is_text:
            kind = "a text"
        elif fact.values:
            shown = ", ".join(value or "(not known)" for value in fact.values[:12])
            kind = f"one of {len(fact.values)}: {shown}{' ...' if len(fact.values) > 12 else ''}"
        else:
            low, high = info["facts"][fact.name]["min"], info["facts"][fact.name]["max"]
            kind = "not known of any" if low is None else f"a number from {low:.6g} to {high:.6g}"
        told.append(f"| `{fact.name}` | {kind} |")
    made = []
    for origin in zoo.manifest.origins:
        made += [f"    {origin.command}\n"] if origin.command else []
        made.append("```json\n" + json.dumps(origin.recipe, indent=1)[:20_000] + "\n```\n")
    made += [f"Then: `{json.dumps(step)[:2000]}`\n" for step in zoo.manifest.history]
    return _CARD.format(
        name=name, facts=facts, count=f"{len(zoo):,}", architectures=architectures,
        shard=zoo.shards[0].file if zoo.shards else "", dtype=zoo.manifest.dtype,
        group=zoo.manifest.group, target=zoo.manifest.target, told="\n".join(told),
        splits=", ".join(f"{info['splits'][split]} {split}" for split in SPLITS),
        made="\n".join(made),
    )  # fmt: skip
