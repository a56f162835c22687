"""What the threads that talk to the other side have in common: they dial again, with longer and longer pauses, until
they are stopped, or must not go on.

Laws: `stop` ends a pause and a connection at once, and waits for the thread; a connection that got somewhere makes the
next pause short again; whatever is raised is told to whoever derives from this, and ends no thread in silence.
"""

from __future__ import annotations

import random
import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from scheduler.core.errors import TenorError
from scheduler.exchange.errors import retry_pause_s

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0


class Dialling(ABC):
    """See the module. `name`: the thread's; `chance`: shortens pauses by up to a half, so that not all dial at once.

    `first_pause_s`, `longest_pause_s`: each pause is twice the one before, from the first to the longest.
    """

    def __init__(
        self,
        name: str,
        *,
        chance: random.Random | None = None,
        first_pause_s: float = FIRST_PAUSE_S,
        longest_pause_s: float = LONGEST_PAUSE_S,
    ) -> None:
        self._chance = chance or random.Random()
        self._first_pause_s = first_pause_s
        self._longest_pause_s = longest_pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> Self:
        """Begins; gives itself."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Ends the thread and waits for it. Stopping twice does nothing."""
        self._stop.set()
        self._hang_up()
        if self._thread.is_alive():
            self._thread.join()
        self._stopped()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @abstractmethod
    def _dial(self) -> None:
        """One connection, from its beginning to its end; looks at `_stop` once it could be hung up on."""

    @abstractmethod
    def _told(self, error: Exception) -> bool:
        """Notes what ended a connection; False where there must not be another."""

    @abstractmethod
    def _progress(self) -> object:
        """Another value once a connection got somewhere."""

    def _hang_up(self) -> None:  # noqa: B027 - who makes short calls only has none to end
        """Ends the connection that there is. Called by another thread than this one."""

    def _stopped(self) -> None:  # noqa: B027 - not everybody has a state to show
        """Notes that it was stopped."""

    def _run(self) -> None:
        pause_s = self._first_pause_s
        while not self._stop.is_set():
            before, asked_s = self._progress(), 0.0
            try:
                self._dial()
            except Exception as error:  # noqa: BLE001 - a fault of ours must be seen, not end a thread in silence
                if not self._told(error):
                    return
                asked_s = retry_pause_s(error, 0.0) if isinstance(error, TenorError) else 0.0
            if self._progress() != before:
                pause_s = self._first_pause_s
            self._stop.wait(max(asked_s, pause_s * self._chance.uniform(0.5, 1.0)))
            pause_s = min(2 * pause_s, self._longest_pause_s)


def said_of(error: Exception) -> str:
    """An error for people: its code and what it says; of one that nobody expected, its kind."""
    return f"{error.code}: {error}" if isinstance(error, TenorError) else f"unexpected {type(error).__name__}: {error}"
