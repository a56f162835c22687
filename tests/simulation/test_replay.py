"""The replay's loop on generated traces, with nodes that fail, and every law checked after every round."""

from __future__ import annotations

from random import Random

import pytest

from scheduler.core.causes import Bearer, Cause
from scheduler.execution.simulated import Fault, NodeDown, NodeUp
from scheduler.replay import book
from scheduler.replay.driver import Outcome, Script, play
from scheduler.traces.generate import generate

HOUR_MS = 3_600_000
BEARERS = {cause.name: cause.bearer for cause in Cause}


def replayed(seed: int, *, spares: int, fail: bool, load_ppm: int | None = None) -> Outcome:
    """Eight nodes and the spares for a day, six tenants, 120 gangs."""
    trace = generate(seed, 6, 8, 1, 120, load_ppm=load_ppm)
    terms = book.instruments(trace, 300)
    nodes = book.nodes(trace.nodes + spares)
    faults: list[Fault] = []
    random = Random(seed)
    for node in random.sample(range(trace.nodes), 4) if fail else ():
        at_ms = trace.origin_ms + random.randrange(20 * HOUR_MS)
        faults += [NodeDown(f"node-{node:04d}", at_ms), NodeUp(f"node-{node:04d}", at_ms + random.randrange(HOUR_MS))]
    script = Script(
        start_ms=trace.origin_ms,
        end_ms=trace.origin_ms + trace.end_ms,
        nodes=nodes,
        terms=terms,
        trades=tuple(book.trades(trace, terms)),
        gangs=book.gangs(trace),
        faults=tuple(sorted(faults, key=lambda fault: fault.at_ms)),
        spares=tuple(node.name for node in nodes[trace.nodes :]),
    )
    return play(script, ":memory:", check=True)


@pytest.mark.parametrize("seed", range(1, 5))
def test_a_day_without_failures_keeps_every_law_and_delivers_everything(seed: int) -> None:
    outcome = replayed(seed, spares=1, fail=False)
    assert outcome.faults == []
    assert outcome.violations == 0
    assert outcome.figures.contracted_gpu_ms == sum(outcome.figures.states.values()) > 0
    assert outcome.figures.seller_shortfall_gpu_ms(BEARERS) == 0
    assert outcome.figures.states["used"] > 0


@pytest.mark.parametrize(("seed", "spares"), [(1, 0), (2, 1), (3, 4), (4, 2)])
def test_a_day_with_failures_keeps_every_law_and_loses_only_what_nobody_could_save(seed: int, spares: int) -> None:
    outcome = replayed(seed, spares=spares, fail=True)
    assert outcome.faults == []
    assert outcome.violations == 0
    lost = outcome.figures.lost_by_cause
    assert lost[Cause.OVERSOLD.name] == lost[Cause.NOT_OBSERVED.name] == 0
    assert outcome.figures.lost_by_cause[Cause.NODE_LOST.name] == outcome.unavoidable_gpu_ms
    assert {BEARERS[name] for name, gpu_ms in lost.items() if gpu_ms} <= {Bearer.SELLER}
    if spares == 4:
        assert not lost.total()


def test_the_same_trace_gives_the_same_journal() -> None:
    first, second = (replayed(5, spares=1, fail=True, load_ppm=1_100_000) for _ in range(2))
    assert (first.events, first.rounds, first.figures.states) == (second.events, second.rounds, second.figures.states)
