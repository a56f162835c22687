"""`tenor up` with its pool planned on Ray: it says so, survives a kill of the scheduler, and leaves nothing running."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.composition import Composition, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.chaos]

ON_RAY = "1 of 1 pools on Ray"


def processes(up: Composition, of: bytes) -> list[int]:
    """Those of the run whose command line has these bytes."""
    return [pid for pid in up.left() if of in command_line(pid)]


def command_line(pid: int) -> bytes:
    """Of a process; nothing of one that has just gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def wait_planned_on_ray(up: Composition) -> None:
    with up.client() as client:
        wait_until(lambda: client.status().planned_by == ON_RAY, 60, "the pool is planned on Ray")


def test_up_plans_on_ray_through_a_kill_and_stops_clean(tmp_path: Path) -> None:
    with Composition(tmp_path / "up", TENOR_NODES="2", TENOR_GPUS_PER_NODE="4", TENOR_PLANNERS="ray") as up:
        up.start()
        up.wait_ready()
        wait_planned_on_ray(up)
        assert len(processes(up, b"scheduler.planners.driver")) == 1
        with up.client() as client:
            first = client.submit(up.command(tmp_path, 0.5), account="acme")
        wait_until((tmp_path / f"{first.id}.1.0.ran").exists, 30, "it ran")
        drivers = processes(up, b"scheduler.planners.driver")
        up.kill()
        wait_until(lambda: not {*drivers} & {*up.left()}, 30, "the planners' driver ends with the scheduler")
        up.start()
        up.wait_ready()
        wait_planned_on_ray(up)
        assert len(processes(up, b"ray::PoolActor")) == 1
        with up.client() as client:
            second = client.submit(up.command(tmp_path, 0.5), account="acme")
        wait_until((tmp_path / f"{second.id}.1.0.ran").exists, 30, "it ran")
        assert up.stop() == 0
        assert up.left() == ()
