"""Positions: how many lots of one instrument one account owns, as the exchange says, over time.

An exchange tells of positions in sequenced events; `fold` turns them into positions. A position is a step function of lots:
it begins with a trade, a transfer or a split at `effective_ms` and ends at expiry. Laws: transfers and splits conserve lots
at every instant; no position is ever negative; the fold of a snapshot and the events after it equals the fold of all.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from scheduler.core.ids import Name
from scheduler.core.intervals import StepFunction
from scheduler.core.models import Model


class PositionEventKind(StrEnum):
    """What happened to a position."""

    TRADE = "trade"
    TRANSFER = "transfer"
    SPLIT = "split"
    EXPIRY = "expiry"
    CORRECTION = "correction"


class Cursor(Model):
    """A place in an exchange's stream: `seq` is dense from 1 within an epoch; a new epoch fences the old publisher."""

    stream: Name
    epoch: int = Field(ge=1)
    seq: int = Field(ge=0)


class PositionEvent(Model):
    """One sequenced fact about positions, in one form for all kinds.

    TRADE: `position` comes into being with `lots` for `account` from `effective_ms`. TRANSFER: `lots` leave `source` for the
    new `position` of another `account`. SPLIT: the same for the same account. EXPIRY: `position` has no lots from
    `effective_ms` on. CORRECTION: `position` has `lots` from `effective_ms` on, as the exchange now says.
    """

    cursor: Cursor
    kind: PositionEventKind
    position: Name
    source: Name | None = None
    account: Name
    instrument: str = Field(min_length=1, max_length=300)
    lots: int = Field(ge=0, le=10_000_000)
    effective_ms: int = Field(ge=0)
    committed_ms: int = Field(ge=0, description="When the exchange made it durable.")


class Position(Model):
    """One position: `lots` are (instant, lots from then on) steps."""

    id: Name
    account: Name
    instrument: str
    acquired_ms: int
    lots: tuple[tuple[int, int], ...]

    @property
    def lots_over_time(self) -> StepFunction:
        """Lots as a step function."""
        return StepFunction(self.lots)

    def lots_at(self, at_ms: int) -> int:
        """Lots at an instant."""
        return self.lots_over_time.at(at_ms)
