"""What was declared of outages, and what planned ones have used of each position's maintenance budget.

Folded from events only: what a position has used of its budget is what its records say.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from scheduler.core.events import DrainOrdered, ForceMajeureDeclared, IntervalClosed, IntervalCorrected
from scheduler.core.events import MaintenanceAnnounced as Announced
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.intervals import Interval, StepFunction
from scheduler.core.metering.declared import Declaration, DeclaredKind
from scheduler.core.metering.maintenance import allowance_gpu_ms


class Outages:
    """See the module. Public attributes are for reading; only the `on_…` methods write."""

    def __init__(self) -> None:
        self.declarations: tuple[Declaration, ...] = ()
        """In the order in which they were told, as far back as the meter remembers."""
        self.coming: dict[str, tuple[int, ...]] = {}
        """When announced maintenance of each node begins, of that which has not begun; ascending."""
        self.planned: dict[str, dict[int, int]] = {}
        """GPU-ms of planned outages by position and the end of their interval; 0: of all those before."""

    def on_announced(self, event: Announced) -> None:
        """An outage that is planned."""
        told = Declaration(DeclaredKind.MAINTENANCE, (event.node,), event.from_ms, event.until_ms, event.at_ms)
        self.declarations = (*self.declarations, told)
        self.coming[event.node] = tuple(sorted((*self.coming.get(event.node, ()), event.from_ms)))

    def on_force_majeure(self, event: ForceMajeureDeclared) -> None:
        """An outage that nobody could help."""
        told = Declaration(DeclaredKind.FORCE_MAJEURE, event.nodes, event.from_ms, event.until_ms, event.at_ms)
        self.declarations = (*self.declarations, told)

    def on_drain(self, event: DrainOrdered) -> None:
        """Maintenance begins with the drain of its node; with a drain, what was announced of it is called off."""
        if event.by_ms is not None:
            left = tuple(from_ms for from_ms in self.coming.get(event.node, ()) if from_ms > event.at_ms)
            self.coming = {name: begins for name, begins in (self.coming | {event.node: left}).items() if begins}
            return
        self.coming = {name: begins for name, begins in self.coming.items() if name != event.node}
        self.declarations = tuple(_called_off(self.declarations, event))

    def on_metered(self, event: IntervalClosed | IntervalCorrected) -> None:
        """What an interval's records say of planned outages."""
        for position, gpu_ms in event.planned:
            used = self.planned.setdefault(position, {})
            used[event.end_ms] = gpu_ms

    def forget(self, before_ms: int) -> None:
        """Drop what no interval that may still be closed can fall under."""
        self.declarations = tuple(each for each in self.declarations if each.until_ms > before_ms)
        for position, used in self.planned.items():
            old = [end_ms for end_ms in used if 0 < end_ms <= before_ms]
            if old:
                kept = {end_ms: gpu_ms for end_ms, gpu_ms in used.items() if end_ms > before_ms}
                self.planned[position] = {0: sum(used.values()) - sum(kept.values())} | kept

    def planned_left_gpu_ms(
        self, position: str, terms: InstrumentTerms, contracted: StepFunction, interval: Interval
    ) -> int:
        """What the position's budget has left for an interval."""
        used = sum(gpu_ms for end_ms, gpu_ms in self.planned.get(position, {}).items() if end_ms <= interval.start_ms)
        before_gpu_ms = contracted.integral(Interval(0, interval.start_ms)) if interval.start_ms else 0
        allowed = allowance_gpu_ms(terms, interval, before_gpu_ms, contracted.integral(interval))
        return max(0, allowed - used)

    def maintenance_of(self, node: str, now_ms: int) -> Declaration | None:
        """The node's announced maintenance that is on, or comes next."""
        found = (
            each
            for each in self.declarations
            if each.kind is DeclaredKind.MAINTENANCE and node in each.nodes and each.until_ms > now_ms
        )
        return min(found, key=lambda each: each.from_ms, default=None)

    def dump(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "declarations": [
                [str(each.kind), list(each.nodes), each.from_ms, each.until_ms, each.told_ms]
                for each in self.declarations
            ],
            "coming": {node: list(begins) for node, begins in self.coming.items()},
            "planned": {name: sorted(used.items()) for name, used in self.planned.items()},
        }

    @classmethod
    def load(cls, plain: dict[str, Any]) -> Outages:
        """What was dumped."""
        loaded = cls()
        loaded.declarations = tuple(
            Declaration(DeclaredKind(kind), tuple(nodes), *instants) for kind, nodes, *instants in plain["declarations"]
        )
        loaded.coming = {node: tuple(begins) for node, begins in plain["coming"].items()}
        loaded.planned = {name: dict(used) for name, used in plain["planned"].items()}
        return loaded


def _called_off(declarations: Iterable[Declaration], event: DrainOrdered) -> Iterable[Declaration]:
    for each in declarations:
        if each.kind is not DeclaredKind.MAINTENANCE or event.node not in each.nodes or each.until_ms <= event.at_ms:
            yield each
        elif each.from_ms < event.at_ms:
            yield replace(each, until_ms=event.at_ms)
