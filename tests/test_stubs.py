"""The committed stubs are what the protos say, and load under the oldest runtime that the package admits.

Generated code lies at the import path that the path under protos/ mirrors, so that plain protoc puts it right and no
import is rewritten. It refuses to load under a runtime older than its generator: hence the second law.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.sources import ROOT

PROTOS = tuple(sorted((ROOT / "protos").rglob("*.proto")))
STUB_ENDINGS = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")

needs_protos = pytest.mark.skipif(not PROTOS, reason="no protos yet: protos/ holds no .proto file")


def generate(into: Path) -> None:
    """What `make protos` does, into another folder."""
    binaries = Path(sys.executable).parent
    outputs = [f"--python_out={into}", f"--grpc_python_out={into}"]
    outputs += [f"--mypy_out=quiet:{into}", f"--mypy_grpc_out=quiet:{into}"]
    plugins = [f"--plugin=protoc-gen-{name}={binaries / f'protoc-gen-{name}'}" for name in ("mypy", "mypy_grpc")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT / "protos"), *plugins, *outputs]
    done = subprocess.run([*command, *map(str, PROTOS)], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def stubs(under: Path) -> dict[Path, bytes]:
    found = [path for path in under.rglob("*_pb2*") if path.name.endswith(STUB_ENDINGS)]
    return {path.relative_to(under): path.read_bytes() for path in sorted(found)}


@needs_protos
def test_committed_stubs_are_those_of_the_protos(tmp_path: Path) -> None:
    generate(tmp_path)
    committed = {Path("scheduler") / path: content for path, content in stubs(ROOT / "scheduler").items()}
    fresh = stubs(tmp_path)
    assert fresh, "protoc generated nothing"
    assert sorted(committed) == sorted(fresh), "run `make protos` and commit; remove stubs without a proto"
    stale = [str(path) for path in fresh if committed[path] != fresh[path]]
    assert not stale, f"stale, run `make protos`: {', '.join(stale)}"


@needs_protos
def test_wire_names_do_not_follow_our_folders() -> None:
    """A peer sees `tenor.exchange.v1`; where we keep the file is our own affair."""
    for proto in PROTOS:
        area, version = proto.relative_to(ROOT / "protos").parts[1:3]
        assert f"package tenor.{area}.{version};" in proto.read_text(encoding="utf-8"), proto.name


@needs_protos
def test_stubs_are_not_newer_than_the_oldest_runtime_allowed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = [re.fullmatch(r"([\w.-]+)(?:\[.*\])?>=([\d.]+).*", line) for line in project["dependencies"]]
    oldest = {bound[1]: bound[2] for bound in bounds if bound}
    for path, content in stubs(ROOT / "scheduler").items():
        text = content.decode()
        for package, pattern in (
            ("protobuf", r"# Protobuf Python Version: ([\d.]+)"),
            ("grpcio", r"GRPC_GENERATED_VERSION = '([\d.]+)'"),
        ):
            for generated_for in re.findall(pattern, text):
                assert version(generated_for) <= version(oldest[package]), f"{path} needs {package} {generated_for}"


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
