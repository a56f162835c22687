"""The state as people ask for it: pure functions from State (and the last plan) to `messages`.

The caller holds the scheduler's guard meanwhile; nothing here writes. Everything is sorted as people expect it (names
by their numbers, time upwards), so the same state gives the same answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from scheduler.api.messages import (
    CauseCount,
    Coverage,
    CoveredPosition,
    Device,
    Dispute,
    Job,
    JobCount,
    JobSpec,
    Loss,
    Node,
    Occupant,
    Owner,
    Place,
    Position,
    Share,
    Stretch,
)
from scheduler.core.causes import Cause
from scheduler.core.cluster import Level
from scheduler.core.events import DevicesSeen
from scheduler.core.holdings import Holding
from scheduler.core.ids import natural_key
from scheduler.core.placement.snapshot import Plan
from scheduler.core.positions import Position as Owned
from scheduler.core.state.gangs import NOBODY
from scheduler.core.state.state import State
from scheduler.core.workloads import Gang, GangSpec, GangStatus, Waiting

IntArray = npt.NDArray[np.int64]


# -- status ------------------------------------------------------------------------------------------------------------


def gpu_counts(state: State) -> dict[str, int]:
    """How many GPUs there are of each kind that `Status` counts, by its field."""
    sold = state.calendar.owner_account != NOBODY
    used = state.gangs.occupant != NOBODY
    ill = state.health.cause != 0
    users = occupying_accounts(state)
    return {
        "gpus": state.fleet.n_gpus,
        "sold_gpus": int(sold.sum()),
        "unsold_gpus": int((~sold).sum()),
        "used_gpus": int(used.sum()),
        "idle_gpus": int((~used & ~ill).sum()),
        "lent_gpus": int((sold & used & (users != state.calendar.owner_account)).sum()),
        "ill_gpus": int(ill.sum()),
    }


def node_counts(state: State) -> dict[str, int]:
    """How many nodes there are, are ill (any GPU of theirs is) and drain."""
    ill = np.unique(state.fleet.node_of_gpu[state.health.cause != 0])
    return {
        "nodes": len(state.fleet.nodes),
        "nodes_ill": len(ill),
        "nodes_draining": len(state.health.draining),
    }


def job_counts(state: State) -> tuple[JobCount, ...]:
    """How many jobs are in each status, in the order of a job's life; none are left out."""
    counted = Counter(gang.status for gang in state.gangs.by_id.values())
    return tuple(JobCount(str(status), counted[status]) for status in GangStatus)


def occupying_accounts(state: State) -> IntArray:
    """(n_gpus) int64: the account whose work is on each GPU, -1 none."""
    accounts = np.full(state.fleet.n_gpus, NOBODY, dtype=np.int64)
    for gang in state.gangs.placed.values():
        gpus = np.array(gang.gpu_numbers, dtype=np.int64)
        accounts[gpus[state.gangs.occupant[gpus] == gang.number]] = state.accounts[gang.account]
    return accounts


# -- positions ---------------------------------------------------------------------------------------------------------


def positions(state: State, now_ms: int, account: str = "", *, ended: bool = False) -> tuple[Position, ...]:
    """Positions by account and name; `ended` also those that hold no lots from now on."""
    users = occupying_accounts(state)
    shown = [
        _position(state, owned, now_ms, users)
        for owned in state.book.positions.values()
        if (not account or owned.account == account) and (ended or holds_later(state, owned, now_ms))
    ]
    return tuple(sorted(shown, key=lambda each: (natural_key(each.account), natural_key(each.id))))


def holds_later(state: State, owned: Owned, now_ms: int) -> bool:
    """Whether the position holds lots at some instant from now on, inside its window."""
    terms = state.instruments.get(owned.instrument)
    end_ms = None if terms is None else terms.window.end_ms
    if end_ms is not None and end_ms <= now_ms:
        return False
    later = any(lots for at_ms, lots in owned.lots if at_ms > now_ms and (end_ms is None or at_ms < end_ms))
    return owned.lots_at(now_ms) > 0 or later


def next_change(state: State, position: str, now_ms: int) -> tuple[int, int] | None:
    """(instant, GPUs from then on) of the next change of what a position entitles to; None: none is known."""
    contracted = state.due.get(position)
    steps = () if contracted is None else contracted.steps
    return next(((at_ms, gpus) for at_ms, gpus in steps if at_ms > now_ms), None)


def entitled_gpus(state: State, position: str, now_ms: int) -> int:
    """How many GPUs a position entitles to now."""
    contracted = state.due.get(position)
    return 0 if contracted is None else contracted.at(now_ms)


def _position(state: State, owned: Owned, now_ms: int, users: IntArray) -> Position:
    terms = state.instruments.get(owned.instrument)
    number = state.position_index.get(owned.id, NOBODY)
    covers = (state.calendar.owner_position == number) & (number != NOBODY)
    ill = covers & (state.health.cause != 0)
    used = covers & ~ill & (users == state.accounts[owned.account])
    lent = covers & ~ill & ~used & (users != NOBODY)
    change = next_change(state, owned.id, now_ms)
    refused = state.refused.get(owned.id)
    return Position(
        id=owned.id,
        account=owned.account,
        instrument=owned.instrument,
        grade="" if terms is None else terms.grade.klass,
        site="" if terms is None else terms.site,
        cell="" if terms is None else terms.lot.cell.name.lower(),
        lots=owned.lots_at(now_ms),
        floor_ppm=0 if terms is None else terms.throughput.floor_ppm,
        window_start_ms=0 if terms is None else terms.window.start_ms,
        window_end_ms=0 if terms is None else terms.window.end_ms,
        entitled_gpus=entitled_gpus(state, owned.id, now_ms),
        next_change_ms=None if change is None else change[0],
        next_entitled_gpus=None if change is None else change[1],
        covered_gpus=int(covers.sum()),
        used_gpus=int(used.sum()),
        lent_gpus=int(lent.sum()),
        idle_gpus=int((covers & ~ill & (users == NOBODY)).sum()),
        ill_gpus=int(ill.sum()),
        uncovered_cause="" if refused is None else refused.name.lower(),
    )


# -- jobs --------------------------------------------------------------------------------------------------------------


def waiting_of(gang: Gang, plan: Plan | None) -> Waiting | None:
    """Why the last round left the gang waiting; None: it does not wait, or no round has seen it yet."""
    if gang.status is not GangStatus.WAITING or plan is None:
        return None
    return plan.waiting.get((gang.account, gang.shape))


def job(gang: Gang, plan: Plan | None = None) -> Job:
    """A gang as a job."""
    waiting = waiting_of(gang, plan)
    return Job(
        id=gang.id,
        spec=job_spec(gang.spec),
        status=str(gang.status),
        submitted_ms=gang.submitted_ms,
        queued_ms=gang.queued_ms,
        started_ms=gang.started_ms,
        ended_ms=gang.ended_ms,
        exit_code=gang.exit_code,
        attempt=gang.attempt,
        evictions=gang.evictions,
        failures=gang.failures,
        inside=gang.inside,
        places=tuple(Place(piece.node, piece.gpus) for piece in gang.pieces),
        reason="" if waiting is None else str(waiting.reason),
        expected_start_ms=None if waiting is None else waiting.expected_start_ms,
        stop_cause="" if gang.stop_cause is None else str(gang.stop_cause),
        stop_deadline_ms=gang.stop_deadline_ms,
    )


def job_spec(spec: GangSpec) -> JobSpec:
    """What was asked, but for the environment, whose values may be secrets."""
    return JobSpec(
        account=spec.account,
        name=spec.name,
        command=spec.command,
        workers=spec.workers,
        gpus_per_worker=spec.gpus_per_worker,
        grade=spec.grade or "",
        topology="" if spec.topology is None else spec.topology.name.lower(),
        topology_required=spec.topology_required,
        priority=spec.priority,
        preemptible=spec.preemptible,
        max_runtime_ms=spec.max_runtime_ms,
        grace_ms=spec.grace_ms,
        checkpoint_ms=spec.checkpoint_ms,
        restart_ms=spec.restart_ms,
        max_failures=spec.max_failures,
        working_dir=spec.working_dir or "",
        min_workers=spec.min_workers,
        gpu_milli=spec.gpu_milli if spec.is_share else None,
        min_runtime_ms=spec.min_runtime_ms or None,
        deadline_ms=spec.deadline_ms,
        spread="" if spec.spread is None else spec.spread.name.lower(),
        spread_required=spec.spread_required,
    )


def newest_gangs(state: State, below: int | None = None) -> Iterator[Gang]:
    """All gangs, newest first; only those with a number below the given one."""
    first = len(state.gangs.ids) if below is None else min(below, len(state.gangs.ids))
    return (state.gangs.by_id[state.gangs.ids[number]] for number in range(first - 1, -1, -1))


# -- the fleet ---------------------------------------------------------------------------------------------------------


def nodes(state: State, only: Iterable[int] | None = None) -> tuple[Node, ...]:
    """Nodes by name; `only` those of these numbers."""
    numbers = range(len(state.fleet.nodes)) if only is None else only
    accounts, names = tuple(state.accounts), tuple(state.position_index)
    shown = [_node(state, number, accounts, names) for number in numbers]
    return tuple(sorted(shown, key=lambda each: natural_key(each.name)))


def _node(state: State, number: int, accounts: Sequence[str], names: Sequence[str]) -> Node:
    spec, span = state.fleet.nodes[number], state.fleet.gpus_of_node(number)
    gpus = slice(span.start, span.stop)
    owners = Counter(state.calendar.owner_position[gpus].tolist())
    occupants = Counter(state.gangs.occupant[gpus].tolist())
    causes = Counter(state.health.cause[gpus].tolist())
    told = zip(state.calendar.owner_position[gpus].tolist(), state.calendar.owner_account[gpus].tolist(), strict=True)
    account_of = {position: accounts[account] for position, account in told if position != NOBODY}
    unsold = owners.pop(NOBODY, 0)
    idle = occupants.pop(NOBODY, 0)
    causes.pop(0, 0)
    users = [(state.gangs.by_number(at), count) for at, count in sorted(occupants.items())]
    maintenance = state.outages.maintenance_of(spec.name, state.now_ms)
    seen = state.health.devices.get(spec.name)
    return Node(
        name=spec.name,
        grade=spec.grade,
        site=spec.site,
        block=spec.block,
        domain=spec.domain,
        gpus=spec.gpus,
        owners=tuple(Owner(account_of[at], names[at], count) for at, count in sorted(owners.items())),
        unsold_gpus=unsold,
        occupants=tuple(Occupant(gang.id, gang.account, count) for gang, count in users),
        idle_gpus=idle,
        ill=tuple(CauseCount(Cause(cause).name.lower(), count) for cause, count in sorted(causes.items())),
        least_ppm=int(state.health.ppm[gpus].min()),
        drain_by_ms=state.health.draining.get(spec.name),
        shares=tuple(_shares(state, span)),
        maintenance_from_ms=None if maintenance is None else maintenance.from_ms,
        maintenance_until_ms=None if maintenance is None else maintenance.until_ms,
        devices_by="" if seen is None else seen.source,
        devices_detail="" if seen is None else seen.detail,
        devices=() if seen is None else tuple(_devices(seen)),
    )


def _devices(seen: DevicesSeen) -> Iterator[Device]:
    for gpu, told in enumerate(seen.devices):
        if told is not None:
            yield Device(gpu, told.uuid, told.name, told.serial, told.board, told.vbios, told.memory_mib)


def _shares(state: State, span: range) -> Iterator[Share]:
    """Who shares the node's shared GPUs, in order of arrival on each."""
    for gpu in span:
        for number, milli in state.gangs.shares.by_gpu.get(gpu, {}).items():
            gang = state.gangs.by_number(number)
            yield Share(gpu - span.start, gang.id, gang.account, milli)


# -- coverage ----------------------------------------------------------------------------------------------------------


def coverage(state: State, from_ms: int, to_ms: int, position: str = "") -> Coverage:
    """Which cells stand behind which position in `[from_ms, to_ms)`; positions with nothing there are left out."""
    held: dict[str, list[Holding]] = {}
    for holding in state.calendar.holdings:
        if holding.start_ms < to_ms and holding.end_ms > from_ms and position in ("", holding.position):
            held.setdefault(holding.position, []).append(holding)
    named = {name for name in state.refused if position in ("", name) and name in state.book.positions}
    names = sorted(named | set(held), key=natural_key)
    return Coverage(from_ms, to_ms, tuple(_covered(state, name, held.get(name, []), from_ms, to_ms) for name in names))


def _covered(state: State, name: str, held: Sequence[Holding], from_ms: int, to_ms: int) -> CoveredPosition:
    cells: dict[tuple[int, int, Level], list[int]] = {}
    for holding in held:
        key = (max(holding.start_ms, from_ms), min(holding.end_ms, to_ms), Level(holding.level))
        cells.setdefault(key, []).append(holding.cell)
    owned, refused = state.book.positions.get(name), state.refused.get(name)
    return CoveredPosition(
        position=name,
        account="" if owned is None else owned.account,
        instrument="" if owned is None else owned.instrument,
        stretches=tuple(
            Stretch(
                start_ms=start_ms,
                end_ms=end_ms,
                cell=level.name.lower(),
                cells=tuple(state.fleet.cell_name(level, cell) for cell in sorted(numbers)),
                gpus=sum(len(state.fleet.gpus_of_cell(level, cell)) for cell in numbers),
            )
            for (start_ms, end_ms, level), numbers in sorted(cells.items())
        ),
        uncovered_cause="" if refused is None else refused.name.lower(),
    )


def disputes(state: State, *, answered: bool) -> list[Dispute]:
    """The disputes that were heard, in that order."""
    return [
        Dispute(
            id=heard.dispute.id,
            position=heard.dispute.position,
            start_ms=heard.dispute.start_ms,
            end_ms=heard.dispute.end_ms,
            version=heard.dispute.version,
            losses=tuple(Loss(cause.name, gpu_ms) for cause, gpu_ms in heard.dispute.losses),
            opened_ms=heard.dispute.opened_ms,
            answer_by_ms=heard.dispute.answer_by_ms,
            state="open" if heard.answer is None else str(heard.answer.state),
            reason="" if heard.answer is None else heard.answer.reason,
            corrected=0 if heard.answer is None else heard.answer.version or 0,
        )
        for heard in state.settled.disputes.values()
        if answered or heard.answer is None
    ]
