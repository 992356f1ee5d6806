"""Populations of networks in other people's files, with what is known of them, into a zoo."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters.chains.chain import Activations
from converters.checkpoints import HUB, MemoryBudget, Value, fetched_folder, read_table
from converters.populations.architectures import Architectures
from converters.populations.columns import text_columns
from converters.populations.exported import import_exported, is_exported
from converters.populations.joining import join_rows, listed
from converters.populations.knowledge import known_of
from converters.populations.networks import FETCHED, ForeignNetworks, of_folder, of_layout
from converters.populations.precisions import check_finite, chosen_dtype, converted
from converters.populations.scanning import Scan
from converters.populations.stacks import of_stack
from nngraph.errors import DataFileError
from nngraph.graph import Architecture, check_parameters
from nngraph.settings import ImportSettings
from nngraph.zoo import DTYPES, Manifest, Origin, Shard, Zoo, policy_of, write_zoo


def import_zoo(
    path: str | Path,
    source: str | Path,
    settings: ImportSettings | None = None,
    *,
    activations: Activations | None = None,
    architecture: Architecture | Mapping[str, Architecture] | None = None,
    module: Callable[..., Any] | Mapping[str, Callable[..., Any]] | None = None,
    inputs: Any = None,
    command: str | None = None,
    **options: Any,
) -> Zoo:
    """Make a zoo of networks that lie in files, and of what is known of them.

    No code in the files is run. ``source`` is one of

    - a folder with a network in each file, at any depth, in any form that
      :func:`~converters.load_state_dict` reads, or ONNX; a checkout of Hugging Face in it, or an
      adapter of peft, is one network;
    - a public collection, in its own ``layout``;
    - one file of stacked parameters ``[B, *shape]``, of lists of these, or of a list of state
      dicts, with what is known of the networks beside them, ``[B]``;
    - what ``nngraph zoo export`` wrote as checkpoints, or a zoo: it comes back as it was;
    - any of these on Hugging Face, ``hf://owner/name[/path][@revision]``, or a data set there,
      ``hf://datasets/owner/name``: weights and tables are fetched, nothing else. A table of facts
      may be there too.

    A network is an MLP whose layers follow from shapes, or of an architecture that is given, or
    that is derived from a module, once for each that is distinct; what was derived is kept beside
    the zoo (``PATH.architectures.json``). An ONNX file holds its own architecture, which counts
    unless a pattern that is found in its path gives another. The low-rank factors of an adapter are
    chains ``in -> rank -> out``, side by side. Names in a file may have a prefix more than those of
    the architecture. Networks of several precisions get the narrowest that holds all of them
    exactly (half and bfloat16 give float32). A tied tensor may stand under any of its names, or
    all.

    Goes on where it was stopped when it is called again; under ``torchrun`` the ranks share it.

    Args:
        path: folder of the zoo.
        settings: which networks are taken, and what is told of them.
        activations: of the hidden layers of MLPs; a state dict does not say. Default ReLU.
        architecture: of all networks; or several, by regular expressions for their paths.
        module: returns the module of a network, called with what is known of it as far as its
            parameters name columns: ``def make(width, depth=2)``; whole numbers, truths and tuples
            where a default or an annotation is of that kind. It may return a pair of the module and
            example inputs. Or several, by regular expressions.
        inputs: example inputs of the modules, as ``to_architecture`` takes them.
        command: the command line that this is part of, for the record.
        options: settings by name, in place of those of ``settings``.

    Raises:
        DataFileError: naming the file, if one is missing, damaged or of another kind, holds objects
            other than numbers, or if a table, a label or a group does not fit the networks.
        InvalidGraphError: if the tensors are no networks that can be inferred, or do not fit.
        UnsupportedModuleError: if a module cannot be made, or described.
        NonFiniteError: naming the network and the tensor, if a weight is NaN or infinite.

    Example:
        >>> import_zoo(  # doctest: +SKIP
        ...     "zoos/mine", "checkpoints", facts="results.csv", module=make_cnn,
        ...     inputs=torch.zeros(1, 3, 32, 32), target="test_accuracy",
        ... )
    """
    path, words, source = Path(path), str(source), Path(source)
    settings = replace(settings or ImportSettings(), **options)
    if hub := words.startswith(HUB):
        source = fetched_folder(words, FETCHED)
    if is_exported(source):
        given = {
            "activations": activations, "architecture": architecture, "module": module,
            "inputs": inputs, **settings.changed(),
        }  # fmt: skip
        return import_exported(path, source, [name for name, v in given.items() if v is not None])
    cache = path.parent / f"{path.name}.architectures.json"
    architectures = Architectures(architecture, module, inputs, activations, cache)
    if not source.is_dir():
        networks = of_stack(source, settings, architectures.names)
    elif settings.layout is not None:
        networks = of_layout(source, settings)
    else:
        networks = of_folder(source, settings)
    table, rows, key, notes = _joined(networks, settings)
    taken = [n for n, row in enumerate(rows) if row is not None or settings.unlisted == "keep"]
    scan = Scan(source, networks, architectures, settings)
    taken = [number for number in taken if scan.look(number, _row(table, rows[number]))]
    if not taken:
        raise DataFileError(f"{source} has no network that can be read. {' '.join(scan.notes())}")
    default = [name for name in (*table, *networks.columns) if name and name != key]
    known = known_of(source, networks, taken, scan.columns(), default, settings)
    dtype = chosen_dtype(scan.dtypes, settings.dtype)
    jobs = []
    for kind in range(len(scan.architectures)):
        own = [place for place, each in enumerate(scan.kinds) if each == kind]
        size = settings.shard_size
        jobs += [(kind, own[at : at + size]) for at in range(0, len(own), size)]
    recipe: dict[str, Any] = {
        "source": words if hub else source.name, "count": len(taken), "groups": known.groups,
        "label": settings.label, "group": settings.group, "seed": settings.seed,
        "splits": [float(f) for f in settings.splits], "shard_size": settings.shard_size,
    }  # fmt: skip
    apart = {*recipe, "max_bytes", "dtype"}
    changed = {name: value for name, value in settings.changed().items() if name not in apart}
    recipe |= {k: list(v) if isinstance(v, tuple) else v for k, v in changed.items()}
    if settings.facts is not None:
        recipe |= {"facts": Path(settings.facts).name, "facts_sha256": known.digest}
    if settings.manifest is not None:
        recipe["manifest"] = Path(settings.manifest).name
    if notes := (*networks.notes, *notes, *scan.notes()):
        recipe["notes"] = list(notes)
    manifest = Manifest(
        scan.architectures, tuple(fact for fact, _ in known.facts), known.group, known.target,
        (Origin(known.source, recipe, command=command),),
        tuple(Shard.numbered(i, len(part), kind) for i, (kind, part) in enumerate(jobs)),
        dtype, policy_of(settings.splits, settings.seed),
    )  # fmt: skip

    def make(index: int) -> dict[str, Tensor]:
        kind, places = jobs[index]
        own, numbers = scan.architectures[kind], [taken[place] for place in places]
        values = converted(scan.parameters(own, numbers), DTYPES[dtype])
        checked = check_parameters(own, values, (len(numbers),))
        check_finite(source, [networks.names[number] for number in numbers], checked)
        here = torch.tensor(places)
        return {**checked, **{fact.key: value[here] for fact, value in known.facts}}

    write_zoo(path, manifest, make)
    return Zoo.open(path)


def _row(table: Mapping[str, Sequence[Value]], row: int | None) -> dict[str, Value]:
    return {} if row is None else {name: column[row] for name, column in table.items()}


def _joined(
    networks: ForeignNetworks, settings: ImportSettings
) -> tuple[dict[str, list[Value]], list[int | None], str | None, tuple[str, ...]]:
    """Return the table, the row of each network, the column that names it, and notes."""
    names: Sequence[str] = networks.names
    if settings.facts is None:
        return {}, list(range(len(names))), None, ()
    words, path = str(settings.facts), Path(settings.facts)
    if words.startswith(HUB):
        path = fetched_folder(words, FETCHED)
    texts = text_columns(settings.columns)
    table = read_table(path, MemoryBudget(settings.max_bytes), texts)
    if not any(table.values()):
        raise DataFileError(f"{path} has no rows; expected one a network.")
    if not networks.paths and settings.key is None:
        count = len(next(iter(table.values()), ()))
        if count != len(names):
            raise DataFileError(
                f"{path} has {count} rows for {len(names)} networks in one file; expected one a "
                "network, in order, or a column of their numbers from 0 (key)."
            )
        return table, list(range(count)), None, ()
    if not networks.paths:
        names = [str(number) for number in range(len(names))]
    rows, key, notes = join_rows(path, table, names, settings.key, settings.match)
    bare = [name for name, row in zip(names, rows, strict=True) if row is None]
    if bare and settings.unlisted == "refuse":
        raise DataFileError(
            f"{path} has no rows for {listed('networks', bare)[0]}. Add them, or choose to leave "
            "such networks out or to keep them (unlisted)."
        )
    return table, rows, key, notes
