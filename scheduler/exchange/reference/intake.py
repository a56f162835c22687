"""The intake: logs of delivery as they come in, each checked leaf by leaf, and as a log that never changes its past.

A batch is one transaction: the leaves into the tree, what they say of records, the signed checkpoint over them. It is
acknowledged after that and not before. Laws: every leaf that was acknowledged is there after any crash, once; a stream
that contradicts itself (another leaf at a known index, a checkpoint that is not over these leaves) freezes, with both
sides kept as evidence; of two publishers the one with the higher epoch, or else the later to open, may speak.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from scheduler.core.errors import Conflict, Equivocation, Fenced, InvalidValue, SequenceGap, Unauthorised, UnknownName
from scheduler.core.ids import checked_name
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.merkle import verify_consistency
from scheduler.core.metering.versions import Stage, stage_after, wrong_version
from scheduler.core.positions import Position
from scheduler.core.quantities import INT64_MAX
from scheduler.core.settlement import Statement
from scheduler.exchange.checks import Reason, Rejected, check_batch, checked_leaf
from scheduler.exchange.leaves import KeyChangeLeaf, Leaf, PledgeLeaf, SettlingLeaf, WithdrawalLeaf
from scheduler.exchange.plain_records import PlainRecord, plain_record, record_of
from scheduler.exchange.probe_leaves import ProbeLeaf
from scheduler.exchange.reference.database import Database
from scheduler.exchange.reference.devices import Devices
from scheduler.exchange.reference.disputes import Disputes
from scheduler.exchange.reference.probes import Probes
from scheduler.exchange.reference.settling import Settling
from scheduler.exchange.reference.stream_keys import StreamKeys
from scheduler.exchange.reference.venue import Venue
from scheduler.exchange.reference.witness import Witness
from scheduler.exchange.statements import statement_of, versions_of
from scheduler.ledger.keys import VerifierKey
from scheduler.ledger.notes import Checkpoint, open_checkpoint, with_cosignature

MOST_LEAVES = 5_000
"""The most leaves in a batch."""
MOST_WITNESSES = 16
"""The most witnesses of one log, this exchange aside."""

_ASKED_AT_ONCE = 512
_USES_UP_ITS_VERSION = frozenset({Reason.BROKEN_IDENTITY, Reason.WRONG_INSTRUMENT})
"""A record that is rejected for these keeps its place in the order of versions: the next one corrects it."""

_Version = tuple[int, int, int | None, Stage]
"""Of a record: the stream's number, the last version seen, the leaf of the last one that is kept, and its stage."""


@dataclass(frozen=True, slots=True)
class Session:
    """One publisher's turn on a stream; over as soon as another opens it."""

    stream: str
    number: int
    turn: int
    key: VerifierKey


@dataclass(frozen=True, slots=True)
class Receipt:
    """Every leaf below `acknowledged` is durable; `rejections` are of this batch, by index. `cosigned`: the latest
    checkpoint that the leaves reach, with this exchange's cosignature; empty where it is the one told before.
    """

    acknowledged: int
    rejections: tuple[tuple[int, Rejected], ...] = ()
    cosigned: bytes = b""


@dataclass(frozen=True, slots=True)
class _Checked:
    """New leaves with what each is worth: (index, what it says if it can be read, why it is not settled)."""

    leaves: Sequence[bytes]
    found: list[tuple[int, Leaf | PlainRecord | None, Rejected | None]] = field(default_factory=list)


class Intake:
    """See the module. Every method may be called from any thread."""

    def __init__(self, database: Database, venue: Venue, witness: Witness) -> None:
        self._database = database
        self._venue = venue
        self._witness = witness
        self._devices = Devices(database)
        self._keys = StreamKeys(database, venue.now_ms)
        self.disputes = Disputes(database, venue)
        self.probes = Probes(database, venue, witness, venue.rules.probe_every_ms)
        self._settling = Settling(database, venue, self.disputes)
        self._turns: dict[str, int] = {}
        self._verified: dict[str, tuple[bytes, Checkpoint]] = {}

    def open(self, stream: str, epoch: int, vkey: str) -> tuple[Session, Receipt]:
        """Begins a publisher's turn, and says how much of the log is here.

        Raises InvalidValue, Equivocation where the stream is frozen, Unauthorised for a key that is neither the first
        one seen nor one that followed it, Fenced for an epoch that is over.
        """
        checked_name("stream", stream)
        if not 1 <= epoch <= INT64_MAX:
            raise InvalidValue("epoch", f"stream {stream}", epoch, f"1..{INT64_MAX}")
        key = VerifierKey.parse(vkey)
        with self._database.guard:
            row = self._database.one("SELECT number, epoch, vkey, frozen FROM stream WHERE name = ?", stream)
            if row is not None:
                self._admit(stream, epoch, key, row)
            with self._database.transaction():
                if row is None:
                    (count,) = self._database.one("SELECT count(*) FROM stream") or (0,)
                    self._database.write("INSERT INTO stream VALUES (?, ?, ?, ?, '')", stream, count + 1, epoch, vkey)
                else:
                    self._database.write("UPDATE stream SET epoch = ? WHERE name = ?", epoch, stream)
            number = row[0] if row is not None else count + 1
            self._turns[stream] = self._turns.get(stream, 0) + 1
            session = Session(stream, number, self._turns[stream], key)
            with self._database.transaction():
                self._cosign(stream)
            _, cosigned = self._reached(stream)
            return session, Receipt(self._database.trees.size(stream), cosigned=cosigned)

    def take(
        self, session: Session, first_index: int, leaves: Sequence[bytes], note: bytes, proof: Sequence[bytes]
    ) -> Receipt:
        """One batch: `leaves` from `first_index` on, the signed checkpoint, and its consistency with their end.

        Leaves that are here already are acknowledged again. Raises SequenceGap where some are missing in between,
        Fenced where the turn is over, Equivocation where the stream contradicts itself (it is then frozen), and
        Unauthorised or InvalidValue for a checkpoint that is not signed by the stream's key or not over these leaves.
        """
        check_batch(session.stream, leaves, MOST_LEAVES)
        checkpoint = self._opened(session, note)
        with self._database.guard:
            self._check_turn(session)
            held = self._database.trees.size(session.stream)
            if first_index > held:
                raise SequenceGap(session.stream, held, first_index)
            self._check_repeats(session.stream, first_index, leaves[: held - first_index])
            self._check_known(session.stream, checkpoint, note)
        checked = self._checked(leaves[max(0, held - first_index) :], max(held, first_index))
        with self._database.guard:
            self._check_turn(session)
            try:
                with self._database.transaction():
                    return self._keep(session, checked, checkpoint, note, proof, first_index + len(leaves))
            except Equivocation as error:
                self._freeze(session.stream, str(error), note)
                raise

    def heartbeat(self, session: Session, next_index: int, note: bytes) -> Receipt:
        """A quiet publisher: how much of the log is here. Raises SequenceGap where it says that more was sent, and for
        its checkpoint (empty: none yet) what `take` raises.
        """
        checkpoint = self._opened(session, note) if note else None
        with self._database.guard:
            self._check_turn(session)
            held = self._database.trees.size(session.stream)
            if next_index > held:
                raise SequenceGap(session.stream, held, next_index)
            if checkpoint is not None:
                self._check_known(session.stream, checkpoint, note)
                if checkpoint.size == held and checkpoint.root != self._database.trees.root(session.stream):
                    why = f"a checkpoint of stream {session.stream} with {held} leaves is not over those that came"
                    self._freeze(session.stream, why, note)
                    raise Equivocation(why)
            return Receipt(held)

    def checkpoint(self, stream: str) -> tuple[int, bytes]:
        """How many leaves are here, and the latest checkpoint that they reach. Raises UnknownName before the first."""
        with self._database.guard:
            held = self._database.trees.size(stream)
            _, note = self._reached(stream)
            if not note:
                raise UnknownName("stream with a checkpoint", stream, self._database.trees.streams())
            return held, note

    @property
    def witness(self) -> str:
        """The vkey of this exchange's cosignatures."""
        return self._witness.vkey

    def cosigners(self, stream: str) -> tuple[str, ...]:
        """The vkeys of all who cosigned the stream's log: this exchange, then the others, sorted."""
        rows = self._database.all("SELECT vkey FROM cosigner WHERE stream = ? ORDER BY vkey", stream)
        return (self._witness.vkey, *(vkey for (vkey,) in rows))

    def add_cosignature(self, stream: str, note: bytes, vkey: str) -> bytes:
        """Another witness's cosignature under the stream's latest checkpoint; the note with all of them.

        Raises UnknownName before the first checkpoint, InvalidValue for what is no checkpoint or no witness's key,
        Unauthorised for a signature that is not that key's or for this exchange's own name, Conflict for a checkpoint
        that is not the latest, or where this log has as many witnesses as it may.
        """
        key = VerifierKey.parse(vkey)
        if key.name == self._witness.verifier.name:
            raise Unauthorised(f"{key.name} is this exchange's own name, expected another witness's")
        with self._database.guard:
            _, held = self.checkpoint(stream)
            merged = with_cosignature(held, note, key)
            others = self.cosigners(stream)[1:]
            if vkey not in others and len(others) >= MOST_WITNESSES:
                raise Conflict(f"stream {stream} has {len(others)} witnesses, expected at most {MOST_WITNESSES}")
            size, _ = self._reached(stream)
            with self._database.transaction():
                self._keep_note(stream, size, merged)
                self._database.write("INSERT OR IGNORE INTO cosigner VALUES (?, ?)", stream, key.encode())
            return merged

    def inclusion(self, stream: str, index: int, size: int) -> tuple[bytes, ...]:
        """The proof that leaf `index` is among the first `size` (RFC 9162). Raises InvalidValue outside the log."""
        with self._database.guard:
            return self._database.trees.inclusion_proof(stream, index, size)

    def consistency(self, stream: str, first: int, second: int) -> tuple[bytes, ...]:
        """The proof that the first `first` leaves are a prefix of the first `second`. Raises InvalidValue outside."""
        with self._database.guard:
            return self._database.trees.consistency_proof(stream, first, second)

    def root(self, stream: str, size: int | None = None) -> bytes:
        """The root over the first `size` leaves, recomputed from what is here."""
        with self._database.guard:
            return self._database.trees.root(stream, size)

    def rejections(self, stream: str) -> tuple[tuple[int, str, str], ...]:
        """Every leaf of the stream that is not settled: index, reason, detail."""
        query = "SELECT leaf, reason, detail FROM rejection WHERE stream = ? ORDER BY leaf"
        return tuple(self._database.all(query, stream))

    def statement(self, position: str, until_ms: int = 0, as_of: int = 0) -> tuple[Statement, bytes]:
        """The statement of a position from the leaves that are settled, and the latest checkpoint. `as_of`: from those
        among the first so many leaves of the log; 0: from all.

        Raises UnknownName, InvalidValue where nothing is metered yet or for more leaves than are here, Conflict where
        the records have gaps.
        """
        held = self._venue.position(position)
        terms = self._venue.terms(held.instrument)
        with self._database.guard:
            told = self._settling.leaves_of(self._venue.position_numbers()[position], as_of)
            size = max((self._database.trees.size(stream) for stream, _ in told), default=0)
            if told and as_of > size:
                raise InvalidValue(
                    "as_of", f"the statement of {position}", as_of, f"0..{size}, the leaves that are here"
                )
            leaves = [(index, self._leaf(stream, index)) for stream, index in told]
            note = self.checkpoint(told[-1][0])[1] if told else b""
        return statement_of(terms, held, versions_of(leaves, position), until_ms), note

    def streams_of(self, position: str) -> frozenset[str]:
        """The streams that delivered to a position; none for one that nothing was delivered to."""
        query = (
            "SELECT DISTINCT stream.name FROM position JOIN record ON record.position = position.number"
            " JOIN stream ON stream.number = record.stream WHERE position.id = ?"
        )
        return frozenset(name for (name,) in self._database.all(query, position))

    # -- inside --------------------------------------------------------------------------------------------------------

    def _admit(self, stream: str, epoch: int, key: VerifierKey, row: tuple[int, int, str, str]) -> None:
        _, known_epoch, _, frozen = row
        if frozen:
            raise Equivocation(f"stream {stream} is frozen: {frozen}")
        known = self._keys.known(stream)
        if key not in known:
            expected = " or ".join(each.encode() for each in reversed(known))
            raise Unauthorised(f"the key of stream {stream} was {key.encode()}, expected {expected}")
        if epoch < known_epoch:
            raise Fenced(f"epoch of stream {stream} was {epoch}, expected {known_epoch} or later")

    def _check_turn(self, session: Session) -> None:
        if self._turns.get(session.stream) != session.turn:
            raise Fenced(f"stream {session.stream} was opened again by another publisher: this one's turn is over")

    def _opened(self, session: Session, note: bytes) -> Checkpoint:
        """The checkpoint, its signature verified; once only for a note that comes with many batches."""
        seen = self._verified.get(session.stream)
        if seen is not None and seen[0] == note:
            return seen[1]
        with self._database.guard:
            keys = self._keys.in_force(session.stream)
        checkpoint = open_checkpoint(note, keys, origin=session.key.name)
        self._verified[session.stream] = (note, checkpoint)
        return checkpoint

    def _check_repeats(self, stream: str, first_index: int, repeated: Sequence[bytes]) -> None:
        """Leaves that are here already must be the same ones."""
        index = first_index
        for page in self._database.trees.leaves(stream, first_index, first_index + len(repeated)):
            for ours in page:
                theirs = repeated[index - first_index]
                if ours != theirs:
                    why = f"leaf {index} of stream {stream} came again with other content"
                    self._freeze(stream, why, theirs)
                    raise Equivocation(why)
                index += 1

    def _check_known(self, stream: str, checkpoint: Checkpoint, note: bytes) -> None:
        """A checkpoint of a size that was signed before has the same root, and none gets smaller."""
        row = self._database.one(
            "SELECT size, root, note FROM checkpoint WHERE stream = ? ORDER BY size DESC LIMIT 1", stream
        )
        if row is None or checkpoint.size > row[0]:
            return
        if checkpoint.size < row[0]:
            raise Conflict(f"size of the checkpoint of {stream} was {checkpoint.size}, expected {row[0]} or more")
        if checkpoint.root != row[1]:
            why = f"two checkpoints of stream {stream} with {checkpoint.size} leaves have different roots"
            self._freeze(stream, why, row[2] + note)
            raise Equivocation(why)

    def _checked(self, leaves: Sequence[bytes], first: int) -> _Checked:
        """Each new leaf decoded and checked by itself; no database, so that other streams go on meanwhile."""
        known: dict[str, tuple[Position, InstrumentTerms] | None] = {}

        def known_position(name: str) -> tuple[Position, InstrumentTerms] | None:
            if name not in known:
                try:
                    position = self._venue.position(name)
                    known[name] = (position, self._venue.terms(position.instrument))
                except UnknownName:
                    known[name] = None
            return known[name]

        found: list[tuple[int, Leaf | PlainRecord | None, Rejected | None]] = []
        for index, leaf in enumerate(leaves, first):
            plain = plain_record(leaf, known_position)
            found.append((index, plain, None) if plain is not None else (index, *checked_leaf(leaf, known_position)))
        return _Checked(leaves, found)

    def _keep(
        self,
        session: Session,
        checked: _Checked,
        checkpoint: Checkpoint,
        note: bytes,
        proof: Sequence[bytes],
        end: int,
    ) -> Receipt:
        """Inside the transaction: leaves, records, rejections, checkpoint."""
        stream, trees = session.stream, self._database.trees
        size = trees.append(stream, checked.leaves)
        self._check_over(stream, checkpoint, proof, end)
        self._check_reached(stream, size)
        rejections = self._note(session, checked)
        self._database.write_many(
            "INSERT INTO rejection VALUES (?, ?, ?, ?)",
            [(stream, index, rejected.reason.value, rejected.detail) for index, rejected in rejections],
        )
        row = (stream, checkpoint.size, checkpoint.root, note)
        self._database.write(
            "INSERT OR IGNORE INTO checkpoint VALUES (?, ?, ?, ?)", *row
        )  # one that has cosignatures stays
        return Receipt(size, tuple(rejections), self._cosign(stream))

    def _reached(self, stream: str) -> tuple[int, bytes]:
        """Size and note of the latest checkpoint that the leaves here reach; 0 and nothing before the first."""
        query = "SELECT size, note FROM checkpoint WHERE stream = ? AND size <= ? ORDER BY size DESC LIMIT 1"
        row = self._database.one(query, stream, self._database.trees.size(stream))
        return (row[0], bytes(row[1])) if row else (0, b"")

    def _cosign(self, stream: str) -> bytes:
        """Cosigns the latest checkpoint that the leaves reach, once; empty where it is done already. In a transaction.

        Its root is that of the leaves: `_check_over` and `_check_reached` have compared them.
        """
        size, note = self._reached(stream)
        if not note or self._witness.has_cosigned(note):
            return b""
        cosigned = self._witness.cosigned(note)
        self._keep_note(stream, size, cosigned)
        return cosigned

    def _keep_note(self, stream: str, size: int, note: bytes) -> None:
        self._database.write("UPDATE checkpoint SET note = ? WHERE stream = ? AND size = ?", note, stream, size)

    def _check_over(self, stream: str, checkpoint: Checkpoint, proof: Sequence[bytes], end: int) -> None:
        """The checkpoint is over the leaves as they are here, up to the batch's end."""
        if not end <= checkpoint.size <= INT64_MAX:
            expected = f"{end} or more, as the batch, and at most {INT64_MAX}"
            raise InvalidValue("size", f"the checkpoint of {stream}", checkpoint.size, expected)
        ours = self._database.trees.root(stream, end)
        if not verify_consistency(end, checkpoint.size, ours, checkpoint.root, proof):
            raise InvalidValue(
                "consistency",
                f"the checkpoint of {stream}",
                checkpoint.root.hex(),
                f"a proof from {end} leaves with {ours.hex()}",
            )

    def _check_reached(self, stream: str, size: int) -> None:
        """Earlier checkpoints that the leaves now reach were over the same leaves; all but the latest go."""
        query = "SELECT size, root, note FROM checkpoint WHERE stream = ? AND size <= ? ORDER BY size"
        reached = self._database.all(query, stream, size)
        for at, root, _ in reached:
            if self._database.trees.root(stream, at) != root:
                raise Equivocation(
                    f"the checkpoint of stream {stream} with {at} leaves is not over the leaves that came"
                )
        for at, _, _ in reached[:-1]:
            self._database.write("DELETE FROM checkpoint WHERE stream = ? AND size = ?", stream, at)

    def _note(self, session: Session, checked: _Checked) -> list[tuple[int, Rejected]]:
        """Remembers the versions of the batch's records, and gives the leaves that are not settled, each with why."""
        numbers = self._venue.position_numbers()
        versions = self._versions(
            {
                (numbers[record.position], record.start_ms)
                for _, leaf, _ in checked.found
                if (record := record_of(leaf)) is not None and record.position in numbers
            }
        )
        changed: dict[tuple[int, int], _Version] = {}
        rejections: list[tuple[int, Rejected]] = []
        for index, leaf, rejected in checked.found:
            ordered = rejected is None or rejected.reason in _USES_UP_ITS_VERSION
            if isinstance(leaf, PledgeLeaf | WithdrawalLeaf):
                rejected = self._devices.noted(session.number, index, leaf)  # noqa: PLW2901 - as for records
            elif isinstance(leaf, ProbeLeaf):
                rejected = self.probes.noted(session.stream, index, leaf)  # noqa: PLW2901 - as for records
            elif isinstance(leaf, KeyChangeLeaf) and rejected is None:
                rejected = self._keys.change(session.stream, index, leaf)  # noqa: PLW2901 - as for records
            elif isinstance(leaf, SettlingLeaf) and rejected is None:
                self._write_records(changed)  # a promotion is of what stands before it
                changed.clear()
                rejected = self._settling.take(session.number, index, leaf)  # noqa: PLW2901 - as for records
                versions = self._versions(versions)
            elif (record := record_of(leaf)) is not None and ordered:
                key = (numbers[record.position], record.start_ms)
                rejected = self._note_record(session, index, record, rejected, key, versions, changed)  # noqa: PLW2901
            if rejected is not None:
                rejections.append((index, rejected))
        self._write_records(changed)
        return rejections

    def _note_record(
        self,
        session: Session,
        index: int,
        record: PlainRecord,
        rejected: Rejected | None,
        key: tuple[int, int],
        versions: dict[tuple[int, int], _Version],
        changed: dict[tuple[int, int], _Version],
    ) -> Rejected | None:
        """A record's version takes its place; what is wrong with the leaf, in all."""
        known = versions.get(key)
        disordered = _of_version(session, record, known)
        if disordered is not None:
            return rejected or disordered
        before, stage = (None, None) if known is None else known[2:]
        if rejected is None and stage is Stage.FINAL:
            rejected = self._settling.unexplained(record, key[0], before)
        kept = index if rejected is None else before
        if before is not None and kept != before:
            self._settling.supersede(*key, before)
        versions[key] = changed[key] = (session.number, record.version, kept, stage_after(record.status, stage))
        return rejected

    def _write_records(self, changed: Mapping[tuple[int, int], _Version]) -> None:
        rows = [(*key, *row) for key, row in changed.items()]
        columns = "position, start_ms, stream, version, leaf, stage"
        self._database.write_many(
            f"INSERT OR REPLACE INTO record ({columns}) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608 - constants
            rows,
        )

    def _versions(self, keys: Collection[tuple[int, int]]) -> dict[tuple[int, int], _Version]:
        """What is known of records, by position number and start, in as few questions as SQLite takes."""
        ordered, known = sorted(keys), {}
        for first in range(0, len(ordered), _ASKED_AT_ONCE):
            page = ordered[first : first + _ASKED_AT_ONCE]
            marks = ",".join(["(?,?)"] * len(page))
            query = (
                f"WITH asked (position, start_ms) AS (VALUES {marks}) "  # noqa: S608 - nothing but marks
                "SELECT position, start_ms, stream, version, leaf, stage"
                " FROM asked CROSS JOIN record USING (position, start_ms)"  # so that the key is looked up for each
            )
            for number, start_ms, *row in self._database.all(query, *[part for key in page for part in key]):
                known[number, start_ms] = (row[0], row[1], row[2], Stage(row[3]))
        return known

    def _freeze(self, stream: str, why: str, evidence: bytes) -> None:
        with self._database.transaction():
            self._database.write("UPDATE stream SET frozen = ? WHERE name = ? AND frozen = ''", why, stream)
            self._database.write("INSERT INTO evidence (stream, what, body) VALUES (?, ?, ?)", stream, why, evidence)
        self._turns[stream] = self._turns.get(stream, 0) + 1

    def _leaf(self, stream: str, index: int) -> bytes:
        (page,) = self._database.trees.leaves(stream, index, index + 1)
        return page[0]


def _of_version(session: Session, record: PlainRecord, row: _Version | None) -> Rejected | None:
    named = f"{record.position} [{record.start_ms}, {record.end_ms})"
    if row is not None and row[0] != session.number:
        return Rejected(Reason.OTHER_STREAM, f"{named} was delivered by another stream")
    wrong = wrong_version(record.version, record.status, *((0, None) if row is None else (row[1], row[3])))
    return Rejected(Reason.WRONG_VERSION, f"{named}: {wrong}") if wrong else None
