"""Populations of networks in other people's files, into a zoo."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters.chains.chain import Activations
from converters.files import load_state_dict
from converters.state_dicts import state_dict_to_graph, under_first_names
from nngraph.errors import DataFileError, InvalidGraphError, NNGraphError, NonFiniteError
from nngraph.graph import Architecture, check_parameters
from nngraph.zoo import (
    DTYPES,
    SPLITS,
    Fact,
    Manifest,
    Origin,
    Shard,
    Zoo,
    policy_of,
    split_of_groups,
    write_zoo,
)

#: Endings of files that hold one network each in a folder.
_SINGLE = (".bin", ".ckpt", ".pt", ".pth", ".pth.tar", ".safetensors")
#: An archive is refused that unpacks to more.
_MAX_BYTES = 2**36


@dataclass(frozen=True)
class _Networks:
    """Networks that are to be imported.

    ``read`` returns the parameters of networks by their numbers, all of one architecture; ``names``
    says of each what it is called, by which it is labelled and grouped.
    """

    architectures: tuple[Architecture, ...]
    kinds: list[int]
    names: list[str]
    labels: list[str] | None
    read: Callable[[Sequence[int]], dict[str, Tensor]]
    digest: str
    #: found among the weights
    dtypes: set[torch.dtype]


def import_zoo(
    path: str | Path,
    source: str | Path,
    *,
    activations: Activations | None = None,
    architecture: Architecture | None = None,
    label: str | None = None,
    group: str | None = None,
    labels_key: str = "labels",
    splits: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    shard_size: int = 1024,
    dtype: str | None = None,
    command: str | None = None,
) -> Zoo:
    """Make a zoo of networks that lie in files; no code in them is run.

    ``source`` is one of

    - a folder with a state dict per network (``.pth``, ``.pt``, ``.pth.tar``, ``.ckpt``, ``.bin``,
      ``.safetensors``), at any depth, as the INR data sets of DWSNets are kept;
    - one such file of stacked parameters ``[B, *shape]``;
    - one ``.npz`` archive of such arrays, without pickles.

    Networks of several precisions get the narrowest that holds all of them exactly (half and
    bfloat16 give float32). A tied tensor may stand under any of its names, or all.

    Goes on where it was stopped when it is called again; under ``torchrun`` the ranks share it.

    Args:
        path: folder of the zoo.
        activations: of the hidden layers of MLPs; a state dict does not say. Default ReLU.
        architecture: of all networks, if they are no MLPs.
        label: regular expression whose first group, in the path of a file within the folder, is
            the class of its network, such as ``r"training_(\\d)_"``.
        group: regular expression whose first group is what keeps networks in one split, such as a
            number of an image; default each network by itself.
        labels_key: name of the whole numbers in a stacked file that are labels, if it has them.
        splits: fractions of training, validation and test groups, drawn from ``seed``.
        shard_size: networks per file.
        dtype: of the zoo, ``"float32"`` for instance; default the one that holds all networks.
        command: the command line that this is part of, for the record.

    Raises:
        DataFileError: naming the file, if one is missing, damaged, of another kind, holds objects
            other than numbers, or has no label or group where a pattern is given.
        InvalidGraphError: if the tensors are no networks that can be inferred.
        NonFiniteError: naming the network and the tensor, if a weight is NaN or infinite.
    """
    source = Path(source)
    if source.is_dir():
        networks = _of_folder(source, activations, architecture, label)
    else:
        if label is not None or group is not None:
            raise InvalidGraphError(
                f"{source} is one file; label and group are patterns for the files of a folder."
            )
        networks = _of_stack(source, activations, architecture, labels_key)
    groups, names = _numbered(source, networks.names, group)
    classes = sorted(set(networks.labels or []), key=_natural)
    facts = (
        *([Fact("label", "int64", tuple(classes))] if classes else []),
        Fact("source"),
        Fact("split", "int64", SPLITS),
    )
    policy = policy_of(splits, seed)
    jobs = []
    for kind in range(len(networks.architectures)):
        own = [i for i, k in enumerate(networks.kinds) if k == kind]
        jobs += [(kind, own[at : at + shard_size]) for at in range(0, len(own), shard_size)]
    chosen = _chosen_dtype(networks.dtypes, dtype)
    recipe: dict[str, Any] = {
        "source": source.name, "count": len(networks.kinds), "groups": len(names),
        "label": label, "group": group, "seed": seed, "splits": [float(f) for f in splits],
        "shard_size": shard_size,
    }  # fmt: skip
    manifest = Manifest(
        networks.architectures, facts, "source", "label" if classes else "source",
        (Origin(networks.digest, recipe, command=command),),
        tuple(
            Shard(f"shard-{i:05d}.safetensors", len(part), kind)
            for i, (kind, part) in enumerate(jobs)
        ),
        chosen, policy,
    )  # fmt: skip

    def make(index: int) -> dict[str, Tensor]:
        kind, numbers = jobs[index]
        values = _converted(networks.read(numbers), DTYPES[chosen])
        checked = check_parameters(networks.architectures[kind], values, (len(numbers),))
        _check_finite(source, [networks.names[n] for n in numbers], checked)
        own = groups[torch.tensor(numbers)]
        told = {"source": own, "split": split_of_groups(own, policy)}
        if networks.labels is not None:
            told["label"] = torch.tensor([classes.index(networks.labels[n]) for n in numbers])
        return {**checked, **{fact.key: told[fact.name] for fact in facts}}

    write_zoo(path, manifest, make)
    return Zoo.open(path)


# -- one file per network ------------------------------------------------------------------------


def _of_folder(
    folder: Path, activations: Activations | None, architecture: Architecture | None,
    label: str | None,
) -> _Networks:  # fmt: skip
    files = sorted(f for f in folder.rglob("*") if f.name.endswith(_SINGLE) and f.is_file())
    if not files:
        raise DataFileError(f"{folder} has no files ending in {', '.join(_SINGLE)}.")
    names = [file.relative_to(folder).as_posix() for file in files]
    labels = None if label is None else [_found(folder, label, name) for name in names]
    digest, kinds = hashlib.sha256(), []
    architectures: dict[Architecture, int] = {}
    dtypes: set[torch.dtype] = set()
    for name, file in zip(names, files, strict=True):
        values = load_state_dict(file)
        found = _architecture_of(file, values, activations, architecture)
        dtypes |= _dtypes_of(values)
        kinds.append(architectures.setdefault(found, len(architectures)))
        digest.update(f"{name}\0{file.stat().st_size}\0".encode())
    wide = _widest(dtypes)

    def read(numbers: Sequence[int]) -> dict[str, Tensor]:
        own = architecture or tuple(architectures)[kinds[numbers[0]]]
        states = (under_first_names(own, load_state_dict(files[number])) for number in numbers)
        held = [_converted(state, wide) for state in states]
        return {name: torch.stack([values[name] for values in held]) for name in held[0]}

    return _Networks(tuple(architectures), kinds, names, labels, read, digest.hexdigest(), dtypes)


def _architecture_of(
    file: Path, values: Mapping[str, Tensor], activations: Activations | None,
    architecture: Architecture | None, lead: tuple[int, ...] = (),
) -> Architecture:  # fmt: skip
    """Return the architecture of one network, or of stacked ones, after checking it against them.
    """
    try:
        values = _converted(values, _widest(_dtypes_of(values)))
        if architecture is not None:
            check_parameters(architecture, under_first_names(architecture, values), lead)
            return architecture
        one = {name: value[0] if lead else value for name, value in values.items()}
        graph = state_dict_to_graph(one, activations=activations, allow_nonfinite=True)
        return graph.architecture
    except NNGraphError as error:
        raise type(error)(f"{file}: {error}") from None


# -- one file of all networks --------------------------------------------------------------------


def _of_stack(
    file: Path, activations: Activations | None, architecture: Architecture | None, key: str
) -> _Networks:
    held = load_state_dict(file, max_bytes=_MAX_BYTES)
    marks = held.pop(key, None)
    if not held or any(value.dim() == 0 for value in held.values()):
        raise InvalidGraphError(
            f"{file} holds no stacked networks; expected every parameter as (B, *shape)."
        )
    count = len(next(iter(held.values())))
    for name, value in (*held.items(), *([] if marks is None else [(key, marks)])):
        if len(value) != count:
            raise InvalidGraphError(
                f"{file}: {name!r} has {len(value)} entries; expected {count}, one per network."
            )
    if not count or (marks is not None and (marks.dim() != 1 or marks.is_floating_point())):
        raise InvalidGraphError(
            f"{file} has {count} networks, and labels {key!r} that are no whole numbers (B,)."
            if count else f"{file} has no networks; expected at least one."
        )  # fmt: skip
    dtypes = _dtypes_of(held)
    architecture = _architecture_of(file, held, activations, architecture, (count,))
    held = under_first_names(architecture, held)
    digest = hashlib.sha256()
    for name in sorted(held):
        data = held[name].contiguous().view(-1).view(torch.uint8).numpy()
        digest.update(name.encode() + b"\0" + data.tobytes())
    labels = None if marks is None else [str(mark) for mark in marks.tolist()]

    def read(numbers: Sequence[int]) -> dict[str, Tensor]:
        chosen = torch.tensor(numbers)
        return {name: value[chosen] for name, value in held.items()}

    names = [f"network {i}" for i in range(count)]
    return _Networks((architecture,), [0] * count, names, labels, read, digest.hexdigest(), dtypes)


# -- labels and groups ---------------------------------------------------------------------------


def _found(folder: Path, pattern: str, name: str) -> str:
    """Return what the first group of a pattern finds in a name."""
    try:
        match = re.search(pattern, name)
        found = None if match is None else match.group(1)
    except (re.error, IndexError) as error:
        raise InvalidGraphError(
            f"the pattern {pattern!r} is no regular expression with a group: {error}."
        ) from None
    if found is None:
        raise DataFileError(
            f"{folder}: the pattern {pattern!r} finds nothing in {name!r}; expected it in every "
            "file's path."
        )
    return found


def _numbered(source: Path, names: Sequence[str], pattern: str | None) -> tuple[Tensor, list[str]]:
    """Return the group of each network as a number, and what the groups are called."""
    if pattern is None:
        return torch.arange(len(names)), list(names)
    found = [_found(source, pattern, name) for name in names]
    order = {name: i for i, name in enumerate(sorted(set(found), key=_natural))}
    return torch.tensor([order[name] for name in found]), list(order)


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts numbers within text by their size."""
    parts = re.findall(r"\d+|\D+", text)
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts]


# -- precisions and numbers ----------------------------------------------------------------------


def _dtypes_of(values: Mapping[str, Tensor]) -> set[torch.dtype]:
    return {v.dtype for v in values.values() if v.dtype.is_floating_point or v.dtype.is_complex}


def _widest(dtypes: Collection[torch.dtype]) -> torch.dtype:
    """Return the narrowest dtype that holds all of these exactly."""
    if not dtypes or not set(dtypes) <= set(DTYPES.values()):
        raise InvalidGraphError(
            f"the weights are {', '.join(sorted(map(str, dtypes))) or 'no real numbers'}; expected "
            f"{', '.join(DTYPES)}."
        )
    return functools.reduce(torch.promote_types, dtypes)


def _chosen_dtype(dtypes: Collection[torch.dtype], asked: str | None) -> str:
    """Return the name of a zoo's dtype: the one asked for, or the widest of its networks."""
    if asked is None:
        asked = next(name for name, dtype in DTYPES.items() if dtype == _widest(dtypes))
    if asked not in DTYPES:
        raise InvalidGraphError(f"dtype is {asked!r}; expected one of {', '.join(DTYPES)}.")
    return asked


def _converted(values: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {k: v.to(dtype) if v.dtype.is_floating_point else v for k, v in values.items()}


def _check_finite(source: Path, names: Sequence[str], values: Mapping[str, Tensor]) -> None:
    """Refuse stacked networks that hold NaN or infinities, by the name of the first of them."""
    for name, value in values.items():
        finite = torch.isfinite(value.flatten(1) if value.dim() > 1 else value.unsqueeze(1))
        if bool(finite.all()):
            continue
        which = int((~finite.all(1)).nonzero()[0])
        raise NonFiniteError(
            f"{source}, {names[which]}: parameter {name!r} has {int((~finite[which]).sum())} of "
            f"{finite.shape[1]} entries that are NaN or infinite as {value.dtype}; a zoo holds "
            "finite numbers. Leave this network out, or mend it in its file."
        )
