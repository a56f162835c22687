"""Each event of the journal in a line for people: what it is about, and what it says. The journal keeps all of it."""

from __future__ import annotations

from typing import assert_never

from scheduler.api.wording import asked_size, count, gpus, instant, listed
from scheduler.core.events import (
    BindOverdue,
    CalendarTurned,
    CancelAsked,
    CellsSwapped,
    ClockChecked,
    CoverageAssigned,
    CoverageRefused,
    DeviceProbed,
    DevicesSeen,
    DisputeAnswered,
    DisputeHeard,
    DrainOrdered,
    Event,
    ForceMajeureDeclared,
    GangEnded,
    GangPlaced,
    GangStarted,
    GangStopAsked,
    GangSubmitted,
    GpusMarked,
    HealthChanged,
    InstrumentListed,
    IntervalClosed,
    IntervalCorrected,
    LotsRecalled,
    LotsReleased,
    MaintenanceAnnounced,
    NodeJoined,
    ObservationGap,
    PerformanceMeasured,
    PositionChanged,
    PositionsLoaded,
    RecordsPromoted,
    ScoreChosen,
    ShortageDecided,
    ShortageOver,
)
from scheduler.core.metering.records import RecordStatus


def line(event: Event) -> tuple[str, str]:  # noqa: C901, PLR0911 - one line a kind of event
    """(subject, text) of an event."""
    match event:
        case InstrumentListed() | PositionsLoaded() | PositionChanged():
            return _of_exchange(event)
        case NodeJoined() | HealthChanged() | PerformanceMeasured() | DevicesSeen() | DrainOrdered() | ObservationGap():
            return _of_fleet(event)
        case DeviceProbed(probe=probe):
            why = f": {probe.reason}" if probe.reason else ""
            return probe.device[:16], f"{probe.id} by {probe.suite}: {probe.outcome}{why}"
        case MaintenanceAnnounced() | ForceMajeureDeclared() | GpusMarked() | LotsRecalled() | LotsReleased():
            return _of_outages(event)
        case CoverageAssigned() | CoverageRefused() | CellsSwapped() | CalendarTurned():
            return _of_coverage(event)
        case ShortageDecided() | ShortageOver():
            return _of_coverage(event)
        case GangSubmitted() | CancelAsked() | GangPlaced() | GangStopAsked() | BindOverdue() | GangStarted():
            return _of_gang(event)
        case ScoreChosen():
            left = next((f.unallocated_ppm for f in event.figures if f.score == event.score), None)
            seen = "" if left is None else f", {left // 10_000}.{left // 1_000 % 10} % unallocated in the rehearsal"
            return "", f"partly used nodes are filled by {event.score} from now{seen}"
        case GangEnded():
            outcome = "lost" if event.exit_code is None else f"exited with {event.exit_code}"
            return event.gang, f"attempt {event.attempt} {outcome}" + (f": {event.detail}" if event.detail else "")
        case RecordsPromoted() | DisputeHeard() | DisputeAnswered() | ClockChecked():
            return _of_settling(event)
        case IntervalClosed() | IntervalCorrected():
            interval = f"interval of {event.interval_ms // 1_000} s to {instant(event.end_ms)}"
            verb = "closed" if isinstance(event, IntervalClosed) else "corrected"
            return "", f"{interval} {verb}, leaves in the log: {event.leaves}"
        case _:
            assert_never(event)


def _of_settling(event: RecordsPromoted | DisputeHeard | DisputeAnswered | ClockChecked) -> tuple[str, str]:
    match event:
        case RecordsPromoted():
            final = sum(promotion.status is RecordStatus.FINAL for promotion in event.promotions)
            return "", f"records became final in {count(final, 'range')}, initial in {len(event.promotions) - final}"
        case DisputeHeard():
            told = event.dispute
            what = f"the record of {instant(told.start_ms)} is disputed by {told.id}"
            return told.position, f"{what}, to be answered by {instant(told.answer_by_ms)}"
        case DisputeAnswered():
            return "", f"{event.answer.dispute} is {event.answer.state}: {event.answer.reason or 'no reason given'}"
        case ClockChecked():
            return "", f"this clock is {event.error_ms} ms ahead of the exchange's"


def _of_exchange(event: InstrumentListed | PositionsLoaded | PositionChanged) -> tuple[str, str]:
    match event:
        case InstrumentListed():
            return event.terms.id, f"listed, {event.terms.spec_hash[:12]}"
        case PositionsLoaded():
            return event.cursor.stream, f"{count(len(event.positions), 'position')} as of {event.cursor.seq}"
        case PositionChanged():
            told = event.event
            source = f" from {told.source}" if told.source else ""
            what = f"{told.kind}{source}: {count(told.lots, 'lot')} of {told.instrument} for {told.account}"
            return told.position, f"{what} from {instant(told.effective_ms)}"


def _of_fleet(
    event: NodeJoined | HealthChanged | PerformanceMeasured | DevicesSeen | DrainOrdered | ObservationGap,
) -> tuple[str, str]:
    match event:
        case NodeJoined():
            return event.node.name, f"joined with {gpus(event.node.gpus)} of grade {event.node.grade}"
        case HealthChanged():
            which = "all GPUs" if event.gpus is None else f"GPUs {', '.join(map(str, event.gpus))}"
            return event.node, f"{which} {'well again' if event.cause is None else event.cause.name.lower()}"
        case DevicesSeen():
            named = sorted({each.name for each in event.devices if each is not None})
            what = f"{', '.join(named)} by NVML" if event.source == "nvml" else f"a stand-in: {event.detail}"
            return event.node, f"GPUs are {what}"
        case PerformanceMeasured():
            return event.node, f"measured at {event.ppm} ppm of the reference by {event.suite}"
        case DrainOrdered():
            by = "drain called off" if event.by_ms is None else f"to be drained by {instant(event.by_ms)}"
            return event.node, by
        case ObservationGap():
            return "", f"nobody saw the fleet from {instant(event.from_ms)} on"


def _of_outages(
    event: MaintenanceAnnounced | ForceMajeureDeclared | GpusMarked | LotsRecalled | LotsReleased,
) -> tuple[str, str]:
    match event:
        case LotsRecalled() | LotsReleased():
            how = "recalled" if isinstance(event, LotsRecalled) else "released"
            when = f"from {instant(event.from_ms)} to {instant(event.until_ms)}"
            return event.position, f"{count(event.lots, 'lot')} {how} {when}"
        case GpusMarked():
            which = "all GPUs" if event.gpus is None else f"GPUs {', '.join(map(str, event.gpus))}"
            said = "said to be well" if event.cause is None else f"said to be ill: {event.cause.name.lower()}"
            return event.node, f"{which} {said}"
        case MaintenanceAnnounced():
            return event.node, f"maintenance announced from {instant(event.from_ms)} to {instant(event.until_ms)}"
        case ForceMajeureDeclared():
            when = f"from {instant(event.from_ms)} to {instant(event.until_ms)}"
            return listed(event.nodes, most=4), f"force majeure declared {when}, evidence {event.evidence[:12]}"


def _of_coverage(
    event: CoverageAssigned | CoverageRefused | CellsSwapped | ShortageDecided | ShortageOver | CalendarTurned,
) -> tuple[str, str]:
    match event:
        case CoverageAssigned():
            names = ", ".join(event.positions[:4]) + (", …" if len(event.positions) > 4 else "")
            held = count(len(event.holdings), "holding")
            return names, f"{event.why}: {held} from {instant(event.from_ms)} on"
        case CoverageRefused():
            cause = event.cause.name.lower()
            return event.position, f"not covered as sold: {count(event.uncovered_lots, 'lot')} metered as {cause}"
        case CellsSwapped():
            return "", f"{event.level.name.lower()} cells {event.left} and {event.right} trade owners"
        case ShortageDecided():
            return "", "the shortage rule decided who goes short; its certificate is in the log"
        case ShortageOver():
            what = f"{event.level.name.lower()} cells of {event.pool}"
            return "", f"nobody of firmness class {event.firmness_class} waits for {what} any more"
        case CalendarTurned():
            return "", "a window opened or closed"


def _of_gang(
    event: GangSubmitted | CancelAsked | GangPlaced | GangStopAsked | BindOverdue | GangStarted,
) -> tuple[str, str]:
    match event:
        case GangSubmitted():
            return event.gang, f"{event.spec.name} of {event.spec.account} submitted: {asked_size(event.spec)}"
        case CancelAsked():
            return event.gang, "cancelled"
        case GangPlaced():
            nodes = ", ".join(dict.fromkeys(piece.node for piece in event.pieces))
            ground = "inside its entitlement" if event.inside else "borrowed"
            after = f", after {', '.join(event.waits_for)}" if event.waits_for else ""
            return event.gang, f"attempt {event.attempt} placed on {nodes}, {ground}{after}"
        case GangStopAsked():
            whom = f" for {event.for_gang}" if event.for_gang else ""
            return event.gang, f"attempt {event.attempt} told to stop{whom}: {event.cause}"
        case BindOverdue():
            return event.gang, f"attempt {event.attempt} is late: its GPUs count as late from now"
        case GangStarted():
            return event.gang, f"attempt {event.attempt} runs"
