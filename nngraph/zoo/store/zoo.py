"""A zoo: a folder of shards of networks, and what is known of each network."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nngraph.errors import DataFileError, InvalidGraphError
from nngraph.graph import Architecture, NeuralGraph, NeuralGraphStack
from nngraph.zoo.store.facts import SPLITS, describe
from nngraph.zoo.store.frames import frame_of
from nngraph.zoo.store.manifest import Manifest
from nngraph.zoo.store.shards import Shard, map_shard, read_facts, verify_digest
from nngraph.zoo.store.writing import layout_of, with_receipts


class Zoo:
    """A population of networks on disk; open one with :meth:`Zoo.open`, make one with ``fit_zoo``.

    The facts about each network are in memory. Weights are read by mapping shards into memory: a
    shard is held against its checksum when it is first touched, and then read in parts.

    Attributes:
        path: the folder.
        manifest: everything about the zoo but its numbers.
        facts: what is known of each network, ``[B]`` by name; see ``manifest.facts``.
        architecture_index: ``[B]`` int64, index of each network's architecture into
            ``architectures``.
        origin_index: ``[B]`` int64, index of how each network was made into ``manifest.origins``.

    Example:
        >>> zoo = Zoo.open("zoos/digits")  # doctest: +SKIP
        >>> zoo.stack("train")  # doctest: +SKIP
        NeuralGraphStack(5748 x 2-32-32-1 sine(w0=10), torch.float32)
    """

    def __init__(self, path: Path, manifest: Manifest, verify_on_read: bool = True) -> None:
        self.path = path
        self.manifest = manifest
        self.verify_on_read = verify_on_read
        self._done = [shard for shard in manifest.shards if shard.done]
        self._starts = list(accumulate((shard.count for shard in self._done), initial=0))
        columns = [read_facts(path / s.file, layout_of(manifest, s), s) for s in self._done]
        self.facts: dict[str, Tensor] = {
            fact.name: torch.cat(
                [torch.empty(0, dtype=fact.torch_dtype), *(each[fact.name] for each in columns)]
            )
            for fact in manifest.facts
        }
        self.architecture_index = self._per_network([s.architecture for s in self._done])
        self.origin_index = self._per_network([s.origin for s in self._done])
        self._mapped: dict[int, Mapping[str, Tensor]] = {}

    @classmethod
    def open(cls, path: str | Path, partial: bool = False, verify_on_read: bool = True) -> Zoo:
        """Open a zoo: read its manifest and the facts about each network.

        Every shard's length and header and the checksum of its facts are checked here; the checksum
        of the whole when its weights are first read, or by :meth:`verify`.

        Args:
            path: the folder.
            partial: whether a zoo with unfinished shards is opened, with the networks it has.
            verify_on_read: whether a shard is held against its checksum when it is first read,
                which reads all of it once.

        Raises:
            DataFileError: if a file is missing, damaged or not of this zoo, or it is not finished.
        """
        path = Path(path)
        manifest = with_receipts(path, Manifest.read(path))
        missing = sum(not shard.done for shard in manifest.shards)
        if missing and not partial:
            raise DataFileError(
                f"{path} is not finished: {missing} of {len(manifest.shards)} shards are missing. "
                "Run the same command again to continue it, or pass partial=True."
            )
        return cls(path, manifest, verify_on_read)

    # -- what there is ----------------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        """Whether every shard is finished."""
        return len(self._done) == len(self.manifest.shards)

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The finished shards."""
        return tuple(self._done)

    @property
    def architectures(self) -> tuple[Architecture, ...]:
        """The architectures of the networks, each once."""
        return self.manifest.architectures

    @property
    def architecture(self) -> Architecture:
        """The one architecture of all networks; an InvalidGraphError if there are several."""
        if len(self.architectures) != 1:
            raise InvalidGraphError(
                f"the networks of {self.path} have {len(self.architectures)} architectures; ask "
                "for zoo.architectures, or keep one with 'nngraph zoo filter'."
            )
        return self.architectures[0]

    def fact(self, name: str) -> Tensor:
        """Return a fact about each network, ``[B]``; an InvalidGraphError if there is none."""
        self.manifest.fact(name)
        return self.facts[name]

    def frame(self) -> Any:
        """Return the facts as a pandas ``DataFrame``, one row a network, in the order of the zoo.

        Names are categories, missing where they are not known; ``architecture`` is the index.

        Raises:
            MissingDependencyError: if pandas is not installed.

        Example:
            >>> frame = zoo.frame()  # doctest: +SKIP
            >>> zoo.stacks(torch.tensor(frame.query("depth > 2").index))  # doctest: +SKIP
        """
        return frame_of(self.manifest.facts, self.facts, self.architecture_index)

    @property
    def target(self) -> Tensor:
        """What models are to tell of each network, ``[B]``."""
        return self.facts[self.manifest.target]

    @property
    def labels(self) -> Tensor:
        """``[B]`` int64, class of each network."""
        return self.fact("label")

    @property
    def image(self) -> Tensor:
        """``[B]`` int64, number of each network's image in the source."""
        return self.fact("image")

    @property
    def view(self) -> Tensor:
        """``[B]`` int64, which of the fits of its image a network is, from 0."""
        return self.fact("view")

    @property
    def split(self) -> Tensor:
        """``[B]`` int64, index into ``SPLITS``. All networks of a group are in one split."""
        return self.facts["split"]

    @property
    def psnr(self) -> Tensor:
        """``[B]`` float32, in dB over the whole image."""
        return self.fact("psnr")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each label; none if the networks have no labels."""
        return next((fact.values for fact in self.manifest.facts if fact.name == "label"), ())

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(H, W, C)`` of the images that all were fitted to; an InvalidGraphError without one."""
        shapes = {origin.image_shape for origin in self.manifest.origins}
        shape = next(iter(shapes), None)
        if len(shapes) != 1 or shape is None:
            raise InvalidGraphError(
                f"the networks of {self.path} have not one image shape but "
                f"{', '.join(map(str, shapes)) or 'none'}."
            )
        return shape

    def __len__(self) -> int:
        return self._starts[-1]

    def __repr__(self) -> str:
        state = "" if self.complete else ", not finished"
        many = len(self.architectures)
        what = str(self.architecture) if many == 1 else f"networks of {many} architectures"
        classes = f", {self.num_classes} classes" if self.num_classes else ""
        return f"Zoo({len(self)} x {what}{classes}{state})"

    def __getstate__(self) -> dict[str, Any]:
        # Without the mapped shards: another process maps them itself.
        return {**self.__dict__, "_mapped": {}}

    def indices(self, split: str | None = None) -> Tensor:
        """Return a split's networks (``None``: all) by number; an InvalidGraphError if unknown."""
        if split is None:
            return torch.arange(len(self))
        if split not in SPLITS:
            raise InvalidGraphError(f"split is {split!r}; expected one of {', '.join(SPLITS)}.")
        return torch.nonzero(self.split == SPLITS.index(split)).squeeze(1)

    def group_keys(self) -> Tensor:
        """Return a number for each network, ``[B]``, equal exactly within a group of a source."""
        sources = [origin.source for origin in self.manifest.origins]
        source = torch.tensor([sources.index(name) for name in sources], dtype=torch.int64)
        pairs = torch.stack([source[self.origin_index], self.facts[self.manifest.group]])
        keys: Tensor = torch.unique(pairs, dim=1, return_inverse=True)[1]
        return keys

    # -- weights ----------------------------------------------------------------------------------

    def network(self, number: int) -> NeuralGraph:
        """Read one network, in tens of microseconds once its shard is mapped.

        The graph has ``y`` ``[1]``, the target, and ``network`` ``[1]``, its number. Its parameters
        are views of the mapped file: change a copy of them, not them.

        Raises:
            DataFileError: if its shard is damaged.
            InvalidGraphError: if there is no such network.
        """
        if not 0 <= number < len(self):
            raise InvalidGraphError(
                f"network {number} is asked for; expected 0 to {len(self) - 1}."
            )
        index = bisect_right(self._starts, number) - 1
        row = number - self._starts[index]
        shard = self._done[index]
        architecture = self.architectures[shard.architecture]
        held = self.mapped(index)
        return NeuralGraph.from_parameters(
            architecture,
            {p.name: held[p.name][row] for p in architecture.parameters},
            y=self.target[number : number + 1],
            network=torch.tensor([number]),
        )

    def mapped(self, index: int) -> Mapping[str, Tensor]:
        """Return the tensors of finished shard ``index``, checked and mapped into memory."""
        if (held := self._mapped.get(index)) is None:
            shard = self._done[index]
            path = self.path / shard.file
            held = map_shard(path, layout_of(self.manifest, shard), shard.count)
            if self.verify_on_read:
                verify_digest(path, shard.sha256 or "")
            self._mapped[index] = held
        return held

    def stack(self, networks: str | Tensor | None = None) -> NeuralGraphStack:
        """Read the weights of some networks, stacked, with the target as ``y``.

        ``networks`` are a split's name, numbers ``[n]`` in any order, or ``None`` for all.

        Raises:
            DataFileError: if a shard is damaged; its checksum is held against the manifest's.
            InvalidGraphError: if there is no such split, a number is out of range, or the networks
                have several architectures; see :meth:`stacks` for those.
        """
        chosen = self.chosen(networks)
        kinds = torch.unique(self.architecture_index[chosen]).tolist()
        if len(kinds) > 1:
            raise InvalidGraphError(
                f"the networks have {len(kinds)} architectures, and stack only one by one; "
                "ask for zoo.stacks."
            )
        return self._stack(kinds[0] if kinds else 0, chosen)

    def stacks(self, networks: str | Tensor | None = None) -> list[tuple[Tensor, NeuralGraphStack]]:
        """Read some networks as :meth:`stack` does: their numbers and stack by architecture."""
        chosen = self.chosen(networks)
        kinds = self.architecture_index[chosen]
        parts = [(kind, chosen[kinds == kind]) for kind in torch.unique(kinds).tolist()]
        return [(numbers, self._stack(kind, numbers)) for kind, numbers in parts]

    def _stack(self, kind: int, chosen: Tensor) -> NeuralGraphStack:
        architecture = self.architectures[kind]
        parameters = self.parameters(kind, chosen)
        return NeuralGraphStack.from_parameters(architecture, parameters, self.target[chosen])

    def parameters(self, kind: int, chosen: Tensor) -> dict[str, Tensor]:
        """Return the parameters of networks of architecture ``kind``, each ``[n, *shape]``.

        ``chosen`` are their numbers, in any order; a DataFileError names a damaged shard.
        """
        entries = layout_of(self.manifest, Shard("", 1, kind)).entries
        values = {
            p.name: torch.empty(len(chosen), *p.shape, dtype=entries[p.name][0])
            for p in self.architectures[kind].parameters
        }
        shard_of = torch.bucketize(chosen, torch.tensor(self._starts[1:]), right=True)
        for index in torch.unique(shard_of).tolist():
            here = torch.nonzero(shard_of == index).squeeze(1)
            rows = chosen[here] - self._starts[index]
            held = self.mapped(index)
            for name, value in values.items():
                value[here] = held[name][rows]
        return values

    def chosen(self, networks: str | Tensor | None) -> Tensor:
        """Return the numbers of networks that a split's name, numbers or ``None`` stand for."""
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

    def _per_network(self, per_shard: list[int]) -> Tensor:
        counts = torch.tensor([shard.count for shard in self._done], dtype=torch.int64)
        return torch.tensor(per_shard, dtype=torch.int64).repeat_interleave(counts)

    # -- the whole --------------------------------------------------------------------------------

    def verify(self) -> None:
        """Read everything, and raise a DataFileError of the first that is wrong.

        Checksums, finite weights, no group in two splits; :func:`find_problems` names all.
        """
        for problem in self.problems():
            raise DataFileError(problem)

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the finished shards, one sentence each."""
        digests: dict[str | None, str] = {}
        for shard in self._done:
            path, layout = self.path / shard.file, layout_of(self.manifest, shard)
            if shard.sha256 in digests:
                yield f"{path} holds the same networks as {digests[shard.sha256]}."
            digests[shard.sha256] = shard.file
            try:
                verify_digest(path, shard.sha256 or "")
                held = map_shard(path, layout, shard.count)
            except DataFileError as error:
                yield str(error)
                continue
            for parameter in layout.architecture.parameters:
                if parameter.integer:
                    continue
                # A sum of finite numbers may overflow; the smallest and the largest do not.
                low, high = held[parameter.name].aminmax()
                if not bool(torch.isfinite(low)) or not bool(torch.isfinite(high)):
                    yield f"{path}: tensor {parameter.name!r} has NaN or infinite entries."
        keys = self.group_keys()
        pairs = torch.unique(torch.stack([keys, self.split]), dim=1)
        if pairs.shape[1] != len(torch.unique(keys)):
            yield (
                f"{self.path}: networks of one group (fact {self.manifest.group!r}) are in "
                "different splits."
            )

    def info(self) -> dict[str, Any]:
        """Return what there is to know, as plain values: sizes, splits, facts, how it was made."""
        manifest = self.manifest
        return {
            "networks": len(self),
            "complete": self.complete,
            "shards": len(manifest.shards),
            "shards_done": len(self.shards),
            "architectures": [
                {
                    "architecture": str(architecture),
                    "networks": int((self.architecture_index == kind).sum()),
                    "parameters": sum(p.numel for p in architecture.parameters),
                }
                for kind, architecture in enumerate(self.architectures)
            ],
            "groups": len(torch.unique(self.group_keys())),
            "group": manifest.group,
            "target": manifest.target,
            "splits": {name: int((self.split == index).sum()) for index, name in enumerate(SPLITS)},
            "facts": {
                fact.name: describe(fact, self.facts[fact.name])
                for fact in manifest.facts
                if fact.name != "split"
            },
            "bytes": sum((self.path / shard.file).stat().st_size for shard in self.shards),
            "origins": [origin.to_plain() for origin in manifest.origins],
            "history": list(manifest.history),
        }


def find_problems(path: str | Path) -> list[str]:
    """Return everything that is wrong with the zoo in a folder, one sentence each; nothing is fine.

    Damaged shards are all named, and do not keep the others from being read. Shards that are not
    made yet are no problem. A damaged manifest ends the search.

    Raises:
        DataFileError: if the manifest cannot be read.
    """
    path = Path(path)
    manifest = with_receipts(path, Manifest.read(path))
    found: list[str] = []
    whole = []
    for shard in manifest.shards:
        if shard.done:
            try:
                read_facts(path / shard.file, layout_of(manifest, shard), shard)
                whole.append(shard)
            except DataFileError as error:
                found.append(str(error))
    found += Zoo(path, replace(manifest, shards=tuple(whole))).problems()
    known = {shard.file for shard in manifest.shards}
    strangers = [f for f in sorted(path.glob("shard-*.safetensors")) if f.name not in known]
    return found + [f"{f} is not in the manifest; it is not part of the zoo." for f in strangers]
