"""Parsers that are derived from dataclasses: what words give which values, and what help says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Literal

import pytest
from jsonargparse import ArgumentError

from nngraph.cli.options.deriving import (
    Argument,
    Each,
    add_options,
    new_parser,
    options_of,
    told_of,
)

SPICES = {"salt": 1, "pepper": 2}


@dataclass(frozen=True, kw_only=True)
class Base:
    """A dish.

    Args:
        hot: above 100 % of :class:`~kitchen.Heat`
        size: of the ``plate``
    """

    hot: bool = False
    size: float | None = None


@dataclass(frozen=True, kw_only=True)
class Soup(Base):
    """Cook a soup
    from what there is.

    It is eaten at once.

    Args:
        pot: where it cooks,
            from the start
        what, parts: ingredients
        size: of the bowl
        spice: one of those there are
        kind: thick or clear
        counts: three of them
        tasters: one by one

    Raises:
        ValueError: if it burns.
    """

    pot: Argument[str]
    what: Argument[list[str]]
    parts: Sequence[int] | None = None
    spice: Annotated[str, SPICES] = "salt"
    kind: Literal["thick", "clear"] = "thick"
    counts: Annotated[tuple[int, int, int], "A", "B", "C"] = (1, 2, 3)
    tasters: Annotated[Each[str], "NAME"] = None
    dishes: list[str] = field(default_factory=lambda: ["bowl"])

    def __post_init__(self) -> None:
        if self.counts[0] > 9:
            raise ValueError("it burns.")


def parser():
    about, told = told_of(Soup)
    made = new_parser(about)
    add_options(made, Soup, {**told, "dishes": "to wash"})
    return made


def read(line: str) -> Soup:
    return options_of(Soup, parser().parse_args(line.split()))


def test_words_become_the_values_of_the_fields():
    assert asdict(read("big leek")) == {
        "pot": "big", "what": ["leek"], "parts": None, "spice": "salt", "kind": "thick",
        "counts": (1, 2, 3), "tasters": None, "dishes": ["bowl"], "hot": False, "size": None,
    }  # fmt: skip
    words = "big leek bean --parts 1 2 --hot --size 2.5 --counts 4 5 6 --spice pepper --kind clear"
    found = asdict(read(f"{words} --tasters a --tasters b --dishes x y"))
    assert found == {
        "pot": "big", "what": ["leek", "bean"], "parts": [1, 2], "spice": "pepper",
        "kind": "clear", "counts": (4, 5, 6), "tasters": ["a", "b"], "dishes": ["x", "y"],
        "hot": True, "size": 2.5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("big", "what"),
        ("big leek --spice mud", "'salt', 'pepper'"),
        ("big leek --kind raw", "thick"),
        ("big leek --counts 1 2", "3 arguments"),
        ("big leek --size wide", "float"),
        ("big leek --counts 10 2 3", "it burns"),
    ],
)
def test_wrong_words_are_mistakes_of_usage(line: str, word: str):
    with pytest.raises(ArgumentError, match=word):
        read(line)


def test_help_is_what_the_docstrings_say():
    about, told = told_of(Soup)
    assert about == "Cook a soup from what there is. It is eaten at once."
    assert told["pot"] == "where it cooks, from the start"
    assert told["what"] == told["parts"] == "ingredients"
    assert told["size"] == "of the bowl"
    assert told_of(Base)[1]["size"] == "of the plate"
    words = " ".join(parser().format_help().split())
    assert "above 100 %% of Heat" in words
    assert "--counts A B C" in words


def test_an_option_without_a_word_of_help_is_refused():
    with pytest.raises(KeyError, match="dishes"):
        add_options(new_parser(""), Soup, told_of(Soup)[1])


def test_a_registered_choice_is_taken(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(SPICES, "mud", 3)
    assert read("big leek --spice mud").spice == "mud"
