"""The journal's vocabulary: every fact that Tenor keeps, in the order in which it learnt them.

State is the fold of these events, and so are meter records and statements. Each kind has a schema version; an old
journal stays readable because a kind's fields are only ever added, with defaults. `at_ms` is the instant at which the
fact holds, which may be a little before it was learnt.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from scheduler.core.causes import Cause
from scheduler.core.cluster import Level, NodeSpec
from scheduler.core.device_probes import DeviceProbe
from scheduler.core.devices import DeviceIdentity
from scheduler.core.errors import Damaged
from scheduler.core.holdings import Holding
from scheduler.core.ids import Name
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.metering.disputes import Answer, Dispute
from scheduler.core.metering.versions import Promotion
from scheduler.core.models import Model
from scheduler.core.positions import Cursor, Position, PositionEvent
from scheduler.core.workloads import GangSpec, Piece, StopCause


class EventModel(Model):
    """What all events share."""

    at_ms: int = Field(ge=0)


# -- what the exchange says ------------------------------------------------------------------------------------------


class InstrumentListed(EventModel):
    """An instrument's immutable terms, first seen."""

    kind: Literal["instrument_listed"] = "instrument_listed"
    terms: InstrumentTerms


class PositionsLoaded(EventModel):
    """A snapshot of all positions at a cursor: replaces what was known."""

    kind: Literal["positions_loaded"] = "positions_loaded"
    cursor: Cursor
    positions: tuple[Position, ...]


class PositionChanged(EventModel):
    """One sequenced position event, with its cursor."""

    kind: Literal["position_changed"] = "position_changed"
    event: PositionEvent


# -- what the fleet shows --------------------------------------------------------------------------------------------


class NodeJoined(EventModel):
    """A node joined, healthy, at the reference performance until measured."""

    kind: Literal["node_joined"] = "node_joined"
    node: NodeSpec


class HealthChanged(EventModel):
    """GPUs of a node (None: all of them) became unhealthy for a cause, or healthy again (None)."""

    kind: Literal["health_changed"] = "health_changed"
    node: Name
    gpus: tuple[int, ...] | None = None
    cause: Cause | None = None


class GpusMarked(EventModel):
    """An operator says what is wrong with GPUs of a node (None: all of them), or takes that back (None).

    They are ill by it until it is taken back; what is observed besides goes before it while it lasts.
    """

    kind: Literal["gpus_marked"] = "gpus_marked"
    node: Name
    gpus: tuple[int, ...] | None = None
    cause: Cause | None = None


class PerformanceMeasured(EventModel):
    """A probe's result for GPUs of a node, in ppm of the suite's reference."""

    kind: Literal["performance_measured"] = "performance_measured"
    node: Name
    gpus: tuple[int, ...] | None = None
    ppm: int = Field(ge=0, le=100_000_000)
    suite: Name


class DevicesSeen(EventModel):
    """Which devices a node's GPUs are, by its driver. `source`: `nvml`, or `stand-in` for logical GPUs, which are no
    devices; `detail` says why. A GPU that does not answer has no identity.
    """

    kind: Literal["devices_seen"] = "devices_seen"
    node: Name
    source: Literal["nvml", "stand-in"]
    detail: str = Field(default="", max_length=2_000)
    devices: tuple[DeviceIdentity | None, ...] = ()


class DeviceProbed(EventModel):
    """What the exchange found when it had a device compute. The log tells of it too."""

    kind: Literal["device_probed"] = "device_probed"
    probe: DeviceProbe


class DrainOrdered(EventModel):
    """An admin wants the node empty by `by_ms`; None: the drain is called off."""

    kind: Literal["drain_ordered"] = "drain_ordered"
    node: Name
    by_ms: int | None


class MaintenanceAnnounced(EventModel):
    """An admin announces that a node will be out in `[from_ms, until_ms)`; at `from_ms` it is drained."""

    kind: Literal["maintenance_announced"] = "maintenance_announced"
    node: Name
    from_ms: int
    until_ms: int


class ForceMajeureDeclared(EventModel):
    """Faults of these nodes in `[from_ms, until_ms)` were beyond control. `evidence`: the SHA-256 of what shows it."""

    kind: Literal["force_majeure_declared"] = "force_majeure_declared"
    nodes: tuple[Name, ...]
    from_ms: int
    until_ms: int
    evidence: str = Field(pattern=r"^[0-9a-f]{64}$")


class LotsRecalled(EventModel):
    """The seller takes lots of a position back for a while, under a recall clause."""

    kind: Literal["lots_recalled"] = "lots_recalled"
    position: Name
    lots: int = Field(ge=1)
    from_ms: int
    until_ms: int


class LotsReleased(EventModel):
    """The owner gives lots of a position back for a while, as the terms let it."""

    kind: Literal["lots_released"] = "lots_released"
    position: Name
    lots: int = Field(ge=1)
    from_ms: int
    until_ms: int


class ObservationGap(EventModel):
    """Nobody saw the fleet in `[from_ms, at_ms)`: the scheduler was down. `bridged`: short enough to be estimated."""

    kind: Literal["observation_gap"] = "observation_gap"
    from_ms: int
    bridged: bool


# -- what teams ask --------------------------------------------------------------------------------------------------


class GangSubmitted(EventModel):
    """A gang was accepted. `request` is the caller's idempotency key."""

    kind: Literal["gang_submitted"] = "gang_submitted"
    gang: Name
    spec: GangSpec
    request: str = Field(default="", max_length=256)


class CancelAsked(EventModel):
    """Somebody who may wants the gang ended."""

    kind: Literal["cancel_asked"] = "cancel_asked"
    gang: Name


# -- what was decided: coverage --------------------------------------------------------------------------------------


class CoverageAssigned(EventModel):
    """From `from_ms` on, which may be late or ahead, these positions are covered by exactly these holdings.

    What they were covered by before is kept.
    """

    kind: Literal["coverage_assigned"] = "coverage_assigned"
    from_ms: int
    why: Literal["traded", "replaced", "planned", "drained", "shortage", "transferred", "ended"]
    positions: tuple[Name, ...]
    holdings: tuple[Holding, ...]


class CellsSwapped(EventModel):
    """From `at_ms` on two whole cells of one pool and level trade places in the calendar, with all holdings inside."""

    kind: Literal["cells_swapped"] = "cells_swapped"
    level: Level
    left: int = Field(ge=0)
    right: int = Field(ge=0)


class CoverageRefused(EventModel):
    """The whole position could not be covered as sold: its shortfall is metered as `cause`."""

    kind: Literal["coverage_refused"] = "coverage_refused"
    position: Name
    cause: Cause
    uncovered_lots: int


class ShortageDecided(EventModel):
    """Who goes short, by the published rule. `certificate` is the canonical JSON that goes into the log."""

    kind: Literal["shortage_decided"] = "shortage_decided"
    certificate: str


class ShortageOver(EventModel):
    """Nobody of a firmness class waits for a cell of a level in a pool (`GRADE@SITE`) any more. `certificate`: the
    digest of the last one that said who did.
    """

    kind: Literal["shortage_over"] = "shortage_over"
    pool: str = Field(max_length=600)
    level: Level
    firmness_class: int = Field(ge=0, le=3)
    certificate: str


class CalendarTurned(EventModel):
    """A window opened or closed at `at_ms`: owners are as the calendar says from then on."""

    kind: Literal["calendar_turned"] = "calendar_turned"


# -- what was decided: placement -------------------------------------------------------------------------------------


class GangPlaced(EventModel):
    """The gang's next attempt gets these GPUs, and starts once the gangs in `waits_for` are gone."""

    kind: Literal["gang_placed"] = "gang_placed"
    gang: Name
    attempt: int = Field(ge=1)
    pieces: tuple[Piece, ...]
    inside: bool
    """Whether it was inside its account's entitlement when placed."""
    bind_by_ms: int | None = None
    """When its bind is late; None: borrowed, nobody is owed anything."""
    waits_for: tuple[Name, ...] = ()


class GangStopAsked(EventModel):
    """The attempt is told to stop: SIGTERM now, SIGKILL at `deadline_ms`. `for_gang` is whom it makes room for."""

    kind: Literal["gang_stop_asked"] = "gang_stop_asked"
    gang: Name
    attempt: int
    cause: StopCause
    deadline_ms: int
    for_gang: Name | None = None


class BindOverdue(EventModel):
    """The gang has waited for its own capacity beyond the bind limit: from `at_ms` its GPUs count as late."""

    kind: Literal["bind_overdue"] = "bind_overdue"
    gang: Name
    attempt: int


class ScoredKind(Model):
    """A kind of worker as a rehearsal saw it. `grades`: which it may use, none for any."""

    devices: int = Field(ge=0)
    milli: int = Field(ge=0)
    cpu_milli: int = Field(default=0, ge=0)
    memory_mib: int = Field(default=0, ge=0)
    grades: tuple[Name, ...] = ()
    count: int = Field(ge=1)
    stay_ms: int = Field(ge=0)


class ScoreFigure(Model):
    """What a score left unallocated, and refused, in a rehearsal."""

    score: Name
    unallocated_ppm: int
    refused_ppm: int


class ScoreChosen(EventModel):
    """From the next round on partly used nodes are filled by this score, as a rehearsal of the mix found best."""

    kind: Literal["score_chosen"] = "score_chosen"
    score: Name
    seed: int
    offered_ppm: int = Field(ge=0)
    """The load that was rehearsed, as a share of the fleet's GPUs."""
    mix: str
    """SHA-256 of the mix, as hex."""
    kinds: tuple[ScoredKind, ...]
    grades: tuple[Name, ...]
    """Grades by the number that the rehearsal gave them."""
    values: tuple[int, ...] = ()
    """The learnt residual values, by residual, then knot."""
    figures: tuple[ScoreFigure, ...] = ()


# -- what execution confirms -----------------------------------------------------------------------------------------


class GangStarted(EventModel):
    """All workers of the attempt run."""

    kind: Literal["gang_started"] = "gang_started"
    gang: Name
    attempt: int


class GangEnded(EventModel):
    """The attempt is over and its GPUs are free. `exit_code` None: it was lost with its node or never started."""

    kind: Literal["gang_ended"] = "gang_ended"
    gang: Name
    attempt: int
    exit_code: int | None = None
    detail: str = Field(default="", max_length=2_000)


# -- what was metered ------------------------------------------------------------------------------------------------


class IntervalClosed(EventModel):
    """All records of the intervals of `interval_ms` that end at `end_ms` went into the log. `provisional`: those of
    these instruments wait for facts.
    """

    kind: Literal["interval_closed"] = "interval_closed"
    interval_ms: int
    end_ms: int
    first_leaf: int
    leaves: int
    planned: tuple[tuple[Name, int], ...] = ()
    """(position, gpu_ms) of planned outages, of those that have any: what they use of the maintenance budget."""
    provisional: tuple[str, ...] = ()


class IntervalCorrected(EventModel):
    """Records of an interval that was closed before went into the log again, as something learnt late makes them.

    `first`: positions that had none of it yet; `settled`: instruments whose records were provisional, and are not any
    more.
    """

    kind: Literal["interval_corrected"] = "interval_corrected"
    interval_ms: int
    end_ms: int
    first_leaf: int
    leaves: int
    planned: tuple[tuple[Name, int], ...] = ()
    """(position, gpu_ms) of planned outages, of those that have any: what they use of the maintenance budget."""
    first: tuple[Name, ...] = ()
    settled: tuple[str, ...] = ()


class RecordsPromoted(EventModel):
    """Records became initial or final by their calendar: a leaf for each promotion, from `first_leaf` on.

    `final_until`: by position, until when its records are final, but for intervals that start so; `settled`:
    (instrument, start of the interval) of those that are provisional no longer.
    """

    kind: Literal["records_promoted"] = "records_promoted"
    first_leaf: int
    promotions: tuple[Promotion, ...]
    final_until: tuple[tuple[Name, int, tuple[int, ...]], ...] = ()
    settled: tuple[tuple[str, int], ...] = ()


class DisputeHeard(EventModel):
    """The exchange told of a dispute, at this place among all of its own. The log tells of it too."""

    kind: Literal["dispute_heard"] = "dispute_heard"
    seq: int = Field(ge=1)
    dispute: Dispute


class DisputeAnswered(EventModel):
    """A dispute was answered, or nobody did in time. The log tells of it too."""

    kind: Literal["dispute_answered"] = "dispute_answered"
    answer: Answer


class ClockChecked(EventModel):
    """From `at_ms` on the clock is known to be so far from the exchange's; above 0: ahead of it."""

    kind: Literal["clock_checked"] = "clock_checked"
    error_ms: int


Event = Annotated[
    InstrumentListed
    | PositionsLoaded
    | PositionChanged
    | NodeJoined
    | HealthChanged
    | GpusMarked
    | PerformanceMeasured
    | DevicesSeen
    | DeviceProbed
    | DrainOrdered
    | MaintenanceAnnounced
    | ForceMajeureDeclared
    | LotsRecalled
    | LotsReleased
    | ObservationGap
    | GangSubmitted
    | CancelAsked
    | CoverageAssigned
    | CellsSwapped
    | CoverageRefused
    | ShortageDecided
    | ShortageOver
    | CalendarTurned
    | GangPlaced
    | GangStopAsked
    | BindOverdue
    | ScoreChosen
    | GangStarted
    | GangEnded
    | IntervalClosed
    | IntervalCorrected
    | RecordsPromoted
    | DisputeHeard
    | DisputeAnswered
    | ClockChecked,
    Field(discriminator="kind"),
]

VERSION = 1
_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def encode(event: Event) -> bytes:
    """The JSON bytes of an event, as the journal hashes them; the same event always gives the same bytes."""
    return event.model_dump_json().encode()


def decode(version: int, body: bytes) -> Event:
    """The event back from its bytes. Raises Damaged on bytes that no version of this program wrote."""
    if version > VERSION:
        raise Damaged(f"an event has schema version {version}, expected 1..{VERSION}: a newer Tenor wrote it")
    try:
        return _EVENT.validate_json(body)
    except ValidationError as error:
        raise Damaged(f"an event cannot be read: {error.errors()[0]['msg']} in {body[:200]!r}") from error
