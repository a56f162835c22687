"""The meter as its definition says it, one GPU and one millisecond at a time: slow, and too simple to be wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from scheduler.core.causes import Bearer, Cause
from scheduler.core.cluster import Fleet, Level
from scheduler.core.intervals import Interval, StepFunction
from scheduler.core.metering.declared import Declaration, DeclaredKind
from scheduler.core.metering.estimation import Sight
from scheduler.core.metering.records import MeterRecord, PoolRecord, Quality, RecordStatus
from scheduler.core.metering.states import STATE_OF_CAUSE, State
from scheduler.core.metering.terms import Contract
from scheduler.core.quantities import ONE_PPM

INITIAL: dict[str, Any] = {"owner": -1, "cause": 0, "occupant": -1, "performance": (ONE_PPM, ""), "late": False}


@dataclass
class Told:
    """What the meter was told: (field, instant, GPUs, value) in the order of telling; sights; when each GPU joined."""

    fleet: Fleet
    joined_ms: Sequence[int]
    facts: list[tuple[str, int, tuple[int, ...], Any]] = field(default_factory=list)
    sights: list[tuple[int, Sight]] = field(default_factory=list)
    declarations: tuple[Declaration, ...] = ()

    def value(self, name: str, gpu: int, at_ms: int) -> Any:
        """The latest fact at or before an instant; of two at one instant the later told."""
        best_ms, value = -1, INITIAL[name]
        for fact, told_ms, gpus, told in self.facts:
            since_ms = max(told_ms, self.joined_ms[gpu])
            if fact == name and gpu in gpus and best_ms <= since_ms <= at_ms:
                best_ms, value = since_ms, told
        return value

    def sight(self, at_ms: int) -> Sight:
        """How the fleet was seen at an instant."""
        best_ms, seen = -1, Sight.OBSERVED
        for told_ms, told in self.sights:
            if best_ms <= told_ms <= at_ms:
                best_ms, seen = told_ms, told
        return seen

    def cell_mates(self, gpu: int, level: Level) -> list[int]:
        """All GPUs of the cell that a GPU lies in."""
        number = {
            Level.GPU: gpu,
            Level.NODE: int(self.fleet.node_of_gpu[gpu]),
            Level.NVLINK_DOMAIN: int(self.fleet.domain_of_node[self.fleet.node_of_gpu[gpu]]),
        }[level]
        return [int(mate) for mate in self.fleet.gpus_of_cell(level, number)]

    def sickness(self, gpu: int, level: Level, at_ms: int) -> tuple[int, Declaration | None]:
        """Its own cause with what was declared of it, else the lowest in its cell, undeclared first."""
        for gpus in ([gpu], self.cell_mates(gpu, level)):
            sick = [
                (int(cause), self.declared(mate, at_ms)) for mate in gpus if (cause := self.value("cause", mate, at_ms))
            ]
            if sick:
                cause, number = min(sick)
                return cause, self.declarations[number] if number >= 0 else None
        return 0, None

    def ill_for(self, gpu: int, level: Level, at_ms: int, most_ms: int) -> bool:
        """Whether some GPU of its cell has not been well for so long, counted back."""
        return any(
            all(self.value("cause", mate, before_ms) for before_ms in range(at_ms, at_ms - most_ms - 1, -1))
            for mate in {gpu, *self.cell_mates(gpu, level)}
        )

    def declared(self, gpu: int, at_ms: int) -> int:
        """The number of the first declaration that a sick GPU falls under; -1: none."""
        node = self.fleet.nodes[int(self.fleet.node_of_gpu[gpu])].name
        cause = Cause(self.value("cause", gpu, at_ms))
        for number, each in enumerate(self.declarations):
            drained = each.kind is DeclaredKind.MAINTENANCE and cause is Cause.DRAIN
            applies = drained or cause.bearer is Bearer.SELLER
            if node in each.nodes and each.from_ms <= at_ms < each.until_ms and applies:
                return number
        return -1


REPLACED = {Cause.GPU_FAULT, Cause.ECC, Cause.NVLINK, Cause.FABRIC, Cause.NODE_LOST, Cause.THERMAL, Cause.POWER_CAP}
"""What is wrong with a failed device."""


def sickness_of(told: Told, contract: Contract, gpu: int, at_ms: int) -> Cause | None:
    """What a sick GPU's ms is lost to; None: it is well."""
    terms = contract.terms
    sick, declared = told.sickness(gpu, terms.cell, at_ms)
    if sick == Cause.DRAIN and terms.drain_from_ms is not None and at_ms >= terms.drain_from_ms:
        return Cause.DRAIN
    if sick and declared is not None and declared.kind is DeclaredKind.MAINTENANCE:
        if declared.from_ms - declared.told_ms >= terms.notice_ms:
            return Cause.PLANNED_MAINTENANCE
    elif sick and declared is not None and terms.excused:
        return Cause.FORCE_MAJEURE
    grace_ms = terms.replace_within_ms
    if sick in REPLACED and grace_ms and not told.ill_for(gpu, terms.cell, at_ms, grace_ms):
        return Cause.REPLACEMENT
    if sick == Cause.DRAIN:
        return Cause.MAINTENANCE_OVER_BUDGET
    return Cause(sick) if sick else None


def outcome_of(told: Told, contract: Contract, gpu: int, at_ms: int) -> Cause | State:
    """What one covered GPU-ms counts as, before any derate."""
    terms = contract.terms
    sick = sickness_of(told, contract, gpu, at_ms)
    grade = told.fleet.nodes[int(told.fleet.node_of_gpu[gpu])].grade
    ppm, _ = told.value("performance", gpu, at_ms)
    if told.sight(at_ms) is Sight.NOT_OBSERVED:
        return Cause.NOT_OBSERVED
    if sick is not None:
        return sick
    if not accepted(contract, grade, at_ms):
        return Cause.WRONG_GRADE
    if told.value("late", gpu, at_ms):
        return Cause.LATE_BIND
    if not terms.total and ppm < terms.reject_below_ppm:
        return Cause.UNDER_PERFORMANCE
    return State.USED if told.value("occupant", gpu, at_ms) == contract.account else State.AVAILABLE_UNUSED


def accepted(contract: Contract, grade: str, at_ms: int) -> bool:
    """Whether a grade counts as delivered at an instant: by the terms, and by consent where they ask for it."""
    agreed_ms = dict(contract.consented_since_ms).get(grade, 0)
    deliverables = dict(contract.terms.deliverables)
    return not deliverables or (grade in deliverables and agreed_ms is not None and agreed_ms <= at_ms)


@dataclass
class Counted:
    """One position's interval, counted."""

    outcomes: Counter[tuple[Cause | State, str, int]] = field(default_factory=Counter)
    """By outcome, grade and ppm; what had no GPU has grade `-`."""
    suites: set[str] = field(default_factory=set)
    contracted: int = 0
    estimated: int = 0
    suspect: bool = False


def count(told: Told, contract: Contract, interval: Interval) -> Counted:
    """Walk the interval."""
    counted = Counted()
    for at_ms in range(interval.start_ms, interval.end_ms):
        mine = [
            gpu
            for gpu in range(told.fleet.n_gpus)
            if told.joined_ms[gpu] <= at_ms and told.value("owner", gpu, at_ms) == contract.index
        ]
        contracted = contract.contracted_gpus.at(at_ms)
        assert len(mine) <= contracted, "the example covers more than was contracted"
        counted.contracted += contracted
        counted.suspect |= told.sight(at_ms) is Sight.SUSPECT
        rest = contract.uncovered_cause
        missing = Cause(rest.at(at_ms) or Cause.OVERSOLD) if isinstance(rest, StepFunction) else rest
        left = contracted - len(mine)
        for cause, gpus in contract.withheld_gpus:
            counted.outcomes[cause, "-", 0] += min(left, gpus.at(at_ms))
            left -= min(left, gpus.at(at_ms))
        if missing is Cause.SHORTAGE_RULE:
            counted.outcomes[Cause.FORCE_MAJEURE, "-", 0] += min(left, contract.excused_gpus.at(at_ms))
            left -= min(left, contract.excused_gpus.at(at_ms))
        counted.outcomes[missing, "-", 0] += left
        for gpu in mine:
            outcome = outcome_of(told, contract, gpu, at_ms)
            ppm, suite = told.value("performance", gpu, at_ms)
            grade = told.fleet.nodes[int(told.fleet.node_of_gpu[gpu])].grade
            counted.outcomes[outcome, grade, ppm] += 1
            counted.estimated += told.sight(at_ms) is Sight.ESTIMATED
            if outcome in (State.USED, State.AVAILABLE_UNUSED, Cause.UNDER_PERFORMANCE):
                counted.suites |= {suite} - {""}
    return counted


def hold_to_budget(counted: Counted, left_gpu_ms: int) -> None:
    """What is planned beyond the budget is the seller's."""
    for key in [key for key in counted.outcomes if key[0] is Cause.PLANNED_MAINTENANCE]:
        within = min(left_gpu_ms, counted.outcomes[key])
        left_gpu_ms -= within
        counted.outcomes[Cause.MAINTENANCE_OVER_BUDGET, *key[1:]] += counted.outcomes[key] - within
        counted.outcomes[key] = within


def record_of(told: Told, contract: Contract, interval: Interval) -> MeterRecord:
    """The record that the definition gives."""
    terms, counted = contract.terms, count(told, contract, interval)
    hold_to_budget(counted, contract.planned_left_gpu_ms)
    judged = [
        (gpu_ms, ppm)
        for (outcome, grade, ppm), gpu_ms in counted.outcomes.items()
        if grade != "-" and outcome in (State.USED, State.AVAILABLE_UNUSED, Cause.UNDER_PERFORMANCE) and gpu_ms
    ]
    weight = sum(gpu_ms for gpu_ms, _ in judged)
    mean = sum(gpu_ms * ppm for gpu_ms, ppm in judged) // weight if weight else 0
    states, losses, delivered = dict.fromkeys(State, 0), Counter[Cause](), Counter[str]()
    to_derate: Counter[tuple[State, str, int]] = Counter()
    for (outcome, grade, ppm), gpu_ms in counted.outcomes.items():
        if isinstance(outcome, State):
            if terms.total and mean < terms.reject_below_ppm:
                states[State.OUT_FORCED] += gpu_ms
                losses[Cause.UNDER_PERFORMANCE] += gpu_ms
            else:
                to_derate[outcome, grade, mean if terms.total else ppm] += gpu_ms
            continue
        states[STATE_OF_CAUSE[outcome]] += gpu_ms
        if outcome is Cause.BUYER_RELEASE:
            delivered[grade] += gpu_ms
        else:
            losses[outcome] += gpu_ms
    for (state, grade, ppm), gpu_ms in to_derate.items():
        gone = max(0, terms.floor_ppm - ppm) * terms.discount_slope_ppm * gpu_ms
        lost = min(gpu_ms, gone // 10**12 + (gone % 10**12 > 0))
        states[state] += gpu_ms - lost
        states[State.DERATED] += lost
        losses[Cause.UNDER_PERFORMANCE] += lost
        delivered[grade] += gpu_ms - lost
    conversion = dict(terms.deliverables)
    worth = sum(gpu_ms * conversion.get(grade, ONE_PPM) for grade, gpu_ms in delivered.items() if grade != "-")
    substituted = any(gpu_ms and grade not in ("-", terms.grade) for grade, gpu_ms in delivered.items())
    quality = Quality.SUBSTITUTED if substituted else Quality.MEASURED
    quality = Quality.ESTIMATED if counted.estimated else quality
    return MeterRecord(
        position=contract.position,
        instrument=contract.instrument,
        start_ms=interval.start_ms,
        end_ms=interval.end_ms,
        status=RecordStatus.INITIAL,
        contracted_gpu_ms=counted.contracted,
        **{f"{state}_gpu_ms": gpu_ms for state, gpu_ms in states.items()},
        losses=tuple(sorted((cause, gpu_ms) for cause, gpu_ms in losses.items() if gpu_ms)),
        par_gpu_ms=worth // ONE_PPM + delivered["-"],
        measured_mean_ppm=mean,
        measured_min_ppm=min((ppm for _, ppm in judged), default=0),
        suite="+".join(sorted(counted.suites)),
        quality=Quality.SUSPECT if counted.suspect else quality,
        estimated_gpu_ms=counted.estimated,
    )


def pools_of(told: Told, contracts: Sequence[Contract], interval: Interval) -> tuple[PoolRecord, ...]:
    """The pool certificates that the definition gives."""
    parts: dict[tuple[str, str], Counter[str]] = {pool: Counter() for pool in told.fleet.pools}
    known = {contract.index for contract in contracts}
    for contract in contracts:
        parts[contract.terms.grade, contract.terms.site]["sold"] += contract.contracted_gpus.integral(interval)
    for at_ms in range(interval.start_ms, interval.end_ms):
        for gpu in range(told.fleet.n_gpus):
            if told.joined_ms[gpu] > at_ms:
                continue
            node = told.fleet.nodes[int(told.fleet.node_of_gpu[gpu])]
            part, owner = parts[node.grade, node.site], told.value("owner", gpu, at_ms)
            part["total"] += 1
            if owner != -1:
                part["covered"] += 1
                part["sold"] += owner not in known
            elif told.sight(at_ms) is Sight.NOT_OBSERVED:
                part["unknown"] += 1
            elif told.value("cause", gpu, at_ms):
                part["unsold_unhealthy"] += 1
            else:
                part["unsold_idle" if told.value("occupant", gpu, at_ms) == -1 else "unsold_used"] += 1
    names = ("total", "sold", "covered", "unsold_used", "unsold_idle", "unsold_unhealthy", "unknown")
    return tuple(
        PoolRecord.model_validate(
            {"grade": grade, "site": site, "start_ms": interval.start_ms, "end_ms": interval.end_ms}
            | {f"{name}_gpu_ms": part[name] for name in names}
        )
        for (grade, site), part in parts.items()
    )
