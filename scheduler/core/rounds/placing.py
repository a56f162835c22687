"""A plan as events, in the order in which they hold."""

from __future__ import annotations

from collections.abc import Iterator

from scheduler.core.events import Event, GangPlaced, GangStopAsked
from scheduler.core.placement.snapshot import Place, Plan, Stop
from scheduler.core.rounds.deadlines import DEFAULT_BIND_LIMIT_MS, bind_limits_ms, grace_given_ms
from scheduler.core.state.state import State
from scheduler.core.workloads import Gang, StopCause


def events_of(plan: Plan, state: State, now_ms: int) -> list[Event]:
    """The plan's actions as events at `now_ms`. The grace of a victim, and what is left of that of a gang that was told
    to stop before, are cut to what the waiting owner's bind limit leaves.
    """
    return list(_Telling(state, now_ms).all(plan))


class _Telling:
    """The actions of one plan, told in order."""

    def __init__(self, state: State, now_ms: int) -> None:
        self._state = state
        self._now_ms = now_ms
        self._deadlines: dict[str, int] = {}
        """When each gang that was told to stop by this plan must be gone."""
        self._causes: dict[str, StopCause] = {}
        self._limits: dict[str, int] | None = None
        """Bind limits by account, of those that own anything; None: not asked for yet."""

    def all(self, plan: Plan) -> Iterator[Event]:
        for action in plan.actions:
            match action:
                case Place():
                    if action.inside and action.waits_for:
                        yield from self._hurried(action)
                    yield self._placed(action)
                case Stop():
                    yield self._stop(action.gang, action.cause, action.for_gang)

    def _stop(self, gang: Gang, cause: StopCause, for_gang: str | None) -> GangStopAsked:
        owner = self._state.gangs.get(for_gang).account if for_gang else None
        grace_ms = gang.spec.grace_ms if owner is None else grace_given_ms(gang, self._limit_ms(owner))
        self._deadlines[gang.id] = self._now_ms + grace_ms
        self._causes[gang.id] = cause
        return GangStopAsked(
            at_ms=self._now_ms,
            gang=gang.id,
            attempt=gang.attempt,
            cause=cause,
            deadline_ms=self._deadlines[gang.id],
            for_gang=for_gang,
        )

    def _hurried(self, place: Place) -> Iterator[GangStopAsked]:
        """Gangs on their way out that would keep an owner waiting beyond its bind limit: they are told to hurry."""
        for name in place.waits_for:
            gang = self._state.gangs.get(name)
            latest_ms = self._now_ms + grace_given_ms(gang, self._limit_ms(place.gang.account))
            cause = self._causes.get(name, gang.stop_cause)
            if self._deadline_ms(name) > latest_ms and cause is not None:
                yield self._stop(gang, cause, place.gang.id)

    def _placed(self, place: Place) -> GangPlaced:
        return GangPlaced(
            at_ms=self._now_ms,
            gang=place.gang.id,
            attempt=place.gang.attempt + 1,
            pieces=place.pieces,
            inside=place.inside,
            bind_by_ms=self._bind_by_ms(place) if place.inside else None,
            waits_for=place.waits_for,
        )

    def _bind_by_ms(self, place: Place) -> int:
        """The bind limit: 30 s beyond the last victim's grace, and no later than the instrument's cap, which bounds
        both, since graces are cut to it.
        """
        gone_ms = self._now_ms
        if place.waits_for:
            gone_ms = max(self._deadline_ms(name) for name in place.waits_for)
        return min(gone_ms + DEFAULT_BIND_LIMIT_MS, self._now_ms + self._limit_ms(place.gang.account))

    def _deadline_ms(self, name: str) -> int:
        known = self._deadlines.get(name) or self._state.gangs.get(name).stop_deadline_ms
        return self._now_ms if known is None else known

    def _limit_ms(self, account: str) -> int:
        if self._limits is None:  # one look at all positions, where anybody is owed anything
            self._limits = bind_limits_ms(self._state)
        return self._limits.get(account, DEFAULT_BIND_LIMIT_MS)
