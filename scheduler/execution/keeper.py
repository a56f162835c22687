"""Keeps one command: starts it, sees it end, ends it on demand, and leaves nothing of it behind. One process each.

Runs by its source alone (standard library only), so a node needs nothing of Tenor installed. It is the command's parent
and, as a subreaper, the heir of whatever the command's children orphan: descendants cannot escape by forking or by a
session of their own. It stands between Ray's actor and the command because an actor can be killed with -9, and must not
leave the command running: then the control pipe closes, and the keeper kills everything below it. Should the keeper
itself be killed, the kernel kills the command (PR_SET_PDEATHSIG).

Control (stdin): first a line of JSON, `{command, env, cwd, log, exit_file}`; then `stop GRACE_MS` any number of times
(a deadline only comes nearer). End of file: kill at once, no exit is recorded. Answers (stdout): `{"started_ms"}` or
`{"failed"}`, then `{"exit_code", "at_ms"}` once nothing of it runs. The exit file is durable before the answer.
Exit codes are the shell's: 128 + signal.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
POLL_S = 0.2


def main() -> None:
    """Keep one command, from its specification on stdin to its exit."""
    # Ray kills a dying worker's children with -9. The supervisor's child is gone at once, and we are nobody's.
    if os.fork():
        os._exit(0)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wakeup, waker = os.pipe()
    os.set_blocking(waker, False)
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    spec = json.loads(read_line())
    try:
        command = start(spec, libc)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        say({"failed": f"{spec['command'][0]}: {error}"})
        return
    say({"started_ms": now_ms()})
    code = keep(command, wakeup)
    if code is None:
        return
    answer = {"exit_code": code, "at_ms": now_ms()}
    with contextlib.suppress(OSError):  # a full disk must not hide the exit from who still listens
        write_durably(Path(spec["exit_file"]), answer)
    say(answer)


def start(spec: dict[str, Any], libc: ctypes.CDLL) -> subprocess.Popen[bytes]:
    """The command as a child in its own session, output to the log, dying with us."""
    keeper = os.getpid()

    def in_child() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != keeper:
            os._exit(1)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    Path(spec["log"]).parent.mkdir(parents=True, exist_ok=True)
    # Appending is atomic in the kernel for each write, so lines of several processes do not overwrite each other.
    log = os.open(spec["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        return subprocess.Popen(
            spec["command"],
            env=spec["env"],
            cwd=spec["cwd"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=in_child,  # noqa: PLW1509 - this process has one thread: the hook is safe
        )
    finally:
        os.close(log)


def keep(command: subprocess.Popen[bytes], wakeup: int) -> int | None:
    """The command's exit code once it and all below it are gone; None where the control pipe closed first."""
    code = None
    deadline = None
    control = b""
    while True:
        exited, children = reap(command.pid)
        code = exited if exited is not None else code
        if not children:
            return code
        # What outlives the command itself gets no grace of its own, unless the command was asked to stop.
        if (code is not None and deadline is None) or (deadline is not None and time.monotonic() >= deadline):
            signal_all(command.pid, signal.SIGKILL)
        ready = select.select([0, wakeup], [], [], wait_s(code, deadline))[0]
        if wakeup in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wakeup, 4096)
        if 0 in ready:
            chunk = os.read(0, 4096)
            if not chunk:
                abandon(command.pid)
                return None
            control += chunk
            *lines, control = control.split(b"\n")
            for line in lines:
                ends = time.monotonic() + int(line.split()[1]) / 1000
                if deadline is None:
                    signal_all(command.pid, signal.SIGTERM)
                deadline = ends if deadline is None else min(deadline, ends)


def wait_s(code: int | None, deadline: float | None) -> float | None:
    """How long to sleep unless something happens, in seconds; None: until it does."""
    if deadline is not None:
        return max(0.01, min(POLL_S, deadline - time.monotonic()))
    return 0.01 if code is not None else None


def abandon(pid: int) -> None:
    """Nobody holds us any more: kill all, see it gone."""
    while reap(pid)[1]:
        signal_all(pid, signal.SIGKILL)
        time.sleep(0.01)


def reap(pid: int) -> tuple[int | None, bool]:
    """(the command's exit code if it ended just now, whether any child is left)."""
    code = None
    while True:
        try:
            child, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code, False
        if child == 0:
            return code, True
        if child == pid:
            raw = os.waitstatus_to_exitcode(status)
            code = raw if raw >= 0 else 128 - raw


def signal_all(pid: int, number: signal.Signals) -> None:
    """To the command's group and to every descendant outside of it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
    for other in below(os.getpid()):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if number == signal.SIGKILL or os.getpgid(other) != pid:
                os.kill(other, number)


def below(root: int) -> list[int]:
    """The pids of all descendants, ascending."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found: set[int] = set()
    frontier = {root}
    while frontier:
        frontier = {pid for pid, parent in parents.items() if parent in frontier} - found
        found |= frontier
    return sorted(found)


def write_durably(path: Path, answer: dict[str, Any]) -> None:
    """The file is there whole, and stays, or is not there."""
    part = path.with_suffix(".exit.part")
    with part.open("w") as file:
        json.dump(answer, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def read_line() -> bytes:
    """The first line of stdin, byte by byte: what follows is for the control loop. Ends the process at end of file."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            sys.exit(0)
        line += byte
    return line


def say(answer: dict[str, Any]) -> None:
    """One line to the supervisor, if it is still there."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(answer).encode() + b"\n")


def now_ms() -> int:
    """The instant, in ms UTC."""
    return time.time_ns() // 1_000_000


if __name__ == "__main__":
    main()
