"""Which node is probed when: each once when it is first seen, then idle nodes in turn. A busy node is never
disturbed.
"""

from __future__ import annotations

from collections.abc import Callable

from scheduler.core.state.gangs import NOBODY
from scheduler.core.state.state import State
from scheduler.execution.protocol import Executor
from scheduler.service import Scheduler


class IdleProbe:
    """Asks the executor for one reading at a time. `every_ms` 0: never. `taken`: the node that the exchange probes."""

    def __init__(self, executor: Executor, every_ms: int, taken: Callable[[], str] = lambda: "") -> None:
        self._taken = taken
        self._executor = executor
        self._every_ms = every_ms
        self._last_ms = 0
        self._probed_ms: dict[str, int] = {}

    def maybe(self, scheduler: Scheduler, now_ms: int) -> None:
        """Probe one idle node where its time has come: the one that was probed longest ago."""
        if not self._every_ms or now_ms - self._last_ms < self._every_ms // max(1, len(scheduler.state.fleet.nodes)):
            return
        with scheduler.guard:
            idle = [name for name in idle_nodes(scheduler.state) if name != self._taken()]
        due = [name for name in idle if now_ms - self._probed_ms.get(name, 0) >= self._every_ms]
        if due:
            name = min(due, key=lambda node: (self._probed_ms.get(node, 0), node))
            self._probed_ms[name] = self._last_ms = now_ms
            self._executor.probe(name)


def idle_nodes(state: State) -> list[str]:
    """Nodes on which nobody runs and nobody is about to, healthy ones only."""
    found = []
    for number, node in enumerate(state.fleet.nodes):
        gpus = slice(*state.fleet.first_gpu[number : number + 2])
        if (state.gangs.occupant[gpus] == NOBODY).all() and (state.health.cause[gpus] == 0).all():
            found.append(node.name)
    return found
