"""Checkpoints of pruned networks: written with what was removed, and loaded into the module."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor, nn

from converters import open_network, read_metadata
from converters.symmetry import TOLERANCE, PermutationSpec, named_tensors
from nngraph.errors import ArchitectureError, DataFileError, NNGraphError, UnsupportedModuleError
from nngraph.files import write_atomically
from nngraph.pruning.law import Law
from nngraph.pruning.pruned import Pruned
from nngraph.pruning.removal import Removal
from nngraph.pruning.resizing import Resizing, Sizes

#: Under which a file tells what was removed, and the version of that.
_KEY = "nngraph.pruned"
_VERSION = 1


def save_pruned(pruned: Pruned, path: str | Path) -> None:
    """Write a pruned network to one safetensors file, under the names of its tensors.

    The metadata are those of :func:`pruned_metadata`. The file appears whole or not at all.

    Raises:
        DataFileError: if the path does not end in ``.safetensors``, or cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise DataFileError(f"{path} has the ending {path.suffix!r}; expected .safetensors.")
    # Fresh memory for each: safetensors refuses tensors that share theirs.
    tensors = {
        name: value.detach().cpu().contiguous().clone() for name, value in pruned.state.items()
    }
    try:
        write_atomically(path, save(tensors, pruned_metadata(pruned)))
    except (OSError, SafetensorError) as error:
        raise DataFileError(f"{path} could not be written: {error}.") from error


def pruned_metadata(pruned: Pruned) -> dict[str, str]:
    """Return what a file of a pruned network tells beside its tensors: one JSON text.

    That is the spec of the whole network, the neurons that stay of each space, and the sizes that
    modules keep.
    """
    removal = pruned.removal
    data = {
        "version": _VERSION, "kept": removal.kept, "rescaled": removal.rescaled,
        "sizes": pruned.sizes,
        "spec": json.loads(removal.spec.to_json()),
    }  # fmt: skip
    return {_KEY: json.dumps(data)}


def load_pruned(
    module: nn.Module, checkpoint: str | Path, example_inputs: Any = None, *,
    kwargs: Mapping[str, Any] | None = None,
) -> Removal:  # fmt: skip
    """Make a module smaller in place, to the shapes and weights of a pruned checkpoint.

    Its parameters and buffers are exchanged, and the sizes that its modules keep are set. Given
    inputs, it is then run in float64, and must give what it gave before with the same weights and
    zeros for the neurons that were removed. If anything fails, it is as it was.

    Args:
        module: the network that was pruned, at its original sizes, with any weights.
        checkpoint: what :func:`save_pruned` wrote, or ``nngraph prune``: a file or a folder.
        example_inputs: one tensor, or a tuple of positional arguments. Without them nothing is
            run, and the sizes are those of the file.
        kwargs: keyword arguments of its forward.

    Returns:
        which neurons stayed.

    Raises:
        DataFileError: if the file is none of a pruned network, or damaged.
        ArchitectureError: if it is of another network.
        UnsupportedModuleError: if the module does not run with the new shapes, or computes
            something else; names the module and its numbers.
    """
    removal, sizes = _read(Path(checkpoint))
    _check(module, removal.spec)
    state = _tensors(checkpoint, removal, module)
    full = removal.restore(state)
    law = None
    if example_inputs is not None or kwargs:
        law = Law(module, () if example_inputs is None else example_inputs, kwargs, removal.spec)
        wide = {name: value.to(law.network.state[name]) for name, value in full.items()}
        masked = law.network.run(wide)
    resizing = Resizing(module, removal)
    try:
        resizing.put_tensors(state)
        _put_sizes(resizing, sizes)
        resizing.put_layer_sizes()
        if law is not None:
            # Sizes that the file has are not searched for.
            error = law.fit(resizing, [masked], [removal.remove(wide)], {} if sizes else None)
            _refuse_another(error)
    except BaseException:
        resizing.undo()
        raise
    return removal


def _refuse_another(error: float) -> None:
    if error > TOLERANCE:
        raise UnsupportedModuleError(
            "the smaller module computes something else than the whole one with its neurons "
            f"masked: outputs differ by {error:.1e}, expected at most {TOLERANCE:.0e}. A layer may "
            "normalise over neurons that were removed, or the module is not the one that was "
            "pruned. Without inputs nothing is compared."
        )


def _read(path: Path) -> tuple[Removal, Sizes]:
    metadata = read_metadata(path)
    if _KEY not in metadata:
        raise DataFileError(
            f"{path} does not say what was removed; expected a pruned network, as save_pruned and "
            "'nngraph prune' write it. A checkpoint fits a module that is that small already."
        )
    try:
        found = json.loads(metadata[_KEY])
        if found["version"] != _VERSION:
            raise DataFileError(f"version {found['version']!r:.40}; expected {_VERSION}")
        removal = Removal(
            PermutationSpec.from_json(json.dumps(found["spec"])),
            {name: tuple(map(_whole, indices)) for name, indices in found["kept"].items()},
            tuple(found["rescaled"]),
        )
        sizes = {
            path: {name: _size(value) for name, value in attributes.items()}
            for path, attributes in found["sizes"].items()
        }
    except NNGraphError as error:
        raise type(error)(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DataFileError(f"{path} is damaged: {type(error).__name__}: {error}.") from error
    return removal, sizes


def _tensors(path: str | Path, removal: Removal, module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors under every name; buffers that the file does not have are the module's."""
    found = open_network(path, removal.smaller).tensors
    own = removal.remove(
        {name: value for name, value in named_tensors(module).items()
         if removal.spec.first_names.get(name, name) not in found}
    )
    names = {
        other: value for name, value in found.items()
        for other in (name, *removal.spec.aliases.get(name, ()))
    }
    return {**own, **names}


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r:.40} is no whole number")
    return value


def _size(value: Any) -> Any:
    return list(map(_whole, value)) if isinstance(value, list) else _whole(value)


def _check(module: nn.Module, spec: PermutationSpec) -> None:
    """Refuse a checkpoint of another network, before anything of its sizes is made."""
    own = {name: tuple(tensor.shape) for name, tensor in named_tensors(module).items()}
    names = {other for name in spec.parameters for other in (name, *spec.aliases.get(name, ()))}
    for name in sorted(own.keys() | names):
        found = spec.shape(spec.first_names.get(name, name)) if name in names else "none"
        if own.get(name, "none") != found:
            raise ArchitectureError(
                f"tensor {name!r} has shape {own.get(name, 'none')} in the module, and the network "
                f"that was pruned had {found}; expected that network, at its original sizes."
            )


def _put_sizes(resizing: Resizing, sizes: Sizes) -> None:
    """Set sizes that a file tells: whole numbers, and tuples of them, where the module has such."""
    owners = dict(resizing.module.named_modules())
    checked: Sizes = {}
    for path, attributes in sizes.items():
        for name, value in attributes.items():
            now: Any = vars(owners[path]).get(name) if path in owners else None
            if not _fits(now, value):
                raise ArchitectureError(
                    f"module {path or 'the root'!r} has {now!r:.40} for {name!r}; expected a size "
                    f"that can be {value!r:.40} in the smaller network, as in the one that was "
                    "pruned."
                )
            whole = type(now)(value) if isinstance(value, list) else value
            checked.setdefault(path, {})[name] = whole
    resizing.put_sizes(checked)


def _fits(now: Any, value: Any) -> bool:
    if isinstance(now, (list, tuple)) and isinstance(value, list):
        return len(now) == len(value) and all(map(_fits, now, value))
    return type(now) is int and type(value) is int and 0 <= value <= now
