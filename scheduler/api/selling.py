"""What may be sold and what backs what is sold, as people ask for it.

Two steps each: *facts* are taken out of the state under the scheduler's guard, quickly; the answer is worked out from
them alone, for as long as it takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from scheduler.api import asked, codec, messages, views
from scheduler.core.causes import Cause
from scheduler.core.cluster import Level
from scheduler.core.coverage.accreditation import Accredited
from scheduler.core.coverage.backing import handovers, stand_ins
from scheduler.core.coverage.standing import standing
from scheduler.core.coverage.topology import LEVELS
from scheduler.core.errors import InvalidValue, UnknownName
from scheduler.core.ids import natural_key
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.rounds.selling import (
    MOST_ROWS,
    Risk,
    SalesView,
    accreditation,
    intervals,
    may_be_sold,
    offer_of,
    pool_number,
    sales_view,
)
from scheduler.core.state.state import State


@dataclass(frozen=True, slots=True)
class Question:
    """The window that is asked about (None: the delivery's own end) and the loss that is to be survived."""

    from_ms: int | None
    to_ms: int | None
    risk: Risk


@dataclass(frozen=True, slots=True)
class OfferFacts:
    """An instrument, and what is sold."""

    view: SalesView
    terms: InstrumentTerms


@dataclass(frozen=True, slots=True)
class BackingFacts:
    """The same, with the window and what stands behind each position in it."""

    view: SalesView
    terms: InstrumentTerms
    subject: str
    from_ms: int
    to_ms: int
    positions: tuple[messages.BackedPosition, ...]


def risk_of(losses: int | None, domain: Level | None) -> Risk:
    """The loss as asked, the defaults where nothing was."""
    default = Risk()
    return Risk(default.losses if losses is None else losses, default.domain if domain is None else domain)


def question_of(request: Any, which: str) -> Question:
    """What a request asks of a window and a loss (`from_ms`, `to_ms`, `losses`, `domain`). Raises InvalidValue naming
    the field that is wrong.
    """
    from_ms = asked.instant("from_ms", which, request.from_ms) if request.HasField("from_ms") else None
    to_ms = asked.instant("to_ms", which, request.to_ms) if request.HasField("to_ms") else None
    losses = asked.losses(which, request.losses) if request.HasField("losses") else None
    cells = request.DESCRIPTOR.fields_by_name["domain"].enum_type
    domain = asked.failure_domain(which, codec.name_of(cells, request.domain))
    return Question(from_ms, to_ms, risk_of(losses, domain))


def offer_facts(state: State, now_ms: int, spares: Iterable[str], instrument: str) -> OfferFacts:
    """The facts of an instrument. Raises UnknownName."""
    terms = state.instruments.get(instrument)
    if terms is None:
        raise UnknownName("instrument", instrument, state.instruments)
    return OfferFacts(sales_view(state, now_ms, spares), terms)


def deliverable(facts: OfferFacts, question: Question, *, plan: bool) -> messages.Deliverable:
    """What more may be sold. Raises UnknownName for a pool that the fleet has not, InvalidValue for a window without
    delivery.
    """
    view, terms, risk = facts.view, facts.terms, question.risk
    offer = offer_of(view, terms, question.from_ms, question.to_ms, risk)
    from_ms, to_ms = offer.stretches[0].start_ms, offer.stretches[-1].end_ms
    found = may_be_sold(view, terms, offer, plan=plan)
    few = intervals(view, offer.pool, from_ms, to_ms) <= MOST_ROWS
    rows = accreditation(view, offer.pool, (terms.lot.cell,), from_ms, to_ms, risk) if few else ()
    return messages.Deliverable(
        instrument=terms.id,
        grade=terms.grade.klass,
        site=terms.site,
        cell=_name(terms.lot.cell),
        gpus_per_lot=terms.lot.gpus,
        from_ms=from_ms,
        to_ms=to_ms,
        losses=risk.losses,
        domain=_name(risk.domain),
        proven_lots=found.proven,
        planned_lots=found.planned,
        at_most_lots=found.at_most,
        tightest_ms=found.tightest_ms,
        survives=found.survives,
        uncovered_lots=_uncovered(view, offer.pool, from_ms, to_ms),
        intervals=_rows(rows),
    )


def backing_facts(state: State, now_ms: int, spares: Iterable[str], subject: str, question: Question) -> BackingFacts:
    """The facts of a position or an instrument. Raises UnknownName, InvalidValue for a window without delivery."""
    owned = state.book.positions.get(subject)
    instrument = subject if owned is None else owned.instrument
    terms = state.instruments.get(instrument)
    if terms is None:
        raise UnknownName("position or instrument", subject, [*state.book.positions, *state.instruments])
    from_ms = max(now_ms, terms.window.start_ms, question.from_ms or 0)
    to_ms = min(terms.window.end_ms, terms.window.end_ms if question.to_ms is None else question.to_ms)
    if to_ms <= from_ms:
        expected = f"a part of [{max(now_ms, terms.window.start_ms)}, {terms.window.end_ms})"
        raise InvalidValue("window", f"the backing of {subject}", (from_ms, to_ms), expected)
    names = [
        each.id
        for each in state.book.positions.values()
        if (each.id == subject or (owned is None and each.instrument == instrument))
        and (owned is not None or views.holds_later(state, each, now_ms))
    ]
    positions = tuple(_backed(state, name, now_ms, from_ms, to_ms) for name in sorted(names, key=natural_key))
    return BackingFacts(sales_view(state, now_ms, spares), terms, subject, from_ms, to_ms, positions)


def backing(facts: BackingFacts, question: Question) -> messages.Backing:
    """What stands behind it. Raises UnknownName for a pool that the fleet has not."""
    view, terms, risk = facts.view, facts.terms, question.risk
    fleet, level = view.fleet, terms.lot.cell
    pool = pool_number(fleet, terms)
    names = {each.position for each in facts.positions}
    theirs = [held for held in view.held.holdings if held.position in names]
    rows = accreditation(view, pool, LEVELS, facts.from_ms, facts.to_ms, risk)
    now = standing(fleet, pool, view.held, view.now_ms, view.now_ms + 1, view.usable)
    free = stand_ins(fleet, now, level, view.spare)
    return messages.Backing(
        subject=facts.subject,
        instrument=terms.id,
        grade=terms.grade.klass,
        site=terms.site,
        cell=_name(level),
        from_ms=facts.from_ms,
        to_ms=facts.to_ms,
        losses=risk.losses,
        domain=_name(risk.domain),
        positions=facts.positions,
        spares=tuple(fleet.cell_name(level, cell) for cell in free.spares),
        unsold_cells=len(free.unsold),
        margin=min((row.margin for row in rows if row.level == level), default=0),
        survives=all(row.margin >= 0 for row in rows),
        handovers=tuple(
            messages.Handover(
                position=each.position,
                at_ms=each.at_ms,
                cell=_name(each.level),
                leaves=tuple(fleet.cell_name(each.level, cell) for cell in each.leaves),
                enters=tuple(fleet.cell_name(each.level, cell) for cell in each.enters),
            )
            for each in handovers(theirs, facts.from_ms, facts.to_ms)
        ),
        intervals=_rows(row for row in rows if row.level == level),
    )


def _backed(state: State, name: str, now_ms: int, from_ms: int, to_ms: int) -> messages.BackedPosition:
    owned, refused = state.book.positions[name], state.refused.get(name)
    covers = state.calendar.owner_position == state.position_index[name]
    causes = Counter(state.health.cause[covers].tolist())
    causes.pop(0, 0)
    found = views.coverage(state, from_ms, to_ms, name).positions
    return messages.BackedPosition(
        position=name,
        account=owned.account,
        lots=owned.lots_at(now_ms),
        stretches=found[0].stretches if found else (),
        gpus=int(covers.sum()),
        ill=tuple(messages.CauseCount(Cause(cause).name.lower(), count) for cause, count in sorted(causes.items())),
        least_ppm=int(np.min(state.health.ppm[covers])) if covers.any() else 0,
        uncovered_cause="" if refused is None else refused.name.lower(),
    )


def _rows(rows: Iterable[Accredited]) -> tuple[messages.Accredited, ...]:
    return tuple(
        messages.Accredited(
            start_ms=row.start_ms,
            end_ms=row.end_ms,
            cell=_name(row.level),
            cells=row.cells,
            healthy=row.healthy,
            sold=row.sold,
            free=row.free,
            lost=row.lost,
            accredited=row.accredited,
            more=row.more,
        )
        for row in rows
    )


def _uncovered(view: SalesView, pool: int, from_ms: int, to_ms: int) -> int:
    """The most lots of each position that wait in the window, added up."""
    most: dict[str, int] = {}
    for each in view.uncovered:
        if each.pool == pool and each.start_ms < to_ms and each.end_ms > from_ms:
            most[each.position] = max(most.get(each.position, 0), each.lots)
    return sum(most.values())


def _name(level: Level) -> str:
    return level.name.lower()
