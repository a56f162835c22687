"""Storms: random facts of every kind, for hundreds of rounds. Every law holds after every round, and the journal is the
whole truth: the fold of it equals the live state, and a snapshot in the middle with what follows equals the whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.causes import Cause
from scheduler.core.cluster import Level
from scheduler.core.errors import Refused
from scheduler.core.events import decode
from scheduler.core.intervals import Interval
from scheduler.core.positions import PositionEventKind
from scheduler.core.state.dump import dump, load
from scheduler.execution.simulated import GpuFault, NodeDown, NodeUp, Slowdown, Work
from scheduler.recovery import save_snapshot
from scheduler.service import ServiceSettings
from tests.simulation.site import START_MS, Death, Fate, Site, gang, listing, nodes

ACCOUNTS = ("acme", "bolt", "core")
KINDS = (
    "submit",
    "submit",
    "submit",
    "submit",
    "trade",
    "transfer",
    "split",
    "expiry",
    "correction",
    "cancel",
    "drain",
    "undrain",
    "down",
    "up",
    "up",
    "ill",
    "well",
    "slow",
    "swap_window",
)
INSTRUMENTS = ("H100.NODE@1", "H100.GPU@1", "H100.LATER@1", "H100.DOMAIN@1")


class Storm:
    """One seeded storm on a site of six nodes."""

    def __init__(self, seed: int, rounds: int, *, fate: Fate | None = None, outage_ms: int = 0) -> None:
        self.random = Random(seed)
        settings = ServiceSettings(close_lag_ms=0, spares=("node-5",))
        self.site = Site(nodes(6), work=self._work, settings=settings, fate=fate, outage_ms=outage_ms)
        self.rounds = rounds
        self.positions: list[tuple[str, str, str]] = []
        self.refusals = 0

    def _work(self, _: object) -> Work:
        random = self.random
        return Work(
            random.randrange(2_000, 80_000),
            random.choice((0, 5_000)),
            random.randrange(2_000),
            random.randrange(400),
            random.choice((None, 100, 1_000)),
            random.choice((0, 0, 0, 1)),
        )

    def run(self) -> Site:
        """To its end."""
        site = self.site
        site.round()
        site.listed(
            listing(),
            listing("H100.GPU", cell=Level.GPU, gpus=1, length_ms=400_000, metering_interval_s=60),
            listing("H100.LATER", start_ms=120_000, length_ms=120_000),
            listing("H100.DOMAIN", cell=Level.NVLINK_DOMAIN, gpus=16, length_ms=300_000),
        )
        for step in range(self.rounds):
            self.happen(self.random.choice(KINDS))
            site.until(site.now_ms - START_MS + self.random.randrange(1, 3_000))
            if step == self.rounds // 2:
                save_snapshot(site.journal, site.scheduler)
        return site

    def happen(self, kind: str) -> None:
        """One fact."""
        site, random = self.site, self.random
        node, faults = f"node-{random.randrange(6)}", site.executor.inner
        gpus = tuple(sorted(random.sample(range(8), random.randrange(1, 4))))
        facts: dict[str, Callable[[], object]] = {
            "submit": self._submit,
            "cancel": self._cancel,
            "drain": lambda: site.doing(lambda s: s.drain(node, site.now_ms + random.randrange(20_000))),
            "undrain": lambda: site.doing(lambda s: s.drain(node, None)),
            "down": lambda: faults.inject(NodeDown(node, site.now_ms)),
            "up": lambda: faults.inject(NodeUp(node, site.now_ms)),
            "ill": lambda: faults.inject(GpuFault(node, gpus, site.now_ms, random.choice((Cause.ECC, Cause.NVLINK)))),
            "well": lambda: faults.inject(GpuFault(node, tuple(range(8)), site.now_ms, None)),
            "slow": lambda: faults.inject(Slowdown(node, site.now_ms, random.randrange(300_000, 1_100_000))),
        }
        facts.get(kind, lambda: self._position(kind))()

    def _submit(self) -> None:
        random = self.random
        size = random.choice((1, 1, 2, 3, 4, 8, 8))
        firm = random.random() < 0.15
        spec = gang(
            random.choice(ACCOUNTS),
            size,
            workers=random.choice((1, 1, 2, 3)) if size < 8 else random.choice((1, 2)),
            priority=random.choice((0, 0, 0, 5)),
            preemptible=not firm,
            max_runtime_ms=random.randrange(3_000, 60_000) if firm else random.choice((None, 30_000)),
            checkpoint_ms=random.choice((0, 5_000)),
            grace_ms=random.choice((0, 1_000, 5_000)),
            max_failures=random.choice((0, 1)),
            topology=random.choice((None, None, Level.NVLINK_DOMAIN)),
            topology_required=random.choice((False, False, True)),
        )
        self.site.submit(spec)

    def _cancel(self) -> None:
        names = self.site.scheduler.state.gangs.ids
        if names:
            name = self.random.choice(names)
            self.site.doing(lambda scheduler: scheduler.cancel(name))

    def _position(self, kind: str) -> None:
        random, site = self.random, self.site
        name, account = f"p{site.seq + 1}", random.choice(ACCOUNTS)
        at_ms = max(0, site.now_ms - START_MS + random.choice((0, 0, -500, -15_000, -70_000, 4_000, 30_000)))
        lots = random.randrange(1, 4)
        if kind in ("trade", "swap_window"):
            instrument = random.choice(INSTRUMENTS if kind == "trade" else INSTRUMENTS[2:3])
            event = site.event(PositionEventKind.TRADE, name, account, lots=lots, at_ms=at_ms, instrument=instrument)
        elif not self.positions:
            return
        else:
            source, owner, instrument = random.choice(self.positions)
            if kind in ("transfer", "split"):
                account = owner if kind == "split" else next(each for each in ACCOUNTS if each != owner)
                about: dict[str, Any] = {"position": name, "account": account, "source": source, "lots": lots}
            else:
                about = {"position": source, "account": owner, "lots": 0 if kind == "expiry" else random.randrange(4)}
            event = site.event(PositionEventKind(kind), at_ms=at_ms, instrument=instrument, **about)
        before = site.scheduler.state.book.snapshot()
        try:
            site.told(event)
            self.positions.append((event.position, event.account, event.instrument))
        except Refused:
            site.seq -= 1
            self.refusals += 1
            assert site.scheduler.state.book.snapshot() == before


class Doom(Fate):
    """Dies at one boundary in fifty, again and again, once it is let loose."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = Random(seed)

    def boundary(self, what: str) -> None:
        """See Fate."""
        self.passed += 1
        if self.passed > 30 and self.random.random() < 0.02:
            raise Death(what)


def whole_and_tail_agree(site: Site) -> None:
    """Fold of all = live = snapshot + tail = events reordered by nobody."""
    live = dump(site.scheduler.state)
    assert site.refolded() == live
    kept = site.journal.snapshot()
    assert kept is not None
    seq, _, body = kept
    resumed = load(body)
    assert dump(resumed) == body
    for entry in site.journal.read(seq):
        resumed.apply(decode(entry.version, entry.body))
    assert dump(resumed) == live


def conserved(site: Site) -> None:
    """Each (position, interval) has its versions in order, the last says what is contracted, and intervals tile."""
    state = site.scheduler.state
    latest = {(record.position, record.start_ms): record for record in site.records()}
    versions: dict[tuple[str, int], int] = {}
    for record in site.records():
        key = (record.position, record.start_ms)
        assert record.version == versions.get(key, 0) + 1
        versions[key] = record.version
    for name, contracted in state.contracted.items():
        interval_ms = state.instruments[state.book.positions[name].instrument].interval_ms
        closed_ms = state.closed_ms.get(interval_ms, 0)
        metered = sum(record.contracted_gpu_ms for (position, _), record in latest.items() if position == name)
        expected = contracted.integral(Interval(0, closed_ms)) if closed_ms else 0
        assert metered == expected, name
        assert all(r.end_ms - r.start_ms == interval_ms for (position, _), r in latest.items() if position == name)


@given(st.integers(0, 2**32))
@settings(max_examples=12)
def test_every_law_holds_through_a_storm(seed: int) -> None:
    site = Storm(seed, 60).run()
    whole_and_tail_agree(site)
    conserved(site)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_every_law_holds_through_a_long_storm(seed: int) -> None:
    storm = Storm(seed, 200)
    site = storm.run()
    whole_and_tail_agree(site)
    conserved(site)
    kinds = set(site.kinds())
    assert {"interval_corrected", "coverage_refused", "calendar_turned", "gang_stop_asked"} <= kinds


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "outage_ms"), [(11, 0), (12, 700), (13, 7_000), (14, 31_000)])
def test_every_law_holds_through_a_storm_in_which_the_process_dies_again_and_again(seed: int, outage_ms: int) -> None:
    site = Storm(seed, 80, fate=Doom(seed), outage_ms=outage_ms).run()
    assert site.deaths > 5
    whole_and_tail_agree(site)
    conserved(site)
    ends = Counter(entry.body for entry in site.journal.read() if entry.kind == "gang_ended")
    assert max(ends.values()) == 1


def test_equal_storms_leave_equal_journals() -> None:
    left, right = Storm(7, 50).run(), Storm(7, 50).run()
    assert left.journal.head == right.journal.head
    assert left.leaves() == right.leaves()
