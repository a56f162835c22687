"""What admins say of outages, checked and as events: announced maintenance, force majeure with its evidence, what is
wrong with a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from scheduler.core.causes import OF_HEALTH, Cause
from scheduler.core.errors import Conflict, InvalidValue, UnknownName
from scheduler.core.events import Event, ForceMajeureDeclared, GpusMarked, MaintenanceAnnounced
from scheduler.core.instruments import MAX_INSTANT_MS
from scheduler.core.metering.declared import DeclaredKind
from scheduler.core.rounds.observing import well_again
from scheduler.core.state.health import numbers_named
from scheduler.core.state.state import State

MARKED = OF_HEALTH - {Cause.NODE_LOST}
"""What operators may say is wrong: whether a node is there is seen, not said."""


def announce(state: State, node: str, from_ms: int, until_ms: int, now_ms: int) -> Iterator[Event]:
    """Maintenance of a node in `[from_ms, until_ms)`. The same again changes nothing.

    Raises UnknownName, InvalidValue for times that make no sense, Conflict where the node's maintenance is announced
    for a part of them already.
    """
    which = f"the maintenance of {node}"
    _check_nodes(state, [node])
    _check_times(which, from_ms, until_ms)
    for each in state.outages.declarations:
        if each.kind is not DeclaredKind.MAINTENANCE or node not in each.nodes:
            continue
        if (each.from_ms, each.until_ms) == (from_ms, until_ms):
            return
        if each.from_ms < until_ms and from_ms < each.until_ms:
            raise Conflict(
                f"{which} from {from_ms} to {until_ms} overlaps that from {each.from_ms} to {each.until_ms}: "
                f"call it off first"
            )
    if from_ms < now_ms:
        raise InvalidValue("from_ms", which, from_ms, f"{now_ms} (now) or later")
    yield MaintenanceAnnounced(at_ms=now_ms, node=node, from_ms=from_ms, until_ms=until_ms)


def declare(
    state: State, nodes: Sequence[str], from_ms: int, until_ms: int, evidence: str, now_ms: int
) -> Iterator[Event]:
    """Force majeure on nodes in `[from_ms, until_ms)`. `evidence`: the lower-case hex SHA-256 of what shows it.

    The same again changes nothing. Raises UnknownName, InvalidValue for times that make no sense or of which the meter
    remembers nothing any more.
    """
    which = "the force majeure"
    if not nodes:
        raise InvalidValue("nodes", which, (), "one or more")
    _check_nodes(state, nodes)
    _check_times(which, from_ms, until_ms)
    horizon_ms = state.meter.history.horizon_ms
    if until_ms <= horizon_ms:
        raise InvalidValue("until_ms", which, until_ms, f"after {horizon_ms}: before, the meter remembers nothing")
    named = tuple(sorted(set(nodes)))
    for each in state.outages.declarations:
        if each.kind is DeclaredKind.FORCE_MAJEURE and (each.nodes, each.from_ms, each.until_ms) == (
            named,
            from_ms,
            until_ms,
        ):
            return
    yield ForceMajeureDeclared(at_ms=now_ms, nodes=named, from_ms=from_ms, until_ms=until_ms, evidence=evidence)


def mark(state: State, node: str, gpus: Sequence[int], cause: Cause | None, now_ms: int) -> Iterator[Event]:
    """What an operator says is wrong with GPUs of a node (none named: all), or that nothing is (None). The same again
    changes nothing. Raises UnknownName, InvalidValue for a cause that is none of a GPU's health.
    """
    which = f"the mark of {node}"
    _check_nodes(state, [node])
    if cause is not None and cause not in MARKED:
        raise InvalidValue("cause", which, cause.name, f"one of {', '.join(each.name for each in sorted(MARKED))}")
    first, told = state.gpus_of(node).start, 0 if cause is None else int(cause)
    named = tuple(sorted(set(gpus))) or tuple(range(len(state.gpus_of(node))))
    numbers_named(state.fleet, node, named)
    changed = tuple(gpu for gpu in named if state.health.marked[first + gpu] != told)
    if not changed:
        return
    by_mark = tuple(gpu for gpu in changed if state.health.cause[first + gpu] in (0, state.health.marked[first + gpu]))
    yield GpusMarked(at_ms=now_ms, node=node, gpus=changed, cause=cause)
    yield from well_again(state, node, by_mark, now_ms)


def touched_by(state: State, event: ForceMajeureDeclared) -> tuple[str, ...]:
    """Positions whose records a declaration may change: all at the nodes' sites."""
    sites = {state.fleet.nodes[state.fleet.index_of_node[node]].site for node in event.nodes}
    positions = sorted(state.book.positions.items())
    return tuple(name for name, position in positions if state.instruments[position.instrument].site in sites)


def _check_nodes(state: State, nodes: Sequence[str]) -> None:
    for node in nodes:
        if node not in state.fleet.index_of_node:
            raise UnknownName("node", node, tuple(state.fleet.index_of_node))


def _check_times(which: str, from_ms: int, until_ms: int) -> None:
    if not 0 <= from_ms <= MAX_INSTANT_MS:
        raise InvalidValue("from_ms", which, from_ms, f"0..{MAX_INSTANT_MS} ms since 1970")
    if not from_ms < until_ms <= MAX_INSTANT_MS:
        raise InvalidValue("until_ms", which, until_ms, f"an instant after from_ms {from_ms}")
