"""Disputes at the exchange: who does not believe which record, what is claimed, and what the cluster's log answered.

An open dispute is told to the cluster by its place in the order of all (`seq`, dense from 1); the answer comes with the
log, as a leaf. Laws: the same request id with the same content gives the same dispute for ever, with another it is
refused; a record has one open dispute at most; an answered dispute stays as it was answered.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice
from typing import Any

from scheduler.core.causes import Cause
from scheduler.core.errors import Conflict, Damaged, InvalidValue, UnknownName
from scheduler.core.metering.disputes import LONGEST_REASON, Answer, Dispute, Disputed, DisputeState, checked_losses
from scheduler.core.metering.records import MeterRecord
from scheduler.core.models import canonical_bytes
from scheduler.core.settlement_times import last_change_ms
from scheduler.exchange.checks import Reason, Rejected
from scheduler.exchange.leaves import RecordLeaf, decode
from scheduler.exchange.reference.database import Database, checked_place
from scheduler.exchange.reference.venue import Venue

PAGE = 500
_LONGEST_REQUEST_ID = 256
_COLUMNS = "seq, body, stream.name, reason, state, answer, corrected, answered_ms"


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for. `version` 0: the last one, whichever that is."""

    request_id: str
    position: str
    start_ms: int
    version: int
    losses: tuple[tuple[Cause, int], ...]
    evidence: str
    reason: str


class Disputes:
    """See the module. Every public method may be called from any thread."""

    def __init__(self, database: Database, venue: Venue) -> None:
        self._database = database
        self._venue = venue

    def open(self, wish: Wish) -> Disputed:
        """A dispute of the last version of a record, durable when this returns.

        Raises UnknownName, InvalidValue for what is no claim or comes too late, Conflict for another version, a second
        dispute of the record, or a request id that stands for something else.
        """
        with self._database.guard:
            content = canonical_bytes(
                ["dispute", wish.position, wish.start_ms, wish.version, wish.losses, wish.evidence, wish.reason]
            )
            done = self._done(wish.request_id, content)
            if done is not None:
                return done
            dispute, stream = self._checked(wish)
            with self._database.transaction():
                self._database.write(
                    "INSERT INTO dispute (id, position, start_ms, stream, body, reason, state, answer, answered_ms)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, '', 0)",
                    *(dispute.id, dispute.position, dispute.start_ms, stream),
                    *(canonical_bytes(dispute), wish.reason, DisputeState.OPEN.value),
                )
                self._database.write(
                    "INSERT INTO request VALUES (?, ?, ?)", wish.request_id, content, dispute.id.encode()
                )
            return self._by_id(dispute.id)

    def after(self, seq: int, *, positions: Collection[str] | None = None, stream: str = "") -> tuple[Disputed, ...]:
        """The disputes after a place, a page at a time. `positions`: only of these; `stream`: only about this one.

        Raises InvalidValue for no place.
        """
        query = (
            f"SELECT {_COLUMNS} FROM dispute JOIN stream ON stream.number = dispute.stream"  # noqa: S608 - constants
            " WHERE seq > ? AND (? = '' OR stream.name = ?) ORDER BY seq"
        )
        found = map(self._disputed, self._database.all(query, checked_place(seq), stream, stream))
        return tuple(islice((each for each in found if positions is None or each.dispute.position in positions), PAGE))

    # -- what the log says: inside the intake's transaction ------------------------------------------------------------

    def is_open(self, position: str, start_ms: int) -> bool:
        """Whether a record is disputed and nobody has answered."""
        query = "SELECT 1 FROM dispute WHERE position = ? AND start_ms = ? AND state = ?"
        return self._database.one(query, position, start_ms, DisputeState.OPEN.value) is not None

    def heard(self, stream: int, dispute: Dispute) -> Rejected | None:
        """The cluster has put a dispute into its log: it must be one of ours, unchanged."""
        row = self._database.one("SELECT body, stream FROM dispute WHERE id = ?", dispute.id)
        if row is None or row != (canonical_bytes(dispute), stream):
            return Rejected(Reason.UNKNOWN_DISPUTE, f"dispute {dispute.id} was not opened here like that")
        return None

    def answered(self, stream: int, answer: Answer) -> Rejected | str:
        """The cluster has answered; the position that the dispute is about."""
        row = self._database.one("SELECT position, stream, state FROM dispute WHERE id = ?", answer.dispute)
        if row is None or row[1] != stream:
            return Rejected(Reason.UNKNOWN_DISPUTE, f"dispute {answer.dispute} was not opened here")
        if row[2] != DisputeState.OPEN:
            return Rejected(Reason.UNKNOWN_DISPUTE, f"dispute {answer.dispute} is {row[2]} already")
        self._database.write(
            "UPDATE dispute SET state = ?, answer = ?, corrected = ?, answered_ms = ? WHERE id = ?",
            *(answer.state.value, answer.reason, answer.version, self._venue.now_ms(), answer.dispute),
        )
        position: str = row[0]
        return position

    # -- inside --------------------------------------------------------------------------------------------------------

    def _done(self, request_id: str, content: bytes) -> Disputed | None:
        if not 0 < len(request_id) <= _LONGEST_REQUEST_ID:
            raise InvalidValue("request_id", "a request", request_id[:80], f"1 to {_LONGEST_REQUEST_ID} characters")
        row = self._database.one("SELECT content, answer FROM request WHERE id = ?", request_id)
        if row is None:
            return None
        if row[0] != content:
            raise Conflict(f"request {request_id!r} was made before, with another content")
        return self._by_id(row[1].decode())

    def _checked(self, wish: Wish) -> tuple[Dispute, int]:
        """The dispute, and the number of the stream that it is about. Raises as `open`."""
        terms = self._venue.terms(self._venue.position(wish.position).instrument)
        named = f"{wish.position} at {wish.start_ms}"
        if len(wish.reason) > LONGEST_REASON:
            raise InvalidValue("reason", "a dispute", f"{len(wish.reason)} characters", f"at most {LONGEST_REASON}")
        number = self._venue.position_numbers()[wish.position]
        query = (
            "SELECT stream.name, stream.number, version, leaf FROM record JOIN stream ON stream.number = record.stream"
            " WHERE position = ? AND start_ms = ? AND leaf IS NOT NULL"
        )
        row = self._database.one(query, number, wish.start_ms)
        if row is None:
            raise InvalidValue("start_ms", wish.position, wish.start_ms, "the start of an interval that has a record")
        stream, stream_number, version, leaf = row
        if wish.version not in (0, version):
            raise Conflict(f"version of {named} was {wish.version}, expected {version}, the last one")
        if self.is_open(wish.position, wish.start_ms):
            raise Conflict(f"the record of {named} is disputed already")
        record = self._record(stream, leaf)
        now_ms, last_ms = self._venue.now_ms(), last_change_ms(terms, record.end_ms)
        if now_ms > last_ms:
            raise InvalidValue("start_ms", wish.position, wish.start_ms, f"one that settled no later than {last_ms}")
        losses = checked_losses(wish.losses, record.contracted_gpu_ms)
        if losses == record.losses:
            raise InvalidValue("losses", f"a dispute of {named}", losses, "others than the record has")
        (count,) = self._database.one("SELECT count(*) FROM dispute") or (0,)
        dispute = Dispute(
            id=f"dispute-{count + 1}",
            position=wish.position,
            start_ms=record.start_ms,
            end_ms=record.end_ms,
            version=version,
            leaf=leaf,
            losses=losses,
            evidence=wish.evidence,
            opened_ms=now_ms,
            answer_by_ms=now_ms + terms.settlement.answer_s * 1_000,
        )
        return dispute, stream_number

    def _record(self, stream: str, index: int) -> MeterRecord:
        (page,) = self._database.trees.leaves(stream, index, index + 1)
        leaf = decode(page[0])
        if not isinstance(leaf, RecordLeaf):
            raise Damaged(f"leaf {index} of stream {stream} holds no record, as the table of records says it does")
        return leaf.record

    def _by_id(self, name: str) -> Disputed:
        query = (
            f"SELECT {_COLUMNS} FROM dispute"  # noqa: S608 - constants
            " JOIN stream ON stream.number = dispute.stream WHERE id = ?"
        )
        row = self._database.one(query, name)
        if row is None:
            raise UnknownName("dispute", name)
        return self._disputed(row)

    def _disputed(self, row: tuple[Any, ...]) -> Disputed:
        seq, body, stream, reason, state, answer, corrected, answered_ms = row
        dispute = Dispute.model_validate_json(body)
        told = DisputeState(state)
        if told is DisputeState.OPEN and self._venue.now_ms() > dispute.answer_by_ms:
            told = DisputeState.EXPIRED  # until the log says otherwise: an answer may still be on its way
        return Disputed(seq, dispute, stream, reason, told, answer, corrected, answered_ms)
