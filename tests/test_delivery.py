"""The log of delivery: what was issued is found on both sides of the last commit, and signed only once durable."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.errors import InvalidValue, UnknownName
from scheduler.core.intervals import Interval
from scheduler.core.metering.closing import Closing
from scheduler.core.metering.records import MeterRecord, PoolRecord
from scheduler.core.rounds.settling import Told
from scheduler.core.state.closings import ClosedInterval
from scheduler.delivery import LogWriter, statement
from scheduler.exchange.leaves import PoolLeaf, RecordLeaf, decode
from scheduler.ledger.journal import Journal
from scheduler.ledger.notes import open_checkpoint
from tests.simulation.site import SIGNER, STREAM, Site, listing, nodes

LOG = LogWriter(STREAM, SIGNER)


def record(position: str, end_ms: int, version: int) -> MeterRecord:
    return MeterRecord(
        position=position,
        instrument="I@1",
        start_ms=end_ms - 10,
        end_ms=end_ms,
        version=version,
        supersedes=None if version == 1 else version - 1,
        contracted_gpu_ms=80,
        used_gpu_ms=80,
    )


def pool(end_ms: int) -> PoolRecord:
    fields: dict[str, Any] = dict.fromkeys((name for name in PoolRecord.model_fields if name.endswith("_gpu_ms")), 0)
    return PoolRecord(grade="H100", site="here", start_ms=end_ms - 10, end_ms=end_ms, **fields)


def closing(records: tuple[MeterRecord, ...], end_ms: int) -> Closing:
    return Closing(interval=Interval(end_ms - 10, end_ms), records=records, pools=(pool(end_ms),))


def test_a_closing_is_its_records_and_then_its_pools() -> None:
    closed = closing((record("p", 10, 1), record("q", 10, 1)), 10)
    kinds = [decode(leaf) for leaf in LOG.leaves_of(closed, 12)]
    assert [type(leaf) for leaf in kinds] == [RecordLeaf, RecordLeaf, PoolLeaf]
    assert [leaf.record for leaf in kinds if isinstance(leaf, RecordLeaf)] == list(closed.records)


written = st.lists(st.tuples(st.sampled_from([10, 20]), st.sets(st.sampled_from("pqr"), max_size=3)), max_size=5)


@settings(max_examples=40)
@given(written, st.data())
def test_what_was_issued_last_is_found_wherever_it_lies(
    closings: list[tuple[int, set[str]]], data: st.DataObject
) -> None:
    leaves: list[bytes] = []
    kept: list[ClosedInterval] = []
    expected: dict[int, dict[str, Told]] = {10: {}, 20: {}}
    for end_ms, positions in closings:
        records = tuple(
            record(name, end_ms, 1 + (expected[end_ms][name].record.version if name in expected[end_ms] else 0))
            for name in sorted(positions)
        )
        new = LOG.leaves_of(closing(records, end_ms), 30)
        kept.append(ClosedInterval(10, end_ms, len(leaves), len(new)))
        expected[end_ms] |= {each.position: Told(each, len(leaves) + i) for i, each in enumerate(records)}
        leaves += new
    saved = data.draw(st.integers(0, len(leaves)))
    with Journal.open(":memory:", durable=False) as journal:
        LOG.commit(journal, (), leaves[:saved], {})
        assert LOG.size(journal) == saved
        for end_ms, records_then in expected.items():
            assert LOG.issued(journal, leaves[saved:], kept, 10, end_ms).records == records_then
        assert LOG.issued(journal, leaves[saved:], kept, 20, 20).records == {}


def test_a_checkpoint_is_over_what_is_durable_and_only_where_the_log_grew() -> None:
    with Journal.open(":memory:", durable=False) as journal:
        LOG.checkpoint(journal)
        assert journal.checkpoint(STREAM) is None
        for size in (2, 4):
            LOG.commit(journal, (), LOG.leaves_of(closing((record("p", 10, 1),), 10), 12), {})
            LOG.checkpoint(journal)
            kept = journal.checkpoint(STREAM)
            assert kept is not None
            assert kept[0] == size
            signed = open_checkpoint(kept[1], [SIGNER.verifier])
            assert (signed.origin, signed.size, signed.root) == (SIGNER.name, size, journal.root(STREAM, size))
            LOG.checkpoint(journal)
            assert journal.checkpoint(STREAM) == kept


@pytest.fixture
def site() -> Iterator[Site]:
    """An account with a position."""
    site = Site(nodes(1))
    site.round()
    site.listed(listing())
    site.trade("p", "acme")
    yield site
    site.journal.close()


def test_a_statement_is_of_a_known_position_with_records(site: Site) -> None:
    state = site.scheduler.state
    with pytest.raises(UnknownName, match="position was 'q', expected one of p"):
        statement(site.journal, STREAM, state, "q")
    with pytest.raises(InvalidValue):
        statement(site.journal, STREAM, state, "p")
    site.until(21_000)
    assert statement(site.journal, STREAM, state, "p").contracted_gpu_ms == 8 * 20_000
