"""What each account lent to others less what it borrowed, in GPU-ms, of which half counts after a week.

GPU-ms are lent while a gang of one account runs on GPUs that cover another account's position, as the meter has it.
What nobody owns is lent by nobody; what is told after its step is over does not count. Balances are settled at whole
steps of time only: they are the same from one step to the next, so that planners are told nothing while nothing
changed, and a fold gives the same ones however often it was read.
Law: in each step, as much is lent as is borrowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.intervals import Interval
from scheduler.core.metering.fleet_history import FleetHistory
from scheduler.core.metering.segments import cut
from scheduler.core.quantities import floor_div

STEP_MS = 600_000
"""Balances change at multiples of this."""
DECAY_STEPS = 1_455
"""One part in so many is forgotten each step: half of it within a week of 1,008 steps."""
MOST_STEPS = 8_064
"""After a longer silence, of eight weeks, only these last steps count."""


class Balances:
    """See the module. Mappings are made anew when they change, and never written to."""

    def __init__(self) -> None:
        self.by_account: Mapping[str, int] = {}
        """GPU-ms lent less borrowed; accounts that are even are left out."""
        self.settled_ms: int | None = None
        """The end of the last step that is in; None before the first event."""

    def is_due(self, now_ms: int) -> bool:
        """Whether a step is over that is not in."""
        return self.settled_ms is None or now_ms >= self.settled_ms + STEP_MS

    def settle(
        self, now_ms: int, history: FleetHistory, fleet: Fleet, accounts: Sequence[str], account_of_owner: Sequence[int]
    ) -> None:
        """Take in every step that is over by now. `account_of_owner`: account by position index."""
        last_ms = floor_div(now_ms, STEP_MS) * STEP_MS
        if self.settled_ms is None:
            self.settled_ms = last_ms
        net = np.array([self.by_account.get(name, 0) for name in accounts], dtype=np.int64)
        owners = np.array([-1, *account_of_owner], dtype=np.int64)
        start_ms = max(self.settled_ms, last_ms - MOST_STEPS * STEP_MS)
        if start_ms > self.settled_ms:
            net[:] = 0
        lent: IntArray | None = None
        for at_ms in range(start_ms, last_ms, STEP_MS):
            if lent is None or not _calm(history, at_ms - STEP_MS, at_ms + STEP_MS):
                lent = _lent(history, fleet, Interval(at_ms, at_ms + STEP_MS), owners, len(accounts))
            net -= np.sign(net) * -(-np.abs(net) // DECAY_STEPS)
            net += lent
        self.settled_ms = last_ms
        self.by_account = {name: gpu_ms for name, gpu_ms in zip(accounts, net.tolist(), strict=True) if gpu_ms}


def _calm(history: FleetHistory, after_ms: int, before_ms: int) -> bool:
    """Whether nobody came, went or sold anything between two instants."""
    return not any(each.between(after_ms, before_ms).shape[1] for each in (history.owner, history.occupant))


def _lent(history: FleetHistory, fleet: Fleet, span: Interval, account_of_owner: IntArray, n_accounts: int) -> IntArray:
    """(n_accounts) int64: GPU-ms lent less borrowed in a span. `account_of_owner[p + 1]`: position p's; [0]: -1."""
    segments = cut(history, fleet, span, np.full(len(account_of_owner), int(Level.GPU), dtype=np.int64))
    lender, borrower = account_of_owner[segments.owner + 1], segments.occupant
    lent = (lender >= 0) & (borrower >= 0) & (lender != borrower)
    net = np.zeros(n_accounts, dtype=np.int64)
    np.add.at(net, lender[lent], segments.length_ms[lent])
    np.subtract.at(net, borrower[lent], segments.length_ms[lent])
    return net
