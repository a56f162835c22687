"""A small site as a folded state: an instrument of each firmness and level, trades, failures, what follows of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from scheduler.core.causes import Cause
from scheduler.core.cluster import Level, NodeSpec
from scheduler.core.coverage.ownership import check
from scheduler.core.coverage.topology import topology_of
from scheduler.core.events import Event, HealthChanged, InstrumentListed, NodeJoined, PositionChanged
from scheduler.core.instruments import Firm, NonFirm, Recallable, SystemFirm, UnitFirm, standard_terms
from scheduler.core.positions import Cursor, PositionEvent, PositionEventKind
from scheduler.core.rounds import covering
from scheduler.core.state.state import State
from tests.core.state.folding import END, T

NOW = T + 20_000
FIRMNESS: tuple[Any, ...] = (
    Firm(),
    UnitFirm(pool="H100"),
    SystemFirm(),
    Recallable(notice_ms=0, max_events=9, max_quantity_gpu_ms=10**12),
    NonFirm(),
)
LEVELS = (Level.GPU, Level.NODE, Level.NVLINK_DOMAIN)


class Site:
    """Domains of two nodes of two GPUs, an instrument of each firmness and level, and a state that is folded."""

    def __init__(self, domains: int = 2, spares: tuple[str, ...] = (), *, handovers: bool = False) -> None:
        self.state, self.spares, self.events = State(), spares, list[Event]()
        for number in range(2 * domains):
            node = NodeSpec(name=f"node-{number}", grade="H100", gpus=2, domain=f"d{number // 2}")
            self.apply([NodeJoined(at_ms=T, node=node)])
        for firmness, level in [(each, level) for each in FIRMNESS for level in LEVELS]:
            terms = standard_terms(
                symbol=f"{firmness.kind}.{level.name}",
                start_ms=T,
                end_ms=END,
                grade="H100",
                cell=level,
                gpus=(1, 2, 4)[level],
                metering_interval_s=10,
                firmness=firmness,
                handovers=handovers,
                replace_within_s=0,
            )
            self.apply([InstrumentListed(at_ms=T, terms=terms)])

    def apply(self, events: Iterable[Event]) -> list[Event]:
        """Fold events as they come. Nothing may overlap at any step."""
        told = []
        for event in events:
            self.state.apply(event)
            told.append(event)
            assert check(self.state.fleet, self.state.calendar.holdings) == ()
        self.events += told
        return told

    def trade(
        self, position: str, firmness: int, level: Level, lots: int = 1, from_ms: int = NOW, *, look: bool = True
    ) -> list[Event]:
        """The exchange tells of a trade, and coverage follows; `look`: what is short is tried again too."""
        known = self.state.book.cursor
        event = PositionEvent(
            cursor=Cursor(stream="exchange", epoch=1, seq=1 if known is None else known.seq + 1),
            kind=PositionEventKind.TRADE,
            position=position,
            account="acme",
            instrument=f"{FIRMNESS[firmness].kind}.{level.name}@1",
            lots=lots,
            effective_ms=from_ms,
            committed_ms=NOW,
        )
        self.apply([PositionChanged(at_ms=NOW, event=event)])
        told = self.apply(covering.after_position_event(self.state, event, NOW, self.spares))
        return told + (self.look() if look else [])

    def ill(self, node: str, gpus: tuple[int, ...] | None = None, cause: Cause | None = Cause.ECC) -> list[Event]:
        """GPUs fall ill, or are well again, and coverage follows."""
        event = HealthChanged(at_ms=NOW, node=node, gpus=gpus, cause=cause)
        self.apply([event])
        return self.apply(covering.after_health(self.state, event, NOW, self.spares))

    def look(self) -> list[Event]:
        """Somebody looks again."""
        return self.apply(covering.retry(self.state, NOW, self.spares))

    def cells(self, position: str) -> list[int]:
        """The cells that stand behind a position now."""
        return sorted(h.cell for h in self.state.calendar.of(position) if h.start_ms <= NOW)

    def broken(self) -> list[str]:
        """Each waiting lot of which a lower class holds a cell that it could use."""
        state, topology = self.state, topology_of(self.state.fleet)
        rank = {
            name: state.instruments[position.instrument].firmness_rank
            for name, position in state.book.positions.items()
        }
        now = [held for held in state.calendar.holdings if held.start_ms <= NOW]
        found = []
        for name, position in state.book.positions.items():
            terms = state.instruments[position.instrument]
            level, lots = terms.lot.cell, position.lots_at(NOW)
            well = [h for h in now if h.position == name and state.health.usable[self._gpus(level, h.cell)].all()]
            missing = lots - len(well)
            usable = 0
            for cell in range(topology.n_cells(level)):
                gpus = self._gpus(level, cell)
                holders = {h.position for h in now if set(gpus) & set(self._gpus(h.level, h.cell))}
                spare = any(state.fleet.nodes[state.fleet.node_of_gpu[gpu]].name in self.spares for gpu in gpus)
                if not state.health.usable[gpus].all() or (spare and state.refused.get(name) == Cause.OVERSOLD):
                    continue
                usable += all(rank[holder] > rank[name] for holder in holders) and bool(holders)
            whole = missing if state.refused.get(name) == Cause.OVERSOLD else 1
            if missing and usable >= whole:
                found.append(f"{name} waits for {missing} {level.name} cells, lower classes hold {usable}")
        return found

    def _gpus(self, level: Level, cell: int) -> list[int]:
        return [int(gpu) for gpu in self.state.fleet.gpus_of_cell(level, cell)]
