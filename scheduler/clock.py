"""The one place where wall-clock time is read for the scheduler's sake."""

from __future__ import annotations

import time


def wall_clock_ms() -> int:
    """UTC milliseconds now."""
    return time.time_ns() // 1_000_000
