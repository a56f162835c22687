"""Execution on virtual time: the same protocol, no processes, deterministic. Replays and simulations stand on it.

What gangs do and what breaks is injected as values (`Work`, faults); time is what the injected clock says. The executor
keeps one heap of coming events, so that a driver goes from event to event (`next_event_ms`, `advance`) in O(log n).

Laws: `start` and `stop` are idempotent by (gang, attempt), a later `stop` can only bring the end nearer; an attempt
ends exactly once; observations come in order of `at_ms`, and in the order of their causes within one instant; a GPU
never has two occupants, nor shares of more than 1000 milli (a start that would is the caller's fault: Conflict). Exit
codes follow the shell: 128 + signal.

Progress (as in the measurements of lending): useful work is kept up to the last checkpoint before the stop; an attempt
after the first spends `restart_ms` before it works again. Slow nodes change readings, not the speed of work.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from heapq import heappop, heappush

from scheduler.core.causes import Cause
from scheduler.core.cluster import NodeSpec
from scheduler.core.errors import Conflict, InvalidValue, UnknownName
from scheduler.core.workloads import WHOLE_GPU_MILLI
from scheduler.execution.protocol import (
    AttemptEnded,
    AttemptStarted,
    GpuHealth,
    Launch,
    NodeMissing,
    NodeSeen,
    Observation,
    ProbeReading,
    RunningAttempt,
)

EXIT_TERMINATED = 128 + 15
EXIT_KILLED = 128 + 9
PPM = 1_000_000
SUITE = "simulated-v1"


@dataclass(frozen=True, slots=True)
class Work:
    """What a gang does. All in ms: useful work in all, checkpoint interval (0: never), cost of a restart, start delay.

    `stop_ms` is how long it takes to end after SIGTERM; None: it ignores it, and the whole grace passes.
    """

    work_ms: int
    checkpoint_ms: int = 0
    restart_ms: int = 0
    start_ms: int = 0
    stop_ms: int | None = None
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class NodeDown:
    """The node goes, with everything on it."""

    node: str
    at_ms: int
    cause: Cause = Cause.NODE_LOST


@dataclass(frozen=True, slots=True)
class NodeUp:
    """The node is back, empty."""

    node: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class GpuFault:
    """GPUs of a node fall ill with a cause, or are well again (None). What runs there goes on."""

    node: str
    gpus: tuple[int, ...]
    at_ms: int
    cause: Cause | None


@dataclass(frozen=True, slots=True)
class Slowdown:
    """From `at_ms` a probe measures `ppm` of the reference; a reading says so at once."""

    node: str
    at_ms: int
    ppm: int
    gpus: tuple[int, ...] | None = None


Fault = NodeDown | NodeUp | GpuFault | Slowdown
Key = tuple[str, int]


class _Phase(IntEnum):
    """An attempt's life: STARTING -> RUNNING -> STOPPING -> GONE, each step at most once, any may be left out."""

    STARTING = 0
    RUNNING = 1
    STOPPING = 2
    GONE = 3


class _Attempt:
    """One attempt; `due` is the sequence number of the only heap entry that still counts for it."""

    __slots__ = ("due", "end_ms", "exit_code", "launch", "masks", "phase", "started_ms", "work")

    def __init__(self, launch: Launch, work: Work, masks: dict[str, int]) -> None:
        self.launch = launch
        self.work = work
        self.masks = masks
        self.phase = _Phase.STARTING
        self.started_ms: int | None = None
        self.exit_code: int | None = None
        self.end_ms = 0
        self.due = -1


class SimulatedExecutor:
    """Gangs on virtual time. `work` says what each gang does: a mapping by gang, or a function of its launch.

    `now_ms` is the clock, never going back. Every node is seen at construction. Raises UnknownName for a fault, a start
    or a probe on a node that was never there, InvalidValue where time goes back, Conflict on overfilled GPUs.
    """

    def __init__(
        self,
        nodes: Sequence[NodeSpec],
        now_ms: Callable[[], int],
        work: Mapping[str, Work] | Callable[[Launch], Work],
        faults: Iterable[Fault] = (),
    ) -> None:
        self._clock = now_ms
        self._work = work if callable(work) else _by_gang(work)
        self._nodes = {node.name: node for node in nodes}
        self._up = dict.fromkeys(self._nodes, True)
        self._busy = dict.fromkeys(self._nodes, 0)  # bit g: GPU g has an occupant of its own
        self._shared_milli: dict[tuple[str, int], int] = {}  # by node and GPU, of shared ones alone
        self._there: dict[str, dict[Key, _Attempt]] = {name: {} for name in self._nodes}
        self._ppm: dict[str, tuple[int, tuple[int, ...] | None]] = {}
        self._live: dict[Key, _Attempt] = {}
        self._gone: set[Key] = set()
        self._kept_ms: dict[str, int] = {}  # checkpointed work of gangs that ran before
        self._heap: list[tuple[int, int, _Attempt | Fault | Observation]] = []
        self._sequence = 0
        self._at_ms = now_ms()
        self._queue: deque[Observation] = deque()
        self._taken: tuple[Observation, ...] = ()
        for node in nodes:
            self._queue.append(NodeSeen(node, self._at_ms))
        for fault in faults:
            self.inject(fault)

    # The protocol

    @property
    def healthy(self) -> bool:
        """See Executor.healthy: virtual time always answers."""
        return True

    @property
    def detail(self) -> str:
        """See Executor.detail."""
        return ""

    def start(self, launch: Launch) -> None:
        """See Executor.start."""
        now_ms = self._caught_up()
        key = (launch.gang, launch.attempt)
        if key in self._live or key in self._gone:
            return
        down = next((piece.node for piece in launch.pieces if not self._is_up(piece.node)), None)
        if down is not None:
            self._gone.add(key)
            self._push(now_ms, AttemptEnded(*key, now_ms, None, f"node {down} is missing"))
            return
        attempt = _Attempt(launch, self._work(launch), self._occupied(launch))
        self._live[key] = attempt
        for node in attempt.masks:
            self._there[node][key] = attempt
        attempt.due = self._push(now_ms + attempt.work.start_ms, attempt)

    def stop(self, gang: str, attempt: int, grace_ms: int) -> None:
        """See Executor.stop."""
        now_ms = self._caught_up()
        key = (gang, attempt)
        found = self._live.get(key)
        if found is None:
            if key not in self._gone:
                self._gone.add(key)
                self._push(now_ms, AttemptEnded(gang, attempt, now_ms, None, "was not running"))
            return
        stop_ms = found.work.stop_ms
        heeds = stop_ms is not None and stop_ms <= grace_ms
        end_ms = now_ms + (stop_ms if heeds and stop_ms is not None else grace_ms)
        if found.phase is _Phase.STOPPING:
            if end_ms >= found.end_ms:
                return
        else:
            self._keep_progress(found, now_ms)
        found.phase = _Phase.STOPPING
        found.exit_code = EXIT_TERMINATED if heeds else EXIT_KILLED
        found.end_ms = end_ms
        found.due = self._push(end_ms, found)

    def observe(self) -> tuple[Observation, ...]:
        """See Executor.observe. The batch counts as taken at the next call (`reopen` gives it again until then)."""
        self._caught_up()
        self._taken = tuple(self._queue)
        self._queue.clear()
        return self._taken

    def running(self) -> tuple[RunningAttempt, ...]:
        """See Executor.running; ordered by gang and attempt. One that has ended is told without its start."""
        self._caught_up()
        found = {key: attempt.started_ms for key, attempt in self._live.items()}
        for seen in self._queue:
            if isinstance(seen, AttemptEnded):
                found.setdefault((seen.gang, seen.attempt), None)
        return tuple(RunningAttempt(*key, started_ms) for key, started_ms in sorted(found.items()))

    def probe(self, node: str) -> None:
        """See Executor.probe. A missing node gives no reading."""
        now_ms = self._caught_up()
        if self._is_up(node):
            ppm, gpus = self._ppm.get(node, (PPM, None))
            self._push(now_ms, ProbeReading(node, gpus, now_ms, ppm, SUITE))

    def close(self) -> None:
        """See Executor.close: everything keeps running."""

    # Driving virtual time

    def next_event_ms(self) -> int | None:
        """The instant of the next thing to observe or to happen; None: nothing will, unless somebody acts."""
        if self._queue:
            return self._queue[0].at_ms
        heap = self._heap
        while heap and isinstance(heap[0][2], _Attempt) and heap[0][2].due != heap[0][1]:
            heappop(heap)
        return heap[0][0] if heap else None

    def advance(self, now_ms: int) -> None:
        """Let everything up to and with `now_ms` happen. Raises InvalidValue where that is in the past."""
        if now_ms < self._at_ms:
            raise InvalidValue("now_ms", "the simulated executor", now_ms, f"at least {self._at_ms}")
        heap = self._heap
        while heap and heap[0][0] <= now_ms:
            at_ms, sequence, event = heappop(heap)
            self._at_ms = at_ms
            if isinstance(event, _Attempt):
                if event.due == sequence:
                    self._step(event, at_ms)
            elif isinstance(event, NodeDown | NodeUp | GpuFault | Slowdown):
                self._break(event, at_ms)
            else:
                self._queue.append(event)
        self._at_ms = now_ms

    def inject(self, fault: Fault) -> None:
        """One more fault, at its instant or now where that has passed. Raises UnknownName."""
        self._is_up(fault.node)
        self._push(max(fault.at_ms, self._at_ms), fault)

    def reopen(self) -> None:
        """What a new executor sees after a crash of the scheduler: the batch that was taken last comes again."""
        self._queue.extendleft(reversed(self._taken))
        self._taken = ()

    # Steps

    def _step(self, attempt: _Attempt, now_ms: int) -> None:
        """The attempt's next step is due: it runs, or it ends."""
        launch, work = attempt.launch, attempt.work
        if attempt.phase is not _Phase.STARTING:
            exit_code = work.exit_code if attempt.phase is _Phase.RUNNING else attempt.exit_code
            if attempt.phase is _Phase.RUNNING:
                self._keep_progress(attempt, now_ms)
                if exit_code == 0:
                    del self._kept_ms[launch.gang]
            self._end(attempt, now_ms, exit_code, "")
            return
        attempt.phase = _Phase.RUNNING
        attempt.started_ms = now_ms
        kept_ms = self._kept_ms.get(launch.gang)
        left_ms = work.work_ms if kept_ms is None else work.restart_ms + max(0, work.work_ms - kept_ms)
        self._queue.append(AttemptStarted(launch.gang, launch.attempt, now_ms))
        attempt.due = self._push(now_ms + left_ms, attempt)

    def _keep_progress(self, attempt: _Attempt, now_ms: int) -> None:
        """Keep the work up to the last checkpoint before `now_ms`, of an attempt that ran until then."""
        if attempt.started_ms is None:
            return
        gang, work = attempt.launch.gang, attempt.work
        kept_ms = self._kept_ms.get(gang)
        lead_ms = 0 if kept_ms is None else work.restart_ms
        worked_ms = max(0, now_ms - attempt.started_ms - lead_ms)
        saved_ms = worked_ms - worked_ms % work.checkpoint_ms if work.checkpoint_ms else 0
        self._kept_ms[gang] = (kept_ms or 0) + saved_ms

    def _end(self, attempt: _Attempt, now_ms: int, exit_code: int | None, detail: str) -> None:
        key = (attempt.launch.gang, attempt.launch.attempt)
        attempt.phase = _Phase.GONE
        attempt.due = -1
        del self._live[key]
        self._gone.add(key)
        for node, mask in attempt.masks.items():
            self._busy[node] &= ~mask
            del self._there[node][key]
        self._unshare(attempt.launch)
        self._queue.append(AttemptEnded(*key, now_ms, exit_code, detail))

    def _break(self, fault: Fault, now_ms: int) -> None:
        """The fault happens; one that changes nothing (down twice) is not observed."""
        node = fault.node
        match fault:
            case NodeDown() if self._up[node]:
                self._up[node] = False
                self._queue.append(NodeMissing(node, now_ms, fault.cause))
                for attempt in list(self._there[node].values()):
                    if attempt.phase is _Phase.RUNNING:
                        self._keep_progress(attempt, now_ms)
                    self._end(attempt, now_ms, None, "node lost")
            case NodeUp() if not self._up[node]:
                self._up[node] = True
                self._queue.append(NodeSeen(self._nodes[node], now_ms))
            case GpuFault():
                self._queue.append(GpuHealth(node, fault.gpus, now_ms, fault.cause))
            case Slowdown():
                self._ppm[node] = (fault.ppm, fault.gpus)
                self._queue.append(ProbeReading(node, fault.gpus, now_ms, fault.ppm, SUITE))
            case _:
                pass

    def _occupied(self, launch: Launch) -> dict[str, int]:
        """Mark the launch's GPUs as busy; the bits by node of those that it has to itself. Raises Conflict, having
        changed nothing.
        """
        masks: dict[str, int] = {}
        for piece in launch.pieces:
            mask = _bits(piece.gpus)
            known = self._nodes[piece.node].gpus
            taken = mask & (self._busy[piece.node] | masks.get(piece.node, 0)) or mask >> known
            milli = [self._shared_milli.get((piece.node, gpu), 0) for gpu in piece.gpus] if self._shared_milli else [0]
            room = WHOLE_GPU_MILLI - launch.gpu_milli
            if taken or max(milli) > room:
                where = f"{piece.node}:{','.join(map(str, piece.gpus))}"
                raise Conflict(f"GPUs {where} are not all free for attempt {launch.attempt} of {launch.gang}")
            masks[piece.node] = masks.get(piece.node, 0) | mask
        if launch.gpu_milli < WHOLE_GPU_MILLI:
            for at in _devices(launch):
                self._shared_milli[at] = self._shared_milli.get(at, 0) + launch.gpu_milli
            return dict.fromkeys(masks, 0)
        for node, mask in masks.items():
            self._busy[node] |= mask
        return masks

    def _unshare(self, launch: Launch) -> None:
        """Give a share back; a launch of whole GPUs has none."""
        if launch.gpu_milli < WHOLE_GPU_MILLI:
            for at in _devices(launch):
                self._shared_milli[at] -= launch.gpu_milli
                if not self._shared_milli[at]:
                    del self._shared_milli[at]

    def _is_up(self, node: str) -> bool:
        try:
            return self._up[node]
        except KeyError:
            raise UnknownName("node", node, self._nodes) from None

    def _caught_up(self) -> int:
        now_ms = self._clock()
        self.advance(now_ms)
        return now_ms

    def _push(self, at_ms: int, event: _Attempt | Fault | Observation) -> int:
        self._sequence += 1
        heappush(self._heap, (at_ms, self._sequence, event))
        return self._sequence


def _by_gang(work: Mapping[str, Work]) -> Callable[[Launch], Work]:
    return lambda launch: work[launch.gang]


def _devices(launch: Launch) -> list[tuple[str, int]]:
    return [(piece.node, gpu) for piece in launch.pieces for gpu in piece.gpus]


@lru_cache(maxsize=4096)
def _bits(gpus: tuple[int, ...]) -> int:
    return sum(1 << gpu for gpu in gpus)
