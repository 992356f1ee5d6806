"""Independent parts of work on threads of one core each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")


def on_threads(
    run: Callable[[_Part], _Result], parts: Iterable[_Part], threads: int
) -> Iterator[_Result]:
    """Yield the results of parts in order, worked on by so many threads.

    Each thread has one core: tensors of a part are too small to share between cores. The caller's
    own number of threads is left as it is.
    """
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(max(1, threads), initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(run, parts)
    finally:
        pool.shutdown(cancel_futures=True)
        # The workers' call also set what torch gives to threads that are started later.
        torch.set_num_threads(before)
