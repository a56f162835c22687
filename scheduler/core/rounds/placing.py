"""A plan as events, in the order in which they hold."""

from __future__ import annotations

from scheduler.core.events import CellsSwapped, Event, GangPlaced, GangStopAsked
from scheduler.core.placement.snapshot import Place, Plan, Stop, Swap
from scheduler.core.rounds.deadlines import DEFAULT_BIND_LIMIT_MS, bind_limit_ms, grace_given_ms
from scheduler.core.state.state import State


def events_of(plan: Plan, state: State, now_ms: int) -> list[Event]:
    """The plan's actions as events at `now_ms`. A victim's grace is cut to what the waiting owner's bind limit
    leaves.
    """
    events: list[Event] = []
    deadlines: dict[str, int] = {}
    limits: dict[str, int] = {}
    for action in plan.actions:
        match action:
            case Swap():
                events.append(CellsSwapped(at_ms=now_ms, level=action.level, left=action.left, right=action.right))
            case Stop():
                owner = state.gangs.get(action.for_gang).account if action.for_gang else None
                if owner is not None and owner not in limits:
                    limits[owner] = bind_limit_ms(state, owner)
                grace_ms = grace_given_ms(action.gang, limits[owner]) if owner else action.gang.spec.grace_ms
                deadlines[action.gang.id] = now_ms + grace_ms
                events.append(
                    GangStopAsked(
                        at_ms=now_ms,
                        gang=action.gang.id,
                        attempt=action.gang.attempt,
                        cause=action.cause,
                        deadline_ms=deadlines[action.gang.id],
                        for_gang=action.for_gang,
                    )
                )
            case Place():
                events.append(
                    GangPlaced(
                        at_ms=now_ms,
                        gang=action.gang.id,
                        attempt=action.gang.attempt + 1,
                        pieces=action.pieces,
                        inside=action.inside,
                        bind_by_ms=_bind_by_ms(action, state, deadlines, now_ms) if action.inside else None,
                        waits_for=action.waits_for,
                    )
                )
    return events


def _bind_by_ms(place: Place, state: State, deadlines: dict[str, int], now_ms: int) -> int:
    """The bind limit: 30 s beyond the last victim's grace, and no later than the instrument's cap.

    The cap bounds both, since graces are cut to it; victims that were told to stop earlier have earlier deadlines.
    """
    gone_ms = max((_deadline_ms(name, state, deadlines, now_ms) for name in place.waits_for), default=now_ms)
    return min(gone_ms + DEFAULT_BIND_LIMIT_MS, now_ms + bind_limit_ms(state, place.gang.account))


def _deadline_ms(name: str, state: State, deadlines: dict[str, int], now_ms: int) -> int:
    known = deadlines.get(name) or state.gangs.get(name).stop_deadline_ms
    return now_ms if known is None else known
