"""A checkpoint with its spec: what the names in the file mean, and the way back into a file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NamedTuple

import torch
from torch import Tensor

from converters import checkpoints
from converters.checkpoints import MAX_BYTES, Checkpoint
from converters.state_dicts import same_bits
from converters.stored.specs import mlp_spec
from converters.stored.writing import write_safetensors
from converters.symmetry import PermutationSpec, SymmetrySpec
from nngraph.errors import DataFileError, InvalidGraphError, NNGraphError
from nngraph.files import new_folder, write_atomically

#: Makes the tensor that is written: of its name in the spec, and the tensor that was read.
Change = Callable[[str, Tensor], Tensor]


class _Known(NamedTuple):
    """A tensor of a spec, as names are fitted to it."""

    name: str
    aliases: tuple[str, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class StoredNetwork:
    """A network as its users keep it: the tensors of a file or a folder, and what they count.

    Tensors of safetensors files are mapped into memory: nothing is read before it is used, and no
    edges are ever made.

    Args:
        path: the file or folder.
        checkpoint: its tensors, by their names there.
        spec: what each axis of each tensor counts.
        names: name in the file -> name of the tensor in the spec, the first of its names there.
        copied: names in the file that the spec does not have; they are written as they were read.
        missing: buffers of the spec that the file does not have.
        metadata: of a single safetensors file.
    """

    path: Path
    checkpoint: Checkpoint
    spec: PermutationSpec
    names: Mapping[str, str]
    copied: tuple[str, ...]
    missing: tuple[str, ...]
    metadata: Mapping[str, str]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors that the spec has, each once, by its name in the spec."""
        return {own: self.checkpoint.tensors[name] for name, own in self.names.items()}

    def write(
        self, path: str | Path, change: Change | None = None,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Write a network with the names and dtypes of this one, tensor by tensor.

        A path that ends in ``.safetensors`` is one file; any other is a folder to make, with the
        files and the index that the checkpoint was in, or one ``model.safetensors``. All of it
        appears whole or not at all.

        Args:
            change: makes what is written of each tensor of the spec; all others are copied.
            shapes: name in the spec -> shape of what ``change`` makes, where it is another one.
            metadata: texts to write beside, which :func:`read_metadata` reads.

        Raises:
            DataFileError: if the folder is there already, or a file cannot be written.
        """
        path, shapes, metadata = Path(path), shapes or {}, metadata or {}
        like = {
            name: torch.empty(
                shapes.get(self.names.get(name, ""), value.shape), dtype=value.dtype, device="meta"
            )
            for name, value in self.checkpoint.tensors.items()
        }

        def read(name: str) -> Tensor:
            value = self.checkpoint.tensors[name]
            own = self.names.get(name)
            return value if change is None or own is None else change(own, value)

        if path.suffix == ".safetensors":
            # What the metadata says of a graph is not true of one of other sizes.
            own = {} if shapes else self.metadata
            self._write_file(path, like, read, {**own, **metadata})
            return
        with new_folder(path) as work:
            files = self._files()
            for file in dict.fromkeys(files.values()):
                part = {name: value for name, value in like.items() if files[name] == file}
                self._write_file(work / file, part, read, {} if self.checkpoint.files else metadata)
            if self.checkpoint.files:
                total = sum(value.numel() * value.element_size() for value in like.values())
                index = {"metadata": {"total_size": total, **metadata}, "weight_map": files}
                text = json.dumps(index, indent=2) + "\n"
                write_atomically(work / _index_name(self.path), text.encode())

    def _files(self) -> dict[str, str]:
        """Return the file of each tensor, in a folder."""
        files = self.checkpoint.files
        if not files:
            return dict.fromkeys(self.checkpoint.tensors, "model.safetensors")
        return {
            name: PurePath(files[name]).stem + ".safetensors" for name in self.checkpoint.tensors
        }

    def _write_file(
        self, path: Path, like: Mapping[str, Tensor], read: Callable[[str], Tensor],
        metadata: Mapping[str, str],
    ) -> None:  # fmt: skip
        # As save_model of safetensors leaves them out: those that the metadata ties to others.
        tied = {
            name: kept for name, kept in self.metadata.items()
            if name in like and kept in like and self.names.get(name) == self.names.get(kept)
        }
        stored = {name: value for name, value in like.items() if name not in tied}
        write_safetensors(path, stored, read, {"format": "pt", **metadata, **tied})


def open_network(
    source: str | Path, spec: PermutationSpec | SymmetrySpec | None = None, *,
    prefix: str | None = None, nested: str | None = None, max_bytes: int = MAX_BYTES,
) -> StoredNetwork:  # fmt: skip
    """Open the checkpoint of a network, and hold its tensors against a spec by name and shape.

    Names may stand behind a common prefix, or have those of wrappers (``module.``) in them. A tied
    tensor may be there under one of its names, or under several with the same numbers.

    Args:
        source: file, folder or address, as :func:`converters.checkpoints.read_checkpoint` takes it.
        spec: of the network; without one it is an MLP.
        prefix: the one that is meant, where several fit.
        nested: key of the state dict among other things.
        max_bytes: more is not read.

    Raises:
        DataFileError: if the file is missing, damaged or of another kind.
        InvalidGraphError: if the tensors do not fit the spec; the message names them.
    """
    checkpoint = checkpoints.read_checkpoint(source, nested=nested, max_bytes=max_bytes)
    if isinstance(spec, SymmetrySpec):
        spec = spec.permutations
    try:
        spec = mlp_spec(checkpoint.tensors) if spec is None else spec
        fitted = checkpoints.fit_names(
            checkpoint.tensors,
            [_Known(n, spec.aliases.get(n, ()), spec.shape(n)) for n in spec.parameters],
            prefix, {*spec.buffers, *spec.unused},
        )  # fmt: skip
        names = {file: spec.first_names.get(own, own) for own, file in fitted.names.items()}
        _check(checkpoint, spec, names)
    except NNGraphError as error:
        raise type(error)(f"{source}: {error}") from None
    path = Path(source)
    path = checkpoints.weights_in(path) if path.is_dir() else path
    whole = checkpoint.container == "safetensors" and path.is_file()
    return StoredNetwork(
        path, checkpoint, spec, names,
        copied=tuple(name for name in checkpoint.tensors if name not in names),
        missing=tuple(name for name in spec.parameters if name not in {*names.values()}),
        metadata=checkpoints.read_safetensors(path)[1] if whole else {},
    )


def read_metadata(path: str | Path, *, max_bytes: int = MAX_BYTES) -> dict[str, str]:
    """Return the texts beside the tensors of a safetensors file, or of an index or its folder.

    Raises:
        DataFileError: if the file is missing, damaged or of another kind.
    """
    path = Path(path)
    path = checkpoints.weights_in(path) if path.is_dir() else path
    path = checkpoints.checked_path(path, max_bytes)
    if path.suffix != ".json":
        return checkpoints.read_safetensors(path)[1]
    held = checkpoints.read_json(path, checkpoints.MemoryBudget(max_bytes))
    found = held.get("metadata") if isinstance(held, dict) else None
    texts = found.items() if isinstance(found, dict) else ()
    return {key: value for key, value in texts if isinstance(value, str)}


def _check(checkpoint: Checkpoint, spec: PermutationSpec, names: Mapping[str, str]) -> None:
    """Refuse other shapes, and other numbers under names of one tensor."""
    for name, own in names.items():
        if tuple(checkpoint.tensors[name].shape) != spec.shape(own):
            raise InvalidGraphError(
                f"tensor {name!r} has shape {tuple(checkpoint.tensors[name].shape)}; the spec "
                f"expects {spec.shape(own)}."
            )
    for own, count in Counter(names.values()).items():
        one, *others = (name for name, each in names.items() if each == own)
        for other in others if count > 1 else ():
            if not same_bits(checkpoint.tensors[one], checkpoint.tensors[other]):
                raise InvalidGraphError(
                    f"{one!r} and {other!r} are one tensor in the spec, and have different numbers "
                    "here. Derive the spec of the module with its weights untied."
                )


def _index_name(path: Path) -> str:
    """Return the name of an index of safetensors files, as that of an index of others was."""
    stem = path.name.removesuffix(".json").removesuffix(".index")
    if stem.endswith(".safetensors"):
        return path.name
    if not stem:
        raise DataFileError(f"{path} has no name; expected an index such as model.index.json.")
    return f"{PurePath(stem).stem}.safetensors.index.json"
