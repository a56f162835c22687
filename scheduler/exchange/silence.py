"""A stream on which nothing comes: the connection may be well, and the other end still say nothing for ever.

Pings tell that a peer's machine and its gRPC live, not that its service does. Whoever is owed a message by a certain
time ends a stream on which none came, and opens it again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

QUIET_S = 30.0
"""Heartbeats come each second, and an acknowledgement follows its batch: thirty times what is usual."""
_LOOKED_AT_S = 1.0


class Silence:
    """Calls `end` once where nothing was heard for `limit_s`, from a thread of its own. A context manager."""

    def __init__(self, end: Callable[[], object], limit_s: float = QUIET_S) -> None:
        self.broken = False
        """Whether `end` was called."""
        self._end = end
        self._limit_s = limit_s
        self._heard_s = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="exchange-silence", daemon=True)

    def heard(self) -> None:
        """Something came."""
        self._heard_s = time.monotonic()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(min(_LOOKED_AT_S, self._limit_s / 4)):
            if time.monotonic() - self._heard_s > self._limit_s:
                self.broken = True
                self._end()
                return
