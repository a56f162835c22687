"""What coverage certificates say beyond the meter: what is accredited of each pool and pledged to it, kept."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.core.rounds.certifying import Standing, standings
from scheduler.core.state.state import State
from scheduler.pledging import PledgedGpus


class Backing:
    """What is accredited of each pool and pledged to it, worked out again only when something of it has changed."""

    def __init__(self) -> None:
        self._of: tuple[object, ...] = ()
        self._standings: tuple[Standing, ...] = ()
        self.pledged = PledgedGpus()

    def standings(self, state: State, now_ms: int, spares: Sequence[str]) -> tuple[Standing, ...]:
        """See `certifying.standings`."""
        facts = (state.fleet, state.calendar.holdings, state.health.usable, spares)
        if not self._of or any(now is not was for now, was in zip(facts, self._of, strict=True)):
            self._of, self._standings = facts, standings(state, now_ms, spares)
        return self._standings
