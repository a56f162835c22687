"""The exchange as a process of its own, for tests: started on a free port, stopped by its id."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

READY_S = 20.0


class ExchangeProcess:
    """`python -m scheduler.exchange.reference` over a file; `restart` keeps the address. A context manager."""

    def __init__(self, db: Path, *more: str) -> None:
        self.db = db
        self._more = more
        self.address = ""
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self, under: tuple[str, ...] = ()) -> None:
        """Starts it, on the address it had before if it had one, and waits until it says where it is. `under`: a module
        that runs it, with its arguments.
        """
        said = self.db.with_suffix(".address")
        said.unlink(missing_ok=True)
        command = [sys.executable, "-m", *under, "scheduler.exchange.reference", "--db", str(self.db)]
        command += ["--listen", self.address or "127.0.0.1:0", "--address-file", str(said), *self._more]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + READY_S
        while not said.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                _, said_last = self._process.communicate(timeout=1)
                raise AssertionError(f"the exchange did not start: {said_last.decode()}")
            time.sleep(0.01)
        self.address = said.read_text().strip()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL, wherever it is."""
        assert self._process is not None
        self._process.kill()
        self._process.communicate()

    def wait(self, most_s: float) -> int:
        """Its exit status, once it has ended by itself."""
        assert self._process is not None
        self._process.communicate(timeout=most_s)
        return self._process.returncode

    def terminate(self) -> int:
        """SIGTERM; its exit status."""
        return self.signal(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> int:
        """A signal that ends it; its exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.communicate(timeout=READY_S)
        return self._process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
