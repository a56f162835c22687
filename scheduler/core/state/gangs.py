"""The gang table: every gang's life, who waits in which queue, and who occupies or claims which GPU.

Folded from events only. Law: a GPU has at most one occupant and at most one claimant, and a claimant only behind an
occupant that is about to leave. The occupant of a shared device is its *carrier*: the first of its gangs that is not
about to leave; a claimant waits for all of them.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import Fleet
from scheduler.core.errors import Conflict, UnknownName
from scheduler.core.events import BindOverdue, GangEnded, GangPlaced, GangStarted, GangStopAsked, GangSubmitted
from scheduler.core.placement.snapshot import Touched
from scheduler.core.state.health import numbers_named
from scheduler.core.state.shares import Shares
from scheduler.core.workloads import ENDED, Gang, GangStatus, Shape, StopCause, evicted_again, shape_of

NOBODY = -1
START_RETRIES = 3
"""Attempts that never started are tried again this often beyond the gang's own allowance."""


class Gangs:
    """See the module. Public attributes are for reading; only the `on_…` methods write."""

    def __init__(self) -> None:
        self.by_id: dict[str, Gang] = {}
        self.ids: list[str] = []
        """Gang id by number."""
        self.placed: dict[int, Gang] = {}
        self.queue: dict[str, dict[Shape, list[Gang]]] = {}
        self.requests: dict[str, str] = {}
        self.occupant: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self.claimant: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self.shares = Shares()
        self.touched = Touched()
        """What changed since somebody took it: see `State.take_touched`."""
        self.waiting_count = 0
        self.due_ms: dict[int, int] = {}
        """When something falls due by itself, by number of the placed gang: its run time is over, or its bind late."""
        self.in_motion: set[int] = set()
        """Numbers of the gangs that are BINDING or STOPPING: those of which execution may have to be told."""
        self.firm: set[int] = set()
        """Numbers of the placed gangs that cannot be preempted."""
        self.firm_of: dict[str, set[int]] = {}
        """The same by account, of accounts that have any."""
        self.placed_of: dict[str, set[int]] = {}
        """Numbers of all placed gangs by account."""
        self.firm_heads: list[tuple[int, tuple[int, int, int]]] = []
        """Of the first gang of each line of those that cannot be preempted, ascending: since when it waits among
        borrowers (a near deadline adds to it), and its order.
        """
        self.growing: set[int] = set()
        """Numbers of the placed elastic gangs that have fewer workers than they ask for."""

    def grow(self, n_gpus: int) -> None:
        """The fleet has this many GPUs now; new ones are free."""
        new = np.full(n_gpus - len(self.occupant), NOBODY, dtype=np.int64)
        self.occupant = np.concatenate([self.occupant, new])
        self.claimant = np.concatenate([self.claimant, new])

    def get(self, gang_id: str) -> Gang:
        """The gang. Raises UnknownName."""
        gang = self.by_id.get(gang_id)
        if gang is None:
            raise UnknownName("gang", gang_id, self.ids[-10:])
        return gang

    def by_number(self, number: int) -> Gang:
        """The gang of a number."""
        return self.by_id[self.ids[number]]

    def on_gpu(self, gpu: int) -> tuple[int, ...]:
        """Numbers of all gangs that are on a GPU: its occupant, or all that share it."""
        occupant = int(self.occupant[gpu])
        return self.shares.of(gpu) or (() if occupant == NOBODY else (occupant,))

    def waiting(self) -> Iterable[Gang]:
        """All waiting gangs, in no order that matters."""
        return (gang for shapes in self.queue.values() for gangs in shapes.values() for gang in gangs)

    # -- the fold ------------------------------------------------------------------------------------------------------

    def on_submitted(self, event: GangSubmitted) -> None:
        """A new gang waits."""
        if event.gang in self.by_id:
            raise Conflict(f"gang {event.gang!r} was submitted twice")
        gang = Gang(
            id=event.gang,
            number=len(self.ids),
            spec=event.spec,
            shape=shape_of(event.spec),
            submitted_ms=event.at_ms,
            queued_ms=event.at_ms,
        )
        self.ids.append(gang.id)
        self.by_id[gang.id] = gang
        if event.request:
            self.requests[event.request] = gang.id
        self._enqueue(gang)

    def on_cancelled(self, gang_id: str, at_ms: int) -> None:
        """A waiting gang ends at once; a placed one is stopped by the scheduler first."""
        gang = self.get(gang_id)
        if gang.status is GangStatus.WAITING:
            self._dequeue(gang)
            self.by_id[gang_id] = gang.moved(GangStatus.CANCELLED, ended_ms=at_ms)

    def on_placed(self, event: GangPlaced, fleet: Fleet) -> Gang:
        """The gang takes free GPUs, or claims those that are being freed: it waits for whoever is there now. A share
        joins those of its account where there is room.
        """
        gang = self.get(event.gang)
        gpus = _asked(gang, event, fleet)
        occupant, claimant = self.occupant.data, self.claimant.data
        taken = [gpu for gpu in gpus if occupant[gpu] != NOBODY]
        joins = gang.shape.is_share and self._may_join(gang, gpus[0])
        if [gpu for gpu in gpus if claimant[gpu] != NOBODY] or not (joins or self._leaving(taken)):
            raise Conflict(f"{gang.id} was placed on GPUs that others hold or claim: {gpus}")
        claimed = [] if joins else taken
        leavers = {number for gpu in claimed for number in self.on_gpu(gpu)}
        placed = gang.bound(
            event.attempt,
            event.pieces,
            tuple(gpus),
            at_ms=event.at_ms,
            inside=event.inside,
            bind_by_ms=event.bind_by_ms,
            waits_for=tuple([self.ids[number] for number in sorted(leavers)]),
        )
        self._dequeue(gang)
        for gpu in gpus:
            if occupant[gpu] == NOBODY:
                occupant[gpu] = gang.number
        for gpu in claimed:
            claimant[gpu] = gang.number
        self._keep(placed)
        if gang.shape.is_share and not claimed:
            self.shares.join(gpus[0], gang.number, gang.shape.gpu_milli)
            self._elect(gpus[0])
        return placed

    def on_stop_asked(self, event: GangStopAsked) -> Gang:
        """The attempt is on its way out; it holds its GPUs until it is gone.

        One that is on its way already stays so; a cancellation then still holds, so that it does not come back, and an
        earlier deadline does, since an owner waits for its GPUs.
        """
        gang = self._attempt(event.gang, event.attempt)
        if gang.status is GangStatus.STOPPING:
            cause = StopCause.CANCELLED if event.cause is StopCause.CANCELLED else gang.stop_cause
            deadline_ms = min(event.deadline_ms, gang.stop_deadline_ms or event.deadline_ms)
            gang = gang.changed(stop_cause=cause, stop_deadline_ms=deadline_ms)
            self._keep(gang)
            return gang
        evicted = event.cause is StopCause.RECLAIMED
        stopping = gang.moved(
            GangStatus.STOPPING,
            stop_cause=event.cause,
            stop_deadline_ms=event.deadline_ms,
            evictions=gang.evictions + evicted,
            evicted_ms=evicted_again(gang, event.at_ms) if evicted else gang.evicted_ms,
        )
        self._keep(stopping)
        self._release_claims(stopping)
        if stopping.shape.is_share:
            self._elect(stopping.gpu_numbers[0])
        return stopping

    def on_started(self, event: GangStarted) -> Gang:
        """All workers run."""
        gang = self._binding(event.gang, event.attempt)
        if gang.waits_for:
            raise Conflict(f"attempt {event.attempt} of {gang.id} started, and still waits for {gang.waits_for}")
        running = gang.moved(GangStatus.RUNNING, started_ms=event.at_ms)
        self._keep(running)
        return running

    def on_ended(self, event: GangEnded) -> Gang:
        """The attempt is over: its GPUs go to their claimants, it ends or returns to the queue."""
        gang = self._attempt(event.gang, event.attempt)
        heirs = self._vacate(gang)
        self._release_claims(gang)
        self._let_go(gang)
        status, failures = _after_end(gang, event)
        over = status in ENDED
        ended = gang.moved(
            status,
            shape=shape_of(gang.spec),
            pieces=(),
            gpu_numbers=(),
            waits_for=(),
            started_ms=gang.started_ms if over else None,
            failures=failures,
            exit_code=event.exit_code,
            ended_ms=event.at_ms if over else None,
            queued_ms=gang.queued_ms if over else event.at_ms,
        )
        self.by_id[gang.id] = ended
        if not over:
            self._enqueue(ended)
        for number in sorted(heirs):
            heir = self.by_number(number)
            if gang.id in heir.waits_for:
                rest = tuple(name for name in heir.waits_for if name != gang.id)
                self._keep(heir.changed(waits_for=rest))
        return ended

    def on_overdue(self, event: BindOverdue) -> Gang:
        """The bind limit has passed."""
        late = self._binding(event.gang, event.attempt).changed(overdue=True)
        self._keep(late)
        return late

    def restore(self, gang: Gang) -> None:
        """A gang as a snapshot kept it; call in order of number, then set the arrays."""
        self.ids.append(gang.id)
        self.by_id[gang.id] = gang
        if gang.status is GangStatus.WAITING:
            self._enqueue(gang)
        elif gang.status not in ENDED:
            self._keep(gang)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _attempt(self, gang_id: str, attempt: int) -> Gang:
        gang = self.get(gang_id)
        if gang.number not in self.placed or gang.attempt != attempt:
            raise Conflict(f"attempt {attempt} of {gang_id} is not placed: it is {gang.status}, attempt {gang.attempt}")
        return gang

    def _binding(self, gang_id: str, attempt: int) -> Gang:
        gang = self._attempt(gang_id, attempt)
        if gang.status is not GangStatus.BINDING:
            raise Conflict(f"attempt {attempt} of {gang_id} was {gang.status}, expected {GangStatus.BINDING}")
        return gang

    def _keep(self, gang: Gang) -> None:
        self.touched.gangs.add(gang.number)
        self.by_id[gang.id] = gang
        self.placed[gang.number] = gang
        due_ms = _due_ms(gang)
        if due_ms is None:
            self.due_ms.pop(gang.number, None)
        else:
            self.due_ms[gang.number] = due_ms
        self.placed_of.setdefault(gang.account, set()).add(gang.number)
        if not gang.spec.preemptible:
            self.firm.add(gang.number)
            self.firm_of.setdefault(gang.account, set()).add(gang.number)
        if len(gang.pieces) < gang.spec.workers:
            self.growing.add(gang.number)
        (self.in_motion.discard if gang.status is GangStatus.RUNNING else self.in_motion.add)(gang.number)

    def _let_go(self, gang: Gang) -> None:
        del self.placed[gang.number]
        self.placed_of[gang.account].remove(gang.number)
        self.touched.gangs.add(gang.number)
        self.due_ms.pop(gang.number, None)
        self.in_motion.discard(gang.number)
        if gang.number in self.firm:
            self.firm.remove(gang.number)
            self.firm_of[gang.account].remove(gang.number)
            if not self.firm_of[gang.account]:
                del self.firm_of[gang.account]
        self.growing.discard(gang.number)

    def _leaving(self, gpus: Iterable[int]) -> bool:
        """Whether whoever occupies these GPUs is on its way out."""
        return all(self.by_number(int(self.occupant[gpu])).status is GangStatus.STOPPING for gpu in gpus)

    def _may_join(self, gang: Gang, gpu: int) -> bool:
        """Whether a share may go beside those on the device: one account's, all preemptible or none, with room."""
        others = [self.by_number(number) for number in self.shares.of(gpu)]
        alike = {(other.account, other.shape.preemptible) for other in others}
        room = self.shares.room_milli(gpu) >= gang.shape.gpu_milli
        return alike == {(gang.account, gang.shape.preemptible)} and room

    def _elect(self, gpu: int) -> None:
        """The device's occupant is its carrier: the first of its gangs that stays, else the first."""
        numbers = self.shares.of(gpu)
        staying = (number for number in numbers if self.by_number(number).status is not GangStatus.STOPPING)
        if numbers:
            self.occupant[gpu] = next(staying, numbers[0])

    def _vacate(self, gang: Gang) -> set[int]:
        """The gang's GPUs go to their claimants, a shared one once nobody is left on it. Numbers of all claimants."""
        gpus = np.array(gang.gpu_numbers, dtype=np.int64)
        heirs = set(self.claimant[gpus].tolist()) - {NOBODY, gang.number}
        if gang.shape.is_share:
            self.shares.leave(gang.gpu_numbers[0], gang.number)
            self._elect(gang.gpu_numbers[0])
        mine = gpus[self.occupant[gpus] == gang.number]
        self.occupant[mine] = self.claimant[mine]
        self.claimant[mine] = NOBODY
        for gpu, number in zip(mine.tolist(), self.occupant[mine].tolist(), strict=True):
            if number != NOBODY and self.by_number(number).shape.is_share:
                self.shares.join(gpu, number, self.by_number(number).shape.gpu_milli)
        return heirs

    def _release_claims(self, gang: Gang) -> None:
        """A gang that stops before it started no longer waits for others' GPUs."""
        gpus = np.array(gang.gpu_numbers, dtype=np.int64)
        self.claimant[gpus[self.claimant[gpus] == gang.number]] = NOBODY

    def _enqueue(self, gang: Gang) -> None:
        gangs = self.queue.setdefault(gang.account, {}).setdefault(gang.shape, [])
        insort(gangs, gang, key=lambda waiting: waiting.order)
        self.touched.lines.add((gang.account, gang.shape))
        self.waiting_count += 1
        if not gang.shape.preemptible and gangs[0] is gang:
            self._change_head(gangs[1:2], (gang,))

    def _dequeue(self, gang: Gang) -> None:
        account = gang.account
        shapes = self.queue[account]
        gangs = shapes[gang.shape]
        # A line is served from its head.
        at = 0 if gangs[0] is gang else bisect_left(gangs, gang.order, key=lambda waiting: waiting.order)
        gangs.pop(at)
        if at == 0 and not gang.shape.preemptible:
            self._change_head((gang,), gangs[:1])
        self.touched.lines.add((account, gang.shape))
        self.waiting_count -= 1
        if not gangs:
            del shapes[gang.shape]
            if not shapes:
                del self.queue[account]

    def _change_head(self, out: Iterable[Gang], come: Iterable[Gang]) -> None:
        """Another gang is the first of a line of those that cannot be preempted."""
        for gang in out:
            del self.firm_heads[bisect_left(self.firm_heads, _among_borrowers(gang))]
        for gang in come:
            insort(self.firm_heads, _among_borrowers(gang))


def _among_borrowers(gang: Gang) -> tuple[int, tuple[int, int, int]]:
    return gang.queued_ms - gang.head_start_ms, gang.order


def _asked(gang: Gang, event: GangPlaced, fleet: Fleet) -> list[int]:
    """The fleet's numbers of the GPUs that a placement names, in worker order. Raises Refused where they are not the
    gang's to get.
    """
    if event.attempt != gang.attempt + 1:
        raise Conflict(f"attempt {event.attempt} of {gang.id} was placed, expected {gang.attempt + 1}")
    size, numbers = gang.shape.gpus_per_worker, list[int]()
    fits = gang.shape.min_workers <= len(event.pieces) <= gang.shape.workers
    for piece in event.pieces:
        numbers += numbers_named(fleet, piece.node, piece.gpus)
        fits &= len(piece.gpus) == size
    if not fits or len(set(numbers)) != len(numbers):
        least = f"{gang.shape.least_gpus}.." if gang.shape.is_elastic else ""
        raise Conflict(f"{gang.id} was placed on {numbers}, expected {least}{gang.shape.gpus} GPUs, as it asked")
    return numbers


def _due_ms(gang: Gang) -> int | None:
    if gang.status is GangStatus.RUNNING and gang.spec.max_runtime_ms and gang.started_ms is not None:
        return gang.started_ms + gang.spec.max_runtime_ms
    if gang.status is GangStatus.BINDING and not gang.overdue:
        return gang.bind_by_ms
    return None


def _after_end(gang: Gang, event: GangEnded) -> tuple[GangStatus, int]:
    """The status that follows an attempt's end, and the failures counted by then.

    A stopped attempt returns to the queue whatever its exit code, since well-behaved programs save and exit 0 when they
    are told to stop; a lost one returns because the loss was not its own.
    """
    if gang.status is GangStatus.STOPPING:
        match gang.stop_cause:
            case StopCause.CANCELLED:
                return GangStatus.CANCELLED, gang.failures
            case StopCause.RUNTIME_OVER:
                return GangStatus.FAILED, gang.failures
            case _:
                return GangStatus.WAITING, gang.failures
    if event.exit_code == 0:
        return GangStatus.SUCCEEDED, gang.failures
    if event.exit_code is None and gang.status is GangStatus.RUNNING:
        return GangStatus.WAITING, gang.failures
    allowed = gang.spec.max_failures + (START_RETRIES if event.exit_code is None else 0)
    failures = gang.failures + 1
    return (GangStatus.FAILED if failures > allowed else GangStatus.WAITING), failures
