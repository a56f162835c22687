"""When scores are rehearsed: every so often, beside the loop, with the work that was seen; never waited for.

What a rehearsal found becomes an event where it changes anything, and takes effect with the next round. One that is
lost is asked for again when its time comes; the score in use stays meanwhile.
"""

from __future__ import annotations

from scheduler.core.placement.scores.table import DEFAULT
from scheduler.core.state import observed
from scheduler.planners.rehearsals import Lost, Rehearsals
from scheduler.service import Scheduler

SEED = 1
"""Of every rehearsal: the same work on the same fleet then always chooses the same score."""


class Rehearsing:
    """Asks for one rehearsal at a time. `every_ms` 0: never."""

    def __init__(self, rehearsals: Rehearsals, every_ms: int, now_ms: int) -> None:
        self._rehearsals = rehearsals
        self._every_ms = every_ms
        self._asked_ms = now_ms
        self.last = ""
        """What the last rehearsal said, for people; empty before the first."""

    def maybe(self, scheduler: Scheduler, now_ms: int) -> None:
        """Take what a rehearsal found, or begin one where its time has come. Never blocks."""
        if not self._every_ms:
            return
        found = self._rehearsals.take()
        if isinstance(found, Lost):
            self.last = found.why
        elif found is not None:
            self.last = f"{found.chosen.score}, rehearsed {found.where}"
            grades = observed.grades_of(scheduler.state)
            scheduler.choose_score(observed.chosen_event(now_ms, found.scene, found.chosen, grades))
        if now_ms - self._asked_ms < self._every_ms or self._rehearsals.running:
            return
        self._asked_ms = now_ms
        with scheduler.guard:
            state = scheduler.state
            scene = observed.scene(state, now_ms, SEED)
            current = DEFAULT if state.score is None else state.score.score
        if scene is not None:
            self._rehearsals.ask(scene, current)

    def close(self) -> None:
        """End a rehearsal that is under way."""
        self._rehearsals.close()
