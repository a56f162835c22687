"""A pool that is chosen from again and again: costs are kept, and a choice looks anew only at what has changed.

The same choices as `choice.choose`, in microseconds. It is owned by one writer, who tells it what is taken and what is
given back.
Law: whatever was asked before, the next choice is that of `choose` on the state as it is.
"""

from __future__ import annotations

from scheduler.core.kernels import worth_compiling
from scheduler.core.placement.scores import scan
from scheduler.core.placement.scores.choice import STEPS_OF_A_NODE, Place, allowed_bits, place_of
from scheduler.core.placement.scores.kinds import ask_rows
from scheduler.core.placement.scores.pool import Ask, BoolArray, IntArray, PoolState
from scheduler.core.placement.scores.table import Score

CHOICES = 1_000
"""How many choices a board is expected to make: it decides whether machine code pays."""


class Board:
    """See the module. `state` is copied. `compiled`: None lets size decide."""

    def __init__(self, state: PoolState, score: Score, *, compiled: bool | None = None) -> None:
        self.state = state.copy()
        self.score = score
        self._fast = worth_compiling(CHOICES * STEPS_OF_A_NODE * len(state)) if compiled is None else compiled
        self._costs: dict[tuple[Ask, object], tuple[IntArray, scan.Costs]] = {}
        blank = scan.fresh_costs(0, len(state))
        self._version, self._before = blank.version, blank.before
        for node in range(len(state)):
            self._weigh(node)

    def choose(self, ask: Ask, allowed: IntArray | BoolArray | None = None, lane: object = None) -> Place | None:
        """As `choose`. `lane` is whom `allowed` is for: kept costs of one lane are lost when its `allowed` changes."""
        bits = allowed_bits(self.state, allowed)
        row, costs = self._kept(ask, lane)
        pick = scan.pick.compiled if self._fast else scan.pick
        at = self.state
        columns = (at.free_milli, at.cpu_milli, at.memory_mib, at.model)
        node = int(pick(*columns, bits, row, 0, costs, self.score.known))
        return place_of(at, ask, node, int(costs.device[0, node]), int(bits[node]))

    def take(self, place: Place, ask: Ask) -> None:
        """A worker is there now."""
        self._change(place, ask, -1)

    def give_back(self, place: Place, ask: Ask) -> None:
        """A worker that was there is gone."""
        self._change(place, ask, 1)

    def _change(self, place: Place, ask: Ask, sign: int) -> None:
        node, devices = place
        self.state.free_milli[node, list(devices)] += sign * ask.milli
        self.state.cpu_milli[node] += sign * ask.cpu_milli
        self.state.memory_mib[node] += sign * ask.memory_mib
        self._version[node] += 1
        self._weigh(node)

    def _weigh(self, node: int) -> None:
        at = self.state
        standing = scan.standing.compiled if self._fast else scan.standing
        columns = (at.free_milli[node], at.cpu_milli[node], at.memory_mib[node], at.model[node])
        self._before[node] = standing(*columns, self.score.known)

    def _kept(self, ask: Ask, lane: object) -> tuple[IntArray, scan.Costs]:
        """The ask as kernels read it, and what is kept of its costs."""
        found = self._costs.get((ask, lane))
        if found is None:
            costs = scan.fresh_costs(1, len(self.state))._replace(version=self._version, before=self._before)
            found = self._costs[ask, lane] = (ask_rows([ask]), costs)
        return found
