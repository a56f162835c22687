"""SIGINT, SIGTERM and the end of the terminal (SIGHUP) as one wish to stop, heeded where it is safe.

A signal that raised wherever it happened to come could lose a process between its start and its noting. So it only sets
`asked`, but inside `interrupting`, which is for long steps that clean up after themselves: there it raises
KeyboardInterrupt, once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopSignals:
    """The wish to stop. `install` it in the main thread."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._raises = False

    def install(self) -> None:
        """From now on these signals are this wish; a SIGHUP that is ignored (`nohup`) stays so."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def check(self) -> None:
        """Raises KeyboardInterrupt where it was asked."""
        if self.asked.is_set():
            raise KeyboardInterrupt

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Inside, the first signal raises KeyboardInterrupt at once; one that came before does so on entry."""
        self._raises = True
        try:
            self.check()
            yield
        finally:
            self._raises = False

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        first = not self.asked.is_set()
        self.asked.set()
        if first and self._raises:
            raise KeyboardInterrupt
