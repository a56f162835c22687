"""The judges, built once from Go modules and kept in the user's cache: the source decides whether they are current."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "judge"
FETCH_S, BUILD_S, JUDGE_S = 120, 240, 30

Judge = Callable[..., bytes]


@pytest.fixture(scope="session")
def judge() -> Judge:
    """The program of `judge/main.go`: called with arguments, and `given` for its input, it gives what it writes.

    Raises CalledProcessError, with what it said, where it judges against. Skips where Go or its modules are not to be
    had.
    """
    program = _built()

    def judged(*arguments: str, given: bytes = b"") -> bytes:
        done = subprocess.run([str(program), *arguments], input=given, capture_output=True, check=True, timeout=JUDGE_S)
        return done.stdout

    return judged


def _built() -> Path:
    go = shutil.which("go") or "/usr/local/go/bin/go"
    if not os.access(go, os.X_OK):
        pytest.skip("Go is not installed: the judges of the log are built with it")
    version = _ran(go, "version", why="Go does not run", timeout_s=30)
    content = b"".join(path.read_bytes() for path in sorted(SOURCE.iterdir())) + version
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tenor-tests"
    program = folder / f"judge-{hashlib.sha256(content).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "judge.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other workers wait for the one that builds
        if not program.exists():
            _ran(go, "mod", "download", why="the Go modules of the judges cannot be had", timeout_s=FETCH_S)
            partial = program.with_name(f".{program.name}.{os.getpid()}")
            _ran(go, "build", "-o", str(partial), ".", why="the judges do not build here", timeout_s=BUILD_S)
            partial.replace(program)
    return program


def _ran(go: str, *arguments: str, why: str, timeout_s: int) -> bytes:
    """What it wrote. Skips, saying why, where it fails or is too slow; but a build that fails on good modules fails."""
    try:
        done = subprocess.run([go, *arguments], cwd=SOURCE, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{why} within {timeout_s} s")
    if done.returncode and arguments[0] == "build":
        pytest.fail(f"{why}: {done.stderr.decode()[-500:]}")
    if done.returncode:
        pytest.skip(f"{why}: {done.stderr.decode().strip()[-200:]}")
    return done.stdout
