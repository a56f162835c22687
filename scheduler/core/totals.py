"""Sums over the records of one position: all that a statement takes from them beside their names.

Sums are linear, so a correction is the old record taken out and the new one put in, and whoever reads a log in its
order needs no record twice. Law (tested): whatever the order, the totals of what was put in and not taken out again.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter

from scheduler.core.causes import Bearer, Cause
from scheduler.core.instruments import Firm, InstrumentTerms, NonFirm
from scheduler.core.metering.records import MeterRecord
from scheduler.core.metering.states import DELIVERED, State
from scheduler.core.quantities import floor_div

_STATES = tuple(State)
_SUMMED = itemgetter("contracted_gpu_ms", "par_gpu_ms", "estimated_gpu_ms", *(f"{state}_gpu_ms" for state in _STATES))
_NUMBERS = range(3 + len(_STATES))


class Totals:
    """See the module. All quantities are GPU-ms."""

    __slots__ = ("_losses", "_sums", "par_released_gpu_ms", "par_unused_gpu_ms")

    def __init__(self) -> None:
        self._sums = [0] * len(_NUMBERS)
        self._losses: dict[Cause, int] = {}
        self.par_unused_gpu_ms = 0
        """The part of the par quantity that was available or released, each record's share rounded down."""
        self.par_released_gpu_ms = 0

    @classmethod
    def of(cls, records: Iterable[MeterRecord]) -> Totals:
        """The totals of these records."""
        totals = cls()
        for record in records:
            totals.add(record)
        return totals

    def add(self, record: MeterRecord, sign: int = 1) -> None:
        """Puts a record in, or takes it out where `sign` is -1."""
        sums, values = self._sums, _SUMMED(record.__dict__)
        for number in _NUMBERS:
            value = values[number]
            if value:
                sums[number] += sign * value
        for cause, gpu_ms in record.losses:
            self._losses[cause] = self._losses.get(cause, 0) + sign * gpu_ms
        unused_gpu_ms, released_gpu_ms = record.available_unused_gpu_ms, record.released_gpu_ms
        if unused_gpu_ms or released_gpu_ms:
            self.par_unused_gpu_ms += sign * _par_share(record, unused_gpu_ms + released_gpu_ms)
            self.par_released_gpu_ms += sign * _par_share(record, released_gpu_ms)

    @property
    def contracted_gpu_ms(self) -> int:
        """What was contracted."""
        return self._sums[0]

    @property
    def par_gpu_ms(self) -> int:
        """What was delivered, of the par grade."""
        return self._sums[1]

    @property
    def estimated_gpu_ms(self) -> int:
        """What was estimated."""
        return self._sums[2]

    @property
    def delivered_gpu_ms(self) -> int:
        """Used, available and released."""
        states = self.states
        return sum(states[state] for state in DELIVERED)

    @property
    def states(self) -> dict[State, int]:
        """The quantity in each state, zeros included."""
        return dict(zip(_STATES, self._sums[3:], strict=True))

    @property
    def losses(self) -> dict[Cause, int]:
        """What was lost, by cause, without zeros."""
        return {cause: gpu_ms for cause, gpu_ms in sorted(self._losses.items()) if gpu_ms}

    def owed_gpu_ms(self, terms: InstrumentTerms, settled_unknown_gpu_ms: int) -> int:
        """What the seller owed and did not deliver. `settled_unknown_gpu_ms`: `unknown_gpu_ms` over the records that
        are settled.
        """
        if isinstance(terms.firmness, NonFirm):
            return 0
        owed = settled_unknown_gpu_ms - self._sums[3 + _STATES.index(State.DERATED)]  # the slope is its remedy
        for cause, gpu_ms in self._losses.items():
            match cause.bearer:
                case Bearer.SELLER:
                    owed += gpu_ms
                case Bearer.EXCUSED:
                    owed += 0 if terms.force_majeure_excuses else gpu_ms
                case Bearer.TERMS:
                    owed += gpu_ms if cause is Cause.SHORTAGE_RULE and isinstance(terms.firmness, Firm) else 0
                case Bearer.MEASUREMENT | Bearer.BUYER:
                    pass
        return owed


def unknown_gpu_ms(record: MeterRecord) -> int:
    """What a record lost to the meter itself, which its owner bears once the record is settled."""
    return sum(gpu_ms for cause, gpu_ms in record.losses if cause.bearer is Bearer.MEASUREMENT)


def _par_share(record: MeterRecord, gpu_ms: int) -> int:
    delivered = record.delivered_gpu_ms
    return floor_div(record.par_gpu_ms * gpu_ms, delivered) if delivered else 0
