"""Coverage follows work: swaps of names, so that an account's lots lie where its work already runs. Nobody is evicted.

An account holds a cell that none of its work uses, while its work runs on an equal cell that covers somebody else who
does not use it, or nobody. Swapping the two turns borrowing into use of its own. Laws: each swap raises the number of
GPUs that their own owners occupy; no account's own use falls; each cell trades at most once in a call; ties by account,
then by number; a cell with an unusable GPU never trades, or one owner's shortfall would become another's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.coverage.columns import Columns, Holdings, columns_of
from scheduler.core.coverage.ownership import owner_at, tied_cells
from scheduler.core.coverage.topology import Topology, topology_of

Swap = tuple[Level, int, int]
Accounts = npt.NDArray[np.int32]


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
    fixed: npt.NDArray[np.bool_] | None = None,
    owner: tuple[Accounts, IntArray] | None = None,
    usable: npt.NDArray[np.bool_] | None = None,
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
    well = np.ones(fleet.n_gpus, dtype=np.bool_) if usable is None else usable
    facts = _Facts(fleet, topology_of(fleet), columns_of(holdings), account, busy_account, until_ms, fixed, well)
    nodes = _node_swaps(facts, at_ms)
    traded = {cell for _, left, right in nodes for cell in (left, right)}
    return (*nodes, *_gpu_swaps(facts, at_ms, borrowed & np.isin(busy_account, account[spare]), traded))


class _Facts(NamedTuple):
    fleet: Fleet
    topology: Topology
    columns: Columns
    account: Accounts
    busy: Accounts
    until_ms: IntArray
    fixed: npt.NDArray[np.bool_] | None
    usable: npt.NDArray[np.bool_]


def _node_swaps(facts: _Facts, at_ms: int) -> tuple[Swap, ...]:
    """Whole nodes: the account's idle node against one on which its work runs and whose owners have none there."""
    first = facts.fleet.first_gpu[:-1]
    whole = np.minimum.reduceat(facts.account, first) == np.maximum.reduceat(facts.account, first)
    holder = np.where(whole, facts.account[first], -1)
    own = np.add.reduceat(((facts.busy >= 0) & (facts.busy == facts.account)).astype(np.int64), first)
    tied = tied_cells(facts.topology, facts.columns, Level.NODE, at_ms) | ~np.minimum.reduceat(facts.usable, first)
    idle = np.flatnonzero((holder >= 0) & (own == 0) & ~tied & _held_whole(facts, at_ms))
    used = np.flatnonzero((own == 0) & ~tied & (np.maximum.reduceat(facts.busy, first) >= 0))
    gains: list[_Gain] = []
    for account in np.unique(holder[idle]).tolist():
        mine = idle[holder[idle] == account].tolist()
        here = np.add.reduceat((facts.busy == account).astype(np.int64), first)
        theirs = np.add.reduceat((facts.account == account).astype(np.int64), first) == 0
        for left in used[theirs[used] & (here[used] > 0)].tolist():
            gains += [
                _Gain(-int(here[left]) - _returned(facts, left, right), account, left, right)
                for right in mine
                if _alike(facts, left, right)
            ]
    return _greedy(gains, Level.NODE)


def _held_whole(facts: _Facts, at_ms: int) -> npt.NDArray[np.bool_]:
    """(n_nodes): whether a NODE lot in force lies on the node."""
    columns = facts.columns
    in_force = (columns.level == Level.NODE) & (columns.start_ms <= at_ms) & (columns.end_ms > at_ms)
    held = np.zeros(len(facts.fleet.nodes), dtype=np.bool_)
    held[columns.cell[in_force]] = True
    return held


def _returned(facts: _Facts, left: int, right: int) -> int:
    """GPUs of the idle node whose occupant would own them after the swap."""
    theirs, mine = facts.fleet.gpus_of_node(left), facts.fleet.gpus_of_node(right)
    owners, busy = facts.account[theirs.start : theirs.stop], facts.busy[mine.start : mine.stop]
    return int(((owners == busy) & (busy >= 0)).sum())


def _alike(facts: _Facts, left: int, right: int) -> bool:
    """Whether two nodes may trade: one pool, one size, and equal turns ahead where an occupant cannot be preempted."""
    fleet = facts.fleet
    theirs, mine = fleet.gpus_of_node(left), fleet.gpus_of_node(right)
    if fleet.pool_of_node[left] != fleet.pool_of_node[right] or len(theirs) != len(mine):
        return False
    return _turns_allow(facts, np.array(theirs), np.array(mine))


def _turns_allow(facts: _Facts, left: IntArray, right: IntArray) -> bool:
    if facts.fixed is None or not (facts.fixed[left].any() or facts.fixed[right].any()):
        return True
    if not (facts.until_ms[left] == facts.until_ms[right]).all():
        return False
    return _stays_lawful(facts, facts.fixed, left, right) and _stays_lawful(facts, facts.fixed, right, left)


def _stays_lawful(facts: _Facts, fixed: npt.NDArray[np.bool_], here: IntArray, there: IntArray) -> bool:
    """Whether what cannot be preempted here comes under its own account or under nobody's coverage."""
    new_owner = facts.account[there]
    return bool((~fixed[here] | (new_owner < 0) | (new_owner == facts.busy[here])).all())


def _gpu_swaps(facts: _Facts, at_ms: int, borrowed: npt.NDArray[np.bool_], traded: set[int]) -> tuple[Swap, ...]:
    """Single GPUs of one node, among those that GPU lots cover or nobody does."""
    columns = facts.columns
    in_force = (columns.level == Level.GPU) & (columns.start_ms <= at_ms) & (columns.end_ms > at_ms)
    single = np.zeros(facts.fleet.n_gpus, dtype=np.bool_)
    single[columns.cell[in_force]] = True
    if not single.any():
        return ()
    tied = tied_cells(facts.topology, columns, Level.GPU, at_ms) | ~facts.usable
    idle = single & ~tied & (facts.busy != facts.account)
    candidates = np.flatnonzero(borrowed & ~tied & (single | (facts.account < 0)))
    node_of = facts.fleet.node_of_gpu
    gains: list[_Gain] = []
    for left in candidates.tolist():
        node, account = int(node_of[left]), int(facts.busy[left])
        if node in traded:
            continue
        gpus = facts.fleet.gpus_of_node(node)
        gains += [
            _Gain(-1 - int(facts.busy[right] >= 0 and facts.busy[right] == facts.account[left]), account, left, right)
            for right in gpus
            if idle[right]
            and facts.account[right] == account
            and _turns_allow(facts, np.array([left]), np.array([right]))
        ]
    return _greedy(gains, Level.GPU)


def _greedy(gains: list[_Gain], level: Level) -> tuple[Swap, ...]:
    """The best swaps first, each cell once."""
    swaps: list[Swap] = []
    traded: set[int] = set()
    for gain in sorted(gains):
        if gain.left not in traded and gain.right not in traded:
            swaps.append((level, gain.left, gain.right))
            traded |= {gain.left, gain.right}
    return tuple(swaps)
