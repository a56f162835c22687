"""Coverage follows work: swaps of names, so that an account's lots lie where its work already runs. Nobody is evicted.

An account holds a cell that none of its work uses, while its work runs on an equal cell that covers somebody else who
does not use it, or nobody. Swapping the two turns borrowing into use of its own: whole blocks, domains and nodes, then
GPUs inside a node, then GPUs of two nodes. Laws: each swap raises the number of GPUs that their own owners occupy; no
account's own use falls; each GPU trades at most once in a call; ties by account, then by number; a cell with an
unusable GPU never trades, or one owner's shortfall would become another's; GPUs leave a node only where nobody loses
room for workers by it (`neighbours`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.coverage.columns import Columns, Holdings, columns_of
from scheduler.core.coverage.neighbours import Neighbours
from scheduler.core.coverage.ownership import owner_at, tied_cells
from scheduler.core.coverage.topology import Topology, topology_of

WHOLE_CELLS = (Level.FABRIC_BLOCK, Level.NVLINK_DOMAIN, Level.NODE)
"""Largest first: what a large cell brings home needs no small ones."""
NODES_TRIED, PAIRS_TRIED = 8, 256
"""So many nodes of its own are tried for each one on which an account borrows, and so many pairs of nodes in a call."""

Swap = tuple[Level, int, int]
Accounts = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]


class _Gain(NamedTuple):
    """One swap and what it gains. Sorts best first."""

    minus_gpus: int
    account: int
    left: int
    right: int


def follow_work(
    fleet: Fleet,
    holdings: Holdings,
    at_ms: int,
    account_of_position: Mapping[str, int],
    busy_account: Accounts,
    *,
    fixed: BoolArray | None = None,
    owner: tuple[Accounts, IntArray] | None = None,
    usable: BoolArray | None = None,
) -> tuple[Swap, ...]:
    """The swaps, in the order in which `swap_cells` may apply them at `at_ms`; left covers no one's use, right is the
    account's idle one.

    `account_of_position` is the account's index. `busy_account` (n_gpus) int32: the account whose work occupies each
    GPU, -1 none. `fixed` (n_gpus) bool: GPUs whose occupant cannot be preempted; their cells trade only where every
    window that ends next is equal on both. `owner`: (account, until_ms) of every GPU where the caller has them already,
    as `owner_at` gives them. `usable` (n_gpus) bool: GPUs that are well and not being drained (None: all are).
    """
    account, until_ms = owner_at(fleet, holdings, at_ms, account_of_position) if owner is None else owner
    # Nothing to do, found in a few operations: nobody borrows, or no borrower has a covered GPU to spare.
    borrowed = (busy_account >= 0) & (busy_account != account)
    borrowers = np.unique(busy_account[borrowed])
    spare = (account >= 0) & (busy_account != account)
    if not len(borrowers) or not np.isin(account[spare], borrowers).any():
        return ()
    still = ~np.ones(fleet.n_gpus, dtype=np.bool_) if usable is None else ~usable
    topology, columns = topology_of(fleet), columns_of(holdings)
    facts = _Facts(fleet, topology, columns, at_ms, account, busy_account, until_ms, fixed, still)
    swaps = [swap for level in WHOLE_CELLS for swap in _cell_swaps(facts, level, borrowers)]
    borrowed &= np.isin(busy_account, account[spare])
    singles = _singles(facts, borrowed)
    if singles is None:
        return tuple(swaps)
    swaps += _swaps_inside_nodes(facts, singles)
    return (*swaps, *_swaps_between_nodes(facts, singles, account_of_position))


class _Facts(NamedTuple):
    """All that is asked about; arrays are (n_gpus)."""

    fleet: Fleet
    topology: Topology
    columns: Columns
    at_ms: int
    account: Accounts
    busy: Accounts
    until_ms: IntArray
    fixed: BoolArray | None
    still: BoolArray
    """What does not trade: GPUs that are not usable, and those that have traded in this call."""

    def in_force(self, level: Level) -> IntArray:
        """The cells that a lot of that very level covers now."""
        columns = self.columns
        now = (columns.level == level) & (columns.start_ms <= self.at_ms) & (columns.end_ms > self.at_ms)
        return np.unique(columns.cell[now])


def _cell_swaps(facts: _Facts, level: Level, borrowers: Accounts) -> tuple[Swap, ...]:
    """Whole cells: the account's idle one against one on which its work runs and whose owners have none there."""
    held = facts.in_force(level)
    topology = facts.topology
    holder = facts.account[topology.gpu_at[topology.first_gpu[level][held]]]
    held, holder = held[np.isin(holder, borrowers)], holder[np.isin(holder, borrowers)]
    if not len(held):
        return ()
    own = topology.counted(level, (facts.busy >= 0) & (facts.busy == facts.account))
    tradable = (own == 0) & ~tied_cells(topology, facts.columns, level, facts.at_ms)
    tradable &= topology.counted(level, facts.still) == 0
    used = np.flatnonzero(tradable & (topology.counted(level, facts.busy >= 0) > 0))
    held, holder = held[tradable[held]], holder[tradable[held]]
    alike = _Alike(facts, level)
    gains: list[_Gain] = []
    for account in np.unique(holder).tolist():
        mine = held[holder == account].tolist()
        here = topology.counted(level, facts.busy == account)
        theirs = topology.counted(level, facts.account == account) == 0
        for left in used[theirs[used] & (here[used] > 0)].tolist():
            gains += [
                _Gain(-int(here[left]) - _returned(facts, level, left, right), account, left, right)
                for right in mine
                if alike(left, right)
            ]
    return _greedy(facts, gains, level)


def _returned(facts: _Facts, level: Level, left: int, right: int) -> int:
    """GPUs of the idle cell whose occupant would own them after the swap."""
    owners, busy = facts.account[facts.topology.gpus(level, left)], facts.busy[facts.topology.gpus(level, right)]
    return int(((owners == busy) & (busy >= 0)).sum())


class _Alike:
    """Whether two cells may trade: one pool, one shape, and equal turns ahead where an occupant cannot be preempted."""

    def __init__(self, facts: _Facts, level: Level) -> None:
        self._facts = facts
        self._level = level
        self._shapes: dict[int, bytes] = {}

    def __call__(self, left: int, right: int) -> bool:
        topology, level = self._facts.topology, self._level
        pools = topology.pool[level]
        if pools[left] != pools[right] or pools[left] < 0 or self._shape(left) != self._shape(right):
            return False
        return _turns_allow(self._facts, topology.gpus(level, left), topology.gpus(level, right))

    def _shape(self, cell: int) -> bytes:
        if cell not in self._shapes:
            self._shapes[cell] = self._facts.topology.shape(self._level, cell)
        return self._shapes[cell]


def _turns_allow(facts: _Facts, left: IntArray, right: IntArray) -> bool:
    if facts.fixed is None or not (facts.fixed[left].any() or facts.fixed[right].any()):
        return True
    if not (facts.until_ms[left] == facts.until_ms[right]).all():
        return False
    return _stays_lawful(facts, facts.fixed, left, right) and _stays_lawful(facts, facts.fixed, right, left)


def _stays_lawful(facts: _Facts, fixed: BoolArray, here: IntArray, there: IntArray) -> bool:
    """Whether what cannot be preempted here comes under its own account or under nobody's coverage."""
    new_owner = facts.account[there]
    return bool((~fixed[here] | (new_owner < 0) | (new_owner == facts.busy[here])).all())


class _Singles(NamedTuple):
    """GPUs that trade one by one."""

    borrowed: IntArray
    """Those on which an account's work runs that are not its own, among those that GPU lots cover or nobody does."""
    idle: IntArray
    """Those that a GPU lot covers and its account does not use."""


def _singles(facts: _Facts, borrowed: BoolArray) -> _Singles | None:
    single = np.zeros(facts.fleet.n_gpus, dtype=np.bool_)
    single[facts.in_force(Level.GPU)] = True
    if not single.any():
        return None
    free = ~tied_cells(facts.topology, facts.columns, Level.GPU, facts.at_ms) & ~facts.still
    candidates = np.flatnonzero(borrowed & free & (single | (facts.account < 0)))
    return _Singles(candidates, np.flatnonzero(single & free & (facts.busy != facts.account)))


def _swaps_inside_nodes(facts: _Facts, singles: _Singles) -> tuple[Swap, ...]:
    idle = _by_node(facts, singles.idle, facts.account)
    node_of = facts.fleet.node_of_gpu
    gains: list[_Gain] = []
    for left in singles.borrowed.tolist():
        account = int(facts.busy[left])
        gains += [
            _Gain(-1 - int(facts.busy[right] >= 0 and facts.busy[right] == facts.account[left]), account, left, right)
            for right in idle.get((account, int(node_of[left])), ())
            if _turns_allow(facts, np.array([left]), np.array([right]))
        ]
    return _greedy(facts, gains, Level.GPU)


def _swaps_between_nodes(facts: _Facts, singles: _Singles, account_of_position: Mapping[str, int]) -> tuple[Swap, ...]:
    """Of a node on which an account borrows as many GPUs as may trade for its idle ones on another, the largest lots of
    them first; a node trades with one other in a call.
    """
    borrowed = _by_node(facts, singles.borrowed[~facts.still[singles.borrowed]], facts.busy)
    idle = _by_node(facts, singles.idle[~facts.still[singles.idle]], facts.account)
    nodes_of: dict[int, list[int]] = {}
    for account, node in idle:
        nodes_of.setdefault(account, []).append(node)
    asked = [key for key in borrowed if key[0] in nodes_of]
    if not asked:
        return ()
    neighbours = Neighbours(facts.fleet, facts.columns, facts.at_ms, account_of_position)
    pool_of = facts.fleet.pool_of_node
    swaps: list[Swap] = []
    taken: set[int] = set()
    tried = 0
    for account, here in sorted(asked, key=lambda key: (-len(borrowed[key]), key)):
        wished = len(borrowed[account, here])
        others = [node for node in nodes_of[account] if node != here and pool_of[node] == pool_of[here]]
        others.sort(key=lambda node: (abs(len(idle[account, node]) - wished), node))
        for there in others[:NODES_TRIED]:
            if taken & {here, there} or tried == PAIRS_TRIED:
                continue
            tried += 1
            pairs = _most_pairs(facts, neighbours, borrowed[account, here], idle[account, there])
            if pairs:
                swaps += [(Level.GPU, left, right) for left, right in pairs]
                taken |= {here, there}
    return tuple(swaps)


def _most_pairs(facts: _Facts, neighbours: Neighbours, left: list[int], right: list[int]) -> list[tuple[int, int]]:
    """As many GPUs of one node for GPUs of another as may trade at once."""
    pairs: list[tuple[int, int]] = []
    rest = list(right)
    for gpu in left:
        other = next((other for other in rest if _turns_allow(facts, np.array([gpu]), np.array([other]))), None)
        if other is not None:
            pairs.append((gpu, other))
            rest.remove(other)
    for n in range(len(pairs), 0, -1):
        here, there = zip(*pairs[:n], strict=True)
        if neighbours.keep_room(here, there):
            return pairs[:n]
    return []


def _by_node(facts: _Facts, gpus: IntArray, account: Accounts) -> dict[tuple[int, int], list[int]]:
    """The GPUs by (account, node)."""
    found: dict[tuple[int, int], list[int]] = {}
    whose = zip(account[gpus].tolist(), facts.fleet.node_of_gpu[gpus].tolist(), strict=True)
    for key, gpu in zip(whose, gpus.tolist(), strict=True):
        found.setdefault(key, []).append(gpu)
    return found


def _greedy(facts: _Facts, gains: list[_Gain], level: Level) -> tuple[Swap, ...]:
    """The best swaps first, each cell once; their GPUs trade no more."""
    swaps: list[Swap] = []
    traded: set[int] = set()
    for gain in sorted(gains):
        if gain.left not in traded and gain.right not in traded:
            swaps.append((level, gain.left, gain.right))
            traded |= {gain.left, gain.right}
    for cell in traded:
        facts.still[facts.topology.gpus(level, cell)] = True
    return tuple(swaps)
