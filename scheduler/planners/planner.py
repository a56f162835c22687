"""Who makes a round's plan: the one protocol that the loop knows, and the planner in its own process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from scheduler.core.events import Event
from scheduler.core.placement.snapshot import Plan, Policy
from scheduler.core.placement.standing import Standing
from scheduler.core.state.state import State

HERE = "in the scheduler's process"


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, who made it (for people), and whether the round needs another once its actions are done."""

    plan: Plan
    by: str
    unfinished: bool = False


class Planner(Protocol):
    """Plans rounds of one state. Called by one thread. Law: equal states at equal instants give equal rounds."""

    def heard(self, event: Event) -> None:
        """The event was just folded into the state."""

    def plan(self, state: State, now_ms: int, spares: Sequence[str], policy: Policy, *, first: bool = True) -> Planned:
        """A plan of this round, the first or a later one. Whatever fails outside this process is planned in it."""

    def close(self) -> None:
        """Let go of everything outside this process."""


class LocalPlanner:
    """Plans the whole fleet at once in this process, from books that it keeps between plans."""

    def __init__(self) -> None:
        self._policy = Policy()
        self._standing: Standing | None = None

    def heard(self, event: Event) -> None:
        """See Planner; the state itself says what was touched."""

    def plan(self, state: State, now_ms: int, spares: Sequence[str], policy: Policy, *, first: bool = True) -> Planned:
        """See Planner."""
        del first
        touched = state.take_touched()
        if self._standing is None or policy != self._policy:
            self._standing, self._policy = Standing(policy), policy
        return Planned(self._standing.plan(state.snapshot(now_ms, spares), touched), HERE)

    def close(self) -> None:
        """See Planner; there is nothing."""
