"""Which files are ours to keep tidy: those that git tracks or would, generated stubs aside."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GENERATED = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


@cache
def ours(*endings: str) -> tuple[Path, ...]:
    """Paths relative to the root of the files with one of these endings, sorted; what git ignores is left out."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    named = sorted(Path(name) for name in listed.split("\0") if name.endswith(endings))
    return tuple(path for path in named if not path.name.endswith(GENERATED) and (ROOT / path).is_file())


def python_sources() -> tuple[Path, ...]:
    """Every Python file of ours: packages, tests and benchmarks alike."""
    return ours(".py")
