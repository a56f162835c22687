"""Which files are ours to keep tidy: those that git tracks or would, generated stubs aside."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GENERATED = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")
NOT_OURS = {".git", ".venv", "build", "dist", "__pycache__", "node_modules"}


@cache
def ours(*endings: str) -> tuple[Path, ...]:
    """Paths relative to the root of the files with one of these endings, sorted; what git ignores is left out."""
    named = [path for path in listed() if path.name.endswith(endings) and not path.name.endswith(GENERATED)]
    return tuple(sorted(path for path in named if (ROOT / path).is_file()))


@cache
def listed() -> tuple[Path, ...]:
    """What git tracks or would; in a copy without git (an unpacked archive), all but what is built or fetched."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        found = (path.relative_to(ROOT) for path in ROOT.rglob("*"))
        return tuple(path for path in found if not NOT_OURS & set(path.parts))
    return tuple(Path(name) for name in done.stdout.split("\0") if name)


def python_sources() -> tuple[Path, ...]:
    """Every Python file of ours: packages, tests and benchmarks alike."""
    return ours(".py")
