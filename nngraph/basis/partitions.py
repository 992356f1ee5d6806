"""Set partitions with a bounded number of classes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache


def set_partitions(items: int, most: int) -> Iterator[tuple[int, ...]]:
    """All partitions of ``range(items)`` into at most ``most`` classes, each exactly once.

    A partition is its restricted growth string: entry i is the class of item i, and classes are
    numbered in order of first occurrence. Indices of a space of size d take at most d different
    values, so partitions into more than d classes describe no index at all.
    """

    def extend(prefix: tuple[int, ...], classes: int) -> Iterator[tuple[int, ...]]:
        if len(prefix) == items:
            yield prefix
            return
        for label in range(min(classes + 1, most)):
            yield from extend((*prefix, label), max(classes, label + 1))

    return extend((), 0)


@cache
def _stirling(items: int, classes: int) -> int:
    if items == classes:
        return 1
    if classes == 0 or classes > items:
        return 0
    return classes * _stirling(items - 1, classes) + _stirling(items - 1, classes - 1)


def count_partitions(items: int, most: int) -> int:
    r""":math:`\sum_{k \le most} S(items, k)` in closed form; the Bell number if ``most >= items``.

    S are the Stirling numbers of the second kind: S(n, k) = k S(n-1, k) + S(n-1, k-1).
    """
    return sum(_stirling(items, classes) for classes in range(min(items, most) + 1))
