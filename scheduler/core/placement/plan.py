"""One round: which waiting gang gets which GPUs now, who makes way, and why the rest waits.

    1. shares join devices that their account shares already (`joining`), here and again whenever there are new ones
    2. gangs inside their entitlement, each of them (`owned`; `firm` for those that cannot be preempted)
    3. the others borrow what is free (`borrowed`)
    4. whole nodes are emptied for a gang that waits for them, where that is worth the lost work (`consolidate`)
    5. an elastic gang is restarted where it gets more workers and that is worth the lost work (`grow`)
    6. one reason for every line that still waits (`reasons`)

Law: after the round no preemptible gang that waits is inside its entitlement (`inside`). The plan is a function of its
arguments: same snapshot, same plan, byte for byte; nothing given is changed.
"""

from __future__ import annotations

from scheduler.core.placement.books import Books
from scheduler.core.placement.borrowed import Borrowed
from scheduler.core.placement.consolidate import consolidate
from scheduler.core.placement.grow import grow
from scheduler.core.placement.joining import Joins
from scheduler.core.placement.lines import Lines
from scheduler.core.placement.owned import Due, Owned
from scheduler.core.placement.reasons import Reasons
from scheduler.core.placement.roll import Listed
from scheduler.core.placement.snapshot import Plan, Policy, Snapshot


def plan(snapshot: Snapshot, policy: Policy = Policy()) -> Plan:  # noqa: B008 - frozen
    """This round's actions in the order in which they hold, and a reason for every (account, shape) left waiting."""
    return decided(Books(snapshot, policy), Lines(snapshot.queue))


def decided(books: Books, lines: Lines, due: Due | None = None) -> Plan:
    """The round's steps over these books; `due`: who alone may have come inside since the last round over them."""
    listed = Listed(books, lines.queue) if due is None and books.in_runs else None
    if listed is not None:
        lines.serve_by(listed)
    joins, owned, borrowed = Joins(books, lines), Owned(books, lines, listed), Borrowed(books, lines, listed)
    joins.run()
    owned.run(due)
    joins.run()
    borrowed.run()
    if books.policy.consolidate:
        consolidate(books, lines, borrowed.protected)
    joins.run()
    if books.policy.grow:
        grow(books, lines)
    backfill = borrowed.backfill()
    actions = tuple(action for action in books.actions if action is not None)
    return Plan(actions, Reasons(books, lines, backfill), backfill)
