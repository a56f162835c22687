"""Device probes in the driver process: a worker for each, pinned to its node, which takes no GPU from anybody."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from scheduler.core import probe_work
from scheduler.execution import nonce_worker
from scheduler.execution.protocol import ProbeProgress, ProbeStep, ProbeTask

READY_TIMEOUT_S = 60.0
COMPUTE_TIMEOUT_S = 60.0

for _module in (probe_work, nonce_worker):
    ray.cloudpickle.register_pickle_by_value(_module)  # type: ignore[no-untyped-call] # nodes need not have our packages


class DeviceProbes:
    """The probes under way. An abandoned one tells nothing more."""

    def __init__(self, tell: Callable[[ProbeProgress], None]) -> None:
        self._tell = tell
        self._workers: dict[str, tuple[ProbeTask, Any]] = {}

    async def prepare(self, task: ProbeTask, node_id: str | None) -> None:
        """Makes the worker, and tells when it is ready, or why not. `node_id`: Ray's, None where it is missing."""
        if node_id is None:
            self._tell(ProbeProgress(task.probe, ProbeStep.FAILED, f"node {task.node} is not there"))
            return
        pinned = NodeAffinitySchedulingStrategy(node_id, soft=False)
        kind = ray.remote(nonce_worker.NonceWorker).options(num_cpus=0, scheduling_strategy=pinned)
        worker: Any = kind.remote(task.gpu, task.size)
        self._workers[task.probe] = (task, worker)
        library = await self._answered(task.probe, worker.ready.remote(), READY_TIMEOUT_S)
        if library is not None:
            self._tell(ProbeProgress(task.probe, ProbeStep.READY, library))

    async def solve(self, probe: str, seed: bytes) -> None:
        """Has the table computed, and tells it. The worker ends with it."""
        if probe not in self._workers:
            return
        task, worker = self._workers[probe]
        table = await self._answered(probe, worker.table.remote(seed, task.products), COMPUTE_TIMEOUT_S)
        if table is not None:
            self._tell(ProbeProgress(probe, ProbeStep.COMPUTED, table=base64.b64encode(table).decode()))
            self.abandon(probe)

    def abandon(self, probe: str) -> None:
        """Ends the worker at once."""
        known = self._workers.pop(probe, None)
        if known is not None:
            ray.kill(known[1])

    async def _answered(self, probe: str, answer: Any, timeout_s: float) -> Any:
        """The worker's answer; None where there is none, which is told unless the probe was abandoned."""
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except (RayError, TimeoutError) as error:
            if probe in self._workers:
                self.abandon(probe)
                detail = str(error) or f"no answer within {timeout_s:g} s"
                self._tell(ProbeProgress(probe, ProbeStep.FAILED, " ".join(detail.split())[:500]))
            return None
