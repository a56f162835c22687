"""The import contracts can be broken: each is shown to refuse what it is there to refuse.

`make check` runs them on the code as it is, where they are kept. A contract whose wildcards no longer meet anything
would be kept just as well, and silently.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.sources import ROOT

SMUGGLED = {
    "scheduler/core/smuggled_clock.py": "import time",
    "scheduler/core/smuggled_shell.py": "import scheduler.smuggled_rich",
    "scheduler/smuggled_operators.py": "import operators",
    "scheduler/smuggled_ray.py": "import ray",
    "scheduler/smuggled_grpc.py": "import grpc",
    "scheduler/smuggled_protobuf.py": "from google.protobuf import message",
    "scheduler/smuggled_sqlite.py": "import sqlite3",
    "scheduler/smuggled_cryptography.py": "from cryptography.hazmat.primitives import hashes",
    "scheduler/smuggled_rich.py": "from rich.table import Table",
    "scheduler/smuggled_one.py": "import scheduler.smuggled_two",
    "scheduler/smuggled_two.py": "import scheduler.smuggled_one",
}


def contracts() -> list[str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return [contract["name"] for contract in settings["tool"]["importlinter"]["contracts"]]


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What import-linter says of a copy into which one import against each contract was put."""
    copy = tmp_path_factory.mktemp("smuggled")
    shutil.copy(ROOT / "pyproject.toml", copy)
    for package in ("scheduler", "operators"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for path, line in SMUGGLED.items():
        (copy / path).write_text(line + "\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(copy), "COLUMNS": "300", "NO_COLOR": "1"}
    linter = Path(sys.executable).parent / "lint-imports"
    command = [str(linter), "--no-cache"]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return re.sub(r"\s+", " ", done.stdout)


@pytest.mark.parametrize("contract", contracts())
def test_each_contract_refuses_what_it_is_there_for(verdicts: str, contract: str) -> None:
    assert f"{contract} BROKEN" in verdicts


@pytest.mark.parametrize("path", [path for path in SMUGGLED if not path.endswith(("_one.py", "_two.py"))])
def test_each_smuggled_import_is_named(verdicts: str, path: str) -> None:
    assert path.removesuffix(".py").replace("/", ".") in verdicts
