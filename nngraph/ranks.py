"""The processes that make one zoo together, when ``torchrun`` started several."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from nngraph.errors import DataFileError

_Result = TypeVar("_Result")
#: How long a rank waits for the others: the slowest shard of another rank may take long.
_PATIENCE = timedelta(days=2)


@dataclass(frozen=True)
class Ranks:
    """This process among those that work together: number ``rank`` of ``world``."""

    rank: int = 0
    world: int = 1

    @classmethod
    def of_environment(cls) -> Ranks:
        """Return the place that ``torchrun`` gave this process; alone if it did not start it."""
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        return cls(rank, world)

    @property
    def leads(self) -> bool:
        """Whether this process writes what there is one of."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Return which of ``count`` things are this process's: every ``world``-th."""
        return range(self.rank, count, self.world)

    def first_alone(self, function: Callable[[], _Result]) -> _Result:
        """Run a function in rank 0 and return its result, which can be pickled, in every rank.

        Raises:
            DataFileError: in every rank, if it raised an error in rank 0; that raises its own.
        """
        if self.world == 1:
            return function()
        told: list[Any] = [None, None]
        error: Exception | None = None
        if self.leads:
            try:
                told[0] = function()
            except Exception as caught:
                error = caught
                told[1] = str(caught)
        dist.broadcast_object_list(told, src=0, group=self._group())
        if error is not None:
            raise error
        if told[1] is not None:
            raise DataFileError(f"rank 0 gave up: {told[1]}")
        result: _Result = told[0]
        return result

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.world > 1:
            dist.barrier(group=self._group())

    def _group(self) -> Any:
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=_PATIENCE)
            # Once, and until the end: the addresses of a group stay in torchrun's store, so that
            # a second one may meet those of the first. Left to the end of Python, its threads can
            # abort the process.
            atexit.register(_disconnect)
        if dist.get_backend() == "gloo":
            return dist.group.WORLD
        # Of a program that computes on GPUs; objects are told over the CPU.
        return dist.new_group(backend="gloo", timeout=_PATIENCE)


def _disconnect() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
