"""What execution saw, as events: filtered by what the state knows, held to the instants that are still open.

An observation of an attempt that is not the current one, or of an unknown node, changes nothing: it is an echo. What is
seen late holds from its own instant, and corrects what was metered since (`settling`); only a node that joins does so
when it is heard of, since no pool had it before.
"""

from __future__ import annotations

from collections.abc import Iterator

from scheduler.core.causes import Cause
from scheduler.core.cluster import NodeSpec
from scheduler.core.events import (
    DevicesSeen,
    Event,
    GangEnded,
    GangStarted,
    GangStopAsked,
    HealthChanged,
    NodeJoined,
    PerformanceMeasured,
)
from scheduler.core.state.calendar import UNSOLD
from scheduler.core.state.gangs import NOBODY
from scheduler.core.state.health import HEALTHY, gpus_named
from scheduler.core.state.state import State
from scheduler.core.workloads import Gang, GangStatus, StopCause


def open_from_ms(state: State) -> int:
    """The instant from which every interval is still open."""
    return max(state.closed_ms.values(), default=0)


def node_seen(state: State, node: NodeSpec, at_ms: int) -> list[Event]:
    """A node that is new joins; GPUs that were lost with theirs are well again."""
    if node.name not in state.fleet.index_of_node:
        return [NodeJoined(at_ms=max(at_ms, open_from_ms(state)), node=node)]
    lost = tuple(gpu for gpu, cause in _causes(state, node.name, at_ms) if cause == Cause.NODE_LOST)
    return well_again(state, node.name, lost, at_ms)


def well_again(state: State, node: str, gpus: tuple[int, ...], at_ms: int) -> list[Event]:
    """Nothing is wrong with these GPUs any more, but for what operators say of them."""
    by_mark: dict[int, list[int]] = {}
    first = state.fleet.gpus_of_node(state.fleet.index_of_node[node]).start
    for gpu in gpus:
        by_mark.setdefault(int(state.health.marked[first + gpu]), []).append(gpu)
    return [
        HealthChanged(at_ms=at_ms, node=node, gpus=tuple(same), cause=Cause(mark) if mark else None)
        for mark, same in sorted(by_mark.items())
    ]


def node_missing(state: State, node: str, cause: Cause, at_ms: int) -> list[Event]:
    """Its GPUs are ill, whatever they were before. Attempts on it end by their own observations."""
    changed = [gpu for gpu, known in _causes(state, node, at_ms) if known != cause]
    return [HealthChanged(at_ms=at_ms, node=node, cause=cause)] if changed else []


def gpus_ill(state: State, node: str, gpus: tuple[int, ...], cause: Cause | None, at_ms: int) -> list[Event]:
    """Single GPUs fell ill, or are well again. A lost node's are not, until it is seen; nor a drained one's, until the
    drain is called off.
    """
    told = HEALTHY if cause is None else int(cause)
    stay = {told, int(Cause.NODE_LOST), *([int(Cause.DRAIN)] if cause is None else [])}
    changed = tuple(gpu for gpu, known in _causes(state, node, at_ms) if gpu in gpus and known not in stay)
    if cause is None:
        marked = set(_marked(state, node))
        return well_again(state, node, tuple(gpu for gpu in changed if gpu not in marked), at_ms)
    return [HealthChanged(at_ms=at_ms, node=node, gpus=changed, cause=cause)] if changed else []


def measured(state: State, node: str, gpus: tuple[int, ...] | None, ppm: int, suite: str, at_ms: int) -> list[Event]:
    """A probe's reading."""
    if node not in state.fleet.index_of_node:
        return []
    return [PerformanceMeasured(at_ms=at_ms, node=node, gpus=gpus, ppm=ppm, suite=suite)]


def devices_seen(state: State, seen: DevicesSeen) -> list[Event]:
    """Who a node's GPUs are, where that is news."""
    if seen.node not in state.fleet.index_of_node:
        return []
    known = state.health.devices.get(seen.node)
    same = known is not None and (known.source, known.detail, known.devices) == (
        *(seen.source, seen.detail),
        seen.devices,
    )
    return [] if same else [seen]


def started(state: State, gang_id: str, attempt: int, at_ms: int) -> list[Event]:
    """All workers run."""
    gang = _current(state, gang_id, attempt)
    if gang is None or gang.status is not GangStatus.BINDING:
        return []
    return [GangStarted(at_ms=max(at_ms, gang.placed_ms), gang=gang_id, attempt=attempt)]


def ended(state: State, gang_id: str, attempt: int, exit_code: int | None, detail: str, at_ms: int) -> list[Event]:
    """The attempt is over."""
    gang = _current(state, gang_id, attempt)
    if gang is None:
        return []
    at_ms = max(at_ms, gang.started_ms or gang.placed_ms)
    return [GangEnded(at_ms=at_ms, gang=gang_id, attempt=attempt, exit_code=exit_code, detail=detail[:2_000])]


def never_started(event: GangStopAsked) -> GangEnded:
    """The end of an attempt that was stopped before it was launched."""
    return GangEnded(at_ms=event.at_ms, gang=event.gang, attempt=event.attempt, detail="stopped before it started")


def to_stop_after(event: Event, state: State) -> list[tuple[Gang, StopCause]]:
    """Gangs that must leave GPUs that fell ill, by number.

    What ran on a lost node ended with it, which is observed by itself; what still waited to start there has to be told.
    """
    if not isinstance(event, HealthChanged) or event.cause is None:
        return []
    ill = gpus_named(state.fleet, event.node, event.gpus)
    there = {number for gpu in ill.tolist() for number in state.gangs.on_gpu(gpu)}
    numbers = {*there, *state.gangs.claimant[ill].tolist()} - {NOBODY}
    gangs = [state.gangs.by_number(number) for number in sorted(numbers)]
    match event.cause:
        case Cause.NODE_LOST:
            return [(gang, StopCause.NODE_LOST) for gang in gangs if gang.status is GangStatus.BINDING]
        case Cause.DRAIN:
            return [(gang, StopCause.DRAINED) for gang in gangs if gang.status is not GangStatus.STOPPING]
        case _:
            return [(gang, StopCause.GPU_ILL) for gang in gangs if gang.status is not GangStatus.STOPPING]


def outlived_rights(state: State) -> list[Gang]:
    """Gangs that cannot be preempted, on GPUs that cover another account by now: theirs sold them, or a failure took
    them.

    Not to be preempted is a right against borrowers' losses, not against an owner; preemptible gangs stay until he
    asks.
    """
    found = []
    for number in sorted(state.gangs.firm):
        gang = state.gangs.by_number(number)
        if gang.status is not GangStatus.STOPPING:
            owners = state.calendar.owner_account[list(gang.gpu_numbers)]
            if ((owners != UNSOLD) & (owners != state.accounts[gang.account])).any():
                found.append(gang)
    return found


def withheld_work(state: State, now_ms: int) -> list[Gang]:
    """Work of owners that runs on cells of theirs that were recalled, or that they released, since it was placed."""
    found = set[int]()
    for name, told in sorted(state.withheld.items()):
        begun = {each.from_ms for each in told if each.from_ms <= now_ms < each.until_ms}
        account = state.account_of_position[name]
        for holding in state.calendar.past if begun else ():
            if holding.position == name and holding.end_ms in begun:
                for gpu in state.fleet.gpus_of_cell(holding.level, holding.cell).tolist():
                    if state.calendar.owner_account[gpu] != account:
                        found |= {
                            number
                            for number in state.gangs.on_gpu(gpu)
                            if state.accounts[state.gangs.by_number(number).account] == account
                            and state.gangs.by_number(number).placed_ms < holding.end_ms
                        }
    gangs = [state.gangs.by_number(number) for number in sorted(found)]
    return [gang for gang in gangs if gang.status is not GangStatus.STOPPING]


def _marked(state: State, node: str) -> Iterator[int]:
    """GPUs of a node that are ill by what an operator says and nothing else."""
    if node in state.fleet.index_of_node:
        for gpu, number in enumerate(state.gpus_of(node)):
            if state.health.marked[number] and state.health.marked[number] == state.health.cause[number]:
                yield gpu


def _causes(state: State, node: str, at_ms: int) -> list[tuple[int, int]]:
    """(index on the node, cause) of its GPUs of which nothing newer is known than `at_ms`; none of an unknown node.

    An observation that is older than what is known is an echo: execution told it before the scheduler was restarted.
    """
    if node not in state.fleet.index_of_node:
        return []
    gpus = gpus_named(state.fleet, node, None)
    known = zip(state.health.cause[gpus].tolist(), state.health.since_ms[gpus].tolist(), strict=True)
    return [(gpu, cause) for gpu, (cause, since_ms) in enumerate(known) if since_ms <= at_ms]


def _current(state: State, gang_id: str, attempt: int) -> Gang | None:
    gang = state.gangs.by_id.get(gang_id)
    placed = gang is not None and gang.number in state.gangs.placed and gang.attempt == attempt
    return gang if placed else None
