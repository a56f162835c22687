"""A planner that stands between rounds: it keeps its books and is told what was touched since the last plan.

Law: the plan is that of `plan(snapshot, policy)`, byte for byte, whatever happened in between; only the work differs.
What was touched is read anew from the snapshot, so that it does not matter whether the last plan was carried out, in
part or not at all, as long as everything that changed is named. Where ownership, windows or the fleet itself changed,
but for whole nodes that traded owners, the books are opened anew.

Whoever was refused in the last round is refused again unless something happened to its account (its use, its lines,
its own GPUs), so only the accounts touched are asked whether a gang came inside. Gangs that cannot be preempted depend
on the clock and on others' cells, and are always asked.
"""

from __future__ import annotations

from scheduler.core.placement.books import Books
from scheduler.core.placement.follow import follow
from scheduler.core.placement.lines import Lines
from scheduler.core.placement.owned import Due
from scheduler.core.placement.plan import decided
from scheduler.core.placement.snapshot import Plan, Policy, Snapshot, Touched
from scheduler.core.placement.trades import Parts, traded_parts
from scheduler.core.workloads import asked_shape

MOST_DEAD_ROWS = 3
"""Books are opened anew when so many times more rows have ended than stand."""
MANY_TOUCHED = 4
"""And when one in so many gangs was touched: it is quicker then."""


class Standing:
    """See the module. Single-threaded; snapshots must be of one state, in order of time."""

    def __init__(self, policy: Policy = Policy()) -> None:  # noqa: B008 - frozen
        self._policy = policy
        self._books: Books | None = None
        self._lines = Lines({})

    def plan(self, snapshot: Snapshot, touched: Touched | None = None) -> Plan:
        """The next plan. `touched`: everything that changed since the last call's snapshot, None: who knows what."""
        books = self._books
        parts = None if books is None or touched is None else _what_follows(books, snapshot, touched)
        if books is None or touched is None or parts is None:
            self._books = Books(snapshot, self._policy)
            self._lines = Lines(snapshot.queue)
            return decided(self._books, self._lines)
        keys = touched.lines | {(gang.spec.account, asked_shape(gang)) for gang in books.gangs_of_round()}
        accounts = follow(books, snapshot, touched, parts) | {account for account, _ in keys}
        self._lines.follow(snapshot.queue, keys)
        for account in accounts:
            self._lines.reconsider(account)
        return decided(books, self._lines, self._due(accounts))

    def _due(self, accounts: set[str]) -> Due:
        books = self._books
        if books is None:
            raise AssertionError("the books were closed")
        room: list[int] = (-books.excess).max(axis=0, initial=0).tolist()
        firm = [
            line
            for name, lines in self._lines.firm().items()
            if (at_most := room[books.account_index[name]]) > 0 and name not in accounts
            for line in lines.values()
            if line.gpus <= at_most
        ]
        return Due(accounts, firm)


def _what_follows(books: Books, snapshot: Snapshot, touched: Touched) -> Parts | None:
    """What the owners of traded nodes own now; None where books must be opened anew."""
    if not _can_follow(books, snapshot, touched):
        return None
    return traded_parts(books, snapshot, touched.traded) if touched.traded else {}


def _can_follow(books: Books, snapshot: Snapshot, touched: Touched) -> bool:
    if snapshot.shares or books.devices.riders or books.snapshot.shares:
        return False
    if touched.ownership or snapshot.fleet is not books.fleet or len(snapshot.usable) != len(books.snapshot.usable):
        return False
    standing = len(snapshot.placed)
    if len(books.rows) > MOST_DEAD_ROWS * (standing + 1_000) or len(touched.gangs) * MANY_TOUCHED > standing + 1_000:
        return False
    return books.knows(snapshot.accounts)
