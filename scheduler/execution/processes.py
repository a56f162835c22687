"""Processes by identity: a pid alone may be somebody else's by now, so a process is its pid, its start and the boot.

Read from `/proc` (Linux). A zombie counts as gone: nothing of it runs, and its parent may never reap it. Laws: `kill`
never signals a process whose identity differs from the recorded one; `kill_all` returns only when all are gone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from scheduler.core.errors import Unavailable
from scheduler.core.models import Model

_PROC = Path("/proc")


class ProcessId(Model):
    """A process as it was recorded: pid, start in clock ticks since boot, and which boot."""

    pid: int
    start_ticks: int
    boot: str

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return identity(self.pid) == self


def identity(pid: int) -> ProcessId | None:
    """Who runs under a pid now; None where nobody does, or only a zombie."""
    fields = _stat(pid)
    if fields is None or fields[0] in {"Z", "X"}:
        return None
    return ProcessId(pid=pid, start_ticks=int(fields[19]), boot=_boot())


def descendants(pids: Iterable[int]) -> tuple[int, ...]:
    """The pids of all live processes below these, by parenthood; ascending."""
    parents = {
        pid: int(fields[1]) for pid in _pids() if (fields := _stat(pid)) is not None and fields[0] not in {"Z", "X"}
    }
    found: set[int] = set()
    frontier = set(pids)
    while frontier:
        frontier = {pid for pid, parent in parents.items() if parent in frontier and pid not in found}
        found |= frontier
    return tuple(sorted(found))


def marked(variable: str, value: str) -> tuple[int, ...]:
    """The pids of all live processes of this user that were started with `variable=value` in their environment."""
    wanted = f"{variable}={value}".encode()
    return tuple(pid for pid in _pids() if wanted in _environment(pid) and identity(pid) is not None)


def kill(process: ProcessId, number: signal.Signals = signal.SIGKILL) -> bool:
    """Signal a process, if it is still the recorded one; whether it was."""
    if not process.alive:
        return False
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def end_child(process: subprocess.Popen[bytes], within_s: float) -> None:
    """End a child where it still runs: SIGTERM, and SIGKILL after `within_s`. It is reaped then."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def kill_all(find: Callable[[], Iterable[int]], *, within_s: float = 10.0) -> int:
    """SIGKILL what `find` gives, again and again, until it gives nothing alive; how many were signalled.

    Again, because one may have started another between look and kill. Raises Unavailable after `within_s`.
    """
    deadline = time.monotonic() + within_s
    signalled: set[int] = set()
    while alive := [process for pid in find() if (process := identity(pid)) is not None and pid != os.getpid()]:
        for process in alive:
            if kill(process):
                signalled.add(process.pid)
        if time.monotonic() > deadline:
            pids = ", ".join(str(process.pid) for process in alive)
            raise Unavailable(f"processes {pids} still run {within_s:g} s after SIGKILL")
        time.sleep(0.02)
    return len(signalled)


def _pids() -> list[int]:
    return sorted(int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())


def _stat(pid: int) -> list[str] | None:
    """The fields of `/proc/PID/stat` from the state on (the command before them may hold anything)."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _environment(pid: int) -> list[bytes]:
    try:
        return (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _boot() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
