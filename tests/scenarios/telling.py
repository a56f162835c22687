"""What happened, as lines that a person reads and a golden file keeps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import numpy as np

from scheduler.api.why import why
from scheduler.core.causes import Cause
from scheduler.core.coverage.shortage import Certificate, certificate_of
from scheduler.core.events import (
    BindOverdue,
    CellsSwapped,
    CoverageAssigned,
    CoverageRefused,
    Event,
    GangEnded,
    GangPlaced,
    GangStarted,
    GangStopAsked,
    HealthChanged,
    ShortageDecided,
)
from scheduler.core.holdings import Holding
from scheduler.core.workloads import ENDED, Gang, Piece
from tests.scenarios.stage import Stage
from tests.scenarios.text import length, ranges


def told(stage: Stage, heard: Iterable[tuple[int, Event]], *, timed: bool) -> Iterator[str]:
    """The lines of the events that a reader cares for; `timed`: each with its instant."""
    for at_ms, event in heard:
        when = f"{length(stage.since_start(at_ms))}: " if timed else ""
        for line in _told(stage, event):
            yield when + line


def _told(stage: Stage, event: Event) -> list[str]:  # noqa: C901, PLR0911 - one line a kind of event
    match event:
        case GangPlaced():
            return [_placed(stage, event)]
        case GangStopAsked():
            return [_stopped(stage, event)]
        case GangStarted():
            return [f"{stage.name_of(event.gang)} runs"]
        case GangEnded():
            return [_ended(stage, event)]
        case BindOverdue():
            return [f"{stage.name_of(event.gang)} is late: its bind limit has passed"]
        case CellsSwapped():
            fleet = stage.scheduler.state.fleet
            cells = [fleet.cell_name(event.level, cell) for cell in (event.left, event.right)]
            return [f"{cells[0]} and {cells[1]} trade owners"]
        case CoverageAssigned():
            return _covered(stage, event)
        case CoverageRefused():
            return [f"{event.position} is refused: {Cause(event.cause).name}, {event.uncovered_lots} uncovered"]
        case ShortageDecided():
            return _certified(certificate_of(event.certificate))
        case HealthChanged():
            gpus = "" if event.gpus is None else ":" + ranges(event.gpus)
            return [f"{event.node}{gpus} is " + ("well" if event.cause is None else f"ill: {event.cause.name}")]
        case _:
            return []


def _placed(stage: Stage, event: GangPlaced) -> str:
    gang = stage.scheduler.state.gangs.get(event.gang)
    basis = "inside" if event.inside else f"borrowing {_lenders(stage, gang)}"
    after = [stage.name_of(name) for name in event.waits_for]
    once = f", once {' and '.join(after)} left" if after else ""
    return f"{gang.spec.name} is placed on {_pieces(event.pieces)}, {basis}{once}"


def _lenders(stage: Stage, gang: Gang) -> str:
    """Whose GPUs a gang has: `unsold` and accounts."""
    state = stage.scheduler.state
    names = ["unsold", *state.accounts]
    owners = np.unique(state.calendar.owner_account[list(gang.gpu_numbers)]).tolist()
    return " and ".join(names[owner + 1] for owner in owners)


def _pieces(pieces: Sequence[Piece]) -> str:
    """All workers, node by node."""
    by_node = groupby(sorted(pieces, key=lambda piece: piece.node), key=lambda piece: piece.node)
    return " ".join(f"{node}:{ranges(sorted(g for piece in each for g in piece.gpus))}" for node, each in by_node)


def _stopped(stage: Stage, event: GangStopAsked) -> str:
    sake = f" for {stage.name_of(event.for_gang)}" if event.for_gang else ""
    by = length(stage.since_start(event.deadline_ms))
    return f"{stage.name_of(event.gang)} is told to stop: {event.cause}{sake}, gone by {by}"


def _ended(stage: Stage, event: GangEnded) -> str:
    gang = stage.scheduler.state.gangs.get(event.gang)
    return f"{gang.spec.name} {gang.status}" if gang.status in ENDED else f"{gang.spec.name} left and waits again"


def _covered(stage: Stage, event: CoverageAssigned) -> list[str]:
    lines = []
    for position in event.positions:
        held = [holding for holding in event.holdings if holding.position == position]
        lines.append(f"{position} is {event.why}: {coverage(stage, held, event.at_ms) or 'nothing'}")
    return lines


def coverage(stage: Stage, holdings: Iterable[Holding], at_ms: int) -> str:
    """Cells by window, as seen at an instant: `node-0 node-1 until 1d, node-2 1d to 2d`."""
    by_window: dict[tuple[int, int], list[Holding]] = {}
    for holding in sorted(holdings, key=lambda held: (held.start_ms, held.end_ms, held.level, held.cell)):
        by_window.setdefault((holding.start_ms, holding.end_ms), []).append(holding)
    return ", ".join(
        f"{_cells(stage, held)} {_window(stage, at_ms, *window)}" for window, held in sorted(by_window.items())
    )


def _cells(stage: Stage, holdings: Iterable[Holding]) -> str:
    fleet = stage.scheduler.state.fleet
    names = [fleet.cell_name(held.level, held.cell).rpartition("/")[2] for held in holdings]
    singles: dict[str, list[int]] = {}
    for name in names:
        node, is_gpu, gpu = name.partition(":")
        singles.setdefault(node, []).extend([int(gpu)] if is_gpu else [])
    return " ".join(f"{node}:{ranges(gpus)}" if gpus else node for node, gpus in singles.items())


def _window(stage: Stage, at_ms: int, start_ms: int, end_ms: int) -> str:
    end = length(stage.since_start(end_ms))
    return f"until {end}" if start_ms <= at_ms else f"{length(stage.since_start(start_ms))} to {end}"


def _certified(certificate: Certificate) -> list[str]:
    """A shortage: how many cells there are for how many claims, and who gets what, in the order of the rule."""
    claimed = sum(claim.lots for claim in certificate.claims)
    lines = [f"shortage of {certificate.level.name} cells: {certificate.cells} for {claimed} lots"]
    for claim, award in zip(certificate.claims, certificate.awards, strict=True):
        lines.append(f"  {claim.position}, class {claim.firmness_class}: {award.awarded} of {award.claimed}")
    return lines


def waiting(stage: Stage) -> Iterator[str]:
    """Every gang that waits, in the published order, with the last round's reason; why there is none, while planning is
    paused.
    """
    plan, state = stage.scheduler.last_plan, stage.scheduler.state
    for gang in sorted(state.gangs.waiting(), key=lambda gang: gang.order):
        if stage.scheduler.paused:
            yield f"{gang.spec.name} waits: {why(stage.facts(gang.id), gang.id).reason}, {stage.scheduler.paused}"
            continue
        reason = None if plan is None else plan.waiting.get((gang.account, gang.shape))
        if reason is None:
            yield f"{gang.spec.name} waits: no round has looked at it"
            continue
        numbers = ", ".join(f"{name.removesuffix('_gpus').replace('_', ' ')} {n}" for name, n in reason.numbers)
        starts = reason.expected_start_ms
        expected = "" if starts is None else f"; expected at {length(stage.since_start(starts))}"
        yield f"{gang.spec.name} waits: {reason.reason} ({numbers}){expected}"


def fleet_map(stage: Stage) -> Iterator[str]:
    """Every run of GPUs with one owner and one occupant: `node-0:0-3 acme: train`."""
    state = stage.scheduler.state
    accounts = ["unsold", *state.accounts]
    for number, node in enumerate(state.fleet.nodes):
        span = state.fleet.gpus_of_node(number)
        facts = [
            (
                accounts[int(state.calendar.owner_account[gpu]) + 1],
                _occupant(stage, int(state.gangs.occupant[gpu]), int(state.gangs.claimant[gpu])),
                bool(state.health.usable[gpu]),
            )
            for gpu in span
        ]
        for (owner, occupant, usable), run in groupby(enumerate(facts), key=lambda pair: pair[1]):
            gpus = ranges([gpu for gpu, _ in run])
            yield f"{node.name}:{gpus} {owner}: {occupant}{'' if usable else ', unusable'}"


def _occupant(stage: Stage, occupant: int, claimant: int) -> str:
    gangs = stage.scheduler.state.gangs
    names = [gangs.by_number(number).spec.name for number in (occupant, claimant) if number >= 0]
    return " then ".join(names) or "idle"
