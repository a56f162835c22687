"""Buf, as `make check` runs it: the wire is linted, what is added passes, and what would break a peer does not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sources import ROOT

BUF = Path(sys.executable).parent / "buf"
PROTOS = ROOT / "protos"
DELIVERY = "scheduler/exchange/v1/delivery.proto"
needs_buf = pytest.mark.skipif(not BUF.exists(), reason="buf is not installed: it comes with the development lock")


def buf(*arguments: str, cwd: Path = ROOT) -> tuple[int, str]:
    """Its exit code and what it said. It needs no network and no history of git."""
    done = subprocess.run([str(BUF), *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


def changed(folder: Path, file: str, old: str, new: str) -> Path:
    """A copy of the protos with one change."""
    copy = folder / "protos"
    shutil.copytree(PROTOS, copy)
    text = (copy / file).read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {file}"
    (copy / file).write_text(text.replace(old, new), encoding="utf-8")
    return copy


def breaking(protos: Path) -> tuple[int, str]:
    return buf("breaking", str(protos), "--against", str(PROTOS / "released.binpb"))


@needs_buf
def test_the_wire_is_linted_and_breaks_no_peer() -> None:
    assert buf("lint", "protos") == (0, "")
    assert breaking(PROTOS) == (0, "")


@needs_buf
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  uint32 cause = 1;\n  int64 gpu_ms = 2;", "  uint32 cause = 2;\n  int64 gpu_ms = 1;", 'Field "1"'),
        ("  int64 used_gpu_ms = 9;\n", "", 'Previously present field "9" with name "used_gpu_ms"'),
        (
            "  uint64 epoch = 2;\n  // The log's verifier",
            "  string epoch = 2;\n  // The log's verifier",
            'from "uint64" to "string"',
        ),
        ("  QUALITY_SUSPECT = 4;\n", "", 'Previously present enum value "4"'),
        (
            "  rpc Publish(stream PublishRequest) returns (stream PublishResponse);\n",
            "",
            'Previously present RPC "Publish"',
        ),
        (
            "  rpc Publish(stream PublishRequest)",
            "  rpc Publish(PublishRequest)",
            "from client streaming to client unary",
        ),
    ],
)
def test_a_change_that_breaks_a_peer_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    code, told = breaking(changed(tmp_path, DELIVERY, old, new))
    assert code == 100
    assert said in told


@needs_buf
def test_what_is_only_added_passes(tmp_path: Path) -> None:
    protos = changed(tmp_path, DELIVERY, "  QUALITY_SUSPECT = 4;\n", "  QUALITY_SUSPECT = 4;\n  QUALITY_ADDED = 5;\n")
    assert breaking(protos) == (0, "")
