"""What is installed is ours, agrees with itself, and holds what a user needs and nothing else.

The import packages are called `scheduler` and `operators`, names that others may use too; the distribution has a name
of its own. So it is checked, not assumed, that `import scheduler` gives this repository.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import operators
import scheduler
from tests.sources import ROOT, python_sources

DISTRIBUTION = "tenor-scheduler"
PACKAGES = ("scheduler", "operators")
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-gpu.lock")


def project() -> dict[str, Any]:
    read: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return read


def locked(lock: str) -> dict[str, str]:
    """Version by normalised name."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    return {name.lower(): version for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.MULTILINE)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.mark.parametrize("package", [scheduler, operators], ids=lambda package: package.__name__)
def test_the_imported_package_is_the_one_of_this_repository(package: Any) -> None:
    assert Path(package.__file__).resolve() == ROOT / package.__name__ / "__init__.py"


def test_no_other_distribution_installs_packages_of_our_names() -> None:
    providers = metadata.packages_distributions()
    for package in PACKAGES:
        assert set(providers.get(package, [])) <= {DISTRIBUTION}


def test_the_installed_version_is_that_of_the_project_and_of_the_changelog() -> None:
    version = project()["version"]
    assert metadata.version(DISTRIBUTION) == version, "run `make setup`"
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", changelog, re.MULTILINE)
    assert "## [Unreleased]" in changelog
    assert not released or released[0] == version


def test_the_command_leads_into_our_package() -> None:
    (command,) = metadata.entry_points(group="console_scripts", name="tenor")
    assert command.value == "scheduler.cli.__main__:main"


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_every_requirement_with_hashes_and_names_no_registry(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert "://" not in text
    assert "--index" not in text
    blocks = re.split(r"^(?=\S)", text, flags=re.MULTILINE)[1:]
    assert blocks
    for block in blocks:
        assert "--hash=sha256:" in block, f"{lock} has no hash for {block.splitlines()[0]}"
    versions = locked(lock)
    for line in project()["dependencies"]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(versions[requirement.name.lower()]), f"{line}: run `make lock`"


def test_development_runs_on_the_versions_that_users_get() -> None:
    runtime, development, gpu = (locked(lock) for lock in LOCKS)
    for other in (development, gpu):
        assert runtime == {name: other.get(name) for name in runtime}
    assert "pytest" in development
    assert "pytest" not in runtime


def test_the_wheel_holds_both_packages_whole_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    version = project()["version"]
    outside = {name for name in names if name.split("/")[0] not in PACKAGES}
    about = f"tenor_scheduler-{version}.dist-info/"
    assert all(name.startswith(about) for name in outside), sorted(outside)
    assert {f"{about}licenses/LICENSE", f"{about}entry_points.txt"} <= outside
    sources = {str(path) for path in python_sources() if path.parts[0] in PACKAGES}
    assert sources <= names, f"missing from the wheel: {sorted(sources - names)}"
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert not [name for name in names if name.endswith((".pyc", ".sqlite", ".db", ".proto")) or "/tests/" in name]


def test_the_wheel_says_what_it_needs_and_under_which_licence(wheel: zipfile.ZipFile) -> None:
    about = wheel.read(f"tenor_scheduler-{project()['version']}.dist-info/METADATA").decode()
    assert "License-Expression: Apache-2.0" in about
    assert "Requires-Python: >=3.11" in about
    named = {Requirement(line).name for line in re.findall(r"^Requires-Dist: (.+)$", about, re.MULTILINE)}
    assert {Requirement(line).name for line in project()["dependencies"]} <= named


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
