"""Threads that dial: pauses that grow and become short again, an end at once, and no error that nobody is told of."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from scheduler.core.errors import Refused, Unavailable
from scheduler.exchange.dialling import Dialling, said_of
from scheduler.exchange.errors import Exhausted

WAIT_S = 20.0
LONG_S = 3_600.0


class Longest(random.Random):
    """Never shortens a pause."""

    def uniform(self, a: float, b: float) -> float:  # noqa: ARG002, D102
        return b


class Pauses(threading.Event):
    """Notes how long each pause would be, and takes none; is set after the last."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.lengths_s: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        """See the class."""
        assert timeout is not None
        self.lengths_s.append(timeout)
        if len(self.lengths_s) == self.most:
            self.set()
        return self.is_set()


class Line(Dialling):
    """Each connection is one call of `dial`."""

    def __init__(self, dial: Callable[[], None], first_pause_s: float = 0.1) -> None:
        super().__init__("line", chance=Longest(), first_pause_s=first_pause_s)
        self.dial = dial
        self.got = 0
        self.hung_up = threading.Event()
        self.told: list[str] = []
        self.ends = 0

    def _dial(self) -> None:
        self.dial()

    def _told(self, error: Exception) -> bool:
        self.told.append(said_of(error))
        return isinstance(error, Unavailable)

    def _progress(self) -> object:
        return self.got

    def _hang_up(self) -> None:
        self.hung_up.set()

    def _stopped(self) -> None:
        self.ends += 1


def paused(line: Line, most: int) -> list[float]:
    """How long it would pause, so many times."""
    pauses = Pauses(most)
    line._stop = pauses
    line.start()
    line._thread.join(WAIT_S)
    assert not line._thread.is_alive()
    return pauses.lengths_s


def test_pauses_double_to_the_longest_and_begin_anew_where_a_connection_got_somewhere() -> None:
    tries = 0

    def dial() -> None:
        nonlocal tries
        tries += 1
        line.got += tries == 9
        raise Unavailable("nobody is there")

    line = Line(dial)
    assert paused(line, 10) == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 0.1, 0.2]
    assert set(line.told) == {"UNAVAILABLE: nobody is there"}


def test_a_pause_is_as_long_as_the_other_side_says() -> None:
    def dial() -> None:
        raise Exhausted("too many", subject="line", retry_ms=7_000)

    assert paused(Line(dial), 3) == [7.0, 7.0, 7.0]


def test_what_must_not_go_on_ends_and_is_told_also_where_nobody_expected_it() -> None:
    for error, said in ((Refused("no"), "REFUSED: no"), (KeyError("fault"), "unexpected KeyError: 'fault'")):

        def dial(error: Exception = error) -> None:
            raise error

        with Line(dial) as line:
            line._thread.join(WAIT_S)
            assert not line._thread.is_alive()
        assert (line.told, line.ends) == ([said], 1)


def test_it_stops_at_once_in_a_connection_and_in_a_pause() -> None:
    reached = threading.Event()

    def connected() -> None:
        reached.set()
        assert line.hung_up.wait(WAIT_S)

    def lost() -> None:
        reached.set()
        raise Unavailable("nobody is there")

    for dial in (connected, lost):
        reached.clear()
        line = Line(dial, first_pause_s=LONG_S)
        with line:
            assert reached.wait(WAIT_S)
            begun_s = time.monotonic()
        line.stop()
        assert time.monotonic() - begun_s < WAIT_S
        assert not line._thread.is_alive()
