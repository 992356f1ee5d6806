"""The directive ``face``: all public names of a package, from its ``__all__`` and docstrings.

An object that several packages export is described at one of them, and the others link to it.
A name that a docstring or an annotation refers to leads to where it is described. It may be one
that no package exports, or of another library; a name of nothing is a warning.
"""

from __future__ import annotations

import inspect
import re
import sys
from importlib import import_module
from pkgutil import resolve_name
from typing import Any, ClassVar, get_type_hints

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.napoleon import GoogleDocstring
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docstrings import prepare_docstring
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

#: The packages that users import from. What two of them export is described at the earlier one.
FACES = (
    "nngraph.graph",
    "nngraph.kernels",
    "nngraph.nn",
    "nngraph.basis",
    "nngraph.datasets",
    "nngraph.zoo",
    "nngraph.tasks",
    "nngraph.alignment",
    "nngraph.pruning",
    "nngraph.drawing",
    "nngraph.validation",
    "nngraph.testing",
    "converters",
    "converters.symmetry",
    "nngraph.errors",
    "nngraph",
)


def home_of(value: Any, name: str) -> str | None:
    """Return the package at which an object that has this name is described."""
    for face in FACES:
        package = import_module(face)
        if name in package.__all__ and getattr(package, name) is value:
            return face
    return None


def directive_of(value: Any) -> str:
    """Return the directive of autodoc for an object of its kind."""
    if inspect.isclass(value):
        return "autoexception" if issubclass(value, BaseException) else "autoclass"
    return "autofunction" if inspect.isroutine(value) else "autodata"


def describe(face: str) -> list[str]:
    """Return the page of a package: a table of its names, and what is described here."""
    package = import_module(face)
    values = {name: getattr(package, name) for name in package.__all__}
    homes = {name: home_of(value, name) for name, value in values.items()}
    # What autosummary lists may not begin with the current module.
    inside = "None" if face == "nngraph" else face
    lines = [f".. automodule:: {face}", "   :no-members:", ""]
    lines += [f".. currentmodule:: {inside}", "", ".. autosummary::", ""]
    lines += [f"   ~{homes[name]}.{name}".replace(f"~{inside}.", "") for name in values]
    for name, value in values.items():
        if homes[name] == face:
            lines += ["", f".. {directive_of(value)}:: {face}.{name}"]
            lines += ["   :no-value:"] * isinstance(value, dict)
    return lines


class Face(SphinxDirective):
    """All public names of the package that the argument names."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        """Parse what :func:`describe` wrote, where the directive stands."""
        face = self.arguments[0]
        holder = nodes.Element()
        lines = StringList(describe(face), f"<{face}>")
        self.state.nested_parse(lines, self.content_offset, holder)
        return holder.children


# -- docstrings -----------------------------------------------------------------------------------


def comment_of(value: Any, name: str) -> list[str]:
    """Return the comment ``#:`` of a constant from the module that defines it."""
    for module in sorted(sys.modules):
        ours = module.startswith(("nngraph", "converters"))
        if ours and vars(sys.modules[module]).get(name) is value:
            comments = ModuleAnalyzer.for_module(module).find_attr_docs()
            if ("", name) in comments:
                return comments["", name]
    return []


def mend(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Put right what napoleon makes of some docstrings.

    Those of constants and properties it takes for ``type: text``; a constant has its comment here,
    not the docstring of its type. Of attributes described at once none is a type.
    """
    if what in ("data", "property"):
        comment = comment_of(value, name.rpartition(".")[2])
        source = comment if what == "data" else prepare_docstring(value.__doc__ or "")
        lines[:] = GoogleDocstring(source, app.config, app, "method", name, value, options).lines()
    names = re.compile(r"^(\s*:ivar )([\w, ]+)(?=:)")
    lines[:] = [names.sub(lambda m: m[1] + m[2].replace(" ", ""), line) for line in lines]


def show_factories(
    app: Sphinx, what: str, name: str, value: Any, options: Any, signature: str | None, result: str
) -> tuple[str | None, str]:
    """Write ``...`` for defaults that a dataclass makes anew, so that a signature is Python."""
    return signature and signature.replace("<factory>", "..."), result


def leave_out_notes(app: Sphinx, function: Any, bound: bool) -> None:
    """Show the types of arguments without what ``Annotated`` says of them to the command line."""
    if "Annotated" in str(getattr(function, "__annotations__", "")):
        function.__annotations__ = get_type_hints(function)


# -- references -----------------------------------------------------------------------------------


def find(target: str, package: str) -> Any:
    """Return the object that a name means: in full, within a package, or within its modules."""
    modules = sorted(module for module in sys.modules if f"{module}.".startswith(f"{package}."))
    for name in (target, *(f"{module}.{target}" for module in modules)):
        try:
            return resolve_name(name)
        except (AttributeError, ImportError, ValueError):
            continue
    return None


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.Node | None:
    """Lead a reference to where its object is described; it stays text if no package exports it."""
    if node["refdomain"] != "py":
        return None
    value = find(node["reftarget"], node.get("py:module") or "nngraph")
    if value is None:
        return None
    name = getattr(value, "__qualname__", node["reftarget"].rpartition(".")[2])
    owner = name.partition(".")[0]
    module = sys.modules.get(getattr(value, "__module__", ""))
    target = f"{home_of(getattr(module, owner, value), owner)}.{name}"
    described = env.domains.python_domain.objects.get(target)
    if described is None:
        return content
    return make_refnode(
        app.builder, node["refdoc"], described.docname, described.node_id, content, target
    )


def setup(app: Sphinx) -> dict[str, bool]:
    """Make the directive known, and what is done to docstrings and references."""
    app.add_directive("face", Face)
    # After napoleon, whose priority is 500.
    app.connect("autodoc-process-docstring", mend, priority=600)
    app.connect("autodoc-process-signature", show_factories)
    app.connect("autodoc-before-process-signature", leave_out_notes)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True}
