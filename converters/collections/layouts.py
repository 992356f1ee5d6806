"""Layouts of public collections, written from their published descriptions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from converters.checkpoints import (
    MAX_BYTES,
    MemoryBudget,
    Value,
    as_value,
    flattened,
    laid_out,
    map_array,
    read_json,
    read_layout,
    read_table,
)
from converters.collections.collection import (
    Collection,
    NetworkRow,
    collected,
    listed,
    placed,
    split_named,
)
from nngraph.errors import DataFileError

#: What Ray writes of the machine and the hour beside the results of a run.
_OF_THE_RUN = re.compile(
    r"(time_|timestamp|date$|pid$|hostname|node_ip|trial_id|experiment_|done$|warmup_time|"
    r"timesteps_|episodes_|iterations_since|should_checkpoint|_?timers|config(\.|$)|hist_stats)"
)
#: What stands for a loss or accuracy that was not measured.
_NONE = -999


@dataclass(frozen=True)
class Layout:
    """How a collection is kept.

    Args:
        name: for ``--layout``.
        about: what the networks are, how they are kept, what is known of each.
        paper: where it was published.
        open: returns the collection in a folder; takes ``max_bytes``.
    """

    name: str
    about: str
    paper: str
    open: Callable[..., Collection]


def open_small_cnn_zoo(folder: str | Path, *, max_bytes: int = MAX_BYTES) -> Collection:
    """Open one data set of the small CNN zoo: rows of ``weights.npy`` laid out by ``layout.csv``.

    Kernels are turned from the order of Keras into torch's; names are ``conv2d.weight``,
    ``conv2d_1.bias``, ``dense.weight``. The columns of ``metrics.csv.gz`` are facts; checkpoints of
    one ``modeldir`` are a group.
    """
    folder, budget = Path(folder), MemoryBudget(max_bytes)
    weights = map_array(folder / "weights.npy", budget)
    slots = read_layout(folder / "layout.csv", budget)
    names = [folder / name for name in ("metrics.csv.gz", "metrics.csv")]
    table = read_table(next((name for name in names if name.is_file()), names[0]), budget)
    count = len(next(iter(table.values()), []))
    if weights.ndim != 2 or count != len(weights):
        raise DataFileError(
            f"{folder} has weights of shape {weights.shape}, and {count} rows of metrics."
        )
    laid_out(folder / "weights.npy", weights[:1], slots)
    runs = table.pop("modeldir", None) or [f"run {i}" for i in range(count)]

    return Collection(
        "small-cnn-zoo", tuple(f"row {i}" for i in range(count)), tuple(map(str, runs)),
        (None,) * count, {name: tuple(column) for name, column in table.items()},
        lambda number: laid_out(folder / "weights.npy", weights[number], slots),
        files=(folder / "weights.npy",),
    )  # fmt: skip


def open_training_folders(
    folder: str | Path, *, layout: str = "training-folders", splits: str | Path | None = None,
    max_bytes: int = MAX_BYTES,
) -> Collection:  # fmt: skip
    """Open a zoo kept as folders of training runs, as Ray writes them.

    A run has its settings in ``params.json`` or ``config.json``, a line of ``result.json`` for each
    iteration, and ``checkpoint_000010/checkpoints`` (or ``checkpoint.pt``) for some of them. A
    checkpoint has the settings as facts ``config.*`` and those of its iteration under their own
    names; the checkpoints of a run, a trajectory, are a group.

    Args:
        splits: JSON of paths by splits, as :func:`open_inrs_of_dwsnets` reads it.
    """
    folder, rows, bare = Path(folder), [], []
    for run in sorted({path.parent for path in folder.rglob("checkpoint_*") if path.is_dir()}):
        name = run.relative_to(folder).as_posix()
        settings = _settings(run, max_bytes)
        results = _results(run / "result.json", max_bytes)
        for place in sorted(run.glob("checkpoint_*"), key=_number):
            files = [place / n for n in ("checkpoints", "checkpoint.pt", "model.pt")]
            file = next((file for file in files if file.is_file()), None)
            if file is None:
                bare.append(place.relative_to(folder).as_posix())
                continue
            step = _number(place)
            facts = {"step": step, **settings, **results.get(step, {})}
            rows.append(NetworkRow(file.relative_to(folder).as_posix(), name, None, facts, file))
    notes = listed("checkpoints without a file", bare)
    if splits is not None:
        rows, more = _split_by(rows, read_json(Path(splits), MemoryBudget(max_bytes)))
        notes += more
    return collected(layout, rows, max_bytes, notes=notes)


def open_wild_park(folder: str | Path, *, max_bytes: int = MAX_BYTES) -> Collection:
    """Open the CNN wild park: runs of CNNs of many architectures, with a file of splits.

    Each network has its architecture in the settings of its run (``config.model.channels``, ...),
    for a factory; ``cnn_park_splits.json`` gives splits, ``score`` and ``step``.
    """
    folder = Path(folder)
    found = _splits_of(folder)
    return open_training_folders(
        folder, layout="cnn-wild-park", splits=found, max_bytes=max_bytes
    )


def open_inrs_of_dwsnets(folder: str | Path, *, max_bytes: int = MAX_BYTES) -> Collection:
    """Open INRs as DWSNets keeps them: state dicts, and a JSON of paths and labels by splits.

    ``mnist_png_training_5_123/checkpoints/model_final.pth`` is of image 123, of class 5. The JSON,
    ``{"train": {"path": [...], "label": [...]}, ...}``, lies in the folder or the one above; its
    paths are those of any machine. Without one, training and test are told by the paths.
    """
    folder, rows = Path(folder), []
    for file in sorted(folder.rglob("*.pth")):
        name = file.relative_to(folder).as_posix()
        image = re.search(r"([^/]*?_(train|test)[a-z]*)_(\w+?)_(\d+)/", name)
        facts: dict[str, Value] = {"label": image[3], "image": int(image[4])} if image else {}
        group = image[0].rstrip("/") if image else name
        rows.append(NetworkRow(name, group, split_named(image[2]) if image else None, facts, file))
    notes: tuple[str, ...] = ()
    if (splits := _splits_of(folder)) is not None:
        rows, notes = _split_by(rows, read_json(splits, MemoryBudget(max_bytes)))
    return collected("inrs-dwsnets", rows, max_bytes, notes=notes)


def open_inrs_of_nfn(
    folder: str | Path, *, split_points: tuple[int, int] | None = (45_000, 50_000),
    max_bytes: int = MAX_BYTES,
) -> Collection:  # fmt: skip
    """Open SIRENs as NFN keeps them: ``randinit_smaller_5s/net123.pth`` is of image 123.

    Fits of one image (``randinit_smaller_aug0_5s``) are a group.

    Args:
        split_points: numbers of the first images of validation and of test; default the published.
    """
    folder, rows = Path(folder), []
    for file in sorted(folder.rglob("net*.pth")):
        name = file.relative_to(folder).as_posix()
        found = re.search(r"(?:^|/)([^/]+)_(\d)s/net(\d+)\.pth$", name)
        if found is None:
            continue
        number = int(found[3])
        split = None
        if split_points is not None:
            split = ("train", "val", "test")[sum(number >= point for point in split_points)]
        facts: dict[str, Value] = {"label": found[2], "image": number, "fit": found[1]}
        rows.append(NetworkRow(name, f"image {number}", split, facts, file))
    return collected("inrs-nfn", rows, max_bytes)


def open_implicit_zoo(folder: str | Path, *, max_bytes: int = MAX_BYTES) -> Collection:
    """Open INRs as Implicit-Zoo keeps them: ``ckpts/05/000123_0000042.ckpt``, of image 123.

    Each file has its state dict under ``params``; JSON files beside ``ckpts``, ``0_50000.json``,
    give the PSNR by the number of the image.
    """
    folder, rows = Path(folder), []
    psnr = {
        root: _psnr(root, max_bytes)
        for root in sorted({path.parent for path in folder.rglob("ckpts") if path.is_dir()})
    }
    for root, known in psnr.items():
        part = root.relative_to(folder).as_posix()
        split = next(filter(None, map(split_named, reversed(root.parts))), None)
        for file in sorted((root / "ckpts").rglob("*.ckpt")):
            found = re.fullmatch(r"(\d+)_(\d+)\.ckpt", file.name)
            if found is None:
                continue
            image, seed = int(found[1]), int(found[2])
            facts: dict[str, Value] = {"label": file.parent.name, "image": image, "seed": seed}
            if known:
                facts["psnr"] = known.get(str(image))
            name = file.relative_to(folder).as_posix()
            rows.append(NetworkRow(name, f"{part} image {image}", split, facts, file))
    return collected("implicit-zoo", rows, max_bytes, nested="params")


#: Layouts by name.
LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            "small-cnn-zoo",
            "small CNNs of Keras at nine moments of their training, as rows of weights.npy laid "
            "out by layout.csv; hyper-parameters, losses and accuracies from metrics.csv.gz",
            "Unterthiner et al., Predicting Neural Network Accuracy from Weights, 2020",
            open_small_cnn_zoo,
        ),
        Layout(
            "training-folders",
            "CNNs and ResNets as folders of training runs with a checkpoint per epoch; settings "
            "from params.json, losses and accuracies of each epoch from result.json",
            "Schürholt et al., Model Zoos: A Dataset of Diverse Populations, NeurIPS 2022",
            open_training_folders,
        ),
        Layout(
            "inrs-dwsnets",
            "SIRENs fitted to images of MNIST and Fashion-MNIST, a state dict each; class, image "
            "and split from a JSON of splits or the paths",
            "Navon et al., Equivariant Architectures for Learning in Deep Weight Spaces, ICML 2023",
            open_inrs_of_dwsnets,
        ),
        Layout(
            "inrs-nfn",
            "SIRENs fitted to images of MNIST, Fashion-MNIST and CIFAR-10, several of an image; "
            "class, image and fit from the paths, split by the number of the image",
            "Zhou et al., Permutation Equivariant Neural Functionals, NeurIPS 2023",
            open_inrs_of_nfn,
        ),
        Layout(
            "cnn-wild-park",
            "CNNs of many architectures as folders of training runs; each architecture from its "
            "run's JSON, test accuracy, step and split from a JSON of splits",
            "Kofinas et al., Graph Neural Networks for Learning Equivariant Representations of "
            "Neural Networks, ICLR 2024",
            open_wild_park,
        ),
        Layout(
            "implicit-zoo",
            "SIRENs fitted to images of CIFAR-10 and others, a checkpoint each; class, image and "
            "seed from the paths, PSNR from a JSON",
            "Ma et al., Implicit-Zoo, NeurIPS 2024",
            open_implicit_zoo,
        ),
    )
}


def open_collection(name: str, folder: str | Path, *, max_bytes: int = MAX_BYTES) -> Collection:
    """Open a folder that is kept in a named layout.

    Raises:
        DataFileError: if there is no such layout, or the folder is not kept in it.
    """
    if name not in LAYOUTS:
        raise DataFileError(f"{name!r:.99} is no layout; expected one of {', '.join(LAYOUTS)}.")
    if not Path(folder).is_dir():
        raise DataFileError(f"{folder} is no folder; expected one of the layout {name!r}.")
    found: Collection = LAYOUTS[name].open(folder, max_bytes=max_bytes)
    return found


# -- what layouts share ----------------------------------------------------------------------------


def _number(place: Path) -> int:
    digits = re.findall(r"\d{1,18}", place.name)
    return int(digits[-1]) if digits else 0


def _settings(run: Path, max_bytes: int) -> dict[str, Value]:
    for name in ("params.json", "config.json"):
        if (run / name).is_file():
            told = flattened(read_json(run / name, MemoryBudget(max_bytes)))
            return {f"config.{key}": value for key, value in told.items() if value is not None}
    return {}


def _results(file: Path, max_bytes: int) -> dict[int, dict[str, Value]]:
    """Return the lines of a file of results by their iteration."""
    if not file.is_file():
        return {}
    table = read_table(file, MemoryBudget(max_bytes))
    steps: Sequence[Value] = table.get("training_iteration", [])
    kept = {k: column for k, column in table.items() if not _OF_THE_RUN.match(k)}
    return {
        step: {
            name: column[row]
            for name, column in kept.items()
            if column[row] is not None and column[row] != _NONE
        }
        for row, step in enumerate(steps)
        if isinstance(step, int)
    }


def _splits_of(folder: Path) -> Path | None:
    found = sorted(folder.glob("*splits*.json")) or sorted(folder.parent.glob("*splits*.json"))
    if len(found) > 1:
        raise DataFileError(
            f"{folder} has several files of splits, {', '.join(f.name for f in found[:5])}; keep "
            "the one that is meant."
        )
    return found[0] if found else None


def _split_by(rows: list[NetworkRow], told: Any) -> tuple[list[NetworkRow], tuple[str, ...]]:
    """Give rows the splits and facts of a JSON of columns by split; keep those that it names."""
    files = {row.name: row for row in rows}
    kept, missing = [], []
    for split, path, facts in _entries(told):
        name = placed(path, files)
        if name is None:
            missing.append(f"{path!s:.99}")
            continue
        kept.append(replace(files[name], split=split, facts={**files[name].facts, **facts}))
    left = sorted(set(files) - {row.name for row in kept})
    return kept, (
        *listed("rows of the splits without a file", missing),
        *listed("files that are in no split", left),
    )


def _entries(told: Any) -> Iterator[tuple[str | None, Any, dict[str, Value]]]:
    if not isinstance(told, Mapping):
        raise DataFileError("a file of splits is no JSON object of columns by split.")
    for split, columns in told.items():
        paths = columns.get("path") if isinstance(columns, Mapping) else columns
        if not isinstance(paths, list):
            raise DataFileError(f"the split {split!r:.99} has no list of paths.")
        lists = columns if isinstance(columns, Mapping) else {"path": paths}
        if any(not isinstance(c, list) or len(c) != len(paths) for c in lists.values()):
            raise DataFileError(f"the split {split!r:.99} has columns that are not of one length.")
        for number, path in enumerate(paths):
            facts = {str(k): as_value(c[number]) for k, c in lists.items() if k != "path"}
            yield split_named(split), path, facts


def _psnr(root: Path, max_bytes: int) -> dict[str, Value]:
    known: dict[str, Value] = {}
    for file in sorted(root.glob("*_*.json")):
        if re.fullmatch(r"\d+_-?\d+\.json", file.name):
            told = read_json(file, MemoryBudget(max_bytes))
            items = told.items() if isinstance(told, dict) else ()
            known.update({key: as_value(value) for key, value in items})
    return known
