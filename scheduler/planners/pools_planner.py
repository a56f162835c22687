"""The planner over several pools: hears which gangs an event touches, and has the coordinator plan.

A small fleet is planned whole, in this process: telling replicas costs more than it saves there (docs/benchmarks.md).
`Extent` says from which size on pools are planned apart; once they are, they stay so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scheduler.core.cluster import Fleet
from scheduler.core.events import Event
from scheduler.core.placement.snapshot import Policy
from scheduler.core.state.state import State
from scheduler.planners.coordinator import Coordinator
from scheduler.planners.planner import LocalPlanner, Planned
from scheduler.planners.posts import Workers


@dataclass(frozen=True, slots=True)
class Extent:
    """The least fleet that is planned pool by pool."""

    pools: int = 2
    gpus: int = 200_000

    def holds(self, fleet: Fleet) -> bool:
        """Whether the fleet is as large."""
        return len(fleet.pools) >= self.pools and fleet.n_gpus >= self.gpus


EVERY_FLEET = Extent(pools=1, gpus=0)


class PoolsPlanner:
    """See the module. `open_workers` is called once, when the fleet first is large enough; None: all in this process.

    A Planner.
    """

    def __init__(self, open_workers: Callable[[], Workers] | None = None, extent: Extent = EVERY_FLEET) -> None:
        self._open_workers = open_workers
        self._extent = extent
        self._whole = LocalPlanner()
        self._workers: Workers | None = None
        self._coordinator: Coordinator | None = None
        self._touched: set[str] | None = None
        """Gangs that events named since the last plan; None: any may have changed."""

    def heard(self, event: Event) -> None:
        """See Planner."""
        if self._touched is not None:
            gang = getattr(event, "gang", None)
            if gang is not None:
                self._touched.add(gang)

    def plan(self, state: State, now_ms: int, spares: Sequence[str], policy: Policy, *, first: bool = True) -> Planned:
        """See Planner."""
        if self._coordinator is None:
            if not self._extent.holds(state.fleet):
                return self._whole.plan(state, now_ms, spares, policy, first=first)
            self._workers = None if self._open_workers is None else self._open_workers()
            self._coordinator = Coordinator(self._workers)
        named, self._touched = self._touched, set()
        numbers = state.take_touched().gangs  # also those that an event changes without naming them
        touched = None
        if named is not None:
            gangs = [
                *(state.gangs.by_id[name] for name in named),
                *(state.gangs.by_number(number) for number in numbers),
            ]
            touched = {gang.number: gang for gang in sorted(gangs, key=lambda gang: gang.number)}
        return self._coordinator.plan(state.snapshot(now_ms, spares), policy, touched, first=first)

    def close(self) -> None:
        """See Planner."""
        if self._workers is not None:
            self._workers.close()
