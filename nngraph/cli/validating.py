"""The command ``validate``: the library held against the basis and the symmetry."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentError

from nngraph.cli.common import at_least, tell
from nngraph.cli.networks import activations_of, read_network
from nngraph.cli.options.networks import Validate
from nngraph.drawing import draw_basis
from nngraph.graph import Architecture
from nngraph.validation import at_most, default_architecture, validate
from nngraph.zoo import Zoo


def prove(options: Validate) -> int:
    """Hold the library against the basis and the symmetry on an architecture."""
    architecture = _architecture(options.network, options.activation, options.w0)
    at_least(0, seed=options.seed)
    result = validate(architecture, seed=options.seed)
    data = result.to_dict()
    if options.figure is not None:
        data["figure"] = str(draw_basis(at_most(architecture, 3), options.figure))
    drawn = "" if options.figure is None else f"\nthe basis, drawn: {options.figure}"
    return tell(options, data, lambda: f"{result}{drawn}", code=0 if result.passed else 1)


def _architecture(words: list[str], activation: list[str] | None, w0: float | None) -> Architecture:
    """Return the architecture that is named by layer sizes, a file or a zoo."""
    if all(word.isdecimal() for word in words):
        if activation is None and w0 is None:
            return default_architecture([int(word) for word in words])
        functions = activations_of(activation, w0)
        return Architecture.mlp(
            [int(word) for word in words], functions[0] if len(functions) == 1 else functions
        )
    if len(words) > 1:
        raise ArgumentError(
            None,
            f"{' '.join(words)!r} is no list of layer sizes; expected whole numbers, or one file.",
        )
    path = Path(words[0])
    if path.is_dir():
        return Zoo.open(path, partial=True).architecture
    return read_network(path, activation, w0, allow_nonfinite=True)[0].architecture
