"""The demonstration's processes: the exchange and the scheduler, each its own; Ray's are the scheduler's. All
stopped by id.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from scheduler.core.errors import Unavailable

START_S = 60.0
STOP_S = 30.0


@dataclass
class Child:
    """A process of ours with its log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, name: str, arguments: list[str], home: Path, **environment: str) -> Self:
        """Run `python -m …`; its output goes to HOME/NAME.log."""
        log = home / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(  # our own modules
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, **environment},
            )
        return cls(name, process, log)

    def wait_for(self, path: Path) -> str:
        """The content of a file that the process writes when it is ready. Raises Unavailable with its last line."""
        until = time.monotonic() + START_S
        while not path.exists():
            if self.process.poll() is not None or time.monotonic() > until:
                last = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
                raise Unavailable(f"the {self.name} did not start: {' '.join(last) or 'no answer in time'}")
            time.sleep(0.02)
        return path.read_text(encoding="utf-8").strip()

    def stop(self) -> int:
        """SIGTERM, and SIGKILL where that does not help; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()
