"""The wheel, installed alone in a clean environment from the locks, is all that a user needs.

Not the repository, not the development tools, not this interpreter's packages: a new virtual environment, the runtime
lock with its hashes, the wheel without dependencies, and a folder elsewhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.sources import ROOT

UV = Path(sys.executable).parent / "uv"

pytestmark = [pytest.mark.slow, pytest.mark.installation]


needs_command = pytest.mark.skipif(
    not (ROOT / "scheduler/cli/__main__.py").is_file(), reason="no command line yet: scheduler/cli/__main__.py"
)
needs_demo = pytest.mark.skipif(
    not (ROOT / "scheduler/cli/demo.py").is_file(), reason="no demonstration yet: scheduler/cli/demo.py"
)
LEADS_BACK = ("PYTHON", "VIRTUAL_ENV", "TENOR", "RAY_", "UV_LINK_MODE", "UV_COMPILE_BYTECODE")


def ran(command: Sequence[str | Path], cwd: Path, timeout_s: int = 120) -> subprocess.CompletedProcess[str]:
    """Run without anything of this environment that could lead back to the repository. A failure shows its output."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(LEADS_BACK)}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=kept,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `wheel/` and `.venv/`, in which the wheel and the runtime lock are installed."""
    folder = tmp_path_factory.mktemp("elsewhere")
    ran([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / "wheel"], cwd=ROOT)
    (wheel,) = (folder / "wheel").glob("*.whl")
    python = folder / ".venv" / "bin" / "python"
    ran([UV, "venv", "--quiet", "--python", sys.executable, folder / ".venv"], cwd=folder)
    install: list[str | Path] = [UV, "pip", "install", "--quiet", "--python", python]
    ran([*install, "--no-compile-bytecode", "--require-hashes", "-r", ROOT / "requirements.lock"], cwd=folder)
    ran([*install, "--no-deps", wheel], cwd=folder)
    return folder


def test_both_packages_come_from_the_wheel_alone(elsewhere: Path) -> None:
    code = "import scheduler, operators; print(scheduler.__file__, operators.__file__)"
    for place in ran([elsewhere / ".venv/bin/python", "-c", code], cwd=elsewhere).stdout.split():
        assert Path(place).is_relative_to(elsewhere / ".venv")


def test_the_lock_satisfies_what_the_wheel_asks_for(elsewhere: Path) -> None:
    ran([UV, "pip", "check", "--python", elsewhere / ".venv/bin/python"], cwd=elsewhere)


def test_every_module_imports_without_development_tools(elsewhere: Path) -> None:
    """Whatever is installed can be imported: nothing leans on a package that only developers have."""
    code = """
import importlib, pkgutil, sys, scheduler, operators
for package in (scheduler, operators):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
print(*sorted(name for name in sys.modules if name.split(".")[0] in ("pytest", "hypothesis", "grpc_tools", "tests")))
"""
    assert not ran([elsewhere / ".venv/bin/python", "-c", code], cwd=elsewhere).stdout.strip()


@needs_command
def test_the_command_explains_itself(elsewhere: Path) -> None:
    shown = ran([elsewhere / ".venv/bin/tenor", "--help"], cwd=elsewhere).stdout
    for command in ("up", "demo", "status", "submit", "statement", "audit", "replay", "exchange"):
        assert command in shown


@needs_demo
@pytest.mark.timeout(400)
def test_the_demonstration_runs_and_its_bundle_passes_the_audit(elsewhere: Path) -> None:
    tenor = elsewhere / ".venv/bin/tenor"
    ran([tenor, "demo"], cwd=elsewhere, timeout_s=300)
    ran([tenor, "audit", "build/demo/bundle"], cwd=elsewhere)
