"""One attempt of a gang on Ray, from its placement group to its end. Runs inside the driver process (`ray_driver`).

A gang is one placement group, its bundles pinned to the planned nodes, and one named, detached actor for each worker,
so that all of it outlives the scheduler. Laws: all workers start or none stays; the first failure stops the others; the
end is told when every process is gone and the group is removed, so that the GPUs are free when the end is seen.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from scheduler.core.workloads import WHOLE_GPU_MILLI, Piece
from scheduler.execution import supervisor
from scheduler.execution.logs import exit_path, log_path, progress_path, read_exit
from scheduler.execution.protocol import AttemptEnded, AttemptStarted, Launch

KEEPER_SOURCE = (Path(__file__).parent / "keeper.py").read_text()
LOST_WAIT_S = 10.0

ray.cloudpickle.register_pickle_by_value(supervisor)  # type: ignore[no-untyped-call] # the node need not have Tenor installed


class Nodes(Protocol):
    """What an attempt asks of the cluster's nodes."""

    def id_of(self, name: str) -> str | None:
        """Ray's id of a live node; None: it is missing."""

    def address_of(self, name: str) -> str | None:
        """Its address, for MASTER_ADDR."""

    async def refresh(self) -> None:
        """Look again now, and tell what changed."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where attempts of one scheduler live."""

    namespace: str
    log_dir: Path
    start_timeout_ms: int


class StartFailed(Exception):
    """The attempt cannot run; its text is the detail of its end."""


class RayAttempt:
    """One attempt. `run` or `resume` it once; `stop` it at any time. `tell` gets AttemptStarted and AttemptEnded."""

    def __init__(
        self,
        launch: Launch,
        place: Place,
        nodes: Nodes,
        tell: Callable[[AttemptStarted | AttemptEnded], None],
        now_ms: Callable[[], int],
    ) -> None:
        self.launch = launch
        self._place = place
        self._nodes = nodes
        self._tell = tell
        self._now_ms = now_ms
        self._name = f"{launch.gang}.{launch.attempt}"
        self._group: PlacementGroup | None = None
        self._workers: list[Any] = []
        self._grace_ms: int | None = None
        self._stopping = asyncio.Event()
        self._committed = False
        self._creating: asyncio.Future[None] | None = None
        self.begun = asyncio.Event()
        """Set once all its commands run, or never will."""
        self.over = False
        """Whether `resume` found that nothing of it runs any more."""

    def stop(self, grace_ms: int) -> None:
        """SIGTERM to every worker, SIGKILL after the grace. Before the commands were started: they never are."""
        if self._grace_ms is None or grace_ms < self._grace_ms:
            self._grace_ms = grace_ms
            self._send_stop(grace_ms)
        self._stopping.set()

    async def run(self) -> None:
        """Start all workers and follow them to the end."""
        starting = asyncio.ensure_future(self._start())
        cancelled = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({starting, cancelled}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done() and not self._committed:
                starting.cancel()
            started_ms = await starting
        except asyncio.CancelledError:
            await self._abandon("stopped before it started")
        except StartFailed as failure:
            await self._abandon(str(failure))
        except TimeoutError:
            await self._abandon(f"not started within {self._place.start_timeout_ms} ms")
        except (RayError, ValueError) as error:
            await self._nodes.refresh()
            await self._abandon(f"not started: {' '.join(str(error).split())[:300]}")
        else:
            self._tell(AttemptStarted(self.launch.gang, self.launch.attempt, started_ms))
            self.begun.set()
            await self._follow()
        finally:
            self.begun.set()
            cancelled.cancel()

    async def resume(self) -> Callable[[], Any]:
        """Find the attempt again after a restart; what is returned follows it. Tells of its start, if it started."""
        with contextlib.suppress(ValueError):
            self._group = await asyncio.to_thread(ray.util.get_placement_group, self._name)
        self._workers = [await self._found(rank) for rank in range(len(self.launch.pieces))]
        answers = await asyncio.gather(*(self._status(worker) for worker in self._workers))
        starts = [answer["started"] or {} for answer in answers if answer is not None]
        began = [start["started_ms"] for start in starts if "started_ms" in start]
        ended = any(self._exit(rank) for rank in range(len(self._workers)))
        self._committed = bool(began)
        self.over = all(answer is None or answer["ended"] for answer in answers)
        self.begun.set()
        if len(began) < len(starts) or not (began or ended):
            detail = "its start was interrupted" if starts else "it was lost while nobody watched"
            return lambda: self._abandon(detail)
        if began:
            self._tell(AttemptStarted(self.launch.gang, self.launch.attempt, max(began)))
        return self._follow

    # Starting

    async def _start(self) -> int:
        """The instant at which the last worker started. Raises StartFailed, TimeoutError, RayError, ValueError."""
        launch = self.launch
        async with asyncio.timeout(self._place.start_timeout_ms / 1000):
            self._creating = asyncio.ensure_future(asyncio.to_thread(self._create))
            await asyncio.shield(self._creating)
            master = self._workers[0].rendezvous.remote(self._nodes.address_of(launch.pieces[0].node))
            (host, port), *_ = await asyncio.gather(master, *(w.status.remote() for w in self._workers[1:]))
            self._committed = True
            specs = [self._spec(rank, host, port) for rank in range(len(self._workers))]
            answers = await asyncio.gather(*(w.start.remote(s) for w, s in zip(self._workers, specs, strict=True)))
        failures = [f"worker {rank}: {a['failed']}" for rank, a in enumerate(answers) if "failed" in a]
        if failures:
            raise StartFailed("not started: " + "; ".join(failures))
        return max(int(answer["started_ms"]) for answer in answers)

    def _create(self) -> None:
        """The placement group and the actors, which wait for the group. Runs in a thread: Ray may block."""
        launch = self.launch
        ids = [self._nodes.id_of(piece.node) for piece in launch.pieces]
        for piece, node_id in zip(launch.pieces, ids, strict=True):
            if node_id is None:
                raise StartFailed(f"not started: node {piece.node} is missing")
        self._group = placement_group(
            [{"GPU": _ray_gpus(launch, piece)} for piece in launch.pieces],
            strategy="PACK",
            bundle_label_selector=[{"ray.io/node-id": str(node_id)} for node_id in ids],
            lifetime="detached",
            name=self._name,
        )
        actor = ray.remote(supervisor.Supervisor)
        for rank, piece in enumerate(launch.pieces):
            options = actor.options(
                name=f"{self._name}.{rank}",
                namespace=self._place.namespace,
                lifetime="detached",
                num_cpus=0,
                num_gpus=_ray_gpus(launch, piece),
                max_restarts=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    self._group, placement_group_bundle_index=rank, placement_group_capture_child_tasks=False
                ),
            )
            self._workers.append(options.remote(KEEPER_SOURCE))

    def _spec(self, rank: int, host: str, port: int) -> dict[str, Any]:
        launch, piece = self.launch, self.launch.pieces[rank]
        log_dir = self._place.log_dir
        return {
            "command": list(launch.command),
            "env": {
                **dict(launch.env),
                **_worker_environment(launch, rank, host, port),
                "TENOR_PROGRESS": str(progress_path(log_dir, launch.gang, launch.attempt)),
            },
            "cwd": launch.working_dir,
            "log": str(log_path(log_dir, launch.gang, launch.attempt, rank)),
            "exit_file": str(exit_path(log_dir, launch.gang, launch.attempt, rank)),
            "node": piece.node,
        }

    # Following

    async def _follow(self) -> None:
        """Wait for every worker; the first that fails or is lost brings down the others."""
        waits = {asyncio.ensure_future(self._ended(rank)): rank for rank in range(len(self._workers))}
        ends: dict[int, tuple[int, int] | None] = {}
        first: tuple[int, int] | None = None
        if self._grace_ms is not None:
            self._send_stop(self._grace_ms)
        while waits:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in sorted(done, key=lambda wait: waits[wait]):
                rank = waits.pop(wait)
                ends[rank] = end = wait.result()
                if end is None:
                    await self._nodes.refresh()
                    self.stop(0)
                elif end[0] != 0:
                    first = min(first or end, end, key=lambda found: found[1])
                    self.stop(self.launch.grace_ms)
        lost = [rank for rank, end in ends.items() if end is None]
        at_ms = self._now_ms() if lost else max(end[1] for end in ends.values() if end is not None)
        code = None if lost else first[0] if first is not None else 0
        await self._finish(at_ms, code, self._loss(lost))

    async def _ended(self, rank: int) -> tuple[int, int] | None:
        """(exit code, at_ms) of a worker; None: it was lost with its node or its supervisor."""
        worker = self._workers[rank]
        while worker is not None:
            try:
                answer = await worker.ended.remote()
            except ray.exceptions.ActorUnavailableError:
                await asyncio.sleep(0.5)  # the network, not the worker; ask again
            except RayError:
                break
            else:
                return self._exit(rank) if answer is None else (int(answer["exit_code"]), int(answer["at_ms"]))
        return self._exit(rank)

    def _exit(self, rank: int) -> tuple[int, int] | None:
        return read_exit(exit_path(self._place.log_dir, self.launch.gang, self.launch.attempt, rank))

    def _loss(self, lost: list[int]) -> str:
        if not lost:
            return ""
        gone = any(self._nodes.id_of(self.launch.pieces[rank].node) is None for rank in lost)
        return "node lost" if gone else "worker lost: " + ", ".join(str(rank) for rank in lost)

    # Ending

    def _send_stop(self, grace_ms: int) -> None:
        for worker in self._workers:
            if worker is not None:
                worker.stop.remote(grace_ms)

    async def _abandon(self, detail: str) -> None:
        """End an attempt that did not start as a whole: what runs of it is killed, and seen gone."""
        if self._creating is not None:  # a thread cannot be cancelled: what it still creates must be known to be killed
            await asyncio.wait({self._creating})
        self._send_stop(0)
        waits = [self._ended(rank) for rank in range(len(self._workers))]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOST_WAIT_S if self._committed else 0.5):
                await asyncio.gather(*waits, return_exceptions=True)
        await self._finish(self._now_ms(), None, detail)

    async def _finish(self, at_ms: int, code: int | None, detail: str) -> None:
        await asyncio.to_thread(self._release)
        self._tell(AttemptEnded(self.launch.gang, self.launch.attempt, at_ms, code, detail))

    def _release(self) -> None:
        for worker in self._workers:
            if worker is not None:
                with contextlib.suppress(RayError, ValueError):
                    ray.kill(worker)
        if self._group is not None:
            with contextlib.suppress(RayError, ValueError):
                remove_placement_group(self._group)

    async def _found(self, rank: int) -> Any:
        try:
            return await asyncio.to_thread(ray.get_actor, f"{self._name}.{rank}", namespace=self._place.namespace)
        except ValueError:
            return None

    async def _status(self, worker: Any) -> dict[str, Any] | None:
        if worker is None:
            return None
        try:
            async with asyncio.timeout(LOST_WAIT_S):
                answer: dict[str, Any] = await worker.status.remote()
                return answer
        except (RayError, TimeoutError):
            return None


def _ray_gpus(launch: Launch, piece: Piece) -> float:
    """How many of Ray's GPUs a worker's bundle takes.

    A share takes a thousandth, however large it is. Ray fits fractions onto GPUs of its own choice: by their true sizes
    it would break up more whole ones than the plan did, and a gang of whole GPUs could not start. Equal ones never do.
    """
    return len(piece.gpus) if launch.gpu_milli == WHOLE_GPU_MILLI else 1 / WHOLE_GPU_MILLI


def _worker_environment(launch: Launch, rank: int, host: str, port: int) -> dict[str, str]:
    piece = launch.pieces[rank]
    nodes = list(dict.fromkeys(other.node for other in launch.pieces))
    beside = [r for r, other in enumerate(launch.pieces) if other.node == piece.node]
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(len(launch.pieces)),
        "LOCAL_RANK": str(beside.index(rank)),
        "LOCAL_WORLD_SIZE": str(len(beside)),
        "NODE_RANK": str(nodes.index(piece.node)),
        "MASTER_ADDR": host,
        "MASTER_PORT": str(port),
        # The planned GPUs, not those that Ray counts off: coverage, health and metering are about these very indices,
        # and Ray hands out whichever indices its own book-keeping finds free.
        "CUDA_VISIBLE_DEVICES": ",".join(str(gpu) for gpu in piece.gpus),
        "TENOR_GANG": launch.gang,
        "TENOR_ATTEMPT": str(launch.attempt),
        "TENOR_ACCOUNT": launch.account,
        "TENOR_NODE": piece.node,
        "TENOR_GPU_MILLI": str(launch.gpu_milli),
    }
