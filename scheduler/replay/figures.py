"""What a replay shows: utilisation, waits, shortfall by cause, the statements' totals. Integers from records and
events alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from scheduler.core.causes import Bearer
from scheduler.core.events import Event, GangEnded, GangPlaced, GangStarted, GangStopAsked, GangSubmitted
from scheduler.core.metering.records import MeterRecord, PoolRecord
from scheduler.core.quantities import ceil_div, share_ppm
from scheduler.core.workloads import StopCause


@dataclass
class Waits:
    """Waits of one kind in ms, from submission (or return to the queue) to running."""

    count: int = 0
    total_ms: int = 0
    max_ms: int = 0
    all_ms: list[int] = field(default_factory=list)

    def add(self, wait_ms: int) -> None:
        """One more."""
        self.count += 1
        self.total_ms += wait_ms
        self.max_ms = max(self.max_ms, wait_ms)
        self.all_ms.append(wait_ms)

    def percentile_ms(self, percent: int) -> int:
        """The nearest-rank percentile, 0 to 100; 0 of none."""
        if not self.all_ms:
            return 0
        return sorted(self.all_ms)[max(1, ceil_div(len(self.all_ms) * percent, 100)) - 1]

    @property
    def mean_ms(self) -> int:
        """The mean, rounded down; 0 of none."""
        return self.total_ms // self.count if self.count else 0


class Figures:
    """Listens to the events and records of one run."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.owned, self.borrowed = Waits(), Waits()
        self.reclaimed = 0
        self.lost_by_cause: Counter[str] = Counter()
        self.states: Counter[str] = Counter()
        self.contracted_gpu_ms = 0
        self.pool: Counter[str] = Counter()
        self._queued_ms: dict[str, int] = {}
        self._leaving: set[str] = set()
        """Gangs that were told to stop; one that is told to hurry is not counted twice."""
        self._placed: dict[str, tuple[int, bool, int]] = {}
        self._running_since_ms: dict[str, int] = {}
        self.occupied_gpu_ms = 0
        """GPU time on which somebody's gang ran."""

    def on_event(self, event: Event) -> None:
        """Count, and follow the waits."""
        self.events[event.kind] += 1
        match event:
            case GangSubmitted():
                self._queued_ms[event.gang] = event.at_ms
            case GangPlaced():
                gpus = sum(len(piece.gpus) for piece in event.pieces)
                self._placed[event.gang] = (event.at_ms, event.inside, gpus)
            case GangStarted():
                self._running_since_ms[event.gang] = event.at_ms
                placed_ms, inside, _ = self._placed[event.gang]
                if inside:
                    # Inside from its placement at the latest: an inside gang is placed in the round in which it becomes
                    # one.
                    self.owned.add(event.at_ms - placed_ms)
                else:
                    self.borrowed.add(event.at_ms - self._queued_ms[event.gang])
            case GangStopAsked():
                self.reclaimed += event.cause is StopCause.RECLAIMED and event.gang not in self._leaving
                self._leaving.add(event.gang)
            case GangEnded():
                self._queued_ms[event.gang] = event.at_ms
                self._leaving.discard(event.gang)
                self._stopped(event.gang, event.at_ms)
            case _:
                pass

    def on_records(self, records: Iterable[MeterRecord], pools: Iterable[PoolRecord]) -> None:
        """Add up a closed interval."""
        for record in records:
            self.contracted_gpu_ms += record.contracted_gpu_ms
            for state, gpu_ms in record.states.items():
                self.states[str(state)] += gpu_ms
            for cause, gpu_ms in record.losses:
                self.lost_by_cause[cause.name] += gpu_ms
        for pool in pools:
            self.pool.update({name: value for name, value in pool.model_dump().items() if name.endswith("_gpu_ms")})

    def finish(self, end_ms: int) -> None:
        """The run is over: what still runs counts until now."""
        for gang in sorted(self._running_since_ms):
            self._stopped(gang, end_ms)

    def _stopped(self, gang: str, at_ms: int) -> None:
        since_ms = self._running_since_ms.pop(gang, None)
        if since_ms is not None:
            self.occupied_gpu_ms += self._placed[gang][2] * (at_ms - since_ms)

    @property
    def utilisation_ppm(self) -> int:
        """Occupied of all GPU time that was metered."""
        return share_ppm(self.occupied_gpu_ms, self.pool["total_gpu_ms"])

    def seller_shortfall_gpu_ms(self, causes: dict[str, Bearer]) -> int:
        """Shortfall that the seller bears."""
        return sum(gpu_ms for name, gpu_ms in self.lost_by_cause.items() if causes[name] is Bearer.SELLER)
