"""A venue that sells more lots than are listed, when it is told to."""

from __future__ import annotations

from collections.abc import Callable

from scheduler.core.intervals import StepFunction
from scheduler.exchange.reference.database import Database
from scheduler.exchange.reference.faults.faults import Faults, Kind, Place
from scheduler.exchange.reference.venue import Listing, Venue, VenueRules


class OversellingVenue(Venue):
    """The honest venue, whose limit of lots does not hold where a fault strikes."""

    def __init__(self, database: Database, clock_ms: Callable[[], int], rules: VenueRules, faults: Faults) -> None:
        super().__init__(database, clock_ms, rules)
        self._faults = faults

    def _refuse_oversold(self, listing: Listing, added: StepFunction, from_ms: int) -> None:
        if self._faults.struck(Place.TRADE, Kind.OVERSELL) is None:
            super()._refuse_oversold(listing, added, from_ms)
