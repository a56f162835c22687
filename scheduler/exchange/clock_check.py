"""Whether this clock is right, by the exchange's heartbeats: no other clock is asked.

A heartbeat says what the exchange's clock showed when it left; what passes until it is heard only makes this clock look
too far ahead. So of the last few the least difference is the nearest to the truth, and a single late one says nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from scheduler.core.metering.estimation import Sight, sight_of_clock

HEARTBEATS = 5
"""So many are compared."""


class ClockCheck:
    """`learn` is told (error in ms, since when it was seen) whenever the clock becomes right or wrong, and once first;
    above 0: this clock is ahead.
    """

    def __init__(self, learn: Callable[[int, int], None], clock_ms: Callable[[], int]) -> None:
        self._learn = learn
        self._clock_ms = clock_ms
        self._heard: deque[tuple[int, int]] = deque(maxlen=HEARTBEATS)
        self._told: Sight | None = None

    def heard(self, exchange_ms: int) -> None:
        """A heartbeat, with the exchange's clock."""
        now_ms = self._clock_ms()
        self._heard.append((now_ms, now_ms - exchange_ms))
        if len(self._heard) < HEARTBEATS:
            return
        error_ms = min(ahead_ms for _, ahead_ms in self._heard)
        if sight_of_clock(error_ms) is not self._told:
            self._learn(error_ms, min(at_ms for at_ms, _ in self._heard))
            self._told = sight_of_clock(error_ms)
