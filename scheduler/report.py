"""Progress from inside a job: `report(step=100, loss=0.3)`. One call that never fails the job.

A line of JSON with the instant is added to the file that TENOR_PROGRESS names, which the scheduler sets for its jobs;
without it nothing happens. It costs one open and one write, and needs only the standard library, so that a training
loop can call it often and from anywhere.
"""

from __future__ import annotations

import json
import os
import time

PROGRESS_VARIABLE = "TENOR_PROGRESS"
LONGEST_LINE_BYTES = 65_536


def report(**progress: object) -> bool:
    """Add the values to the job's progress; whether they were written. Never raises."""
    path = os.environ.get(PROGRESS_VARIABLE, "")
    if not path:
        return False
    try:
        line = json.dumps({"at_ms": time.time_ns() // 1_000_000, **progress}, default=_plain).encode() + b"\n"
        if len(line) > LONGEST_LINE_BYTES:
            return False
        # One write to a file that is only added to: workers that share it never mix their lines.
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            return os.write(file, line) == len(line)
        finally:
            os.close(file)
    except Exception:  # noqa: BLE001 - whatever goes wrong here, the job goes on
        return False


def _plain(value: object) -> object:
    """A number of some library (NumPy's, PyTorch's) as Python's own, all else as text."""
    item = getattr(value, "item", None)
    return item() if callable(item) else str(value)
