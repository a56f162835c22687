"""Disputes in: a thread that asks the exchange for those after the last that is known, and tells the scheduler.

It has its own pace and its own connection: losing it delays answers and nothing else. One that the scheduler cannot
take yet, as of a position that it has not heard of, is asked for again, in its order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from scheduler.core.metering.disputes import Dispute
from scheduler.exchange.client import ExchangeClient
from scheduler.exchange.dialling import Dialling, said_of
from scheduler.exchange.tls import Tls

PAUSE_S = 1.0
LONGEST_PAUSE_S = 10.0


class Hearer(Protocol):
    """Who is told: the scheduler. Each call is durable when it returns."""

    def learn_dispute(self, seq: int, dispute: Dispute) -> None:
        """A dispute at its place; one that is known changes nothing."""


class DisputeListener(Dialling):
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
        super().__init__("dispute-listener", first_pause_s=pause_s, longest_pause_s=LONGEST_PAUSE_S)
        self._address = address
        self._hearer = hearer
        self._stream = stream
        self._after = after
        self._tls = tls
        self._pause_s = pause_s
        self._asked = 0  # how often that was answered
        self.detail = ""
        """Why nothing was heard the last time; empty where it was."""

    def _progress(self) -> object:
        return self._asked

    def _dial(self) -> None:
        """Everything new, and what comes, until it is stopped or something is wrong."""
        if self._tls is not None:
            self._tls.check()
        with ExchangeClient(self._address, tls=self._tls) as client:
            while not self._stop.is_set():
                found = client.disputes(self._after(), stream=self._stream)
                for each in found:
                    self._hearer.learn_dispute(each.seq, each.dispute)
                self._asked += 1
                self.detail = ""
                if not found:
                    self._stop.wait(self._pause_s)

    def _told(self, error: Exception) -> bool:
        self.detail = said_of(error)
        return True
