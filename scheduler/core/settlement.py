"""Settlement: what is owed for one position over a delivery period, from its terms and its meter records alone.

Anyone with the terms and the records gets the same statement, byte for byte. The lines, in this order:

    capacity        + price × (par quantity delivered + derated quantity)
    derating        - price × derated quantity: the discount that the slope says, and the only remedy for slowness above
                      `reject_below_ppm`
    unused credit   - price × credit_ppm × what was available or released and not used (PAUSE_CREDIT)
    released        - price × what its owner gave back (RELEASE)
    damages         - max(0, replacement - price) × what the seller owed and did not deliver, capped
    recall excess   - the same × what was recalled beyond the firmness' `max_quantity_gpu_ms`, under the same cap

What the seller owes for: losses whose cause the seller bears, less the derated part; the shortage rule's, where the
firmness is FIRM (the rule says who goes short, not that nobody pays); not what was lost while a failed device was being
replaced in time (REPLACEMENT, which is not paid for either); force majeure, where the terms do not excuse it;
and what is still unknown in a record that is settled, since the seller runs the meter. NON_FIRM owes no damages.

A record is settled once it is FINAL, corrected since or not, unless it is disputed: then it is again when that is
answered.

Money is rounded towards zero once a line, to micro-units; what was cut off is kept as `remainder`, in parts of
`PARTS_PER_MICRO`, so that amounts and remainders of parts add up to those of the whole exactly. Allowances that are
written for one lot over the whole window (the damages cap, the recall limit) count in proportion to the contracted
quantity.

Laws (tested): records given twice or in any order change nothing; the statements of two halves of the window, or of two
parts of a position, add up to the whole's (exactly, where neither cap nor recall limit binds); a slower GPU or a
steeper slope never costs more; the corrections' statement less the first is `difference`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice, takewhile
from typing import assert_never

from pydantic import Field

from scheduler.core.causes import Cause
from scheduler.core.errors import Conflict, InvalidValue
from scheduler.core.ids import Name
from scheduler.core.instruments import InstrumentTerms, PauseCredit, PayUnused, Recallable, ReleaseUnused
from scheduler.core.intervals import Interval
from scheduler.core.merkle import leaf_hash, root
from scheduler.core.metering.records import MeterRecord, RecordStatus, broken_identities
from scheduler.core.metering.states import State
from scheduler.core.models import Model
from scheduler.core.profiles import delivery_intervals, delivery_ms
from scheduler.core.quantities import MS_PER_HOUR, ONE_PPM, floor_div, share_ppm
from scheduler.core.totals import Totals, unknown_gpu_ms

PARTS_PER_MICRO = MS_PER_HOUR * ONE_PPM
"""A price in micro-units a GPU-hour × GPU-ms × ppm is in these parts of a micro-unit."""

_MOST_NAMED = 5


class LineKind(StrEnum):
    """What a line of a statement is for; see the module."""

    CAPACITY = "capacity"
    DERATING = "derating"
    UNUSED_CREDIT = "unused_credit"
    RELEASED = "released"
    DAMAGES = "damages"
    RECALL_EXCESS = "recall_excess"


class Line(Model):
    """Quantity × price × share, signed: above 0 the buyer owes it, below 0 the seller. Amount and remainder have one
    sign.
    """

    kind: LineKind
    gpu_ms: int = Field(ge=0)
    price_micro_per_gpu_hour: int = Field(ge=0)
    share_ppm: int = Field(default=ONE_PPM, ge=0)
    capped: bool = False
    amount_micro: int
    remainder: int
    """What rounding cut off, in parts of `PARTS_PER_MICRO`."""

    @property
    def parts(self) -> int:
        """The exact amount, in parts of `PARTS_PER_MICRO`."""
        return self.amount_micro * PARTS_PER_MICRO + self.remainder


class Statement(Model):
    """What is owed for one position over `[start_ms, end_ms)`; its `canonical_bytes` are what is compared."""

    position: Name
    instrument: str
    spec_hash: str
    currency: str
    start_ms: int
    end_ms: int
    through_ms: int
    """Records are settled up to here: `end_ms` in a complete statement."""
    complete: bool
    records: int
    records_unsettled: int
    """How many of them were not final, or disputed."""
    records_disputed: int
    """How many of them were disputed."""
    records_root: str = Field(pattern=r"^[0-9a-f]{64}$")
    """The Merkle root of the leaves of the records used, in order of time; the caller knows the leaves' bytes."""
    versions_root: str = Field(pattern=r"^[0-9a-f]{64}$")
    """The Merkle root over `start_ms end_ms version` (decimal, one space) of the records used, in order of time."""
    contracted_gpu_ms: int
    par_gpu_ms: int
    states: tuple[tuple[State, int], ...]
    """(state, gpu_ms), every state, in the order of `State`."""
    losses: tuple[tuple[Cause, int], ...]
    """(cause, gpu_ms), ascending, no zeros."""
    estimated_gpu_ms: int
    availability_ppm: int
    """Delivered or derated, of what was due: contracted less planned, recalled, excused and the buyer's own; 1 of
    nothing.
    """
    availability_target_ppm: int
    availability_met: bool
    lines: tuple[Line, ...]
    amount_micro: int
    """The sum of the lines' amounts."""
    remainder: int
    """The sum of the lines' remainders."""


def latest(records: Iterable[MeterRecord]) -> tuple[MeterRecord, ...]:
    """The latest version for each (position, interval), by position, then time: what a statement uses, and in which
    order.

    Raises Conflict where two records of one version differ.
    """
    chosen: dict[tuple[str, int, int], MeterRecord] = {}
    seen: dict[tuple[str, int, int, int], MeterRecord] = {}
    for record in records:
        key = (record.position, record.start_ms, record.end_ms)
        other = seen.setdefault((*key, record.version), record)
        if other != record:
            raise Conflict(f"version {record.version} of {_named(record)} was given twice, with different content")
        if key not in chosen or chosen[key].version < record.version:
            chosen[key] = record
    return tuple(chosen[key] for key in sorted(chosen))


def expected_starts(terms: InstrumentTerms, window: Interval) -> Iterator[int]:
    """The starts of the metering intervals in which something is delivered in a window: each must have a record. In
    order.
    """
    reached_ms = window.start_ms - terms.interval_ms
    for piece in delivery_intervals(terms):
        inside = piece.intersection(window)
        if inside is None:
            continue
        start_ms = max(reached_ms, _aligned(inside.start_ms, terms.interval_ms))
        while start_ms < inside.end_ms:
            yield start_ms
            start_ms += terms.interval_ms
        reached_ms = start_ms


def missing_starts(expected: Iterable[int], given: Iterable[int]) -> Iterator[int]:
    """Those that are expected and not given; both rise."""
    remaining = iter(given)
    at_ms = next(remaining, None)
    for start_ms in expected:
        while at_ms is not None and at_ms < start_ms:
            at_ms = next(remaining, None)
        if at_ms != start_ms:
            yield start_ms


def version_leaf(start_ms: int, end_ms: int, version: int) -> bytes:
    """What `Statement.versions_root` is made over, of one record."""
    return f"{start_ms} {end_ms} {version}".encode()


def tiled_through(
    terms: InstrumentTerms, position: str, starts: Iterable[int], last_end_ms: int, period: Interval, *, partial: bool
) -> int:
    """Until when records tile the deliveries of the period. `starts`: of the records' intervals, each of the terms'
    length, rising; `last_end_ms`: of the last. Raises Conflict where they do not.
    """
    through_ms, length_ms = min(last_end_ms, period.end_ms) if partial else period.end_ms, terms.interval_ms
    expected = takewhile(lambda start_ms: start_ms < through_ms, expected_starts(terms, period))
    missing = missing_starts(expected, starts)
    named = ", ".join(f"[{start_ms}, {start_ms + length_ms})" for start_ms in islice(missing, _MOST_NAMED))
    if named:
        further = sum(1 for _ in missing)
        raise Conflict(f"{position} has no record of {named}{f' and {further} more' if further else ''}")
    if through_ms >= period.end_ms:
        return period.end_ms
    rest = expected_starts(terms, Interval(through_ms, period.end_ms))
    return through_ms if any(start_ms >= through_ms for start_ms in rest) else period.end_ms


def settle(
    terms: InstrumentTerms,
    records: Iterable[MeterRecord],
    *,
    records_root: str,
    window: Interval | None = None,
    partial: bool = False,
    final: Collection[int] | None = None,
    disputed: Collection[int] = (),
) -> Statement:
    """The statement of one position over `window` (None: the terms' delivery window), from any versions of its records.

    `records_root`: lower-case hex of the Merkle root over the leaves of `latest(records)`. `partial`: only up to the
    last record; without it, and in any case before the last record, every interval of delivery must have one. `final`,
    `disputed`: the starts of intervals whose record is final, corrected since or not (None: those of which a FINAL
    version is given), and disputed. Records outside the window are refused. Raises Conflict on gaps, overlaps, records
    that break an identity, that contradict each other, or that are of another position or instrument; InvalidValue
    where there are none.
    """
    period = terms.window.interval if window is None else window
    given = tuple(records)
    used = latest(given)
    if not used:
        raise InvalidValue("records", f"a statement of {terms.id}", (), "at least one record")
    _refuse_strangers(terms, used)
    _refuse_outside(terms, used, period)
    starts = [record.start_ms for record in used]
    through_ms = tiled_through(terms, used[0].position, starts, used[-1].end_ms, period, partial=partial)
    _refuse_outside_profile(terms, used, period)
    if final is None:
        final = _final_starts(given)
    settled = [record for record in used if record.start_ms in final and record.start_ms not in disputed]
    totalled = Totalled(
        position=used[0].position,
        records=len(used),
        unsettled=len(used) - len(settled),
        disputed=sum(record.start_ms in disputed for record in used),
        records_root=records_root,
        versions_root=root([leaf_hash(version_leaf(each.start_ms, each.end_ms, each.version)) for each in used]).hex(),
        totals=Totals.of(used),
        settled_unknown_gpu_ms=sum(map(unknown_gpu_ms, settled)),
    )
    return stated(terms, totalled, period, through_ms)


@dataclass(frozen=True, slots=True)
class Totalled:
    """The records that a statement uses, added up; names as in `Statement`. `settled_…`: of those that are settled."""

    position: str
    records: int
    unsettled: int
    disputed: int
    records_root: str
    versions_root: str
    totals: Totals
    settled_unknown_gpu_ms: int


def stated(terms: InstrumentTerms, totalled: Totalled, period: Interval, through_ms: int) -> Statement:
    """The statement of records that were added up, each of which is sound; `through_ms` as `tiled_through` gives it."""
    totals, states = totalled.totals, totalled.totals.states
    due_gpu_ms = _due_gpu_ms(totals, excused=terms.force_majeure_excuses)
    available_gpu_ms = totals.delivered_gpu_ms + states[State.DERATED]
    availability_ppm = share_ppm(available_gpu_ms, due_gpu_ms) if due_gpu_ms else ONE_PPM
    lines = _lines(terms, totals, totals.owed_gpu_ms(terms, totalled.settled_unknown_gpu_ms))
    return Statement(
        position=totalled.position,
        instrument=terms.id,
        spec_hash=terms.spec_hash,
        currency=terms.currency,
        start_ms=period.start_ms,
        end_ms=period.end_ms,
        through_ms=through_ms,
        complete=through_ms == period.end_ms,
        records=totalled.records,
        records_unsettled=totalled.unsettled,
        records_disputed=totalled.disputed,
        records_root=totalled.records_root,
        versions_root=totalled.versions_root,
        contracted_gpu_ms=totals.contracted_gpu_ms,
        par_gpu_ms=totals.par_gpu_ms,
        states=tuple(states.items()),
        losses=tuple(totals.losses.items()),
        estimated_gpu_ms=totals.estimated_gpu_ms,
        availability_ppm=availability_ppm,
        availability_target_ppm=terms.availability_target_ppm,
        availability_met=availability_ppm >= terms.availability_target_ppm,
        lines=lines,
        amount_micro=sum(line.amount_micro for line in lines),
        remainder=sum(line.remainder for line in lines),
    )


def lines_of(terms: InstrumentTerms, records: Iterable[MeterRecord]) -> tuple[Line, ...]:
    """What records of one position come to, line by line, whatever time each covers: the sums of `settle` without its
    refusals, for what might be delivered. Raises Conflict where two records of one version differ.
    """
    used = latest(records)
    final, totals = _final_starts(used), Totals.of(used)
    unknown = sum(unknown_gpu_ms(record) for record in used if record.start_ms in final)
    return _lines(terms, totals, totals.owed_gpu_ms(terms, unknown))


def difference(before: Statement, after: Statement) -> tuple[Line, ...]:
    """What a later statement of the same position and period changes: a line for each kind whose exact amount differs.

    A line's quantity is how much the quantity moved. Raises Conflict where the two are not of one position and period.
    """
    of_before = (before.position, before.spec_hash, before.start_ms, before.end_ms)
    of_after = (after.position, after.spec_hash, after.start_ms, after.end_ms)
    if of_before != of_after:
        raise Conflict(f"the statement of {of_before} cannot be adjusted to that of {of_after}")
    return tuple(
        _line(
            new.kind,
            abs(new.gpu_ms - old.gpu_ms),
            new.price_micro_per_gpu_hour,
            new.parts - old.parts,
            share=new.share_ppm,
            capped=old.capped or new.capped,
        )
        for old, new in zip(before.lines, after.lines, strict=True)
        if old.parts != new.parts
    )


# -- which records -----------------------------------------------------------------------------------------------------


def _final_starts(records: Iterable[MeterRecord]) -> frozenset[int]:
    return frozenset(record.start_ms for record in records if record.status is RecordStatus.FINAL)


def _aligned(at_ms: int, interval_ms: int) -> int:
    return floor_div(at_ms, interval_ms) * interval_ms


def _named(record: MeterRecord) -> str:
    return f"{record.position} [{record.start_ms}, {record.end_ms})"


def _refuse_strangers(terms: InstrumentTerms, used: Sequence[MeterRecord]) -> None:
    for record in used:
        if record.position != used[0].position:
            raise Conflict(f"records of {used[0].position} and {record.position} were given, expected one position")
        if record.instrument != terms.id:
            raise Conflict(f"{_named(record)} is of instrument {record.instrument}, expected {terms.id}")
        broken = broken_identities(record)
        if broken:
            raise Conflict(f"{_named(record)} does not add up: {'; '.join(broken)}")


def _refuse_outside(terms: InstrumentTerms, used: Sequence[MeterRecord], period: Interval) -> None:
    first_ms, length_ms = _aligned(period.start_ms, terms.interval_ms), terms.interval_ms
    for record in used:
        if record.start_ms % length_ms or record.interval.length_ms != length_ms:
            raise Conflict(f"{_named(record)} overlaps others: expected {length_ms} ms from a multiple of it")
        if not first_ms <= record.start_ms < period.end_ms:
            raise Conflict(f"{_named(record)} is outside [{period.start_ms}, {period.end_ms})")


def _refuse_outside_profile(terms: InstrumentTerms, used: Sequence[MeterRecord], period: Interval) -> None:
    delivering = set(expected_starts(terms, period))
    for record in used:
        if record.contracted_gpu_ms and record.start_ms not in delivering:
            raise Conflict(f"{_named(record)} has contracted {record.contracted_gpu_ms} GPU-ms outside the profile")


# -- how much money ----------------------------------------------------------------------------------------------------


def _lines(terms: InstrumentTerms, totals: Totals, owed_gpu_ms: int) -> tuple[Line, ...]:
    price = terms.price_micro_per_gpu_hour
    derated = totals.states[State.DERATED]
    credit_gpu_ms = released_gpu_ms = 0
    credit_ppm = ONE_PPM
    match terms.unused_rule:
        case PayUnused():
            pass
        case PauseCredit():
            credit_gpu_ms, credit_ppm = totals.par_unused_gpu_ms, terms.unused_rule.credit_ppm
        case ReleaseUnused():
            released_gpu_ms = totals.par_released_gpu_ms
        case _:
            assert_never(terms.unused_rule)
    capacity = totals.par_gpu_ms + derated
    return (
        _line(LineKind.CAPACITY, capacity, price, price * capacity * ONE_PPM),
        _line(LineKind.DERATING, derated, price, -price * derated * ONE_PPM),
        _line(LineKind.UNUSED_CREDIT, credit_gpu_ms, price, -price * credit_gpu_ms * credit_ppm, share=credit_ppm),
        _line(LineKind.RELEASED, released_gpu_ms, price, -price * released_gpu_ms * ONE_PPM),
        *_damages(terms, totals, owed_gpu_ms),
    )


def _damages(terms: InstrumentTerms, totals: Totals, owed_gpu_ms: int) -> tuple[Line, Line]:
    rate = max(0, terms.damages.reference_price_micro_per_gpu_hour - terms.price_micro_per_gpu_hour)
    excess = max(0, totals.states[State.RECALLED] - _recall_allowance_gpu_ms(terms, totals))
    cap = _damages_cap(terms, totals)
    owed_parts, excess_parts = rate * owed_gpu_ms * ONE_PPM, rate * excess * ONE_PPM
    owed = owed_parts if cap is None else min(owed_parts, cap)
    recalled = excess_parts if cap is None else min(excess_parts, cap - owed)
    return (
        _line(LineKind.DAMAGES, owed_gpu_ms, rate, -owed, capped=owed < owed_parts),
        _line(LineKind.RECALL_EXCESS, excess, rate, -recalled, capped=recalled < excess_parts),
    )


def _recall_allowance_gpu_ms(terms: InstrumentTerms, totals: Totals) -> int:
    """What may be recalled without damages: the limit of one lot × lots; without a limit, everything."""
    if not isinstance(terms.firmness, Recallable):
        return totals.states[State.RECALLED]
    return floor_div(terms.firmness.max_quantity_gpu_ms * totals.contracted_gpu_ms, _lot_gpu_ms(terms))


def _damages_cap(terms: InstrumentTerms, totals: Totals) -> int | None:
    """The most that damages may come to, in parts; None: no cap."""
    contracted = totals.contracted_gpu_ms
    if terms.damages.cap_micro is not None:
        return floor_div(terms.damages.cap_micro * PARTS_PER_MICRO * contracted, _lot_gpu_ms(terms))
    if terms.damages.cap_ppm is not None:
        return terms.price_micro_per_gpu_hour * contracted * terms.damages.cap_ppm
    return None


def _lot_gpu_ms(terms: InstrumentTerms) -> int:
    """What one lot is over the whole window."""
    return max(1, terms.lot.gpus * delivery_ms(terms))


def _due_gpu_ms(totals: Totals, *, excused: bool) -> int:
    """Contracted less what was not to be delivered: planned, recalled, the buyer's own and, if so, the excused."""
    forgiven = (State.OUT_PLANNED, State.RECALLED, State.OUT_BUYER, *((State.OUT_EXCUSED,) if excused else ()))
    states = totals.states
    return totals.contracted_gpu_ms - sum(states[state] for state in forgiven)


def _line(kind: LineKind, gpu_ms: int, price: int, parts: int, *, share: int = ONE_PPM, capped: bool = False) -> Line:
    whole, remainder = divmod(abs(parts), PARTS_PER_MICRO)
    sign = -1 if parts < 0 else 1
    return Line(
        kind=kind,
        gpu_ms=gpu_ms,
        price_micro_per_gpu_hour=price,
        share_ppm=share,
        capped=capped,
        amount_micro=sign * whole,
        remainder=sign * remainder,
    )
