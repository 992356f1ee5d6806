"""A zoo: a folder of shards of networks of one architecture, and what is known of each network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nngraph.errors import DataFileError, InvalidGraphError
from nngraph.graph import Architecture, NeuralGraphStack
from nngraph.graph.parameters import unpack
from nngraph.zoo.manifest import Manifest
from nngraph.zoo.shards import COLUMNS, read_columns, read_shard

__all__ = ["SPLITS", "Zoo"]

#: Names of the splits; a network's split is its index here.
SPLITS = ("train", "val", "test")


class Zoo:
    """A population of networks on disk; open one with :meth:`open`, make one with ``fit_zoo``.

    The facts about each network are in memory, its weights are read when they are asked for.

    Attributes:
        path: the folder.
        architecture: of all networks.
        class_names: name of each label.
        image_shape: ``(H, W, C)`` of the images that the networks were fitted to.
        labels: ``[B]`` int64, class of each network.
        image: ``[B]`` int64, number of its image in the source.
        view: ``[B]`` int64, which of the independent fits of its image it is, from 0.
        split: ``[B]`` int64, index into ``SPLITS``. All fits of an image are in one split.
        psnr: ``[B]`` float32, in dB over the whole image.

    Example:
        >>> zoo = Zoo.open("zoos/digits")  # doctest: +SKIP
        >>> zoo.stack("train")  # doctest: +SKIP
        NeuralGraphStack(5748 x 2-32-32-1 sine(w0=10), torch.float32)
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self.architecture: Architecture = manifest.architecture
        self.class_names = manifest.class_names
        self.image_shape = manifest.image_shape
        self._done = [shard for shard in manifest.shards if shard.done]
        columns = [
            read_columns(path / shard.file, self.architecture, shard.count) for shard in self._done
        ]
        for shard, column in zip(self._done, columns, strict=True):
            _check_columns(path / shard.file, column, len(self.class_names))
        joined = {
            name: torch.cat([column[name] for column in columns] or [torch.empty(0, dtype=dtype)])
            for name, dtype in COLUMNS.items()
        }
        self.labels = joined["network.label"]
        self.image = joined["network.image"]
        self.view = joined["network.view"]
        self.split = joined["network.split"]
        self.psnr = joined["network.psnr"]

    @classmethod
    def open(cls, path: str | Path, partial: bool = False) -> Zoo:
        """Open a zoo: read its manifest and the facts about each network.

        Every shard's length, header and columns are checked here; its checksum when its weights
        are read, or by :meth:`verify`.

        Args:
            path: the folder.
            partial: whether a zoo with unfinished shards is opened, with the networks it has.

        Raises:
            DataFileError: naming the file, if one is missing, damaged or not of this zoo, or if the
                zoo is not finished.
        """
        path = Path(path)
        manifest = Manifest.read(path)
        missing = sum(not shard.done for shard in manifest.shards)
        if missing and not partial:
            raise DataFileError(
                f"{path} is not finished: {missing} of {len(manifest.shards)} shards are missing. "
                "Run the same fit again to continue it, or pass partial=True."
            )
        return cls(path, manifest)

    @property
    def complete(self) -> bool:
        """Whether every shard is finished."""
        return len(self._done) == len(self.manifest.shards)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        state = "" if self.complete else ", not finished"
        return f"Zoo({len(self)} x {self.architecture}, {self.num_classes} classes{state})"

    def indices(self, split: str | None = None) -> Tensor:
        """Return the numbers of the networks of a split (``None``: of all), ascending.

        Raises:
            InvalidGraphError: if there is no such split.
        """
        if split is None:
            return torch.arange(len(self))
        if split not in SPLITS:
            raise InvalidGraphError(f"split is {split!r}; expected one of {', '.join(SPLITS)}.")
        return torch.nonzero(self.split == SPLITS.index(split)).squeeze(1)

    def stack(self, networks: str | Tensor | None = None) -> NeuralGraphStack:
        """Read the weights of some networks, stacked, with their labels as ``y``.

        Args:
            networks: a split's name, the networks' numbers ``[n]`` in any order, or ``None`` for
                all.

        Raises:
            DataFileError: if a shard is damaged; its checksum is held against the manifest's.
            InvalidGraphError: if there is no such split, or a number is out of range.
        """
        chosen = self._chosen(networks)
        architecture = self.architecture
        shape = (len(chosen), architecture.num_nodes, len(architecture.column_names))
        x = torch.zeros(shape, dtype=torch.float32)
        edge_attr = torch.empty(len(chosen), architecture.num_edges, 1, dtype=torch.float32)
        # Views into the stack: each number is copied once, from its shard to its place.
        places = unpack(architecture, x, edge_attr)
        start = 0
        for shard in self._done:
            here = (chosen >= start) & (chosen < start + shard.count)
            if bool(here.any()):
                rows = chosen[here] - start
                held = read_shard(
                    self.path / shard.file, architecture, shard.count, shard.sha256 or ""
                )
                for name, place in places.items():
                    place[here] = held[name][rows]
            start += shard.count
        return NeuralGraphStack(architecture, x, edge_attr, self.labels[chosen])

    def _chosen(self, networks: str | Tensor | None) -> Tensor:
        if networks is None or isinstance(networks, str):
            return self.indices(networks)
        if networks.dim() != 1 or networks.dtype not in (torch.int64, torch.int32):
            raise InvalidGraphError(
                f"networks are {networks.dtype} of shape {tuple(networks.shape)}; expected their "
                "numbers, an integer tensor of one dimension."
            )
        if len(networks):
            low, high = int(networks.min()), int(networks.max())
            if low < 0 or high >= len(self):
                raise InvalidGraphError(
                    f"networks range from {low} to {high}; expected 0 to {len(self) - 1}."
                )
        return networks.to(torch.int64).cpu()

    def verify(self) -> None:
        """Read everything: checksums, finite weights, and no image in two splits.

        Raises:
            DataFileError: naming the file, at the first thing that is wrong.
        """
        for shard in self._done:
            path = self.path / shard.file
            held = read_shard(path, self.architecture, shard.count, shard.sha256 or "")
            for name, value in held.items():
                if value.dtype.is_floating_point and not bool(torch.isfinite(value).all()):
                    raise DataFileError(f"{path}: tensor {name!r} has NaN or infinite entries.")
        pairs = torch.unique(torch.stack([self.image, self.split]), dim=1)
        if pairs.shape[1] != len(torch.unique(self.image)):
            raise DataFileError(f"{self.path}: fits of one image are in different splits.")

    def info(self) -> dict[str, Any]:
        """Return what there is to know, as plain values: sizes, splits, classes, PSNR in dB."""
        some = len(self) > 0
        return {
            "networks": len(self),
            "complete": self.complete,
            "shards": len(self.manifest.shards),
            "shards_done": len(self._done),
            "architecture": str(self.architecture),
            "parameters_per_network": sum(p.numel for p in self.architecture.parameters),
            "image_shape": list(self.image_shape),
            "images": len(torch.unique(self.image)),
            "views": int(self.view.max()) + 1 if some else 0,
            "splits": {name: int((self.split == index).sum()) for index, name in enumerate(SPLITS)},
            "classes": {
                name: int((self.labels == index).sum())
                for index, name in enumerate(self.class_names)
            },
            "psnr_db": {
                "mean": float(self.psnr.mean()),
                "min": float(self.psnr.min()),
                "max": float(self.psnr.max()),
            }
            if some
            else None,
            "bytes": sum((self.path / shard.file).stat().st_size for shard in self._done),
            "recipe": self.manifest.recipe,
        }


def _check_columns(path: Path, columns: dict[str, Tensor], classes: int) -> None:
    limits = {"network.label": classes, "network.split": len(SPLITS)}
    for name, value in columns.items():
        if not value.dtype.is_floating_point:
            low, high = int(value.min()), int(value.max())
            limit = limits.get(name, 2**62)
            if low < 0 or high >= limit:
                raise DataFileError(
                    f"{path}: {name} ranges from {low} to {high}; expected 0 to {limit - 1}. "
                    "The file is damaged."
                )
