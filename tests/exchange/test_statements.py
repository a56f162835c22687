"""Statements: the exchange, the cluster and an auditor have the same bytes, whatever came in between."""

from __future__ import annotations

import pytest

from scheduler.core.errors import Conflict, InvalidValue
from scheduler.core.metering.records import MeterRecord
from scheduler.core.models import canonical_bytes
from scheduler.core.positions import Position
from scheduler.core.settlement import Statement
from scheduler.exchange.leaves import encode_record
from scheduler.exchange.publisher import Publisher
from scheduler.exchange.statements import delivery_period, statement_of, versions_of
from scheduler.ledger.journal import Journal
from scheduler.ledger.notes import open_checkpoint
from tests.exchange.world import (
    END_MS,
    INTERVAL_MS,
    INTERVALS,
    SIGNER,
    START_MS,
    STREAM,
    Embedded,
    delivered,
    metered,
    terms,
    write_log,
)


def publish(exchange: Embedded, leaves: list[bytes]) -> list[tuple[int, bytes]]:
    """Sends a log and gives the leaves as the cluster has them."""
    with Journal.open(":memory:") as journal:
        write_log(journal, leaves)
        with Publisher(exchange.server.address, journal, STREAM, SIGNER, 1) as sender:
            assert sender.wait_acknowledged(len(leaves), 20)
            assert sender.status().rejections == ()
        return list(journal.leaves(STREAM))


def position_of(exchange: Embedded, name: str) -> Position:
    return next(each for each in exchange.client.snapshot().positions if each.id == name)


def test_both_sides_have_the_same_bytes(exchange: Embedded) -> None:
    recorded = publish(exchange, delivered())
    for position in exchange.client.snapshot().positions:
        statement, note = exchange.client.statement(position.id)
        assert statement == canonical_bytes(statement_of(terms(), position, versions_of(recorded, position.id)))
        assert open_checkpoint(note, (SIGNER.verifier,)).size == len(delivered())
        stated = Statement.model_validate_json(statement)
        assert (stated.start_ms, stated.end_ms, stated.complete) == (START_MS, END_MS, True)
        assert stated.records == INTERVALS


def test_a_statement_before_the_end_says_so(exchange: Embedded) -> None:
    recorded = publish(exchange, delivered()[:20])
    position = position_of(exchange, "pos-1")
    whole, _ = exchange.client.statement("pos-1")
    assert whole == canonical_bytes(statement_of(terms(), position, versions_of(recorded, position.id)))
    stated = Statement.model_validate_json(whole)
    assert (stated.complete, stated.through_ms) == (False, START_MS + 5 * INTERVAL_MS)
    until, _ = exchange.client.statement("pos-1", START_MS + 2 * INTERVAL_MS + 5)
    stated = Statement.model_validate_json(until)
    assert (stated.complete, stated.end_ms, stated.records) == (True, START_MS + 2 * INTERVAL_MS, 2)
    with pytest.raises(InvalidValue, match="until_ms"):
        exchange.client.statement("pos-1", START_MS + 5)


def test_a_transfer_in_the_middle_gives_two_statements_that_tile(exchange: Embedded) -> None:
    moved_ms = START_MS + 4 * INTERVAL_MS + 2_500
    exchange.client.transfer("pos-1", "borealis", 3, effective_ms=moved_ms)
    records = [metered("pos-1", 3, index) for index in range(4)]
    records.append(part_of("pos-1", 4, 2_500))
    records.append(part_of("pos-4", 4, 7_500))
    records += [metered("pos-4", 3, index) for index in range(5, INTERVALS)]
    recorded = publish(exchange, [encode_record(record, record.end_ms) for record in records])
    before, after = (Statement.model_validate_json(exchange.client.statement(name)[0]) for name in ("pos-1", "pos-4"))
    assert (before.start_ms, before.end_ms, before.complete) == (START_MS, START_MS + 5 * INTERVAL_MS, True)
    assert (after.start_ms, after.end_ms, after.complete) == (START_MS + 4 * INTERVAL_MS, END_MS, True)
    assert before.contracted_gpu_ms + after.contracted_gpu_ms == 3 * 8 * (END_MS - START_MS)
    for name in ("pos-1", "pos-4"):
        ours = canonical_bytes(statement_of(terms(), position_of(exchange, name), versions_of(recorded, name)))
        assert exchange.client.statement(name)[0] == ours


def part_of(position: str, index: int, length_ms: int) -> MeterRecord:
    contracted = 3 * 8 * length_ms
    return metered(
        position,
        3,
        index,
        contracted_gpu_ms=contracted,
        used_gpu_ms=contracted,
        available_unused_gpu_ms=0,
        out_forced_gpu_ms=0,
        losses=(),
        par_gpu_ms=contracted,
    )


def test_records_that_are_missing_in_between_give_no_statement(exchange: Embedded) -> None:
    publish(exchange, [encode_record(metered("pos-1", 3, index), 1) for index in (0, 1, 3)])
    with pytest.raises(Conflict, match="no record of"):
        exchange.client.statement("pos-1")
    assert exchange.client.statement("pos-1", START_MS + 2 * INTERVAL_MS)[0]


def test_a_position_without_lots_in_the_profile_has_no_period() -> None:
    position = Position(id="pos-1", account="a", instrument="H100.BASE@1", acquired_ms=1, lots=((END_MS, 3),))
    assert delivery_period(terms(), position) is None
    with pytest.raises(InvalidValue, match="lots"):
        statement_of(terms(), position, versions_of((), position.id))
