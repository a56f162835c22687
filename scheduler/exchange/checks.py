"""What makes a leaf one that the exchange settles by. A leaf that fails is kept in the log, as evidence, not settled.

The checks need no database: what is known of positions is handed in. `Rejected` is data: each bad leaf is rejected
alone, with its reason, and the rest of the batch goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from scheduler.core.coverage.shortage import Certificate, ShortClaim, verify
from scheduler.core.errors import InvalidValue, Refused
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.metering.records import MeterRecord, PoolRecord, RecordStatus, broken_identities
from scheduler.core.metering.versions import Promotion, Stage
from scheduler.core.positions import Position
from scheduler.core.settlement_times import final_ms, final_through_ms
from scheduler.exchange.consents import ConsentLeaf, SubstituteConsent, wrong_consent
from scheduler.exchange.leaves import (
    KeyChangeLeaf,
    Leaf,
    PledgeLeaf,
    PoolLeaf,
    RecordLeaf,
    SettlingLeaf,
    ShortageLeaf,
    WithdrawalLeaf,
    decode,
)
from scheduler.exchange.outages import ForceMajeureLeaf, MaintenanceLeaf, WithheldLeaf
from scheduler.exchange.probe_leaves import ProbeLeaf
from scheduler.ledger.treestore import MAX_LEAF_BYTES


class Reason(StrEnum):
    """Why a leaf is not settled."""

    MALFORMED = "MALFORMED"
    BROKEN_IDENTITY = "BROKEN_IDENTITY"
    UNKNOWN_POSITION = "UNKNOWN_POSITION"
    WRONG_INSTRUMENT = "WRONG_INSTRUMENT"
    WRONG_INTERVAL = "WRONG_INTERVAL"
    WRONG_VERSION = "WRONG_VERSION"
    OTHER_STREAM = "OTHER_STREAM"
    WRONG_CERTIFICATE = "WRONG_CERTIFICATE"
    PLEDGED_TWICE = "PLEDGED_TWICE"
    NOT_PLEDGED = "NOT_PLEDGED"
    WRONG_KEY_CHANGE = "WRONG_KEY_CHANGE"
    WRONG_PROMOTION = "WRONG_PROMOTION"
    UNKNOWN_DISPUTE = "UNKNOWN_DISPUTE"
    UNKNOWN_PROBE = "UNKNOWN_PROBE"
    NOT_EXPLAINED = "NOT_EXPLAINED"
    TOO_LATE = "TOO_LATE"
    NOT_CONSENTED = "NOT_CONSENTED"


@dataclass(frozen=True, slots=True)
class Rejected:
    """Why one leaf is not settled."""

    reason: Reason
    detail: str


def checked_leaf(  # noqa: C901 - one line a kind of leaf
    leaf: bytes, known: Callable[[str], tuple[Position, InstrumentTerms] | None]
) -> tuple[Leaf | None, Rejected | None]:
    """What a leaf says where it can be read, and why the leaf is not settled; None: it is, as far as the leaf alone
    tells. `known` gives a position and the terms of its instrument.
    """
    try:
        decoded = decode(leaf)
    except Refused as error:
        return None, Rejected(Reason.MALFORMED, str(error))
    match decoded:
        case RecordLeaf():
            return decoded, _of_record(decoded.record, decoded.written_ms, known(decoded.record.position))
        case PoolLeaf():
            return decoded, _of_pool(decoded.pool)
        case ShortageLeaf():
            try:
                verify(decoded.certificate)
            except Refused as error:
                return decoded, Rejected(Reason.WRONG_CERTIFICATE, str(error))
            return decoded, None
        case KeyChangeLeaf():
            try:
                decoded.change.verify()
            except Refused as error:
                return decoded, Rejected(Reason.WRONG_KEY_CHANGE, str(error))
            return decoded, None
        case SettlingLeaf(told=Promotion() as promotion):
            return decoded, _of_promotion(promotion, decoded.written_ms, known(promotion.position))
        case ConsentLeaf():
            return decoded, _of_consent(decoded.said, known(decoded.said.position))
        case (
            PledgeLeaf()
            | WithdrawalLeaf()
            | ProbeLeaf()
            | SettlingLeaf()
            | MaintenanceLeaf()
            | ForceMajeureLeaf()
            | WithheldLeaf()
        ):
            return decoded, None


def broken_pool(pool: PoolRecord) -> str:
    """The identity that a pool's certificate breaks, in words; empty for a sound one."""
    if pool.start_ms >= pool.end_ms:
        return f"end_ms was {pool.end_ms}, expected an instant after start_ms {pool.start_ms}"
    parts = (
        pool.covered_gpu_ms
        + pool.unsold_used_gpu_ms
        + pool.unsold_idle_gpu_ms
        + pool.unsold_unhealthy_gpu_ms
        + pool.unknown_gpu_ms
    )
    if parts != pool.total_gpu_ms:
        return f"the parts of {pool.pool} at {pool.start_ms} add up to {parts}, total_gpu_ms is {pool.total_gpu_ms}"
    return ""


def wrong_interval(record: MeterRecord, terms: InstrumentTerms) -> str:
    """Why the record's interval is none of the instrument's, in words; empty for a right one."""
    length_ms, window = terms.interval_ms, terms.window
    if record.start_ms % length_ms or record.end_ms - record.start_ms != length_ms:
        return f"[{record.start_ms}, {record.end_ms}) is not {length_ms} ms from a multiple of it"
    if record.start_ms < window.start_ms or record.end_ms > window.end_ms:
        return f"[{record.start_ms}, {record.end_ms}) is outside [{window.start_ms}, {window.end_ms})"
    return ""


def wrong_claim(certificate: Certificate, claim: ShortClaim, terms: InstrumentTerms) -> str:
    """What a shortage certificate says of a position other than its instrument's terms, in words; empty for nothing.

    The claims of the first class are lots of the certificate's own level; lower classes may hold its cells by others.
    """
    if claim.firmness_class != terms.firmness_rank:
        return f"firmness_class of {claim.position} was {claim.firmness_class}, expected {terms.firmness_rank}"
    pools = [f"{each.grade}@{terms.site}" for each in terms.deliverables]
    if certificate.pool not in pools:
        return f"pool of {claim.position} was {certificate.pool}, expected {' or '.join(pools)}"
    first = min(each.firmness_class for each in certificate.claims)
    if claim.firmness_class == first and certificate.level != terms.lot.cell:
        return f"level of {claim.position} was {certificate.level.name}, expected {terms.lot.cell.name}"
    return ""


def _of_record(record: MeterRecord, written_ms: int, known: tuple[Position, InstrumentTerms] | None) -> Rejected | None:
    if known is None:
        return Rejected(Reason.UNKNOWN_POSITION, f"position {record.position} is not known")
    position, terms = known
    if record.instrument != position.instrument:
        detail = f"instrument of {record.position} was {record.instrument}, expected {position.instrument}"
        return Rejected(Reason.WRONG_INSTRUMENT, detail)
    where = wrong_interval(record, terms)
    if where:
        return Rejected(Reason.WRONG_INTERVAL, f"the interval of {record.position} {where}")
    broken = broken_identities(record)
    if broken:
        named = f"{record.position} [{record.start_ms}, {record.end_ms}) version {record.version}"
        return Rejected(Reason.BROKEN_IDENTITY, f"{named}: {'; '.join(broken)}")
    if record.status is RecordStatus.FINAL and written_ms < final_ms(terms, record.end_ms):
        detail = f"{record.position} at {record.start_ms} is final at {written_ms}, expected that from "
        return Rejected(Reason.WRONG_PROMOTION, f"{detail}{final_ms(terms, record.end_ms)} on")
    return None


def _of_promotion(
    promotion: Promotion, written_ms: int, known: tuple[Position, InstrumentTerms] | None
) -> Rejected | None:
    if known is None:
        return Rejected(Reason.UNKNOWN_POSITION, f"position {promotion.position} is not known")
    through_ms = final_through_ms(known[1], written_ms)
    if promotion.stage is Stage.FINAL and promotion.end_ms > through_ms:
        detail = (
            f"{promotion.position} is final until {promotion.end_ms} at {written_ms}, expected {through_ms} at most"
        )
        return Rejected(Reason.WRONG_PROMOTION, detail)
    return None


def _of_consent(said: SubstituteConsent, known: tuple[Position, InstrumentTerms] | None) -> Rejected | None:
    if known is None:
        return Rejected(Reason.UNKNOWN_POSITION, f"position {said.position} is not known")
    wrong = wrong_consent(said, *known)
    return Rejected(Reason.NOT_CONSENTED, wrong) if wrong else None


def _of_pool(pool: PoolRecord) -> Rejected | None:
    broken = broken_pool(pool)
    return Rejected(Reason.BROKEN_IDENTITY, broken) if broken else None


def check_batch(stream: str, leaves: Sequence[bytes], most: int) -> None:
    """Raises InvalidValue for no leaves, for more than `most`, and for one that is too long."""
    if not 0 < len(leaves) <= most:
        raise InvalidValue("leaves", f"a batch of {stream}", len(leaves), f"1..{most}")
    longest = max(map(len, leaves))
    if longest > MAX_LEAF_BYTES:
        raise InvalidValue("leaf", f"a batch of {stream}", f"{longest} bytes", f"at most {MAX_LEAF_BYTES}")
