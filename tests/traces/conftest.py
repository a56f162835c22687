"""Two folders of traces: a small generated one, always there, and the published one, where somebody has it."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from scheduler.traces.folder import TraceFolder, TracesMissing, find_traces
from scheduler.traces.generate import write_folder

# What the pinned figures of these tests were read from. A folder of somebody's own traces has other figures.
PUBLISHED_SHA256 = {
    "helios/venus_cluster_gpu_number.csv": "08c05fc4d2ac94ac",
    "philly/jobs.csv": "43d55efbc00d655c",
    "openb/openb_node_list_gpu_node.csv": "2beca64b4d3dfa34",
    "openb/openb_pod_list_gpuspec10.csv": "2dc7e4cb9480484f",
    "gavel/simulation_throughputs.json": "17111f7295f03265",
    "calendars/1024_carved_90.csv": "1720785d91f3987b",
}

SEED, TENANTS, NODES, DAYS, JOBS = 7, 5, 12, 6, 300


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> TraceFolder:
    """A folder in the published formats, written from a seed. Read only by agreement."""
    return write_folder(tmp_path_factory.mktemp("traces"), SEED, TENANTS, NODES, DAYS, JOBS)


@pytest.fixture(scope="session")
def published() -> TraceFolder:
    """The published traces; the test is skipped, saying what is missing or other than published, where they are not."""
    try:
        folder = find_traces()
        for relative, begins in PUBLISHED_SHA256.items():
            if not sha256(folder.require(relative).read_bytes()).hexdigest().startswith(begins):
                pytest.skip(f"{relative} in {folder.root} is not the published one")
    except TracesMissing as missing:
        pytest.skip(str(missing))
    return folder


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A file's path inside a fresh folder."""
    return tmp_path / "trace.csv"
