"""Machine code for large fleets, made beside the loop: by a process of its own, once on a machine, when it first pays.

Kernels are compiled for a minute or two where they never were, which no round may wait for. So the loop runs plain
Python, which decides the same, until something is large enough for machine code; then `Warming` starts a process that
plays a small made-up run through every kernel, which leaves the machine code on disk, and from its end on the loop
loads it from there (a fraction of a second).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from scheduler.core import kernels
from scheduler.core.cluster import Fleet, Level, NodeSpec
from scheduler.core.coverage.assign import assign
from scheduler.core.holdings import Demand
from scheduler.core.instruments import standard_terms
from scheduler.core.placement.snapshot import Policy
from scheduler.core.positions import Cursor, PositionEvent, PositionEventKind
from scheduler.core.quantities import MS_PER_HOUR
from scheduler.core.workloads import GangSpec
from scheduler.execution.local_ray import import_path
from scheduler.execution.processes import end_child
from scheduler.execution.simulated import NodeDown, NodeUp, Work
from scheduler.replay.driver import Coming, Script, play

CLOSE_WAIT_S = 5.0
Say = Callable[[str], None]


class Warming:
    """See the module. Called by the loop, and never blocks it."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._trouble = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process may write
        self._began_s = 0.0
        self._is_over = False
        kernels.COMPILER.ready = False

    def maybe(self) -> None:
        """Begin where machine code would pay; let it be used once it is there."""
        if self._is_over or not kernels.COMPILER.wanted:
            return
        if self._process is None:
            self._say("making machine code for work of this size, beside the loop; plain Python serves until then")
            self._began_s = time.monotonic()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "scheduler.warming"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._trouble,
                env={**os.environ, **import_path()},
                start_new_session=True,
            )
            return
        code = self._process.poll()
        if code is None:
            return
        self._is_over = True
        kernels.COMPILER.ready = code == 0
        if code == 0:
            self._say(f"machine code is there after {time.monotonic() - self._began_s:.0f} s")
        else:
            self._say(f"no machine code could be made, plain Python serves on: {self._why()} ({code})")

    def _why(self) -> str:
        self._trouble.seek(0)
        lines = self._trouble.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "its process said nothing"

    def close(self) -> None:
        """End the process where it goes on, and let whoever comes next compile as it likes."""
        kernels.COMPILER.ready, kernels.COMPILER.wanted, self._is_over = True, False, True
        if self._process is not None:
            end_child(self._process, CLOSE_WAIT_S)
        self._trouble.close()


# -- what the process does ---------------------------------------------------------------------------------------------

ACCOUNTS = ("ash", "birch", "cedar", "dogwood")
SIZES = ((1, 1), (1, 2), (1, 8), (2, 8), (4, 8), (1, 4), (3, 5), (8, 1))
"""(workers, GPUs of each)."""
HOURS = 6
N_NODES = 16
N_GANGS = 160


def warm() -> None:
    """Run every kernel as machine code, with the types that the loop gives them. For a process of its own."""
    kernels.WORTH_COMPILING_STEPS = 0
    for policy in (Policy(), Policy(protect_after_ms=0, grow_after_ms=0)):
        play(script(), ":memory:", policy=policy)
    fleet = Fleet.of(nodes())
    wanted = list(demands())
    assign(fleet, wanted, rounds=20, handovers=True)
    assign(fleet, wanted[::2], rounds=20, account_of={demand.position: demand.position[:1] for demand in wanted})


def nodes() -> tuple[NodeSpec, ...]:
    """A block or two of nodes of eight."""
    return tuple(
        NodeSpec(name=f"node-{i}", grade="GRADE", gpus=8, domain=f"domain-{i // 4}", block=f"block-{i // 8}")
        for i in range(N_NODES)
    )


def script() -> Script:
    """A few hours of lots of every level, gangs of every kind, and a node that goes and comes back."""
    terms = tuple(
        standard_terms(
            symbol=f"{level.name}.{hour}",
            start_ms=hour * MS_PER_HOUR,
            end_ms=(hour + 3) * MS_PER_HOUR,
            grade="GRADE",
            cell=level,
            gpus=gpus,
            metering_interval_s=3600,
        )
        for hour in range(HOURS)
        for level, gpus in ((Level.GPU, 1), (Level.NODE, 8), (Level.NVLINK_DOMAIN, 32))
    )
    trades = tuple(
        PositionEvent(
            cursor=Cursor(stream="warming", epoch=1, seq=number + 1),
            kind=PositionEventKind.TRADE,
            position=f"p{number}",
            account=ACCOUNTS[number % len(ACCOUNTS)],
            instrument=each.id,
            lots=3 if each.lot.cell is Level.GPU else 1,
            effective_ms=each.window.start_ms,
            committed_ms=0,
        )
        for number, each in enumerate(terms)
    )
    faults = (NodeDown("node-3", 2 * MS_PER_HOUR), NodeUp("node-3", 3 * MS_PER_HOUR))
    return Script(0, HOURS * MS_PER_HOUR, nodes(), terms, trades, gangs(), faults)


def gangs() -> Iterator[Coming]:
    """Gangs of all sizes, with every wish in turn, a few at each quarter of an hour."""
    wishes: tuple[dict[str, object], ...] = (
        {},
        {"topology": Level.NVLINK_DOMAIN, "topology_required": True},
        {"preemptible": False},
        {"topology": Level.FABRIC_BLOCK},
        {"spread": Level.NODE, "spread_required": True},
        {"checkpoint_ms": 0},
    )
    for number in range(N_GANGS):
        workers, gpus = SIZES[number % len(SIZES)]
        given = {"checkpoint_ms": 600_000, **wishes[number // len(SIZES) % len(wishes)]}
        spec = GangSpec.model_validate(
            {
                "account": ACCOUNTS[number % len(ACCOUNTS)],
                "name": f"gang-{number}",
                "command": ("run",),
                "workers": workers,
                "gpus_per_worker": gpus,
                "max_runtime_ms": (1 + number % 5) * MS_PER_HOUR,
                **given,
            }
        )
        at_ms = number // 8 * (MS_PER_HOUR // 4)
        yield at_ms, spec, Work((1 + number % 7) * MS_PER_HOUR // 2, 600_000)


def demands() -> Iterator[Demand]:
    """More lots of all levels than fit, so that search, mending and handovers all have something to do."""
    for number in range(120):
        level = (Level.GPU, Level.NODE, Level.NVLINK_DOMAIN)[number % 3]
        start = number * 7 % 20
        lots = 5 if level is Level.GPU else 1
        yield Demand(f"{number % 9}-{number}", level, lots, start, start + 2 + number * 5 % 11, 0)


if __name__ == "__main__":
    os.nice(10)
    warm()
