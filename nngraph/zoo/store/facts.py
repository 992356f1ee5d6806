"""Facts about the networks of a zoo: a number for each network, in some the index of a name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from nngraph.errors import InvalidGraphError

#: Names of the splits; a network's split is its index here.
SPLITS = ("train", "val", "test")
#: What the name of a fact's tensor in a shard begins with.
FACT_PREFIX = "network."
_DTYPES = {"int64": torch.int64, "float32": torch.float32, "text": torch.int64}
#: The characters of texts that are no print, lines and tabs, and categories of those they lack.
_BREAKS, _CONTROLS = "\n\t", ("Cc", "Cs")
_MAX_WHOLE = 2**62


@dataclass(frozen=True)
class Fact:
    """A column of a zoo: a whole number, a real number, a choice or a text, for each network.

    Args:
        name: lower-case letters, digits and underscores.
        dtype: ``"int64"`` for whole numbers from 0, ``"float32"`` for real ones, which may be NaN
            where a network has none; ``"text"`` for notes, which are no choice: whole numbers, too.
        values: what the whole numbers stand for, if they stand for something; of texts each once.
    """

    name: str
    dtype: str = "int64"
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", self.name):
            raise InvalidGraphError(
                f"a fact is called {self.name!r:.80}; expected lower-case letters, digits and "
                "underscores, a letter first."
            )
        if self.dtype not in _DTYPES:
            raise InvalidGraphError(
                f"fact {self.name!r} has dtype {self.dtype!r:.40}; expected int64, float32 or "
                "text."
            )
        is_good = is_text if self.is_text else str.isprintable
        printable = all(isinstance(v, str) and is_good(v) for v in self.values)
        if not printable or (self.values and self.dtype == "float32"):
            raise InvalidGraphError(
                f"fact {self.name!r} has values {self.values!r:.80}; expected printable names, and "
                "only for whole numbers and texts."
            )

    @property
    def is_text(self) -> bool:
        """Whether it is a text, which is read and told, and never a class or a number."""
        return self.dtype == "text"

    @property
    def torch_dtype(self) -> torch.dtype:
        """Dtype of its tensor."""
        return _DTYPES[self.dtype]

    @property
    def key(self) -> str:
        """Name of its tensor in a shard."""
        return FACT_PREFIX + self.name

    def problem(self, value: Tensor) -> str | None:
        """Say what is wrong with the fact's tensor ``[B]``; ``None`` if nothing is."""
        if self.dtype == "float32" or not value.numel():
            return None
        low, high = int(value.min()), int(value.max())
        limit = len(self.values) or (1 if self.is_text else _MAX_WHOLE)
        if low < 0 or high >= limit:
            return f"{self.key} ranges from {low} to {high}; expected 0 to {limit - 1}"
        return None


def check_facts(
    expected: tuple[Fact, ...], given: Mapping[str, Tensor], count: int
) -> dict[str, Tensor]:
    """Return facts in order, in their dtypes, after checking them."""
    names = [fact.name for fact in expected]
    if different := sorted(set(names) ^ set(given)):
        state = "unknown" if different[0] in given else "missing"
        raise InvalidGraphError(
            f"fact {different[0]!r} is {state}; expected {', '.join(names)}, one number per "
            "network each."
        )
    checked: dict[str, Tensor] = {}
    for fact in expected:
        value = given[fact.name]
        whole = not value.dtype.is_floating_point
        if tuple(value.shape) != (count,) or (fact.dtype != "float32" and not whole):
            raise InvalidGraphError(
                f"fact {fact.name!r} is {value.dtype} of shape {tuple(value.shape)}; expected "
                f"{fact.dtype} of shape ({count},), one per network."
            )
        checked[fact.name] = value.detach().to("cpu", fact.torch_dtype).contiguous()
        if problem := fact.problem(checked[fact.name]):
            raise InvalidGraphError(f"{problem}.")
    return checked


def is_text(value: str) -> bool:
    """Whether a text can be kept: it has no control characters but ends of lines and tabs."""
    return all(c in _BREAKS or unicodedata.category(c) not in _CONTROLS for c in value)


def describe(fact: Fact, value: Tensor) -> dict[str, Any]:
    """Return how often each name occurs, how many texts there are, or where numbers lie."""
    names = fact.values
    if fact.is_text:
        return {"texts": len(torch.unique(value)) - int("" in names)}
    if names:
        return dict(zip(names, torch.bincount(value, minlength=len(names)).tolist(), strict=True))
    numbers = _finite(value)
    if not len(numbers):
        return dict.fromkeys(("histogram", "mean", "min", "max"))
    edges, counts = histogram(numbers)
    return {
        "histogram": {"edges": edges, "counts": counts},
        "mean": float(numbers.mean()), "min": float(numbers.min()), "max": float(numbers.max())
    }  # fmt: skip


def histogram(value: Tensor, bins: int = 10) -> tuple[list[float], list[int]]:
    """Return the edges of ``bins`` equal intervals, and how many finite numbers are in each."""
    numbers = _finite(value)
    if not len(numbers):
        return [], []
    low, high = float(numbers.min()), float(numbers.max())
    if low == high:
        return [low, high], [len(numbers)]
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    inner = torch.bucketize(numbers, edges[1:-1], right=True)
    return edges.tolist(), torch.bincount(inner, minlength=bins).tolist()


def _finite(value: Tensor) -> Tensor:
    numbers = value.double()
    return numbers[torch.isfinite(numbers)]


def plain(value: Any) -> dict[str, Any]:
    """Return a dataclass as JSON has it, tuples as lists."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(value).items()}
