"""Reading what gangs wrote, while they write it: all workers of an attempt side by side, whole lines at a time.

Polls the files (they may lie on a shared disk, where nothing tells of changes), never keeps more than a chunk of each,
and leaves when its caller does. A line that is still without its end is held back until the attempt is over.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from scheduler.api.messages import LogChunk
from scheduler.execution.logs import log_path

POLL_S = 0.1
CHUNK_BYTES = 1 << 16
LONGEST_LINE_BYTES = 1 << 20
"""A line that is longer comes in pieces."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a gang stands, for a reader of its output: the current attempt, and whether more can come."""

    attempt: int
    workers: int
    attempt_over: bool
    job_over: bool


@dataclass(slots=True)
class _File:
    """How far one worker's output was read."""

    path: Path
    worker: int
    position: int = 0
    rest: bytes = field(default=b"")

    def more(self) -> bytes:
        """The next whole lines; empty where there is none yet."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.position)
                chunk = file.read(CHUNK_BYTES)
        except FileNotFoundError:
            return b""
        self.position += len(chunk)
        text = self.rest + chunk
        end = text.rfind(b"\n") + 1
        if not end and len(text) > LONGEST_LINE_BYTES:
            end = len(text)
        self.rest = text[end:]
        return text[:end]

    def last_lines(self, lines: int) -> None:
        """Begin at the last so many lines."""
        try:
            with self.path.open("rb") as file:
                size = at = file.seek(0, os.SEEK_END)
                text = b""
                while at > 0 and text[:-1].count(b"\n") < lines:  # the last byte ends the last line
                    step = min(CHUNK_BYTES, at)
                    at = file.seek(at - step)
                    text = file.read(step) + text
        except FileNotFoundError:
            return
        kept = text[:-1].split(b"\n")[-lines:] if lines and text else []
        self.position = size - sum(len(line) + 1 for line in kept)


def read(
    log_dir: Path,
    gang: str,
    progress: Callable[[], Progress],
    wait: Callable[[float], bool],
    *,
    worker: int | None = None,
    attempt: int | None = None,
    follow: bool = False,
    tail_lines: int | None = None,
) -> Iterator[LogChunk]:
    """The output of a gang's latest attempt, or of `attempt`, as it comes.

    `wait` waits so many seconds and says whether the caller has left. `follow`: until the job is over, attempt after
    attempt; until the attempt is over where one is named.
    """
    shown = 0
    while True:
        now = progress()
        number = now.attempt if attempt is None else attempt
        if number > shown:
            yield from _attempt(
                log_dir, gang, number, progress, wait, worker=worker, follow=follow, tail_lines=tail_lines
            )
            shown = number
        if not follow or attempt is not None or _is_done(progress(), shown):
            return
        if wait(POLL_S):
            return


def _is_done(now: Progress, shown: int) -> bool:
    return now.job_over and now.attempt <= shown


def _attempt(
    log_dir: Path,
    gang: str,
    number: int,
    progress: Callable[[], Progress],
    wait: Callable[[float], bool],
    *,
    worker: int | None,
    follow: bool,
    tail_lines: int | None,
) -> Iterator[LogChunk]:
    workers = range(progress().workers) if worker is None else (worker,)
    files = [_File(log_path(log_dir, gang, number, each), each) for each in workers]
    if tail_lines is not None:
        for file in files:
            file.last_lines(tail_lines)
    while True:
        now = progress()  # before reading: what was written before the end is then surely read
        over = now.attempt != number or now.attempt_over or not follow
        grown = False
        for file in files:
            while content := file.more():
                grown = True
                yield LogChunk(number, file.worker, content)
        if over and not grown:
            yield from (LogChunk(number, file.worker, file.rest) for file in files if file.rest)
            return
        if not grown and wait(POLL_S):
            return
