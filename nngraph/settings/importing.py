"""Settings of imports: how other people's files, and tables of what is known, become a zoo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args

from nngraph.errors import InvalidGraphError
from nngraph.settings.checks import check_whole

#: What becomes of networks without a row in a table.
Unlisted = Literal["leave", "keep", "refuse"]
#: What becomes of files that cannot be read.
Unreadable = Literal["leave", "refuse"]
#: Axes of a weight: as torch has them, or inputs first.
Order = Literal["out-in", "in-out"]


@dataclass(frozen=True, kw_only=True)
class ImportSettings:
    r"""Which networks ``import_zoo`` takes, and what it tells of each.

    Columns are those of a table of facts, of a layout, of what lies beside the weights in a file
    (``epoch``, ``hyper_parameters.lr``), or the entries of one stacked file.

    Args:
        facts: table of what is known, a row for each network: .csv, .tsv, .json, .jsonl or
            .parquet, on disk or hf://owner/name/table.csv
        key: column that names each row's network: a path or the end of one, with or without the
            ending, or a folder (default: the column whose entries do so)
        match: regular expression whose first group, in the path of a network, is what the key
            column says
        unlisted: networks without a row of the table are left out, kept with facts that are not
            known, or refused
        unreadable: files that cannot be read are left out and listed with their reasons, or the
            first is refused
        columns: facts to keep: COLUMN, NAME=COLUMN to rename it, with :number, :class or :text at
            the end to say what it is (default: all of the table, the layout or the stacked file)
        target: fact that models are to tell (default: label, or else the first number)
        label: column that is the class of each network, or a regular expression whose first group,
            in the path of a file, is (default: the column 'label', if there is one)
        group: column that keeps networks in one split, or a regular expression whose first group
            does, in the path of a file (default: each network by itself)
        split: column of splits: train, val or test (default: the column 'split', if there is one)
        splits: fractions of training, validation and test groups, where no column says
        seed: seed of the splits
        files: regular expression that the paths of networks match, of a folder with other files
        nested: key of the weights in files with several, such as ema (default: the usual keys)
        layout: a public collection's own, such as small-cnn-zoo, or cnn-wild-park
        manifest: JSON with the count and hashes published for a collection, which are checked
        labels_key: name of the labels in a stacked file, if it has them
        order: of the axes of weights in the files: those of torch, or inputs first
        shard_size: networks per file of the zoo
        dtype: float16, bfloat16, float32 or float64 (default: what holds all networks exactly)
        max_bytes: larger files, and those that unpack to more, are refused

    Raises:
        InvalidGraphError: if settings need one another, or are out of range.
    """

    facts: Annotated[str | None, "TABLE"] = None
    key: Annotated[str | None, "COLUMN"] = None
    match: Annotated[str | None, "PATTERN"] = None
    unlisted: Unlisted = "leave"
    unreadable: Unreadable = "refuse"
    columns: Annotated[Sequence[str] | None, "COLUMN"] = None
    target: Annotated[str | None, "FACT"] = None
    label: Annotated[str | None, "COLUMN|PATTERN"] = None
    group: Annotated[str | None, "COLUMN|PATTERN"] = None
    split: Annotated[str | None, "COLUMN"] = None
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0
    files: Annotated[str | None, "PATTERN"] = None
    nested: Annotated[str | None, "KEY"] = None
    layout: Annotated[str | None, "NAME"] = None
    manifest: Annotated[str | None, "FILE.json"] = None
    labels_key: str = "labels"
    order: Order = "out-in"
    shard_size: int = 1024
    dtype: str | None = None
    max_bytes: int = 2**36

    def __post_init__(self) -> None:
        check_whole(self, "shard_size", "max_bytes", error=InvalidGraphError)
        if isinstance(self.columns, str):
            raise InvalidGraphError(
                f"columns is {self.columns!r:.99}; expected a list, [{self.columns!r:.99}]."
            )
        for name, other in (("key", "facts"), ("match", "facts"), ("manifest", "layout")):
            if getattr(self, name) is not None and getattr(self, other) is None:
                raise InvalidGraphError(
                    f"{name} was given, and {other}, which it is of, is missing."
                )
        kinds = {"unlisted": Unlisted, "unreadable": Unreadable, "order": Order}
        for name, kind in kinds.items():
            if (value := getattr(self, name)) not in (known := get_args(kind)):
                raise InvalidGraphError(
                    f"{name} is {value!r:.40}; expected one of {', '.join(known)}."
                )

    def changed(self) -> dict[str, Any]:
        """Return the settings that are not the defaults, by name."""
        return {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if getattr(self, item.name) != item.default
        }
