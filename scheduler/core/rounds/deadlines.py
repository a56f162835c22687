"""What falls due by itself: declared run times that are over, binds that are late, drains whose time has come.

Each function gives the events that are due at `now_ms`, with the instant at which they fell due, in a fixed order; `next_due_ms`
says when to look again. A deadline that passed while nobody looked is emitted late but holds from its own instant.
"""

from __future__ import annotations

from collections.abc import Iterator

from scheduler.core.causes import Cause
from scheduler.core.events import BindOverdue, Event, GangStopAsked, HealthChanged
from scheduler.core.state.state import State
from scheduler.core.workloads import Gang, GangStatus, StopCause

START_ALLOWANCE_MS = 5_000
"""What starting takes beside the victims' grace: graces are cut so that both fit the instrument's bind limit."""
DEFAULT_BIND_LIMIT_MS = 30_000


def due(state: State, now_ms: int) -> list[Event]:
    """Events that are due, by instant, then gang."""
    found = [event for event in _all(state) if event.at_ms <= now_ms]
    return sorted(found, key=lambda event: (event.at_ms, event.kind, event.model_dump_json()))


def next_due_ms(state: State) -> int | None:
    """The earliest instant at which something falls due."""
    return min((event.at_ms for event in _all(state)), default=None)


def bind_limit_ms(state: State, account: str) -> int:
    """The tightest bind limit of the account's instruments in force or to come; the default where it owns nothing."""
    limits = [
        state.instruments[position.instrument].bind_limit_s * 1_000
        for position in state.book.positions.values()
        if position.account == account and position.instrument in state.instruments
    ]
    return min(limits, default=DEFAULT_BIND_LIMIT_MS)


def grace_given_ms(victim: Gang, limit_ms: int) -> int:
    """The victim's declared grace, as far as the bind limit of the owner who waits allows."""
    return min(victim.spec.grace_ms, max(0, limit_ms - START_ALLOWANCE_MS))


def _all(state: State) -> Iterator[Event]:
    for gang in state.gangs.placed.values():
        if gang.status is GangStatus.RUNNING and gang.spec.max_runtime_ms and gang.started_ms is not None:
            over_ms = gang.started_ms + gang.spec.max_runtime_ms
            yield GangStopAsked(
                at_ms=over_ms,
                gang=gang.id,
                attempt=gang.attempt,
                cause=StopCause.RUNTIME_OVER,
                deadline_ms=over_ms + gang.spec.grace_ms,
            )
        if gang.status is GangStatus.BINDING and gang.bind_by_ms is not None and not gang.overdue:
            yield BindOverdue(at_ms=gang.bind_by_ms, gang=gang.id, attempt=gang.attempt)
    for node, by_ms in state.health.draining.items():
        number = state.fleet.index_of_node[node]
        if not state.health.cause[state.fleet.gpus_of_node(number).start]:
            yield HealthChanged(at_ms=by_ms, node=node, cause=Cause.DRAIN)
