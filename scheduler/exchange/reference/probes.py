"""The exchange has pledged devices compute: it draws when, which, and a nonce, and checks what comes back in what time.

One call of a stream is open at a time. Its steps are called, revealed, answered and found, each durable before anybody
is told of it; a step that the cluster does not follow in time makes the finding SILENT. Laws: the time of a device
begins when its nonce is first told, and ends when its root first comes; a finding never changes; the log is to tell of
each finding once, as it was signed, and until it does the cluster is told of it again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from scheduler.core.device_probes import (
    OPENED_ROWS,
    Declined,
    DeviceProbe,
    Outcome,
    ProbeCall,
    ProbedRow,
    commitment_of,
    is_answer_for,
    shape_of,
    wrong_rows,
)
from scheduler.core.errors import Conflict, Damaged, InvalidValue, UnknownName
from scheduler.core.models import canonical_bytes
from scheduler.exchange.checks import Reason, Rejected
from scheduler.exchange.leaves import PledgeLeaf, decode
from scheduler.exchange.probe_leaves import ProbeLeaf
from scheduler.exchange.reference.database import Database, checked_place
from scheduler.exchange.reference.venue import Venue
from scheduler.exchange.reference.witness import Witness

PAGE = 100
UNLOGGED = 16
"""As many findings are told again at a time."""

_READY_MS = 120_000
"""From the call to the device being ready, and from each later step to the next, beside the device's own time."""
_COMPARED = 64
"""So many of a stream's other devices may an answer turn out to be of."""
_NONCE_BYTES = 32
_CALLED, _REVEALED, _ANSWERED, _FOUND = "called", "revealed", "answered", "found"


@dataclass(frozen=True, slots=True)
class Found:
    """A finding at its place, of a stream; `logged`: whether the stream's log has it."""

    seq: int
    stream: str
    probe: DeviceProbe
    logged: bool


@dataclass(frozen=True, slots=True)
class _Open:
    """A call that is not over. `probe`: the finding as far as it has come."""

    seq: int
    step: str
    until_ms: int
    nonce: bytes
    asked: tuple[int, ...]
    probe: DeviceProbe


class Probes:
    """See the module. `every_ms`: the mean time between two calls of a stream; 0: none are made. Every public method
    may be called from any thread. `draw` gives so many secret bytes.
    """

    def __init__(
        self,
        database: Database,
        venue: Venue,
        witness: Witness,
        every_ms: int,
        draw: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._database = database
        self._venue = venue
        self._witness = witness
        self._every_ms = every_ms
        self._draw = draw

    def next(self, stream: str) -> tuple[ProbeCall | None, tuple[DeviceProbe, ...]]:
        """The call that is open, made now where its time has come, and findings that the stream's log has not yet."""
        with self._database.guard:
            known = self._open(stream)
            if known is not None and self._venue.now_ms() > known.until_ms:
                self._found(known, Outcome.SILENT, f"nothing came after it was {known.step}")
                known = None
            if known is None:
                known = self._called(stream)
            return (None if known is None or known.step != _CALLED else known.probe), self._unlogged(stream)

    def reveal(self, stream: str, name: str) -> bytes:
        """The nonce; the device's time begins, if it has not. Raises UnknownName, Conflict for a call that is over."""
        with self._database.guard:
            known = self._known(stream, name)
            if known.step == _CALLED:
                now_ms = self._venue.now_ms()
                probe = _changed(known.probe, nonce=known.nonce.hex(), revealed_ms=now_ms)
                self._move(known, _REVEALED, probe, now_ms + probe.limit_ms + _READY_MS)
            elif known.step != _REVEALED:
                raise Conflict(f"probe {name} was {known.step} already: its nonce is of no use")
            return known.nonce

    def answer(self, stream: str, name: str, root: bytes) -> tuple[int, ...]:
        """The root of an answer; which rows to open. None where that settled it: too late, or before the nonce.

        Raises UnknownName, InvalidValue, Conflict for another root than before.
        """
        if len(root) != 32:
            raise InvalidValue("root", f"probe {name}", f"{len(root)} bytes", "32 bytes")
        with self._database.guard:
            known, now_ms = self._known(stream, name), self._venue.now_ms()
            if known.step == _ANSWERED and known.probe.root == root.hex():
                return known.asked
            if known.step == _ANSWERED:
                raise Conflict(f"probe {name} was answered with another root before")
            probe = _changed(known.probe, root=root.hex(), answered_ms=now_ms)
            answered = replace(known, probe=probe)
            took_ms = now_ms - probe.revealed_ms
            if known.step == _CALLED:
                self._found(answered, Outcome.WRONG, "answered before its nonce was revealed")
                return ()
            if took_ms > probe.limit_ms:
                self._found(answered, Outcome.LATE, f"answered after {took_ms} ms, expected at most {probe.limit_ms}")
                return ()
            rows = self._drawn_rows(probe.size)
            self._move(replace(answered, asked=rows), _ANSWERED, probe, now_ms + _READY_MS)
            return rows

    def opened(self, stream: str, name: str, rows: tuple[ProbedRow, ...]) -> DeviceProbe:
        """The rows; what is found. Raises UnknownName, InvalidValue for other rows than were asked, Conflict."""
        with self._database.guard:
            known = self._known(stream, name)
            if known.step != _ANSWERED:
                raise Conflict(f"probe {name} was {known.step}, expected answered")
            given = tuple(each.row for each in rows)
            if given != known.asked:
                raise InvalidValue("rows", f"probe {name}", given, str(known.asked))
            probe = _changed(known.probe, rows=rows)
        wrong = wrong_rows(probe)  # without the guard: it takes a while, and others are not to wait
        if wrong:
            wrong = self._whose(stream, known.seq, probe) or wrong
        with self._database.guard:
            done = replace(self._known(stream, name), probe=probe)
            return self._found(done, Outcome.WRONG if wrong else Outcome.PASSED, wrong)

    def decline(self, stream: str, name: str, why: Declined) -> DeviceProbe:
        """The cluster does not let the device compute. Raises UnknownName, Conflict where it has answered."""
        with self._database.guard:
            known = self._known(stream, name)
            if known.step == _ANSWERED:
                raise Conflict(f"probe {name} was answered, it cannot be declined")
            return self._found(known, Outcome.DECLINED, why.value)

    def after(self, seq: int, stream: str = "") -> tuple[Found, ...]:
        """A page of the findings after a place; `stream`: only of this one. Raises InvalidValue for no place."""
        query = (
            "SELECT seq, stream, body, leaf FROM probe WHERE seq > ? AND step = ? AND (? = '' OR stream = ?)"
            " ORDER BY seq LIMIT ?"
        )
        rows = self._database.all(query, checked_place(seq), _FOUND, stream, stream, PAGE)
        return tuple(
            Found(at, name, DeviceProbe.model_validate_json(body), leaf is not None) for at, name, body, leaf in rows
        )

    def noted(self, stream: str, index: int, leaf: ProbeLeaf) -> Rejected | None:
        """The log tells of a finding: it must be one of ours, unchanged, and told of once. Inside the intake's
        transaction.
        """
        found = self._database.one(
            "SELECT seq, body, leaf FROM probe WHERE seq = ? AND stream = ? AND step = ?",
            _seq_of(leaf.probe.id),
            stream,
            _FOUND,
        )
        if found is None or found[1] != canonical_bytes(leaf.probe):
            return Rejected(Reason.UNKNOWN_PROBE, f"probe {leaf.probe.id} was not found here like that")
        if found[2] is not None:
            return Rejected(Reason.UNKNOWN_PROBE, f"probe {leaf.probe.id} was told of by leaf {found[2]} already")
        self._database.write("UPDATE probe SET leaf = ? WHERE seq = ?", index, found[0])
        return None

    # -- inside, with the guard held -----------------------------------------------------------------------------------

    def _called(self, stream: str) -> _Open | None:
        """A new call where its time has come, of a device that is pledged now."""
        if not self._every_ms:
            return None
        now_ms = self._venue.now_ms()
        due = self._database.one("SELECT at_ms FROM probe_due WHERE stream = ?", stream)
        if due is None or due[0] > now_ms:
            if due is None:
                with self._database.transaction():
                    self._put_off(stream, now_ms)
            return None
        pledged = self._database.all(
            "SELECT device.leaf FROM device JOIN stream ON stream.number = device.stream"
            " WHERE stream.name = ? AND until_ms IS NULL AND from_ms <= ? ORDER BY device",
            *(stream, now_ms),
        )
        with self._database.transaction():
            self._put_off(stream, now_ms)
            if not pledged:
                return None
            leaf = self._pledge(stream, pledged[self._below(len(pledged))][0])
            nonce, shape = self._draw(_NONCE_BYTES), shape_of(leaf.pledge.grade)
            (count,) = self._database.one("SELECT coalesce(max(seq), 0) FROM probe") or (0,)
            probe = DeviceProbe(
                id=f"probe-{count + 1}",
                device=leaf.pledge.device,
                suite=shape.suite,
                size=shape.size,
                products=shape.products,
                commitment=commitment_of(nonce),
                called_ms=now_ms,
                limit_ms=shape.limit_ms,
                outcome=Outcome.SILENT,
                exchange=self._witness.vkey,
            )
            called = _Open(count + 1, _CALLED, now_ms + _READY_MS, nonce, (), probe)
            self._database.write(
                "INSERT INTO probe VALUES (?, ?, ?, ?, ?, '', ?, NULL)",
                *(called.seq, stream, called.step, called.until_ms, nonce, canonical_bytes(probe)),
            )
        return called

    def _put_off(self, stream: str, now_ms: int) -> None:
        """The next call comes after half the mean time to one and a half of it."""
        at_ms = now_ms + self._every_ms // 2 + self._below(self._every_ms + 1)
        self._database.write("INSERT OR REPLACE INTO probe_due VALUES (?, ?)", stream, at_ms)

    def _pledge(self, stream: str, index: int) -> PledgeLeaf:
        (page,) = self._database.trees.leaves(stream, index, index + 1)
        leaf = decode(page[0])
        if not isinstance(leaf, PledgeLeaf):
            raise Damaged(f"leaf {index} of stream {stream} holds no pledge, as the table of devices says it does")
        return leaf

    def _open(self, stream: str) -> _Open | None:
        query = "SELECT seq, step, until_ms, nonce, asked, body FROM probe WHERE stream = ? AND step != ?"
        row = self._database.one(query, stream, _FOUND)
        if row is None:
            return None
        seq, step, until_ms, nonce, asked, body = row
        rows = tuple(map(int, asked.split()))
        return _Open(seq, step, until_ms, nonce, rows, DeviceProbe.model_validate_json(body))

    def _known(self, stream: str, name: str) -> _Open:
        """The open call of that name. One whose time is over is none any more: the next question finds it silent."""
        known = self._open(stream)
        if known is None or known.probe.id != name or self._venue.now_ms() > known.until_ms:
            raise UnknownName("open probe", name)
        return known

    def _move(self, known: _Open, step: str, probe: DeviceProbe, until_ms: int) -> None:
        with self._database.transaction():
            self._write(replace(known, step=step, until_ms=until_ms, probe=probe))

    def _found(self, known: _Open, outcome: Outcome, reason: str) -> DeviceProbe:
        told = _changed(known.probe, outcome=outcome, reason=reason)
        signed = _changed(told, signature=self._witness.signed(told.signed_bytes).hex())
        with self._database.transaction():
            self._write(replace(known, step=_FOUND, probe=signed))
        return signed

    def _write(self, moved: _Open) -> None:
        self._database.write(
            "UPDATE probe SET step = ?, until_ms = ?, asked = ?, body = ? WHERE seq = ?",
            *(moved.step, moved.until_ms, " ".join(map(str, moved.asked)), canonical_bytes(moved.probe), moved.seq),
        )

    def _unlogged(self, stream: str) -> tuple[DeviceProbe, ...]:
        query = "SELECT body FROM probe WHERE stream = ? AND step = ? AND leaf IS NULL ORDER BY seq LIMIT ?"
        rows = self._database.all(query, stream, _FOUND, UNLOGGED)
        return tuple(DeviceProbe.model_validate_json(body) for (body,) in rows)

    def _whose(self, stream: str, seq: int, probe: DeviceProbe) -> str:
        """Whose a wrong answer is, in words: an earlier probe's, or another device's; empty where nobody knows."""
        rows = self._database.all("SELECT body FROM probe WHERE seq != ? AND instr(body, ?)", seq, probe.root.encode())
        before = next((DeviceProbe.model_validate_json(body).id for (body,) in rows), "")
        if before:
            return f"the answer is that of {before} again"
        query = (
            "SELECT device FROM device JOIN stream ON stream.number = device.stream"
            " WHERE stream.name = ? AND device != ? ORDER BY device LIMIT ?"
        )
        others = self._database.all(query, stream, bytes.fromhex(probe.device), _COMPARED)
        device = next((other.hex() for (other,) in others if is_answer_for(probe, other.hex())), "")
        return f"the answer is that of device {device[:16]}" if device else ""

    def _below(self, end: int) -> int:
        return int.from_bytes(self._draw(16), "big") % end

    def _drawn_rows(self, size: int) -> tuple[int, ...]:
        drawn: set[int] = set()
        while len(drawn) < OPENED_ROWS:
            drawn.add(self._below(size))
        return tuple(sorted(drawn))


def _changed(probe: DeviceProbe, **fields: Any) -> DeviceProbe:
    return DeviceProbe.model_validate(dict(probe) | fields)


def _seq_of(name: str) -> int:
    number = name.removeprefix("probe-")
    return int(number) if number.isdecimal() and len(number) < 18 else 0
