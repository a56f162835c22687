"""Delivery under `kill -9` of either side: a log is sent to an exchange while both die again and again.

`python -m tests.chaos.delivery --kills 200 --records 1000000 --seed 1` prints what it did and ends with 0 where nothing
was lost, nothing was there twice and both roots are those of the leaves. Where and how often each side dies follows
from the seed: at which leaf, and how many statements to its database later (`mortal`).
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scheduler.exchange.client import ExchangeClient
from tests.exchange.processes import ExchangeProcess
from tests.exchange.sender import assert_whole
from tests.exchange.world import trade_all

_MOST_STATEMENTS = 16
"""An exchange's batch with its commit and the beginning of the next, a cluster's commit and what it notes after."""
_LAST_PART = 0.98
"""Nobody dies in the last leaves, where too little may be left to do for a death to come about."""


@dataclass(frozen=True, slots=True)
class Deaths:
    """The places, as `mortal` takes them, in order."""

    of_exchange: tuple[str, ...]
    of_cluster: tuple[str, ...]

    @classmethod
    def drawn(cls, kills: int, records: int, seed: int) -> Deaths:
        """So many in all over a log of `records` leaves."""
        chance = random.Random(seed)
        leaves = sorted(chance.randrange(int(records * _LAST_PART)) for _ in range(kills))
        places: dict[bool, list[str]] = {True: [], False: []}
        for leaf in leaves:
            places[chance.random() < 0.5].append(f"{leaf}:{chance.randrange(_MOST_STATEMENTS)}")
        return cls(tuple(places[True]), tuple(places[False]))


def survive(folder: Path, deaths: Deaths, records: int, most_s: float) -> None:
    """Plays it. Raises AssertionError where something was lost, is there twice, or does not end in time."""
    journal = folder / "journal.db"
    with ExchangeProcess(folder / "exchange.db") as exchange:
        with ExchangeClient(exchange.address) as client:
            trade_all(client)
        exchange.kill()
        failed: list[BaseException] = []

        def die_and_return() -> None:
            try:
                for place in deaths.of_exchange:
                    exchange.start(under=("tests.chaos.mortal", place))
                    assert exchange.wait(most_s) == -signal.SIGKILL
                exchange.start()
            except BaseException as error:  # noqa: BLE001 - raised again by the thread that asked
                failed.append(error)

        other = threading.Thread(target=die_and_return)
        other.start()
        try:
            for place in deaths.of_cluster:
                ended = _sent(("tests.chaos.mortal", place), journal, exchange.address, records, most_s)
                assert ended == -signal.SIGKILL
            assert _sent((), journal, exchange.address, records, most_s) == 0
        finally:
            other.join(most_s)
        assert not failed, failed
        assert not other.is_alive()
        assert_whole(exchange, journal, records)


def _sent(under: tuple[str, ...], journal: Path, address: str, records: int, most_s: float) -> int:
    """One life of the cluster's side; its exit status."""
    command = [sys.executable, "-m", *under, "tests.exchange.sender", str(journal), address, str(records), str(most_s)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            return process.wait(most_s)
        finally:
            process.kill()


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where both sides survived everything."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.delivery", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="of either side, in all; default: %(default)s")
    parser.add_argument("--records", type=int, default=1_000_000, help="leaves of the log; default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--most-s", type=float, default=3_600, help="when to give up; default: %(default)s")
    asked = parser.parse_args(arguments)
    deaths = Deaths.drawn(asked.kills, asked.records, asked.seed)
    each = f"{len(deaths.of_exchange)} deaths of the exchange, {len(deaths.of_cluster)} of the cluster"
    sys.stdout.write(f"seed {asked.seed}: {each}\n")
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tenor-chaos-") as folder:
        survive(Path(folder), deaths, asked.records, asked.most_s)
    took = f"{asked.kills} kills over {asked.records} records in {time.monotonic() - begun:.0f} s"
    sys.stdout.write(f"{took}: 0 lost, 0 twice, the roots are equal, nothing was rejected\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
