"""The kept output of gangs: `LOG_DIR/GANG/ATTEMPT/RANK.log`, beside it the exit `RANK.exit`, durable before it is told,
and `progress.jsonl`, what the workers reported.

Gang names are Names, so they cannot leave the folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

POLL_S = 0.1
CHUNK_BYTES = 1 << 16


def attempt_dir(log_dir: Path, gang: str, attempt: int) -> Path:
    """The folder of one attempt."""
    return log_dir / gang / str(attempt)


def log_path(log_dir: Path, gang: str, attempt: int, rank: int) -> Path:
    """The output of one worker, stdout and stderr together."""
    return attempt_dir(log_dir, gang, attempt) / f"{rank}.log"


def exit_path(log_dir: Path, gang: str, attempt: int, rank: int) -> Path:
    """The exit of one worker; there once nothing of it runs."""
    return attempt_dir(log_dir, gang, attempt) / f"{rank}.exit"


def progress_path(log_dir: Path, gang: str, attempt: int) -> Path:
    """What the attempt's workers report of their progress, a JSON document a line; they share it."""
    return attempt_dir(log_dir, gang, attempt) / "progress.jsonl"


def read_exit(path: Path) -> tuple[int, int] | None:
    """(exit code, at_ms) of a worker that ended; None where it did not, or was lost."""
    try:
        found = json.loads(path.read_text())
        return int(found["exit_code"]), int(found["at_ms"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def tail(path: Path, *, ended: Callable[[], bool] | None = None) -> Iterator[str]:
    """The lines of a log without their ends, following until `ended()` (default: the worker's exit file is there).

    Blocks while there is nothing new; waits for a file that does not exist yet. The last line may lack its newline.
    """
    over = ended or path.with_suffix(".exit").exists
    rest = b""
    position = 0
    while True:
        final = over()  # before reading: what was written before the end is then surely read
        chunk = _read(path, position)
        position += len(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")
        if final and not chunk:
            if rest:
                yield rest.decode(errors="replace")
            return
        if not chunk:
            time.sleep(POLL_S)


def _read(path: Path, position: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(position)
            return file.read(CHUNK_BYTES)
    except FileNotFoundError:
        return b""
