"""Looks at the nodes' devices for the driver process: through NVML where a node has it, and says so where it has not.

A node on the driver's own machine is looked at in this process; one elsewhere by an actor on it that holds its NVML
session, and ends with this process. A node without NVML is asked once while it stays: a driver is not loaded below a
running node every day, and each question costs it a process.

Several nodes on one machine share its devices, so that theirs are logical ones, whatever the machine has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from scheduler.clock import wall_clock_ms
from scheduler.core.cluster import NodeSpec
from scheduler.core.devices import classes_of
from scheduler.execution import gpu_watch
from scheduler.execution.gpu_health import NodeJudge, identity_of, readings_of
from scheduler.execution.protocol import DevicesFound, GpuHealth

LOOK_TIMEOUT_S = 20.0

ray.cloudpickle.register_pickle_by_value(gpu_watch)  # type: ignore[no-untyped-call] # nodes need not have our packages

Told = DevicesFound | GpuHealth


@dataclass(frozen=True, slots=True)
class LiveNode:
    """A node as it is now. `here`: on this machine; `on_machine`: so many nodes are on its machine."""

    spec: NodeSpec
    node_id: str
    here: bool
    on_machine: int


class _Looked:
    """One node while it stays: its watch, its judge, and what was told of it last."""

    def __init__(self, node: LiveNode) -> None:
        self.node = node
        self.judge = NodeJudge(node.spec.grade, node.spec.gpus)
        self.actor: Any = None
        self.found: DevicesFound | None = None

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing to look at again."""
        return self.found is not None and self.found.source == gpu_watch.STAND_IN


class DeviceWatch:
    """See the module. `look` is called again and again, never twice at a time."""

    def __init__(self, tell: Callable[[Told], None]) -> None:
        self._tell = tell
        self._looked: dict[str, _Looked] = {}
        self._own = gpu_watch.GpuWatch()
        self._thread = ThreadPoolExecutor(1)  # its own: a driver that hangs must not take the place of other calls

    async def look(self, nodes: Sequence[LiveNode]) -> None:
        """Look at every node that may have news, and tell it. A node that does not answer tells nothing."""
        names = {node.spec.name for node in nodes}
        for gone in sorted(self._looked.keys() - names):
            del self._looked[gone]
        for node in nodes:
            known = self._looked.get(node.spec.name)
            if known is None or known.node != node:
                self._looked[node.spec.name] = _Looked(node)
        due = [each for _, each in sorted(self._looked.items()) if not each.is_settled]
        for looked, told in zip(due, await asyncio.gather(*map(self._asked, due)), strict=True):
            if told is not None:
                self._judge(looked, told)

    async def _asked(self, looked: _Looked) -> dict[str, Any] | None:
        node = looked.node
        if node.on_machine > 1:
            why = f"{node.on_machine} nodes share this machine, so their GPUs are logical"
            return {"source": gpu_watch.STAND_IN, "detail": why, "gpus": []}
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                if node.here:
                    return await asyncio.get_running_loop().run_in_executor(self._thread, self._own.look)
                if looked.actor is None:
                    pinned = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
                    kind = ray.remote(gpu_watch.GpuWatch).options(num_cpus=0, scheduling_strategy=pinned)
                    looked.actor = kind.remote()
                told: dict[str, Any] = await looked.actor.look.remote()
                return told
        except (RayError, TimeoutError):
            looked.actor = None
            return None

    def _judge(self, looked: _Looked, told: dict[str, Any]) -> None:
        node, now_ms, before = looked.node.spec, wall_clock_ms(), looked.found
        readings = readings_of(told["gpus"])[: node.gpus]
        source, detail = told["source"], told["detail"]
        if len(readings) < node.gpus and readings and before is None and not classes_of(node.grade):
            detail = (
                f"{node.gpus} GPUs of grade {node.grade} are declared and NVML counts {len(readings)}: logical ones"
            )
            source, readings = gpu_watch.STAND_IN, ()
        devices = tuple(identity_of(reading) for reading in readings)
        if source == gpu_watch.STAND_IN:
            looked.actor = None
            if before is not None:  # it answered once: to be blind is not to be down, nor to be another machine
                source, devices = before.source, before.devices
        found = DevicesFound(node.name, now_ms, source, detail, devices)
        if before is None or (before.detail, before.devices) != (detail, devices):
            looked.found = found
            self._tell(found)
        if readings:
            for gpu, cause in looked.judge.judged(readings):
                self._tell(GpuHealth(node.name, (gpu,), now_ms, cause))
