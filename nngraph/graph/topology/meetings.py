"""Where the rows and columns of weights meet: sets of neurons that are an axis of each of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nngraph.graph.topology.tables import Meeting, Meetings

#: Roles of an array at a set of neurons: its rows are tokens there, or its columns.
_ROWS, _COLUMNS = 0, 1


def meetings(
    blocks: np.ndarray, starts: np.ndarray, group_start: np.ndarray, group_size: np.ndarray
) -> Meetings:
    """Group sets of neurons by their size and by the arrays that have them as an axis.

    ``blocks`` are columns of a table in the order of edges, ``starts`` their first edges.
    """
    parts = blocks["parts"]
    part = np.concatenate([np.arange(count) for count in parts] or [np.zeros(0, dtype=np.int64)])
    each = np.repeat(np.arange(len(blocks)), parts)
    rows, columns = blocks["rows"][each], blocks["columns"][each]
    first_edge = starts[each] + part * rows * columns
    source = blocks["source"][each] + part * columns
    target = blocks["target"][each] + part * rows
    # One entry for each end of each array, and the sets that they and the groups name.
    ends = np.concatenate(
        [
            np.stack([source, columns, np.full_like(rows, _ROWS), rows, first_edge], axis=1),
            np.stack([target, rows, np.full_like(rows, _COLUMNS), columns, first_edge], axis=1),
        ]
    )
    groups = np.stack([group_start, group_size], axis=1)
    sets, index = np.unique(np.concatenate([groups, ends[:, :2]]), axis=0, return_inverse=True)
    index = index.reshape(-1)
    is_group = np.zeros(len(sets), dtype=np.int64)
    is_group[index[: len(groups)]] = 1
    owner = index[len(groups) :]
    order = np.lexsort((ends[:, 4], ends[:, 3], ends[:, 2], owner))
    ends, owner = ends[order], owner[order]
    count = np.bincount(owner, minlength=len(sets))
    place = np.arange(len(owner)) - (np.cumsum(count) - count)[owner]
    # What meets at each set, as one row of numbers: sets with equal rows are served together.
    kind = np.full((len(sets), 2 + 2 * int(count.max(initial=0))), -1)
    kind[:, 0], kind[:, 1] = sets[:, 1], is_group
    kind[owner, 2 + 2 * place], kind[owner, 3 + 2 * place] = ends[:, 2], ends[:, 3]
    edge = np.zeros((len(sets), int(count.max(initial=0))), dtype=np.int64)
    edge[owner, place] = ends[:, 4]
    distinct, first, which = np.unique(kind, axis=0, return_index=True, return_inverse=True)
    which = which.reshape(-1)
    made: list[Meeting] = []
    runs: dict[int, list[np.ndarray]] = {_ROWS: [], _COLUMNS: []}
    neurons: list[np.ndarray] = []
    for k in np.argsort(first):
        members = np.flatnonzero(which == k)
        size, whole = (int(value) for value in distinct[k, :2])
        tokens: dict[int, list[int]] = {_ROWS: [], _COLUMNS: []}
        for p, (role, n) in enumerate(distinct[k, 2:].reshape(-1, 2).tolist()):
            if role < 0:
                break
            tokens[role].append(n)
            runs[role].append((edge[members, p, None] + np.arange(n * size)).reshape(-1))
        if whole:
            neurons.append((sets[members, 0, None] + np.arange(size)).reshape(-1))
        made.append(
            Meeting(len(members), size, bool(whole), tuple(tokens[_ROWS]), tuple(tokens[_COLUMNS]))
        )
    return Meetings(tuple(made), _order(runs[_ROWS]), _order(runs[_COLUMNS]), _order(neurons))


def _order(runs: list[np.ndarray]) -> Tensor | None:
    """Join runs of indices; ``None`` if they count from 0 without a gap."""
    joined = np.concatenate(runs) if runs else np.zeros(0, dtype=np.int64)
    if (joined == np.arange(len(joined))).all():
        return None
    return torch.from_numpy(joined)
