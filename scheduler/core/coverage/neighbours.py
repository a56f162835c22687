"""GPU lots of one account on one node: sold one by one, and worth more together, since a worker needs its GPUs on one
node. What trades GPUs between nodes must leave every account, now and at every instant ahead, room for as many workers
of every size as it had.

For sizes that divide each other, how many workers of each size fit is all that decides which gangs do; so who could run
something before a trade can after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.coverage.columns import Columns


class Neighbours:
    """Who holds how many GPUs of a node, and when, by GPU lots. `account_of_position` is the account's index."""

    def __init__(self, fleet: Fleet, columns: Columns, at_ms: int, account_of_position: Mapping[str, int]) -> None:
        self._fleet = fleet
        rows = np.flatnonzero((columns.level == Level.GPU) & (columns.end_ms > at_ms))
        self._gpu = columns.cell[rows]
        node = fleet.node_of_gpu[self._gpu]
        by_node = np.argsort(node, kind="stable")
        self._gpu = self._gpu[by_node]
        self._first = np.searchsorted(node[by_node], np.arange(len(fleet.nodes) + 1))
        self._start_ms = np.maximum(columns.start_ms[rows][by_node], at_ms)
        self._end_ms = columns.end_ms[rows][by_node]
        names = (columns.holdings[row].position for row in rows[by_node].tolist())
        self._account = np.array([account_of_position[name] for name in names], dtype=np.int64)

    def keep_room(self, left: Sequence[int], right: Sequence[int]) -> bool:
        """Whether nobody loses room where these GPUs trade places one by one: those on the left are of one node, those
        on the right of another, and only GPU lots lie on either node.
        """
        nodes = [int(self._fleet.node_of_gpu[gpus[0]]) for gpus in (left, right)]
        rows = np.concatenate([np.arange(self._first[node], self._first[node + 1]) for node in nodes])
        gpu, start_ms, end_ms = self._gpu[rows], self._start_ms[rows], self._end_ms[rows]
        on_right = self._fleet.node_of_gpu[gpu] == nodes[1]
        trades = np.isin(gpu, [*left, *right])
        instants = np.unique(start_ms)
        there = (start_ms[:, None] <= instants) & (instants < end_ms[:, None])
        sizes = np.arange(1, 1 + max(self._fleet.nodes[node].gpus for node in nodes))
        for account in np.unique(self._account[rows[trades]]).tolist():
            mine = there & (self._account[rows] == account)[:, None]
            if (_slots(mine, on_right ^ trades, sizes) < _slots(mine, on_right, sizes)).any():
                return False
        return True


def _slots(mine: np.ndarray, on_right: np.ndarray, sizes: IntArray) -> IntArray:
    """(n_instants, n_sizes): workers of each size that fit the account's GPUs on two nodes; `mine` is (n_rows,
    n_instants).
    """
    of_nodes = [(mine & on_right[:, None]).sum(axis=0), (mine & ~on_right[:, None]).sum(axis=0)]
    slots: IntArray = sum((count[:, None] // sizes for count in of_nodes), np.zeros((1, 1), dtype=np.int64))
    return slots
