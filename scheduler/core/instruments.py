"""Instruments: the immutable, versioned terms of what is traded.

A market can trade a promise only if every party reads the same promise, so all of it is here as plain integers, names
and closed unions: what is delivered (lot, grade, site), when (window, profile), how surely (firmness), how fast
(throughput), how it is metered, and what is owed when it is not delivered. Laws: terms never change (a change is a new
version); `spec_hash` is the SHA-256 of their canonical bytes, so equal hashes mean equal promises.

The models here refuse what has the wrong type. What has the right type but cannot be honoured as written is refused by
`scheduler.core.listing.check_listing`, with every fault named.
"""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Literal, assert_never

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from scheduler.core.cluster import Level
from scheduler.core.ids import InstrumentId, Name, instrument_id
from scheduler.core.intervals import Interval
from scheduler.core.models import Model, canonical_hash
from scheduler.core.quantities import ONE_PPM

MAX_INSTANT_MS = 7_258_118_400_000
"""2200-01-01T00:00:00Z: no window reaches beyond it."""

METERING_INTERVALS_S = (10, 60, 300, 900, 3600)
"""The metering intervals that a listing may choose from, in seconds."""

Instant = Annotated[int, Field(ge=0, le=MAX_INSTANT_MS)]
Seconds = Annotated[int, Field(ge=0, le=315_360_000)]
"""Seconds, ten years at most."""
AnyPpm = Annotated[int, Field(ge=0, le=1_000_000_000)]
"""Parts per million of 0 to 1000; `check_listing` names the tighter bound of each field."""
Amount = Annotated[int, Field(ge=0, le=10**18)]
LocalTime = Annotated[str, StringConstraints(pattern=r"^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$")]
"""`HH:MM` as the clock on the wall shows it; `24:00` is the end of the day."""
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
"""An ISO 4217 code."""


def _level_by_name(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in Level.__members__:
        raise ValueError(f"was {value!r}, expected one of {', '.join(Level.__members__)}")
    return Level[value]


LevelName = Annotated[
    Level,
    BeforeValidator(_level_by_name),
    PlainSerializer(lambda level: level.name, return_type=str, when_used="json"),
]
"""A level that is written by its name (`NODE`) in JSON, and so in `spec_hash`."""


# -- what is delivered -------------------------------------------------------------------------------------------------


class IntraNode(StrEnum):
    """How the GPUs of a node reach each other."""

    NONE = "NONE"
    PCIE = "PCIE"
    NVLINK = "NVLINK"
    XGMI = "XGMI"


class InterNode(StrEnum):
    """How the nodes of a block reach each other."""

    NONE = "NONE"
    ETHERNET = "ETHERNET"
    ROCE = "ROCE"
    INFINIBAND = "INFINIBAND"
    NVLINK = "NVLINK"


class Tenancy(StrEnum):
    """Who else may run beside the owner."""

    SHARED = "SHARED"
    WHOLE_NODE = "WHOLE_NODE"
    WHOLE_SITE = "WHOLE_SITE"


class SelectedBy(StrEnum):
    """Which party picks the cells that stand behind a lot."""

    SELLER = "SELLER"
    BUYER = "BUYER"


class Lot(Model):
    """The smallest tradable quantity: `gpus` single GPUs where `cell` is GPU, else one whole cell of `gpus` GPUs."""

    gpus: int = Field(default=1, ge=1, le=1_000_000)
    cell: LevelName = Level.GPU

    @property
    def cells(self) -> int:
        """How many cells of level `cell` a lot is: `gpus` at GPU, 1 above."""
        return self.gpus if self.cell == Level.GPU else 1


class Grade(Model):
    """What a GPU must be. `klass` is the name that nodes carry as their grade (`H100SXM`)."""

    klass: Name
    form: Name = "SXM"
    memory_mib: int = Field(default=81_920, ge=1, le=100_000_000)
    intra_node: IntraNode = IntraNode.NVLINK
    inter_node: InterNode = InterNode.INFINIBAND
    tenancy: Tenancy = Tenancy.SHARED


class Deliverable(Model):
    """A grade that may stand in, worth `conversion_ppm` of the par grade. `needs_consent`: only if the buyer agrees."""

    grade: Name
    conversion_ppm: AnyPpm = ONE_PPM
    needs_consent: bool = False


# -- when it is delivered ----------------------------------------------------------------------------------------------


class Window(Model):
    """The delivery window `[start_ms, end_ms)`, UTC milliseconds."""

    start_ms: Instant
    end_ms: Instant

    @model_validator(mode="after")
    def _not_empty(self) -> Window:
        if self.start_ms >= self.end_ms:
            raise ValueError(f"end_ms was {self.end_ms}, expected an instant after start_ms {self.start_ms}")
        return self

    @property
    def interval(self) -> Interval:
        """The same as an interval."""
        return Interval(self.start_ms, self.end_ms)


class Weekday(StrEnum):
    """A day of the week, in ISO order."""

    MON = "MON"
    TUE = "TUE"
    WED = "WED"
    THU = "THU"
    FRI = "FRI"
    SAT = "SAT"
    SUN = "SUN"


WORKDAYS = (Weekday.MON, Weekday.TUE, Weekday.WED, Weekday.THU, Weekday.FRI)


class BaseProfile(Model):
    """The whole window."""

    kind: Literal["BASE"] = "BASE"


class PeakProfile(Model):
    """When a wall clock in `time_zone` shows `[start_local, end_local)` of one of `days` that is not in `holidays`.

    An end at or before the start means the next day's (`22:00` to `06:00`); day and holiday are those of the start.
    """

    kind: Literal["PEAK"] = "PEAK"
    time_zone: str = Field(min_length=1, max_length=64, description="A name of the IANA time zone database.")
    days: tuple[Weekday, ...] = Field(default=WORKDAYS, max_length=7)
    start_local: LocalTime = "08:00"
    end_local: LocalTime = "20:00"
    holidays: tuple[date, ...] = Field(default=(), max_length=4_000)


class SwingProfile(Model):
    """Any time in the window, as nominated; the budget and the rate cap are in `swing`."""

    kind: Literal["SWING"] = "SWING"


class CustomProfile(Model):
    """These steps of the window, the whole lot in each."""

    kind: Literal["CUSTOM"] = "CUSTOM"
    steps: tuple[Window, ...] = Field(max_length=20_000)


Profile = Annotated[BaseProfile | PeakProfile | SwingProfile | CustomProfile, Field(discriminator="kind")]


class SwingTerms(Model):
    """A budget of GPU time with a rate cap and take-or-pay. All quantities are for one lot."""

    total_gpu_ms: Amount
    min_take_gpu_ms: Amount = 0
    max_rate_gpus: int = Field(ge=1, le=1_000_000)
    nomination_lead_s: Seconds = 3_600


# -- how surely --------------------------------------------------------------------------------------------------------


class Firm(Model):
    """Delivered from whatever it takes."""

    kind: Literal["FIRM"] = "FIRM"


class UnitFirm(Model):
    """Firm as long as the named units (a pool of cells) run."""

    kind: Literal["UNIT_FIRM"] = "UNIT_FIRM"
    pool: Name


class SystemFirm(Model):
    """Firm as long as the seller's system as a whole can."""

    kind: Literal["SYSTEM_FIRM"] = "SYSTEM_FIRM"


class Recallable(Model):
    """The seller may take it back: at this notice, after it ran so long; so often and so much, for one lot in all."""

    kind: Literal["RECALLABLE"] = "RECALLABLE"
    notice_ms: int = Field(ge=0, le=MAX_INSTANT_MS)
    min_run_ms: int = Field(default=0, ge=0, le=MAX_INSTANT_MS)
    max_events: int = Field(ge=1, le=1_000_000)
    max_quantity_gpu_ms: Amount


class NonFirm(Model):
    """Delivered where there is something left."""

    kind: Literal["NON_FIRM"] = "NON_FIRM"


Firmness = Annotated[Firm | UnitFirm | SystemFirm | Recallable | NonFirm, Field(discriminator="kind")]


def firmness_rank(firmness: Firmness) -> int:
    """The class of the shortage rule, lower served first: 0 FIRM, 1 UNIT_ and SYSTEM_FIRM, 2 RECALLABLE, 3 NON_FIRM."""
    match firmness:
        case Firm():
            return 0
        case UnitFirm() | SystemFirm():
            return 1
        case Recallable():
            return 2
        case NonFirm():
            return 3
        case _:
            assert_never(firmness)


# -- how fast, and how well --------------------------------------------------------------------------------------------


class Metric(Model):
    """One measure of a suite, and the integer reference in its unit that is 1 000 000 ppm for one GPU."""

    name: Name
    unit: str = Field(min_length=1, max_length=64)
    reference: int = Field(ge=1, le=10**18)


class ThroughputScope(StrEnum):
    """EACH: every GPU reaches the floor. TOTAL: the converted, measured sum reaches the contracted throughput."""

    EACH = "EACH"
    TOTAL = "TOTAL"


class ThroughputTerms(Model):
    """The floor, as a share of the suite's reference, and what is lost below it.

    Below `floor_ppm` a GPU at `p` loses `(floor - p) x slope` of its time; below `reject_below_ppm` all of it.
    """

    suite: Name
    metrics: tuple[Metric, ...] = Field(max_length=64)
    scope: ThroughputScope = ThroughputScope.EACH
    floor_ppm: AnyPpm = 900_000
    reject_below_ppm: AnyPpm = 500_000
    discount_slope_ppm: AnyPpm = ONE_PPM


STAND_IN_THROUGHPUT = ThroughputTerms(
    suite="matmul.v1", metrics=(Metric(name="matmul", unit="MFLOP_PER_S", reference=10_000),)
)
"""The default terms: a matrix product, as the NumPy stand-in measures it on a machine without GPUs."""


class Maintenance(Model):
    """Planned outages: at this notice, and so long in the window for each lot."""

    notice_s: Seconds = 259_200
    budget_ms: int = Field(default=0, ge=0, le=MAX_INSTANT_MS)


class PayUnused(Model):
    """What is available is paid, used or not."""

    kind: Literal["PAY"] = "PAY"


class PauseCredit(Model):
    """Available time that is not used is credited with `credit_ppm` of its price."""

    kind: Literal["PAUSE_CREDIT"] = "PAUSE_CREDIT"
    credit_ppm: AnyPpm


class ReleaseUnused(Model):
    """The owner may give unused time back; what is released is not paid."""

    kind: Literal["RELEASE"] = "RELEASE"


UnusedRule = Annotated[PayUnused | PauseCredit | ReleaseUnused, Field(discriminator="kind")]


class Damages(Model):
    """max(0, replacement - contract) x undelivered, the replacement at the reference price; 0: no damages.

    At most one cap: `cap_micro` for one lot over the window, or `cap_ppm` of the lot's contract price over it.
    """

    reference_price_micro_per_gpu_hour: Amount = 0
    cap_micro: Amount | None = None
    cap_ppm: AnyPpm | None = None


class SettlementCalendar(StrEnum):
    """The settlement periods that statements are due for: the whole window, UTC days or UTC months."""

    DELIVERY_END = "DELIVERY_END"
    DAILY = "DAILY"
    MONTHLY = "MONTHLY"


class SettlementTimes(Model):
    """How records settle; `scheduler.core.settlement_times` makes instants of it.

    What was missing may come until `initial_after_s` after an interval's end. Records are final `final_after_s` after
    the end of their settlement period; they may be disputed, and what is learnt late corrects them, for `dispute_s`
    more. A dispute is answered within `answer_s`.
    """

    initial_after_s: Seconds = 3_600
    final_after_s: Seconds = 259_200
    dispute_s: Seconds = 604_800
    answer_s: Seconds = 259_200


# -- all of it ---------------------------------------------------------------------------------------------------------


def _par_alone(checked: dict[str, Any]) -> tuple[Deliverable, ...]:
    grade = checked.get("grade")
    return (Deliverable(grade=grade.klass),) if isinstance(grade, Grade) else ()


class InstrumentTerms(Model):
    """All terms of one listing. `deliverables` left out: the par grade alone."""

    symbol: Name
    version: int = Field(default=1, ge=1, le=1_000_000)
    lot: Lot = Lot()
    grade: Grade
    deliverables: tuple[Deliverable, ...] = Field(default_factory=_par_alone, max_length=64)
    site: Name = "local"
    selected_by: SelectedBy = SelectedBy.SELLER
    window: Window
    profile: Profile = BaseProfile()
    swing: SwingTerms | None = None
    firmness: Firmness = Firm()
    force_majeure_excuses: bool = True
    throughput: ThroughputTerms = STAND_IN_THROUGHPUT
    availability_target_ppm: AnyPpm = 995_000
    replace_within_s: Seconds = 600
    bind_limit_s: Seconds = 60
    drain_s: Seconds = 0
    handovers: bool = False
    """Whether a lot may pass from one cell to another inside the window, at an instant that is known in advance. Came
    later than other terms: left out of the canonical bytes where it is false, so that older listings keep their hash.
    """
    maintenance: Maintenance = Maintenance()
    unused_rule: UnusedRule = PayUnused()
    damages: Damages = Damages()
    metering_interval_s: Literal[10, 60, 300, 900, 3600] = 300
    settlement_calendar: SettlementCalendar = SettlementCalendar.DELIVERY_END
    settlement: SettlementTimes = SettlementTimes()
    """Left out of the canonical bytes where it is the default, as `handovers` is."""
    price_micro_per_gpu_hour: Amount
    currency: Currency = "USD"

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain: dict[str, Any] = written(self)
        if not self.handovers:
            del plain["handovers"]
        if self.settlement == SettlementTimes():
            del plain["settlement"]
        return plain

    @cached_property
    def id(self) -> InstrumentId:
        """`SYMBOL@VERSION`."""
        return instrument_id(self.symbol, self.version)

    @cached_property
    def spec_hash(self) -> str:
        """Lower-case hex SHA-256 of the canonical bytes of the terms."""
        return canonical_hash(self)

    @property
    def interval_ms(self) -> int:
        """The length of a metering interval."""
        return self.metering_interval_s * 1_000

    @property
    def firmness_rank(self) -> int:
        """The class of the shortage rule, 0 (served first) to 3."""
        return firmness_rank(self.firmness)

    def __hash__(self) -> int:
        return hash(self.spec_hash)


def cells_per_lot(terms: InstrumentTerms) -> int:
    """How many cells of level `terms.lot.cell` one lot is: the lot's GPUs at GPU, 1 above."""
    return terms.lot.cells


def standard_terms(
    *,
    symbol: str,
    start_ms: int,
    end_ms: int,
    grade: str = "H100SXM",
    site: str = "local",
    cell: Level = Level.GPU,
    gpus: int = 1,
    version: int = 1,
    price_micro_per_gpu_hour: int = 2_000_000,
    metering_interval_s: Literal[10, 60, 300, 900, 3600] = 300,
    **terms: Any,
) -> InstrumentTerms:
    """The common listing: firm base load of one grade at one site; `terms` sets any other field."""
    return InstrumentTerms(
        symbol=symbol,
        version=version,
        lot=Lot(gpus=gpus, cell=cell),
        grade=Grade(klass=grade),
        site=site,
        window=Window(start_ms=start_ms, end_ms=end_ms),
        price_micro_per_gpu_hour=price_micro_per_gpu_hour,
        metering_interval_s=metering_interval_s,
        **terms,
    )
