"""What a look through NVML gives: where it is not here, for real; and where it is, by the real bindings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.execution.gpu_watch import GpuWatch

NVML_IN_C = Path(__file__).parent / "nvml" / "nvml.c"
LOOK_FOUR_TIMES = """
import asyncio, json, os
from scheduler.core.cluster import NodeSpec
from scheduler.execution.device_watch import DeviceWatch, LiveNode
from scheduler.execution.gpu_watch import GpuWatch
watch = GpuWatch()
looks = [watch.look() for _ in range(2)]
watch.close()
told = []
node = LiveNode(NodeSpec(name="node-0", grade="H100SXM", gpus=2), "id", here=True, on_machine=1)
devices = DeviceWatch(lambda one: told.append(repr(one)))
for _ in range(2):
    asyncio.run(devices.look((node,)))
print(json.dumps({"looks": looks, "told": told}))
"""


def test_where_nvml_is_not_here_a_look_says_so_and_the_node_is_a_stand_in() -> None:
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has NVIDIA's driver: its absence cannot be seen here")
    found = GpuWatch().look()
    assert (found["source"], found["gpus"]) == ("stand-in", [])
    assert found["detail"].startswith("NVML does not answer: ")


def test_where_the_bindings_are_not_installed_a_look_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert GpuWatch().look()["detail"] == "nvidia-ml-py is not installed: the extra `gpu` has it"


def test_the_facts_of_each_gpu_come_through_the_bindings(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc): the library that stands for NVIDIA's cannot be built")
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(NVML_IN_C)], check=True)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", LOOK_FOUR_TIMES], env=environment, check=True, capture_output=True, text=True
    )
    told = json.loads(ran.stdout)
    first, second = (look["gpus"] for look in told["looks"])
    assert told["looks"][0]["source"] == "nvml"
    assert told["looks"][0]["driver"] == "580.1"
    assert [each["xids"] for each in first] == [[], []]  # what came before anybody listened is not known
    assert [each["xids"] for each in second] == [[], [79]]
    assert first[0] == {
        "index": 0,
        "uuid": "GPU-one",
        "name": "NVIDIA H100 80GB HBM3",
        "serial": "1650001",
        "board": "900-1",
        "vbios": "96.00",
        "pci": "00000000:01",
        "memory_mib": 81_559,
        "uncorrected": 0,
        "pages_pending": None,
        "rows_pending": 0,
        "rows_failed": 0,
        "clock_reasons": 1,
        "temperature_c": 41,
        "power_limit_mw": 700_000,
        "power_default_mw": 700_000,
        "recovery": 0,
        "links_up": 4,
        "fabric_state": 3,
        "fabric_status": 0,
        "fabric_health": 0x122,
        "xids": [],
    }
    assert (first[1]["links_up"], first[1]["clock_reasons"], first[1]["temperature_c"]) == (3, 0x48, 92)
    found, *health = told["told"]
    assert found.startswith("DevicesFound(node='node-0'")
    assert "uuid='GPU-two'" in found
    assert [line.rpartition("cause=")[2] for line in health] == [
        "None)",
        "<Cause.NVLINK: 1003>)",
        "<Cause.GPU_FAULT: 1001>)",
    ]
    gone = subprocess.run(
        [
            sys.executable,
            "-c",
            "from scheduler.execution.gpu_watch import GpuWatch; print(GpuWatch().look()['detail'])",
        ],
        env={**environment, "GONE": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert gone.stdout.strip() == "NVML does not answer: Driver Not Loaded"
