"""A trace as a book and a queue: nothing of the trace is lost on the way, and nothing is added."""

from __future__ import annotations

from collections import Counter

import pytest

from scheduler.core.cluster import Fleet, Level
from scheduler.core.positions import PositionBook, PositionEventKind
from scheduler.core.quantities import MS_PER_DAY
from scheduler.replay import book
from scheduler.traces.generate import generate
from scheduler.traces.replay_input import ReplayInput


@pytest.fixture(scope="module")
def trace() -> ReplayInput:
    return generate(3, 5, 9, 3, 80)


def test_nodes_nest_four_to_a_domain_and_four_domains_to_a_block() -> None:
    nodes = book.nodes(37)
    fleet = Fleet.of(nodes)
    assert [node.name for node in nodes] == sorted(node.name for node in nodes)
    assert {node.gpus for node in nodes} == {8}
    assert Counter(fleet.domain_of_node.tolist()) == {**dict.fromkeys(range(9), 4), 9: 1}
    assert Counter(fleet.block_of_node.tolist()) == {0: 16, 1: 16, 2: 5}
    assert len(fleet.pools) == 1


def test_each_day_is_an_instrument_and_they_tile_the_days(trace: ReplayInput) -> None:
    terms = book.instruments(trace, 300)
    assert len({each.id for each in terms}) == trace.days == 3
    starts = [each.window.start_ms for each in terms]
    assert starts == [trace.origin_ms + day * MS_PER_DAY for day in range(3)]
    assert [each.window.end_ms for each in terms] == [start_ms + MS_PER_DAY for start_ms in starts]
    assert {(each.lot.cell, each.lot.gpus, each.interval_ms) for each in terms} == {(Level.NODE, 8, 300_000)}
    assert [each.symbol[-10:] for each in terms] == ["2017-10-02", "2017-10-03", "2017-10-04"]


def test_each_lot_is_a_trade_before_the_first_day(trace: ReplayInput) -> None:
    terms = book.instruments(trace, 300)
    trades = tuple(book.trades(trace, terms))
    assert {trade.kind for trade in trades} == {PositionEventKind.TRADE}
    assert {trade.effective_ms for trade in trades} == {trace.origin_ms}
    folded = PositionBook()
    for trade in trades:
        assert folded.apply(trade, {each.id for each in terms})
    sold = Counter({(p.account, p.instrument): p.lots_at(trace.origin_ms) for p in folded.positions.values()})
    lots = zip(trace.lots.tenant.tolist(), trace.lots.day.tolist(), trace.lots.nodes.tolist(), strict=True)
    assert sold == Counter({(trace.tenants[tenant], terms[day].id): count for tenant, day, count in lots})


def test_each_gang_of_the_trace_is_submitted_once_with_what_it_does(trace: ReplayInput) -> None:
    gangs = list(book.gangs(trace))
    columns = trace.gangs
    assert len(gangs) == len(columns) > 0
    assert len({spec.name for _, spec, _ in gangs}) == len(gangs)
    for i, (at_ms, spec, work) in enumerate(gangs):
        assert at_ms == trace.origin_ms + columns.submitted_ms[i]
        assert spec.account == trace.tenants[columns.tenant[i]]
        assert (spec.workers, spec.gpus_per_worker) == (columns.workers[i], columns.gpus_per_worker[i])
        assert (spec.preemptible, spec.max_runtime_ms) == (columns.preemptible[i], columns.declared_ms[i])
        assert (work.work_ms, work.checkpoint_ms) == (columns.duration_ms[i], spec.checkpoint_ms)
        assert work.restart_ms == spec.restart_ms == book.RESTART_MS
        assert spec.grace_ms <= book.BIND_LIMIT_S * 1_000
