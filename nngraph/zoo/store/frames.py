"""What is known of the networks of a zoo as a table: for pandas, or as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from nngraph.errors import optional_package
from nngraph.zoo.store.facts import Fact


def plain_column(fact: Fact, value: Tensor) -> list[Any]:
    """Return a fact as numbers or names; ``None`` where it is not known."""
    numbers: list[Any] = value.tolist()
    if fact.values:
        return [fact.values[number] or None for number in numbers]
    if fact.dtype == "float32":
        # The shortest numbers that are these in float32.
        return [None if math.isnan(n) else float(str(np.float32(n))) for n in numbers]
    return numbers


def frame_of(
    facts: Sequence[Fact], values: Mapping[str, Tensor], architecture_index: Tensor
) -> Any:
    """Return facts as a pandas ``DataFrame``, one row a network; names are categories."""
    install = "pandas; zoo.facts has the same numbers as tensors."
    with optional_package("frames are made by pandas", install):
        import pandas
    columns: dict[str, Any] = {}
    for fact in facts:
        columns[fact.name] = values[fact.name].numpy()
        if fact.is_text:
            columns[fact.name] = plain_column(fact, values[fact.name])
        elif fact.values:
            names = fact.values[:-1] if not fact.values[-1] else fact.values
            codes = np.where(columns[fact.name] < len(names), columns[fact.name], -1)
            columns[fact.name] = pandas.Categorical.from_codes(codes, categories=names)
    columns.setdefault("architecture", architecture_index.numpy())
    numbers = pandas.RangeIndex(len(architecture_index), name="network")
    return pandas.DataFrame(columns, index=numbers)
