"""How the library's modules import one another, where it is more than an order of rooms."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import networkx as nx
import pytest

ROOT = Path(__file__).parents[1]
#: Packages inside of a room that users import from as they do from the room.
INNER_FACES = (
    "converters.symmetry", "converters.onnx_files", "converters.checkpoints",
    "converters.collections",
)
#: The command line shows its help before torch is imported, which takes seconds.
LATE = {"nngraph.cli.app", "nngraph.cli.parsers"}


class Import(NamedTuple):
    """What a module imports: another module, and a name in it if it is not the module itself."""

    importer: str
    module: str
    name: str | None
    within: str | None


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path
    for top in ("nngraph", "converters")
    for path in (ROOT / top).rglob("*.py")
}


def imports(importer: str, text: str) -> Iterator[Import]:
    """Yield the imports of own modules; ``within`` is the function or the ``if`` they stand in."""
    pending: list[tuple[ast.AST, str | None]] = [(ast.parse(text), None)]
    while pending:
        node, within = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            within = node.name
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            within = "TYPE_CHECKING"
        pending += [(child, within) for child in ast.iter_child_nodes(node)]
        found: list[tuple[str, str | None]] = []
        if isinstance(node, ast.Import):
            found = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.append((full, None) if full in MODULES else (str(node.module), alias.name))
        for module, name in found:
            if module.partition(".")[0] in ("nngraph", "converters"):
                yield Import(importer, module, name, within)


@cache
def every_import() -> tuple[Import, ...]:
    return tuple(
        found for module, path in MODULES.items() for found in imports(module, path.read_text())
    )


def room_of(module: str) -> str:
    return ".".join(module.split(".")[: 1 if module.startswith("converters") else 2])


@cache
def public_names(face: str) -> frozenset[str]:
    path = MODULES[face]
    if path.name != "__init__.py":
        return frozenset()
    lists = [
        ast.literal_eval(node.value)
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    return frozenset(lists[0] if lists else ())


def passes_a_face(found: Import) -> bool:
    """Whether it takes from another room what the room's face does not offer."""
    room = room_of(found.module)
    if room in (room_of(found.importer), "nngraph") or found.importer == "nngraph":
        return False
    if MODULES[room].name != "__init__.py":
        return found.module != room
    if found.module not in (room, *INNER_FACES):
        return True
    return found.name is not None and found.name not in public_names(found.module)


def goes_round(found: Import) -> bool:
    """Whether a module takes from its own room by the face, which imports the module."""
    return found.module == room_of(found.importer) != found.importer and found.name is not None


def is_late(found: Import) -> bool:
    """Whether it stands in a function."""
    return found.within not in (None, "TYPE_CHECKING") and found.importer not in LATE


LAWS = {"past a face": passes_a_face, "by the own face": goes_round, "in a function": is_late}


@pytest.mark.parametrize("law", LAWS)
def test_nothing_is_imported(law: str):
    assert [found for found in every_import() if LAWS[law](found)] == []


@pytest.mark.parametrize(
    ("law", "text"),
    [
        ("past a face", "from nngraph.graph.topology.build import build"),
        ("past a face", "from nngraph.graph import layout"),
        ("past a face", "from nngraph.graph import _of_architecture"),
        ("past a face", "import nngraph.graph.layout"),
        ("by the own face", "from nngraph.nn import Metanetwork"),
        ("in a function", "def f():\n    from nngraph.graph import Topology"),
    ],
)
def test_such_an_import_is_noticed(law: str, text: str):
    (found,) = imports("nngraph.nn.models.flat", text)
    assert [name for name, holds in LAWS.items() if holds(found)] == [law]


def test_no_modules_import_one_another_in_a_circle():
    graph = nx.DiGraph(
        (found.importer, found.module)
        for found in every_import()
        if found.within != "TYPE_CHECKING"
    )
    assert [sorted(c) for c in nx.strongly_connected_components(graph) if len(c) > 1] == []


def test_the_judge_takes_architectures_alone():
    taken = {
        found.name for found in every_import()
        if room_of(found.importer) == "nngraph.basis" and room_of(found.module) == "nngraph.graph"
    }
    assert taken == {"Architecture"}
