"""What falls due by itself: declared run times that are over, binds that are late, drains whose time has come.

Each function gives the events that are due at `now_ms`, with the instant at which they fell due, in a fixed order;
`next_due_ms` says when to look again. A deadline that passed while nobody looked is emitted late but holds from its own
instant.
"""

from __future__ import annotations

from collections.abc import Iterator

from scheduler.core.causes import Cause
from scheduler.core.events import BindOverdue, DrainOrdered, Event, GangStopAsked, HealthChanged
from scheduler.core.state.health import HEALTHY
from scheduler.core.state.state import State
from scheduler.core.workloads import Gang, GangStatus, StopCause

START_ALLOWANCE_MS = 5_000
"""What starting takes beside the victims' grace: graces are cut so that both fit the instrument's bind limit."""
DEFAULT_BIND_LIMIT_MS = 30_000


def due(state: State, now_ms: int) -> Iterator[Event]:
    """Events that are due: maintenance that begins, by node; then by instant, gangs by number, nodes by name.

    Each is told as it is asked for: what the ones before made moot is left out.
    """
    found = sorted(
        [(at_ms, (0, number, "")) for number, at_ms in state.gangs.due_ms.items() if at_ms <= now_ms]
        + [(at_ms, (1, 0, node)) for node, at_ms in _drains(state) if at_ms <= now_ms]
    )
    moments = [(at_ms, node or state.gangs.by_number(number)) for at_ms, (_, number, node) in found]
    for node, at_ms in _maintenance(state):
        if at_ms <= now_ms:
            yield DrainOrdered(at_ms=at_ms, node=node, by_ms=at_ms)
    for at_ms, subject in moments:
        if _is_open(state, subject):
            yield _event(state, at_ms, now_ms, subject)


def next_due_ms(state: State) -> int | None:
    """The earliest instant at which something falls due."""
    nodes = (at_ms for _, at_ms in (*_drains(state), *_maintenance(state)))
    return min((*state.gangs.due_ms.values(), *nodes), default=None)


def bind_limits_ms(state: State) -> dict[str, int]:
    """The tightest bind limit of each account's instruments in force or to come, of those that own anything."""
    limits_ms: dict[str, int] = {}
    for position in state.book.positions.values():
        terms = state.instruments.get(position.instrument)
        if terms is not None:
            limit_ms = terms.bind_limit_s * 1_000
            limits_ms[position.account] = min(limit_ms, limits_ms.get(position.account, limit_ms))
    return limits_ms


def grace_given_ms(victim: Gang, limit_ms: int) -> int:
    """The victim's declared grace, as far as the bind limit of the owner who waits allows."""
    return min(victim.spec.grace_ms, max(0, limit_ms - START_ALLOWANCE_MS))


def _drains(state: State) -> list[tuple[str, int]]:
    """(node, deadline) of every drain that has something left to do."""
    return [(node, by_ms) for node, by_ms in state.health.draining.items() if _healthy_gpus(state, node)]


def _maintenance(state: State) -> list[tuple[str, int]]:
    """(node, beginning) of the next announced maintenance of every node that has any to come."""
    return sorted((node, begins[0]) for node, begins in state.outages.coming.items())


def _healthy_gpus(state: State, node: str) -> tuple[int, ...]:
    """The node's GPUs that nothing is wrong with: what is ill for another cause stays so through a drain."""
    span = state.fleet.gpus_of_node(state.fleet.index_of_node[node])
    return tuple(gpu - span.start for gpu in span if state.health.cause[gpu] == HEALTHY)


def _is_open(state: State, subject: Gang | str) -> bool:
    if isinstance(subject, str):
        return subject in state.health.draining and bool(_healthy_gpus(state, subject))
    now = state.gangs.get(subject.id)
    return (now.status, now.attempt, now.overdue) == (subject.status, subject.attempt, subject.overdue)


def _event(state: State, at_ms: int, now_ms: int, subject: Gang | str) -> Event:
    if isinstance(subject, str):
        return HealthChanged(at_ms=at_ms, node=subject, gpus=_healthy_gpus(state, subject), cause=Cause.DRAIN)
    if subject.status is GangStatus.BINDING:
        return BindOverdue(at_ms=at_ms, gang=subject.id, attempt=subject.attempt)
    # Nobody told it to stop before now: its grace begins now, however late that is.
    return GangStopAsked(
        at_ms=at_ms,
        gang=subject.id,
        attempt=subject.attempt,
        cause=StopCause.RUNTIME_OVER,
        deadline_ms=now_ms + subject.spec.grace_ms,
    )
