"""Which architecture each network has: given, derived of a module made for it, or inferred."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from converters.chains.chain import Activations
from converters.checkpoints import Value, is_adapter, unwrapped
from converters.from_modules import to_architecture
from converters.onnx_files import OnnxModule
from converters.populations.columns import fact_name
from converters.populations.low_rank import LowRankPairs
from converters.populations.precisions import converted, dtypes_of, widest
from converters.state_dicts import state_dict_to_graph
from nngraph.errors import DataFileError, InvalidGraphError, NNGraphError, UnsupportedModuleError
from nngraph.files import read_bounded, write_atomically
from nngraph.graph import Architecture

#: Makes the module of a network, or the module and example inputs for it.
Factory = Callable[..., Any]
_FORMAT = "nngraph.architectures"
_MAX_CACHE = 2**28


class Architectures:
    """Finds the architecture of each network, deriving every one that is distinct once.

    Args:
        given: of all networks, or by regular expressions that are found in their names.
        module: returns the module of a network, called with those columns of what is known of it
            that its parameters name; or several by patterns. It may return a pair of the module and
            example inputs.
        inputs: example inputs of the modules.
        activations: of MLPs that are inferred where nothing is given.
        cache: file that keeps what was derived.

    Raises:
        InvalidGraphError: if what is given is not one thing.
    """

    def __init__(
        self,
        given: Architecture | Mapping[str, Architecture] | None,
        module: Factory | Mapping[str, Factory] | None,
        inputs: Any,
        activations: Activations | None,
        cache: Path,
    ) -> None:
        #: patterns, and what the networks are that they are found in
        self.rules: list[tuple[str, Architecture | Factory]] = []
        for what in (given, module):
            if isinstance(what, Mapping):
                self.rules += what.items()
            elif what is not None:
                self.rules.append(("", what))
        if given is not None and module is not None and not all(p for p, _ in self.rules):
            raise InvalidGraphError(
                "both an architecture and a module were given for all networks; leave one out, or "
                "give each the networks it is for by a pattern."
            )
        if self.rules and activations is not None:
            raise InvalidGraphError(
                "both activations and an architecture or a module were given, which has its own. "
                "Leave the activations out."
            )
        self.inputs, self.activations, self.cache = inputs, activations, cache
        self._made: dict[Any, Architecture] = {}
        self._inferred: dict[Any, Architecture] = {}

    @property
    def names(self) -> frozenset[str]:
        """Names of the parameters of the architectures that are given."""
        given = [what for _, what in self.rules if isinstance(what, Architecture)]
        return frozenset(n for a in given for p in a.parameters for n in (p.name, *p.aliases))

    def of(
        self, name: str, values: Mapping[str, Tensor], known: Mapping[str, Value]
    ) -> Architecture:
        """Return the architecture of a network, given its tensors and what is known of it.

        Raises:
            NNGraphError: if no pattern is found in its name, its module cannot be made or
                described, or nothing can be inferred.
        """
        if not self.rules:
            return self._infer(values)
        what = next((what for pattern, what in self.rules if re.search(pattern, name)), None)
        if what is None:
            patterns = ", ".join(repr(pattern) for pattern, _ in self.rules)
            raise InvalidGraphError(
                f"no architecture is given for it; the patterns are {patterns:.300}. Give one "
                "that is found in its path, or choose the files."
            )
        if isinstance(what, Architecture):
            return what
        wanted = _wanted(what, known)
        key = id(what), tuple(sorted(wanted.items()))
        if key not in self._made:
            self._made[key] = self._derive(what, wanted)
        return self._made[key]

    def _infer(self, values: Mapping[str, Tensor]) -> Architecture:
        values = unwrapped(values)
        key = tuple((name, value.shape) for name, value in values.items())
        if is_adapter(values):
            key = tuple(sorted(key))
            if key not in self._inferred:
                module = LowRankPairs(values)
                self._inferred[key] = to_architecture(module, module.example_inputs())
        elif key not in self._inferred:
            same = converted(values, widest(dtypes_of(values)))
            graph = state_dict_to_graph(same, activations=self.activations, allow_nonfinite=True)
            self._inferred[key] = graph.architecture
        return self._inferred[key]

    def _derive(self, factory: Factory, wanted: Mapping[str, Any]) -> Architecture:
        said = ", ".join(f"{k}={v!r:.40}" for k, v in wanted.items())
        where = f"{getattr(factory, '__qualname__', factory)}({said})"
        try:
            made = factory(**wanted)
        except NNGraphError:
            raise
        except Exception as error:  # code of the user, which fails in its own ways
            words = f"{type(error).__name__}: {error}"
            raise UnsupportedModuleError(f"{where} failed: {words}") from error
        module, inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, self.inputs)
        if not isinstance(module, nn.Module):
            raise UnsupportedModuleError(
                f"{where} gave a {type(module).__name__}; expected a torch.nn.Module."
            )
        if inputs is None:
            raise InvalidGraphError(
                f"inputs are missing: an example input of {where}, such as torch.zeros(1, 3, 32, "
                "32), or let it return the module and its inputs."
            )
        return self._described(module, inputs, _digest(module.eval(), inputs, factory, wanted))

    def of_file(self, name: str, module: OnnxModule) -> Architecture | None:
        """Return the architecture that a file holds; none if a pattern in its name gives another.

        Raises:
            NNGraphError: if it cannot be described, or inputs are missing.
        """
        if any(pattern and re.search(pattern, name) for pattern, _ in self.rules):
            return None
        key = module.structure()
        if key not in self._made:
            inputs = self.inputs
            if all(declared.dims is not None for declared in module.inputs):
                inputs = module.example_inputs()
            if inputs is None:
                raise InvalidGraphError(
                    f"the file does not say the shapes of its inputs ({module.inputs[0]}); give "
                    "an example input (inputs)."
                )
            digest = hashlib.sha256(json.dumps([key, *_versions(inputs)]).encode())
            self._made[key] = self._described(module, inputs, digest.hexdigest())
        return self._made[key]

    def _described(self, module: nn.Module, inputs: Any, digest: str | None) -> Architecture:
        held = self._held
        if digest not in held:
            with torch.no_grad():
                held[digest] = to_architecture(module, inputs)
            plain = {key: each.to_dict() for key, each in held.items() if key is not None}
            if digest is not None:
                text = json.dumps({"format": _FORMAT, "architectures": plain})
                self.cache.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self.cache, text.encode())
        return held[digest] if digest is not None else held.pop(None)

    @functools.cached_property
    def _held(self) -> dict[str | None, Architecture]:
        """What was derived before, by what it was derived of."""
        if not self.cache.exists():
            return {}
        try:
            data = json.loads(read_bounded(self.cache, _MAX_CACHE))
            if data["format"] != _FORMAT:
                raise ValueError("its format is another")
            return {k: Architecture.from_dict(v) for k, v in data["architectures"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataFileError(
                f"{self.cache} keeps derived architectures, and is damaged: {error!s:.200}. Delete "
                "it, and they are derived again."
            ) from None


def _wanted(factory: Factory, known: Mapping[str, Value]) -> dict[str, Any]:
    """Return those of a network's columns that the parameters of a factory name."""
    wanted: dict[str, Any] = {}
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return wanted
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        value = _said(parameter.name, known)
        if value is not None:
            wanted[parameter.name] = _as_wanted(value, parameter)
        elif parameter.default is parameter.empty:
            raise InvalidGraphError(
                f"{getattr(factory, '__qualname__', factory)} needs {parameter.name!r}, which is "
                f"not known of it; known are {', '.join(map(repr, list(known)[:20])) or 'none'}. "
                "Add the column to the table of facts, or give the parameter a default."
            )
    return wanted


def _as_wanted(value: Value, parameter: inspect.Parameter) -> Any:
    """Return what a table says in the kind that a parameter has by its default or annotation."""
    default, said = parameter.default, str(parameter.annotation).lower()
    kinds = {kind for kind in ("bool", "int", "list", "tuple", "sequence") if kind in said}
    kinds |= {type(default).__name__} if default is not parameter.empty else set()
    text = str(value).strip().lower()
    if "bool" in kinds and text in ("true", "false", "yes", "no", "0", "1", "0.0", "1.0"):
        return text in ("true", "yes", "1", "1.0")
    if kinds & {"list", "tuple", "sequence"}:
        try:
            return tuple(json.loads(f"[{text.strip('[]()').rstrip(', ')}]"))
        except ValueError:
            return value
    if "int" in kinds and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _said(name: str, known: Mapping[str, Value]) -> Value:
    if name in known:
        return known[name]
    # Under a name of ours, or as hyper_parameters.width.
    last = {value for key, value in known.items() if re.split(r"[./]", key)[-1] == name}
    ours = {value for key, value in known.items() if fact_name(key) == name}
    found = ours or last
    return next(iter(found)) if len(found) == 1 else None


def _digest(
    module: nn.Module, inputs: Any, factory: Factory, wanted: Mapping[str, Any]
) -> str | None:
    """Return a checksum of all that an architecture is derived of; none where code has no file."""
    digest = hashlib.sha256()
    kinds = {type(part) for part in module.modules()}
    own = [kind for kind in kinds if not kind.__module__.startswith("torch.")]
    try:
        files = {inspect.getsourcefile(code) for code in (*own, inspect.unwrap(factory))}
        for file in sorted(str(file) for file in files):
            digest.update(Path(file).read_bytes())
    except (TypeError, OSError):
        return None
    shapes = [(n, str(t.dtype), list(t.shape)) for n, t in module.state_dict().items()]
    name = getattr(factory, "__qualname__", "")
    words = [repr(module), shapes, dict(wanted), name, *_versions(inputs)]
    digest.update(json.dumps(words, default=str).encode())
    return digest.hexdigest()


def _versions(inputs: Any) -> list[Any]:
    """Return what else an architecture is derived of: shapes of its inputs, and this version."""
    leaves, tree = pytree.tree_flatten(inputs)
    given = [(str(x.dtype), list(x.shape)) if isinstance(x, Tensor) else repr(x) for x in leaves]
    # Not imported: the package's own module names this one.
    return [str(tree), given, torch.__version__, sys.modules["nngraph"].__version__]
