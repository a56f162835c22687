"""Bundles as an honest seller leaves them, and as a fraud would: what is told, who signs, what a witness saw of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scheduler.core.devices import DevicePledge, DeviceWithdrawal, device_hash
from scheduler.core.intervals import Interval
from scheduler.core.metering.disputes import Answer, Dispute, DisputeState
from scheduler.core.metering.records import MeterRecord, PoolRecord, RecordStatus
from scheduler.core.metering.versions import LateFact, Promotion
from scheduler.core.models import canonical_bytes
from scheduler.core.positions import Position
from scheduler.exchange import bundles
from scheduler.exchange.leaves import encode_pledge, encode_record, encode_shortage, encode_withdrawal
from scheduler.exchange.settling_leaves import encode_settling
from scheduler.exchange.statements import statement_of, statement_over, versions_of
from scheduler.ledger.journal import Journal
from scheduler.ledger.keys import SignerKey
from scheduler.ledger.notes import Checkpoint, cosign, sign_checkpoint
from tests.exchange.world import (
    END_MS,
    INTERVAL_MS,
    INTERVALS,
    LOTS,
    SIGNER,
    START_MS,
    STREAM,
    delivered,
    metered,
    shortage,
    terms,
)

WITNESS = SignerKey("tenor.test/exchange", bytes(range(2, 34)))
PLEDGED_MS = START_MS - 60_000
GPUS, SPARE_GPUS = 64, 200
"""So many H100 are pledged, as the certificates have them; and so many A100, so that the log has a second tile."""


def pledge(number: int, *, grade: str = "H100SXM", from_ms: int = PLEDGED_MS, seller: str = "acme") -> DevicePledge:
    """The GPU of that number of a seller, as it is pledged."""
    cell = f"local/block-0/domain-{number // 64}/node-{number // 8}/{number % 8}"
    return DevicePledge(
        device=device_hash(f"GPU-{seller}-{number}"), grade=grade, site="local", cell=cell, from_ms=from_ms
    )


def pledges(seller: str = "acme", first: int = 0, gpus: int = GPUS) -> list[bytes]:
    """The leaves that pledge the GPUs behind the certificates, and those of the second pool."""
    numbers = range(first, first + gpus)
    spare = range(1_000, 1_000 + SPARE_GPUS)
    return [
        *(encode_pledge(pledge(number, seller=seller), PLEDGED_MS) for number in numbers),
        *(encode_pledge(pledge(number, seller=seller, grade="A100"), PLEDGED_MS) for number in spare),
    ]


FIRST = GPUS + SPARE_GPUS
"""The index of the first record."""


def told(
    of_record: Callable[[MeterRecord], MeterRecord | None] = lambda record: record,
    of_pool: Callable[[PoolRecord], PoolRecord | None] = lambda pool: pool,
    more: Sequence[bytes] = (),
) -> list[bytes]:
    """A whole log: pledges, the delivery of three positions as the two functions change it, and what comes after."""
    return [*pledges(), *delivered(of_record, of_pool), *more]


def statements(leaves: Sequence[bytes]) -> dict[str, bytes]:
    """The statement of each position over these leaves, as the exchange makes it."""
    found = {}
    for number, (name, lots) in enumerate(LOTS.items()):
        held = Position(
            id=name, account=f"account-{number}", instrument="H100.BASE@1", acquired_ms=1, lots=((START_MS, lots),)
        )
        found[name] = canonical_bytes(statement_of(terms(), held, versions_of(enumerate(leaves), name)))
    return found


@dataclass(frozen=True)
class Evidence:
    """What goes into a bundle. `witnessed`: the leaves that the witness saw; None: those that are told."""

    leaves: list[bytes] = field(default_factory=told)
    settled: Mapping[str, bytes] = field(default_factory=lambda: statements(told()))
    signer: SignerKey = SIGNER
    origin: str = SIGNER.name
    witness: SignerKey | None = WITNESS
    witnessed: list[bytes] | None = None
    vkeys: tuple[str, ...] = (SIGNER.verifier.encode(),)
    instruments: tuple[Any, ...] = field(default_factory=lambda: (terms(),))

    def write(self, folder: Path) -> Path:
        """The bundle at `folder`."""
        with Journal.open(":memory:") as journal:
            journal.commit((), leaves=self.leaves, stream=STREAM)
            size = journal.log_size(STREAM)
            note = self._checkpoint(size, journal.root(STREAM))
            journal.save_checkpoint(STREAM, size, note)
            if self.witness is not None and self.witnessed is None:
                vkey = self.witness.witness.encode()
                journal.save_cosigned(STREAM, size, cosign(note, self.witness, END_MS // 1_000), vkey)
            bundles.write(journal, STREAM, folder, self.instruments, self.settled, self.vkeys)
        if self.witness is not None and self.witnessed is not None:
            (folder / "cosigned").write_bytes(self._seen(self.witnessed, self.witness))
            (folder / "witness").write_text(self.witness.witness.encode() + "\n", encoding="utf-8")
        return folder

    def _checkpoint(self, size: int, root: bytes) -> bytes:
        return sign_checkpoint(Checkpoint(self.origin, size, root), self.signer)

    def _seen(self, leaves: list[bytes], witness: SignerKey) -> bytes:
        """The checkpoint over other leaves, as the witness cosigned it."""
        with Journal.open(":memory:") as journal:
            journal.commit((), leaves=leaves, stream=STREAM)
            note = self._checkpoint(journal.log_size(STREAM), journal.root(STREAM))
        return cosign(note, witness, END_MS // 1_000)


# -- changes -----------------------------------------------------------------------------------------------------------


def record_at(position: str, index: int, **changes: object) -> Callable[[MeterRecord], MeterRecord]:
    """Changes one record, in its first version, and leaves the others."""

    def change(record: MeterRecord) -> MeterRecord:
        here = (record.position, record.start_ms, record.version)
        if here != (position, START_MS + index * INTERVAL_MS, 1):
            return record
        return MeterRecord.model_validate(dict(record) | changes)

    return change


def pool_at(index: int, **changes: object) -> Callable[[PoolRecord], PoolRecord]:
    """Changes one certificate and leaves the others."""

    def change(pool: PoolRecord) -> PoolRecord:
        return PoolRecord.model_validate(dict(pool) | changes) if pool.start_ms == at_ms else pool

    at_ms = START_MS + index * INTERVAL_MS
    return change


def as_delivered(position: str, index: int) -> dict[str, Any]:
    """A record in which nothing was lost."""
    record = metered(position, LOTS[position], index)
    lost = record.out_forced_gpu_ms
    used, par = record.used_gpu_ms + lost, record.par_gpu_ms + lost
    return {"used_gpu_ms": used, "out_forced_gpu_ms": 0, "losses": (), "par_gpu_ms": par}


def later(position: str, index: int, version: int = 2, **changes: Any) -> bytes:
    """A later version of a record, as a leaf: of the corrections that were never asked for."""
    content = {"version": version, "supersedes": version - 1, "status": RecordStatus.CORRECTED} | changes
    return encode_record(metered(position, LOTS[position], index, **content), END_MS + 3_000)


def tampered(**changes: Callable[[Any], Any]) -> bytes:
    """The shortage of the world with some fields changed by somebody who left the rest as it was."""
    fields = json.loads(shortage())
    fields |= {name: change(fields[name]) for name, change in changes.items()}
    return encode_shortage(canonical_bytes(fields).decode(), END_MS + 3_000)


def withdrawn(number: int, from_ms: int) -> bytes:
    """The withdrawal of a GPU, as a leaf."""
    device = pledge(number).device
    return encode_withdrawal(DeviceWithdrawal(device=device, from_ms=from_ms), END_MS + 3_000)


def settled_over(leaves: Sequence[bytes], position: str, start_ms: int = START_MS) -> Mapping[str, bytes]:
    """All statements, that of one position made over other leaves, or from another beginning on."""
    stated = statement_over(terms(), Interval(start_ms, END_MS), versions_of(enumerate(leaves), position))
    return statements(told()) | {position: canonical_bytes(stated)}


# -- settling ----------------------------------------------------------------------------------------------------------

FINAL_MS = END_MS + 259_200_000
"""When the records are final, by the terms."""
ANSWER_MS = 259_200_000
LAST_CHANGE_MS = FINAL_MS + 604_800_000


def promoted(
    position: str,
    status: RecordStatus = RecordStatus.FINAL,
    written_ms: int = FINAL_MS,
    first: int = 0,
    last: int = INTERVALS,
) -> bytes:
    """All records of a position, or some, become of a status."""
    start_ms, end_ms = START_MS + first * INTERVAL_MS, START_MS + last * INTERVAL_MS
    promotion = Promotion(position=position, start_ms=start_ms, end_ms=end_ms, status=status)
    return encode_settling(promotion, written_ms)


def restated(position: str, index: int, version: int, written_ms: int = FINAL_MS + 1_000, **changes: Any) -> bytes:
    """A correction, written when that is said."""
    content = {"version": version, "supersedes": version - 1, "status": RecordStatus.CORRECTED} | changes
    return encode_record(metered(position, LOTS[position], index, **content), written_ms)


def disputed(number: int, position: str, index: int, version: int = 1, **changes: Any) -> bytes:
    """A dispute of a record as it was told first: nothing was lost, it says."""
    opened_ms = changes.pop("opened_ms", END_MS + 4_000)
    dispute = Dispute(
        id=f"dispute-{number}",
        position=position,
        start_ms=START_MS + index * INTERVAL_MS,
        end_ms=START_MS + (index + 1) * INTERVAL_MS,
        version=version,
        leaf=FIRST + index * 4 + list(LOTS).index(position),
        opened_ms=opened_ms,
        answer_by_ms=opened_ms + ANSWER_MS,
    )
    return encode_settling(Dispute.model_validate(dict(dispute) | changes), opened_ms)


def answered(number: int, state: DisputeState, version: int | None = None, written_ms: int = END_MS + 5_000) -> bytes:
    """The answer to a dispute."""
    answer = Answer(dispute=f"dispute-{number}", state=state, reason="as measured", version=version)
    return encode_settling(answer, written_ms)


def late(position: str, index: int, written_ms: int = FINAL_MS + 1_000) -> bytes:
    """Something is learnt late that holds from an interval on."""
    return encode_settling(
        LateFact(position=position, from_ms=START_MS + index * INTERVAL_MS, fact="ab" * 32), written_ms
    )


def settling() -> list[bytes]:
    """What an honest seller tells after the delivery: three disputes with their answers, all records final, and one of
    them corrected since for a fact that was learnt late.
    """
    expired_ms = FINAL_MS + 2_000
    return [
        disputed(1, "pos-3", 6),
        restated("pos-3", 6, 2, END_MS + 4_500, **as_delivered("pos-3", 6)),
        answered(1, DisputeState.ACCEPTED, 2),
        disputed(2, "pos-2", 1),
        answered(2, DisputeState.REJECTED),
        *(promoted(position) for position in LOTS),
        late("pos-1", 2),
        restated("pos-1", 2, 3, **as_delivered("pos-1", 2)),
        disputed(3, "pos-2", 5, 2, opened_ms=expired_ms),
        answered(3, DisputeState.EXPIRED, written_ms=expired_ms + ANSWER_MS),
    ]
