"""What admins and owners say of outages, checked and as events: announced maintenance, force majeure with its evidence,
what is wrong with a GPU, lots that are recalled or released.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from scheduler.core.causes import OF_HEALTH, Cause
from scheduler.core.errors import Conflict, InvalidValue, UnknownName
from scheduler.core.events import (
    Event,
    ForceMajeureDeclared,
    GpusMarked,
    LotsRecalled,
    LotsReleased,
    MaintenanceAnnounced,
)
from scheduler.core.instruments import MAX_INSTANT_MS, InstrumentTerms, Recallable, ReleaseUnused
from scheduler.core.intervals import Interval
from scheduler.core.metering.declared import DeclaredKind
from scheduler.core.rounds import covering
from scheduler.core.rounds.observing import well_again
from scheduler.core.state.health import numbers_named
from scheduler.core.state.state import State
from scheduler.core.state.withheld import told

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


def recall(
    state: State, name: str, lots: int, from_ms: int, until_ms: int, now_ms: int, spares: Sequence[str] = ()
) -> Iterator[Event]:
    """The seller takes lots of a position back in `[from_ms, until_ms)`. The same again changes nothing.

    Raises UnknownName, InvalidValue, and Conflict where the terms do not let it: another firmness than RECALLABLE, less
    than the notice, a run too short before or after, one event too many.
    """
    which = f"the recall of {name}"
    terms = _check_withheld(state, name, which, lots, from_ms, until_ms)
    event = LotsRecalled(at_ms=now_ms, position=name, lots=lots, from_ms=from_ms, until_ms=until_ms)
    recalls = [each for each in state.withheld.get(name, ()) if each.cause is Cause.RECALL]
    if _said_before(state, event):
        return
    firmness = terms.firmness
    if not isinstance(firmness, Recallable):
        raise Conflict(f"{which}: the firmness of {terms.id} is {firmness.kind}, expected RECALLABLE")
    if from_ms - now_ms < firmness.notice_ms:
        earliest_ms = now_ms + firmness.notice_ms
        raise InvalidValue("from_ms", which, from_ms, f"{earliest_ms} or later: {firmness.notice_ms} ms of notice")
    if len(recalls) >= firmness.max_events:
        raise Conflict(f"{which}: it was recalled {len(recalls)} times, as often as {terms.id} lets it")
    begins_ms = next((at_ms for at_ms, held in state.book.positions[name].lots if held), from_ms)
    ends = [max(begins_ms, terms.window.start_ms), *(each.until_ms for each in recalls if each.from_ms < until_ms)]
    if from_ms < max(ends) + firmness.min_run_ms:
        expected = f"{max(ends) + firmness.min_run_ms} or later: it runs {firmness.min_run_ms} ms before it is recalled"
        raise InvalidValue("from_ms", which, from_ms, expected)
    later_ms = min((each.from_ms for each in recalls if each.from_ms >= until_ms), default=None)
    if later_ms is not None and later_ms < until_ms + firmness.min_run_ms:
        expected = f"{later_ms - firmness.min_run_ms} or earlier: it runs {firmness.min_run_ms} ms before the next"
        raise InvalidValue("until_ms", which, until_ms, expected)
    yield from covering.withheld(state, event, now_ms, spares)


def release(
    state: State, name: str, lots: int, from_ms: int, until_ms: int, now_ms: int, spares: Sequence[str] = ()
) -> Iterator[Event]:
    """The owner gives lots of a position back in `[from_ms, until_ms)`. The same again changes nothing.

    Raises UnknownName, InvalidValue, and Conflict where the terms have another rule than RELEASE for unused time.
    """
    which = f"the release of {name}"
    terms = _check_withheld(state, name, which, lots, from_ms, until_ms)
    event = LotsReleased(at_ms=now_ms, position=name, lots=lots, from_ms=from_ms, until_ms=until_ms)
    if _said_before(state, event):
        return
    if not isinstance(terms.unused_rule, ReleaseUnused):
        raise Conflict(f"{which}: the unused rule of {terms.id} is {terms.unused_rule.kind}, expected RELEASE")
    if from_ms < now_ms:
        raise InvalidValue("from_ms", which, from_ms, f"{now_ms} (now) or later")
    yield from covering.withheld(state, event, now_ms, spares)


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


def _said_before(state: State, event: LotsRecalled | LotsReleased) -> bool:
    said = told(event)
    return any(each._replace(told_ms=said.told_ms) == said for each in state.withheld.get(event.position, ()))


def _check_withheld(state: State, name: str, which: str, lots: int, from_ms: int, until_ms: int) -> InstrumentTerms:
    """The position's terms. Raises where there are not so many lots of it throughout."""
    position = state.book.positions.get(name)
    if position is None:
        raise UnknownName("position", name, state.book.positions)
    _check_times(which, from_ms, until_ms)
    terms = state.instruments[position.instrument]
    window = terms.window
    if from_ms < window.start_ms or until_ms > window.end_ms:
        expected = f"inside [{window.start_ms}, {window.end_ms})"
        raise InvalidValue("from_ms, until_ms", which, f"{from_ms}, {until_ms}", expected)
    told_before = any((each.from_ms, each.until_ms) == (from_ms, until_ms) for each in state.withheld.get(name, ()))
    held = position if told_before else state.due_position(name)
    most = held.lots_over_time.minimum(Interval(from_ms, until_ms))
    if not 1 <= lots <= most:
        raise InvalidValue(
            "lots", which, lots, f"1..{most}, what it holds throughout" if most else "a position with lots"
        )
    return terms


def _check_nodes(state: State, nodes: Sequence[str]) -> None:
    for node in nodes:
        if node not in state.fleet.index_of_node:
            raise UnknownName("node", node, tuple(state.fleet.index_of_node))


def _check_times(which: str, from_ms: int, until_ms: int) -> None:
    if not 0 <= from_ms <= MAX_INSTANT_MS:
        raise InvalidValue("from_ms", which, from_ms, f"0..{MAX_INSTANT_MS} ms since 1970")
    if not from_ms < until_ms <= MAX_INSTANT_MS:
        raise InvalidValue("until_ms", which, until_ms, f"an instant after from_ms {from_ms}")
