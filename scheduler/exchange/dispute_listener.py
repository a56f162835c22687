"""Disputes in: a thread that asks the exchange for those after the last that is known, and tells the scheduler.

It has its own pace and its own connection: losing it delays answers and nothing else. One that the scheduler cannot
take yet, as of a position that it has not heard of, is asked for again, in its order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from scheduler.core.errors import TenorError
from scheduler.core.metering.disputes import Dispute
from scheduler.exchange.client import ExchangeClient
from scheduler.exchange.tls import Tls

PAUSE_S = 1.0
LONGEST_PAUSE_S = 10.0


class Hearer(Protocol):
    """Who is told: the scheduler. Each call is durable when it returns."""

    def learn_dispute(self, seq: int, dispute: Dispute) -> None:
        """A dispute at its place; one that is known changes nothing."""


class DisputeListener:
    """See the module. `after`: the place of the last dispute that is known."""

    def __init__(
        self,
        address: str,
        hearer: Hearer,
        stream: str,
        after: Callable[[], int],
        *,
        tls: Tls | None = None,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._address = address
        self._hearer = hearer
        self._stream = stream
        self._after = after
        self._tls = tls
        self._pause_s = pause_s
        self._stop = threading.Event()
        self.detail = ""
        """Why nothing was heard the last time; empty where it was."""
        self._thread = threading.Thread(target=self._run, name="dispute-listener", daemon=True)

    def start(self) -> Self:
        """Begins; gives itself."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Ends the thread and waits for it. Stopping twice does nothing."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _run(self) -> None:
        pause_s = self._pause_s
        while not self._stop.is_set():
            self.detail = self._heard()
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S) if self.detail else self._pause_s
            self._stop.wait(pause_s)

    def _heard(self) -> str:
        """Everything new, until there is nothing or something is wrong, in words."""
        try:
            if self._tls is not None:
                self._tls.check()
            with ExchangeClient(self._address, tls=self._tls) as client:
                while not self._stop.is_set():
                    found = client.disputes(self._after(), stream=self._stream)
                    for each in found:
                        self._hearer.learn_dispute(each.seq, each.dispute)
                    if not found:
                        self._stop.wait(self._pause_s)
        except TenorError as error:
            return f"{error.code}: {error}"
        return ""
