"""How long `tenor up` takes until its API answers, and what it holds in memory: whole processes.

The baseline is Ray alone: the same local cluster started and stopped without exchange or scheduler.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from scheduler.api.client import Client
from scheduler.config import load_settings
from scheduler.core.errors import TenorError
from scheduler.execution.local_ray import LocalRay
from tests.benchmarks.harness import Figure, Missing, Result, Settings, resident_mib

START_S = 120.0


def run(settings: Settings) -> Result:
    """Seconds from the command to the first answer, seconds to stop, and MiB of the scheduler and of Ray."""
    repeats = 1 if settings.quick else 3
    found = [_up(settings.scratch / f"up-{number}") for number in range(repeats)]
    alone = [_ray_alone(settings.scratch / f"ray-{number}") for number in range(repeats)]
    rows: list[dict[str, Figure]] = [{"case": "tenor up, 4 nodes", **each} for each in found]
    rows += [{"case": "Ray alone, 4 nodes (baseline)", **each} for each in alone]
    ready = median(float(str(each["ready_s"])) for each in found)
    base = median(float(str(each["ready_s"])) for each in alone)
    memory = found[-1]
    return Result(
        rows,
        f"tenor up answers after {ready:.1f} s, Ray alone {base:.1f} s; "
        f"scheduler {memory['scheduler_mib']} MiB, Ray {memory['ray_mib']} MiB",
    )


def _up(home: Path) -> dict[str, Figure]:
    home.mkdir(parents=True)
    with (home / "up.log").open("wb") as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "scheduler.cli", "up", "--home", str(home)], stdout=log, stderr=log
        )
        try:
            ready_s = _first_answer_s(home, process, began)
            ray = LocalRay.attach(home / "ray")
            figures: dict[str, Figure] = {
                "ready_s": round(ready_s, 3),
                "scheduler_mib": resident_mib(process.pid),
                "ray_mib": 0 if ray is None else ray.rss_bytes() // 2**20,
            }
        finally:
            asked = time.perf_counter()
            process.send_signal(signal.SIGINT)
            process.wait(START_S)
        return {**figures, "stopped_s": round(time.perf_counter() - asked, 3)}


def _first_answer_s(home: Path, process: subprocess.Popen[bytes], began: float) -> float:
    address = home / "api.address"
    while time.perf_counter() - began < START_S:
        if process.poll() is not None:
            raise Missing(f"tenor up ended at once: {(home / 'up.log').read_text(encoding='utf-8')[-500:]}")
        if address.exists():
            try:
                with Client(address.read_text(encoding="utf-8").strip()) as client:
                    client.status()
                    return time.perf_counter() - began
            except TenorError:
                pass
        time.sleep(0.01)
    raise Missing(f"tenor up did not answer within {START_S:.0f} s")


def _ray_alone(state: Path) -> dict[str, Figure]:
    began = time.perf_counter()
    ray = LocalRay.start(state, load_settings(home=state).node_specs())
    ready_s = time.perf_counter() - began
    memory_mib = ray.rss_bytes() // 2**20
    asked = time.perf_counter()
    ray.stop()
    return {
        "ready_s": round(ready_s, 3),
        "ray_mib": memory_mib,
        "stopped_s": round(time.perf_counter() - asked, 3),
    }
