"""How the exchange keeps versions of records: which leaf told of each last, how settled it is, and which leaves make
the statement of an earlier version set.

Every method is called with the database's guard held; those that write, inside a transaction.
"""

from __future__ import annotations

from scheduler.core.instruments import InstrumentTerms
from scheduler.core.metering.disputes import Answer, Dispute
from scheduler.core.metering.versions import LateFact, Promotion
from scheduler.core.settlement_times import last_change_ms
from scheduler.exchange.checks import Reason, Rejected
from scheduler.exchange.leaves import SettlingLeaf
from scheduler.exchange.plain_records import PlainRecord
from scheduler.exchange.reference.database import Database
from scheduler.exchange.reference.disputes import Disputes
from scheduler.exchange.reference.venue import Venue


class Settling:
    """See the module."""

    def __init__(self, database: Database, venue: Venue, disputes: Disputes) -> None:
        self._database = database
        self._venue = venue
        self._disputes = disputes

    def take(self, stream: int, index: int, leaf: SettlingLeaf) -> Rejected | None:
        """A leaf of a stream that settles records; why it does not, in which case nothing is changed."""
        told = leaf.told
        rejected: Rejected | None = None
        from_ms: int | None = None
        match told:
            case Promotion():
                position = told.position
                self._promote(told)
            case Dispute():
                position = told.position
                rejected = self._disputes.heard(stream, told)
            case Answer():
                answered = self._disputes.answered(stream, told)
                if isinstance(answered, Rejected):
                    return answered
                position = answered
            case LateFact():
                position, from_ms = told.position, told.from_ms
        number = self._venue.position_numbers().get(position)
        if number is None:
            return Rejected(Reason.UNKNOWN_POSITION, f"position {position} is not known")
        if rejected is None:
            self._database.write("INSERT INTO settling VALUES (?, ?, ?, ?)", number, stream, index, from_ms)
        return rejected

    def supersede(self, position: int, start_ms: int, leaf: int) -> None:
        """A leaf that told of a record is no longer the last one."""
        self._database.write("INSERT OR IGNORE INTO superseded VALUES (?, ?, ?)", position, start_ms, leaf)

    def unexplained(self, record: PlainRecord, position: int, told_at: int | None) -> Rejected | None:
        """Why the correction of a final record is not settled: nothing that the log told since explains it."""
        named = f"{record.position} [{record.start_ms}, {record.end_ms}) version {record.version}"
        if self._disputes.is_open(record.position, record.start_ms):
            return None
        query = "SELECT 1 FROM settling WHERE position = ? AND leaf > ? AND from_ms < ?"
        if self._database.one(query, position, -1 if told_at is None else told_at, record.end_ms) is None:
            detail = f"{named} corrects a final record, expected a dispute or a late fact before it"
            return Rejected(Reason.NOT_EXPLAINED, detail)
        last_ms = last_change_ms(self._venue.terms(record.instrument), record.end_ms)
        if record.written_ms > last_ms:
            detail = f"{named} was written at {record.written_ms}, expected {last_ms} or earlier"
            return Rejected(Reason.TOO_LATE, detail)
        return None

    def leaves_of(self, position: int, as_of: int) -> list[tuple[str, int]]:
        """The stream and index of every leaf that a position's statement takes, in their order. `as_of`: those among
        the first so many leaves; 0: all.
        """
        query = (
            "SELECT stream.name, leaf FROM ("
            " SELECT stream, leaf FROM record WHERE position = ?1 AND leaf IS NOT NULL"
            " UNION SELECT record.stream, superseded.leaf FROM superseded"
            "  JOIN record USING (position, start_ms) WHERE position = ?1"
            " UNION SELECT stream, leaf FROM settling WHERE position = ?1"
            ") AS told JOIN stream ON stream.number = told.stream WHERE ?2 = 0 OR leaf < ?2 ORDER BY leaf"
        )
        return self._database.all(query, position, as_of)

    def _promote(self, promotion: Promotion) -> None:
        number = self._venue.position_numbers().get(promotion.position)
        if number is None:
            return
        terms = self._terms(promotion.position)
        self._database.write(
            "UPDATE record SET version = version + 1, stage = ?"
            " WHERE position = ? AND start_ms >= ? AND start_ms <= ? AND stage < ?",
            int(promotion.stage),
            number,
            promotion.start_ms,
            promotion.end_ms - terms.interval_ms,
            int(promotion.stage),
        )

    def _terms(self, position: str) -> InstrumentTerms:
        return self._venue.terms(self._venue.position(position).instrument)
