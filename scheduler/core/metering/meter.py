"""The meter: it hears who owns, who runs, what is ill, how fast it is, and integrates that over an interval on demand.

Ownership, health, occupancy and performance are step functions of time for each GPU; `Meter` keeps their history, and
`close` turns any interval of it into one record a position and one certificate a pool. Nothing else feeds it but the
fold of the journal, so the same events give the same records. Laws: closing changes nothing; what is told late corrects
the past, and closing the same interval again gives the corrected records; `load(dump())` is the same meter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from scheduler.core.causes import Cause
from scheduler.core.cluster import Fleet, IntArray
from scheduler.core.errors import Conflict, InvalidValue
from scheduler.core.intervals import Interval
from scheduler.core.metering.closing import Closing, close_interval
from scheduler.core.metering.declared import Declaration
from scheduler.core.metering.estimation import Sight
from scheduler.core.metering.fleet_history import PPM_BITS, FleetHistory
from scheduler.core.metering.history import FieldHistory
from scheduler.core.metering.records import RecordStatus
from scheduler.core.metering.terms import Contract, Counted

_CAUSES = frozenset(int(cause) for cause in Cause)


class Meter:
    """See the module. GPUs are numbered as in the fleet; instants are UTC milliseconds."""

    def __init__(self) -> None:
        self.history = FleetHistory()

    # -- what it hears -------------------------------------------------------------------------------------------------

    def grow(self, n_gpus: int, at_ms: int = 0) -> None:
        """The fleet has `n_gpus` in all; new ones are unsold, healthy, idle, at the reference, and count from `at_ms`
        on.
        """
        if n_gpus < self.history.n_gpus:
            raise InvalidValue("n_gpus", "Meter.grow", n_gpus, f"{self.history.n_gpus} or more: a fleet only grows")
        self.history.grow(n_gpus, at_ms)

    def set_owner(self, at_ms: int, gpus: IntArray, positions: npt.NDArray[np.integer] | int) -> None:
        """From `at_ms` on the GPUs cover these positions (by index; -1: unsold)."""
        self._tell(self.history.owner, at_ms, gpus, positions)

    def set_cause(self, at_ms: int, gpus: IntArray, cause: int) -> None:
        """From `at_ms` on the GPUs are ill for a `Cause`; 0: healthy again."""
        if cause and cause not in _CAUSES:
            raise InvalidValue("cause", "Meter.set_cause", cause, "0 or the code of a Cause")
        self._tell(self.history.cause, at_ms, gpus, cause)

    def set_occupant(self, at_ms: int, gpus: IntArray, account: int) -> None:
        """From `at_ms` on a gang of the account (by index; -1: none) runs there."""
        self._tell(self.history.occupant, at_ms, gpus, account)

    def set_ppm(self, at_ms: int, gpus: IntArray, ppm: int, suite: str) -> None:
        """From `at_ms` on the GPUs perform at `ppm` of the suite's reference."""
        if not 0 <= ppm < 1 << PPM_BITS:
            raise InvalidValue("ppm", "Meter.set_ppm", ppm, f"0..{(1 << PPM_BITS) - 1}")
        self._tell(self.history.performance, at_ms, gpus, (self.history.suite_number(suite) << PPM_BITS) + ppm)

    def set_late(self, at_ms: int, gpus: IntArray, late: bool) -> None:  # noqa: FBT001 - called by keyword
        """From `at_ms` on the owner's gang waits for these GPUs beyond the bind limit, or no longer does."""
        self._tell(self.history.late, at_ms, gpus, int(late))

    def set_seen(self, at_ms: int, seen: Sight) -> None:
        """From `at_ms` on the whole fleet is observed, estimated (a bridged gap), not observed, or read by a wrong
        clock.
        """
        self.history.sight.tell(np.array([at_ms]), np.zeros(1, dtype=np.int64), int(seen))

    def _tell(self, field: FieldHistory, at_ms: int, gpus: IntArray, values: npt.NDArray[np.integer] | int) -> None:
        numbers = np.asarray(gpus, dtype=np.int64)
        if len(numbers) and not (int(numbers.min()) >= 0 and int(numbers.max()) < self.history.n_gpus):
            raise InvalidValue("gpus", "Meter", numbers.tolist()[:8], f"numbers below {self.history.n_gpus}")
        field.tell(np.maximum(at_ms, self.history.joined_ms[numbers]), numbers, values)

    # -- what it says --------------------------------------------------------------------------------------------------

    def close(
        self,
        interval: Interval,
        contracts: Sequence[Contract],
        fleet: Fleet,
        status: RecordStatus = RecordStatus.INITIAL,
        declarations: Sequence[Declaration] = (),
        others: Sequence[Counted] = (),
    ) -> Closing:
        """One record a contract, version 1, by position; one certificate a pool. Changes nothing.

        A record is made of each contract, also where nothing was contracted in the interval: which are due is the
        caller's to know (`settlement.expected_starts`). `fleet` says which GPUs make a cell, a grade and a pool,
        `declarations` which outages were announced or beyond control, `others` what else is sold of the pools.
        Raises Conflict where history was forgotten that this needs, or where more GPUs cover a position than it has
        contracted (which is a bug in who covers, never of a buyer).
        """
        if interval.start_ms < self.history.horizon_ms:
            raise Conflict(
                f"the interval from {interval.start_ms} cannot be closed: history before "
                f"{self.history.horizon_ms} was forgotten"
            )
        if fleet.n_gpus != self.history.n_gpus:
            raise InvalidValue("n_gpus", "the fleet", fleet.n_gpus, f"{self.history.n_gpus}, as the meter was told")
        return close_interval(self.history, interval, contracts, fleet, status, declarations, others)

    def forget(self, before_ms: int) -> None:
        """Drop the history before an instant; intervals that start before it can no longer be closed."""
        self.history.forget(before_ms)

    # -- snapshots -----------------------------------------------------------------------------------------------------

    def dump(self) -> bytes:
        """Everything it knows: one line of JSON, then little-endian int64 arrays. Equal histories give equal bytes."""
        return self.history.dump()

    @classmethod
    def load(cls, dumped: bytes) -> Meter:
        """The meter that was dumped. Raises Damaged on bytes that `dump` did not write."""
        meter = cls()
        meter.history = FleetHistory.load(dumped)
        return meter
