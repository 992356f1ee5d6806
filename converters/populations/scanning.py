"""A first look at all networks, and their parameters by the names of their architectures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from converters.checkpoints import Checkpoint, Value, fitted, to_torch_order
from converters.populations.architectures import Architectures
from converters.populations.networks import ForeignNetworks, WholeNetwork
from converters.populations.precisions import converted, dtypes_of, widest
from converters.state_dicts import under_first_names
from nngraph.errors import DataFileError, NNGraphError, UnsupportedModuleError
from nngraph.graph import Architecture, check_parameters
from nngraph.settings import ImportSettings

#: Of more files that cannot be read the first are listed.
_SHOWN = 100


class Scan:
    """Architectures and precisions of the networks that were looked at, and what their files say.

    Attributes:
        kinds: index of the architecture of each.
        dtypes: found among the weights.
    """

    def __init__(
        self, source: Path, networks: ForeignNetworks, finder: Architectures,
        settings: ImportSettings,
    ) -> None:  # fmt: skip
        self.source, self.networks, self.finder = source, networks, finder
        self.turned, self.strict = settings.order == "in-out", settings.unreadable == "refuse"
        self.kinds: list[int] = []
        self.dtypes: set[torch.dtype] = set()
        self._known: list[Mapping[str, Value]] = []
        self._found: dict[Architecture, int] = {}
        self._aside: Counter[str] = Counter()
        self._stacked: dict[str, Tensor] = {}
        self._unreadable: dict[str, str] = {}

    @property
    def architectures(self) -> tuple[Architecture, ...]:
        """Those of the networks, each once."""
        return tuple(self._found)

    def look(self, number: int, row: Mapping[str, Value]) -> bool:
        """Find the architecture of a network, and hold its tensors against it.

        Returns:
            whether it can be read; what cannot is left out only where the settings say so.

        Raises:
            NNGraphError: naming the file.
        """
        networks = self.networks
        known = {name: column[number] for name, column in networks.columns.items()} | {**row}
        if self._stacked:  # all are as the first
            self.kinds.append(0)
            self._known.append(known)
            return True
        try:
            checkpoint, found = self._read(number)
        except (DataFileError, UnsupportedModuleError) as error:
            if self.strict:
                raise
            self._unreadable[networks.names[number]] = str(error)
            return False
        self._known.append({**checkpoint.facts, **known})
        self._aside.update(checkpoint.aside)
        with self._named(number):
            values = self._tensors(checkpoint)
            if found is None:
                found = self.finder.of(networks.names[number], values, self._known[-1])
            named = fitted(values, found).tensors
            self.dtypes |= dtypes_of(named)
            same = converted(under_first_names(found, named), widest(dtypes_of(named)))
            check_parameters(found, same, ())
            if networks.stacked is not None:
                before = {id(value): name for name, value in values.items()}
                held = self._in_order(networks.stacked, 1)
                stacked = {name: held[before[id(value)]] for name, value in named.items()}
                self._stacked = under_first_names(found, stacked)
        self.kinds.append(self._found.setdefault(found, len(self._found)))
        return True

    def _read(self, number: int) -> tuple[Checkpoint, Architecture | None]:
        """Return what a file holds, and its own architecture if that counts."""
        checkpoint = self.networks.read(number)
        if not isinstance(checkpoint, WholeNetwork):
            return checkpoint, None
        with self._named(number):
            return checkpoint, self.finder.of_file(self.networks.names[number], checkpoint.module)

    @contextmanager
    def _named(self, number: int) -> Iterator[None]:
        """Say of which file an error is."""
        try:
            yield
        except NNGraphError as error:
            paths, name = self.networks.paths, self.networks.names[number]
            raise type(error)(f"{self.source / name if paths else self.source}: {error}") from None

    def _tensors(self, checkpoint: Checkpoint) -> Mapping[str, Tensor]:
        whole = isinstance(checkpoint, WholeNetwork)  # says itself how its weights lie
        return checkpoint.tensors if whole else self._in_order(checkpoint.tensors)

    def _in_order(self, values: Mapping[str, Tensor], lead: int = 0) -> Mapping[str, Tensor]:
        if not self.turned:
            return values
        return {k: to_torch_order(v, lead) if v.dim() > lead + 1 else v for k, v in values.items()}

    def parameters(self, own: Architecture, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Return the parameters of networks of one architecture, ``[n, *shape]``."""
        if self._stacked:
            rows = torch.tensor(numbers)
            return {name: value[rows] for name, value in self._stacked.items()}
        wide, held = widest(self.dtypes), []
        for number in numbers:
            values = fitted(self._tensors(self.networks.read(number)), own).tensors
            held.append(converted(under_first_names(own, values), wide))
        return {name: torch.stack([values[name] for values in held]) for name in held[0]}

    def columns(self) -> dict[str, list[Value]]:
        """Return what is known of the networks, by column."""
        names = dict.fromkeys(name for known in self._known for name in known)
        return {name: [known.get(name) for known in self._known] for name in names}

    def notes(self) -> tuple[str, ...]:
        """Return notes on files that cannot be read, and tensors that are no weights."""
        lost = [f"{name}: {why:.300}" for name, why in self._unreadable.items()]
        if lost:
            lost = [f"{len(lost)} files that cannot be read are left out:", *lost[:_SHOWN]]
        names = [f"{count} under {key!r:.60}" for key, count in self._aside.most_common(5)]
        total = sum(self._aside.values())
        aside = [f"{total} tensors beside the weights: {', '.join(names)}"] if total else []
        return (*lost, *aside)
