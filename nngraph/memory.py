"""What the process does with memory that it frees."""

from __future__ import annotations

import ctypes

#: Parameters of ``mallopt``, from ``malloc.h``.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4


def keep_memory(keep: bool = True) -> bool:
    """Have the process keep what it frees, for what it allocates next; return whether it can.

    By default the C library fetches a large array from the system page by page, and gives it back,
    at each call or at none, as it happens: up to half of the time of a training step. With
    ``keep=False`` it is at each call, and the process is no larger than what it holds. It holds
    for the whole process, with the GNU C library; with another, as on macOS and Windows, nothing
    changes.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = (
        (_MMAP_MAX, 0 if keep else 2**16),  # arrays outside the heap
        (_MMAP_THRESHOLD, 2**20),  # how large they are at the least
        (_TRIM_THRESHOLD, -1 if keep else 2**20),  # when the heap is given back
    )
    return all(mallopt(*setting) for setting in settings)
