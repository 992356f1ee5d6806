"""What is known of networks as the facts, groups and splits of a zoo."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from converters.checkpoints import Value
from converters.populations.columns import (
    ColumnChoice,
    choices_of,
    fact_name,
    fact_of,
    natural,
    split_of,
)
from converters.populations.joining import found_in
from converters.populations.networks import ForeignNetworks
from nngraph.errors import DataFileError, InvalidGraphError
from nngraph.settings import ImportSettings
from nngraph.zoo import SPLITS, Fact, policy_of, split_of_groups

Told = tuple[Fact, Tensor]


@dataclass(frozen=True)
class Knowledge:
    """Facts of networks ``[B]``, which of them are group and target, and how many groups there are.

    ``source`` is a checksum of what the groups are numbered in.
    """

    facts: list[Told]
    group: str
    target: str
    groups: int
    source: str

    @property
    def digest(self) -> str:
        """A checksum of the facts."""
        data = b"".join(value.numpy().tobytes() for _, value in self.facts)
        return hashlib.sha256(data).hexdigest()


def known_of(
    source: Path, networks: ForeignNetworks, taken: Sequence[int],
    columns: Mapping[str, Sequence[Value]], default: Sequence[str], settings: ImportSettings,
) -> Knowledge:  # fmt: skip
    """Return columns of what is known of the networks that are taken as facts.

    Args:
        default: columns that become facts where the settings choose none.

    Raises:
        DataFileError: if a column does not say what it should, or parts a group.
        InvalidGraphError: if what the settings name is neither column nor pattern.
    """
    names = [networks.names[number] for number in taken]
    split = settings.split or ("split" if "split" in default else None)
    label = settings.label
    if label is None and settings.columns is None:
        stack = [] if networks.paths else [settings.labels_key]
        label = next((name for name in (*stack, "label") if name in default), None)
    left = [name for name in default if name not in (split, label)]
    choices = choices_of(settings.columns, columns, left)
    found = [fact_of(choice, columns[choice.column], names) for choice in choices]
    made: list[Told] = []
    if label is not None:
        told = columns.get(label) or _by_pattern("label", label, source, networks, names, columns)
        made.append(_complete(ColumnChoice("label", label, "class"), told, names))
    made += found
    group = settings.group
    if group is not None and group in columns:
        there = [f for c, f in zip(choices, found, strict=True) if c.column == group]
        if not there or there[0][0].dtype != "int64" or "" in there[0][0].values:
            name = fact_name(group) + ("_group" if there else "")
            there = [_complete(ColumnChoice(name, group, "class"), columns[group], names)]
            made += there
        (fact, numbers), groups = there[0], [str(value) for value in columns[group]]
    else:
        fact, groups = Fact("source"), []
        if group is not None:
            groups = _by_pattern("group", group, source, networks, names, columns)
        elif networks.groups is not None:
            groups = [networks.groups[number] for number in taken]
        order = {name: i for i, name in enumerate(sorted(set(groups), key=natural))}
        numbers = torch.tensor([order[g] for g in groups] if groups else [*taken])
        made.append((fact, numbers))
    splits = _splits(split, columns, networks, taken, numbers, settings)
    made.append((Fact("split", "int64", SPLITS), splits))
    real = [fact.name for fact, _ in made if fact.dtype == "float32"]
    rest = [fact.name for fact, _ in made if not fact.is_text]
    target = settings.target or ("label" if label is not None else [*real, *rest][0])
    named = hashlib.sha256(json.dumps([networks.digest, groups]).encode()).hexdigest()
    count = len(torch.unique(numbers))
    return Knowledge(made, fact.name, target, count, named if groups else networks.digest)


def _by_pattern(
    what: str, pattern: str, source: Path, networks: ForeignNetworks, names: Sequence[str],
    columns: Mapping[str, Sequence[Value]],
) -> list[str]:  # fmt: skip
    """Return what a regular expression finds in each path."""
    if networks.paths and ("(" in pattern or not columns):
        return [found_in(name, pattern, str(source)) for name in names]
    one = "" if networks.paths else f"; {source} is one file"
    raise InvalidGraphError(
        f"{what} is {pattern!r:.99}, which is no column and no regular expression with a group"
        f"{one}; label and group are columns of what is known (there are "
        f"{', '.join(map(repr, list(columns)[:20])) or 'none'}), or patterns for paths in a folder."
    )


def _complete(choice: ColumnChoice, values: Sequence[Value], names: Sequence[str]) -> Told:
    """Return a column as a class that every network has."""
    fact, told = fact_of(choice, values, names)
    if fact.values and not fact.values[-1]:
        name = names[int((told == len(fact.values) - 1).nonzero()[0])]
        raise DataFileError(
            f"the column {choice.column!r:.99} says nothing of {name!r}; a {choice.name} is known "
            "of every network. Leave this one out, or fill the column in."
        )
    return fact, told


def _splits(
    column: str | None, columns: Mapping[str, Sequence[Value]], networks: ForeignNetworks,
    taken: Sequence[int], groups: Tensor, settings: ImportSettings,
) -> Tensor:  # fmt: skip
    """Return the split of each network: told, or drawn for its group."""
    names = [networks.names[number] for number in taken]
    if column is not None:
        if column not in columns:
            raise InvalidGraphError(
                f"split is {column!r:.99}, which is no column; the columns are "
                f"{', '.join(map(repr, list(columns)[:20])) or 'none'}."
            )
        split = split_of(columns[column], column, names)
    elif networks.splits is not None:
        split = split_of([networks.splits[number] for number in taken], "split", names)
    else:
        return split_of_groups(groups, policy_of(settings.splits, settings.seed))
    seen: dict[int, int] = {}
    for name, group, own in zip(names, groups.tolist(), split.tolist(), strict=True):
        if seen.setdefault(group, own) != own:
            raise DataFileError(
                f"{name!r} is in the split {SPLITS[own]!r}, and another network of its group in "
                f"{SPLITS[seen[group]]!r}; expected groups within one split."
            )
    return split
