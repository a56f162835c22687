"""Whether a listing can be honoured as written, and if not, everything that is wrong with it.

A seller who is told one fault at a time mends a listing in ten rounds; so every check runs and every fault is named,
each with the field, what it was and what was expected. `parse_terms` does the same for what has the wrong type.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from datetime import date
from typing import Any

from pydantic import ValidationError

from scheduler.core.cluster import Fleet, Level
from scheduler.core.errors import InvalidInstrument, UnknownName
from scheduler.core.instruments import (
    CustomProfile,
    InstrumentTerms,
    InterNode,
    IntraNode,
    PauseCredit,
    PeakProfile,
    Recallable,
    SwingProfile,
    Tenancy,
)
from scheduler.core.models import Model
from scheduler.core.profiles import delivery_intervals, time_zone
from scheduler.core.quantities import MS_PER_DAY, ONE_PPM

MAX_WINDOW_MS = 3_653 * MS_PER_DAY
"""Ten years: no window is longer."""

GradeShapes = Mapping[str, Mapping[Level, Collection[int]]]
"""For each grade and level, the sizes (in GPUs) of the cells there are."""


def parse_terms(plain: Mapping[str, Any] | bytes | str) -> InstrumentTerms:
    """Terms from JSON or from plain data; enums and levels by name.

    Raises InvalidInstrument with every field that is missing, unknown or of the wrong type; nothing is converted.
    """
    symbol = "(unnamed)"
    if isinstance(plain, Mapping):
        given = plain.get("symbol")
        symbol = given if isinstance(given, str) else symbol
        try:
            plain = json.dumps(dict(plain), default=_plain, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidInstrument(symbol, (f"it cannot be written as JSON: {error}",)) from error
    try:
        return InstrumentTerms.model_validate_json(plain)
    except ValidationError as error:
        raise InvalidInstrument(_symbol(plain, symbol), _type_faults(error)) from error


def grade_shapes(fleet: Fleet, site: str) -> dict[str, dict[Level, frozenset[int]]]:
    """What `check_listing` needs to know of a fleet's grades at one site.

    A cell with nodes of several grades counts for none of them at that level.
    """
    sizes: dict[str, dict[Level, set[int]]] = {}
    cells: dict[tuple[Level, str], tuple[set[str], int]] = {}
    for node in fleet.nodes:
        if node.site != site:
            continue
        paths = (
            (Level.NODE, node.name),
            (Level.NVLINK_DOMAIN, f"{node.block}/{node.domain}"),
            (Level.FABRIC_BLOCK, node.block),
            (Level.SITE, node.site),
        )
        sizes.setdefault(node.grade, {})[Level.GPU] = {1}
        for path in paths:
            grades, gpus = cells.get(path, (set(), 0))
            cells[path] = (grades | {node.grade}, gpus + node.gpus)
    for (level, _), (grades, gpus) in cells.items():
        if len(grades) == 1:
            sizes[next(iter(grades))].setdefault(level, set()).add(gpus)
    return {
        grade: {level: frozenset(found) for level, found in sorted(levels.items())}
        for grade, levels in sorted(sizes.items())
    }


def check_listing(
    terms: InstrumentTerms,
    known_grades: Collection[str] | GradeShapes | None = None,
    known_sites: Collection[str] | None = None,
) -> None:
    """Refuse terms that cannot be honoured as written. Raises InvalidInstrument with every fault named.

    `known_grades`: the grades there are, None where unknown; as a mapping (`grade_shapes`) it also says which cell
    sizes each has, and then every deliverable must reach the lot's shape. `known_sites`: the same for sites.
    """
    faults = (
        *_deliverable_faults(terms, known_grades),
        *_site_faults(terms, known_sites),
        *_lot_faults(terms),
        *_window_faults(terms),
        *_profile_faults(terms),
        *_swing_faults(terms),
        *_firmness_faults(terms),
        *_throughput_faults(terms),
        *_service_faults(terms),
        *_money_faults(terms),
    )
    if faults:
        raise InvalidInstrument(terms.id, faults)


def _fault(field: str, was: object, expected: str) -> str:
    return f"{field} was {was}, expected {expected}"


def _names(known: Collection[str]) -> str:
    names = sorted(known)
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return "one of " + ", ".join(names[:10]) + more if names else "a known one, and none is known"


def _deliverable_faults(terms: InstrumentTerms, known: Collection[str] | GradeShapes | None) -> Iterator[str]:
    par = terms.deliverables[0] if terms.deliverables else None
    if par is None or par.grade != terms.grade.klass:
        was = "empty" if par is None else repr(par.grade)
        yield _fault("deliverables[0].grade", was, f"the par grade {terms.grade.klass!r} first")
    else:
        if par.conversion_ppm != ONE_PPM:
            yield _fault("deliverables[0].conversion_ppm", par.conversion_ppm, f"{ONE_PPM}, as it is par")
        if par.needs_consent:
            yield _fault("deliverables[0].needs_consent", par.needs_consent, "False, as it is par")
    seen: set[str] = set()
    for i, deliverable in enumerate(terms.deliverables):
        if deliverable.grade in seen:
            yield _fault(f"deliverables[{i}].grade", repr(deliverable.grade), "each grade once")
        seen.add(deliverable.grade)
        if not 1 <= deliverable.conversion_ppm <= 100 * ONE_PPM:
            yield _fault(f"deliverables[{i}].conversion_ppm", deliverable.conversion_ppm, f"1..{100 * ONE_PPM}")
    if known is not None:
        yield from _grade_faults(terms, known)


def _grade_faults(terms: InstrumentTerms, known: Collection[str] | GradeShapes) -> Iterator[str]:
    named = {"grade.klass": terms.grade.klass}
    named |= {f"deliverables[{i}].grade": each.grade for i, each in enumerate(terms.deliverables)}
    if terms.deliverables and terms.deliverables[0].grade == terms.grade.klass:
        del named["deliverables[0].grade"]  # said once is enough
    for field, grade in named.items():
        if grade not in known:
            yield _fault(field, repr(grade), _names(known))
        elif isinstance(known, Mapping) and terms.lot.cell != Level.GPU:
            sizes = known[grade].get(terms.lot.cell, ())
            if terms.lot.gpus not in sizes:
                there_are = ", ".join(map(str, sorted(sizes))) or "no such cell"
                wanted = f"a lot is one {terms.lot.cell.name} of {terms.lot.gpus} GPUs"
                yield f"{field} {grade!r} does not reach the lot's shape: {wanted}, the grade has {there_are}"


def _site_faults(terms: InstrumentTerms, known_sites: Collection[str] | None) -> Iterator[str]:
    if known_sites is not None and terms.site not in known_sites:
        yield _fault("site", repr(terms.site), _names(known_sites))


def _lot_faults(terms: InstrumentTerms) -> Iterator[str]:
    cell, grade = terms.lot.cell, terms.grade
    if cell == Level.NVLINK_DOMAIN and grade.intra_node not in {IntraNode.NVLINK, IntraNode.XGMI}:
        yield _fault("grade.intra_node", grade.intra_node, "NVLINK or XGMI where lot.cell is NVLINK_DOMAIN")
    if cell == Level.FABRIC_BLOCK and grade.inter_node == InterNode.NONE:
        yield _fault("grade.inter_node", grade.inter_node, "a fabric where lot.cell is FABRIC_BLOCK")
    if grade.tenancy == Tenancy.WHOLE_NODE and cell == Level.GPU:
        yield _fault("lot.cell", cell.name, "NODE or above where grade.tenancy is WHOLE_NODE")
    if grade.tenancy == Tenancy.WHOLE_SITE and cell != Level.SITE:
        yield _fault("lot.cell", cell.name, "SITE where grade.tenancy is WHOLE_SITE")


def _window_faults(terms: InstrumentTerms) -> Iterator[str]:
    window = terms.window
    for field, at_ms in (("window.start_ms", window.start_ms), ("window.end_ms", window.end_ms)):
        if at_ms % terms.interval_ms:
            yield _fault(field, at_ms, f"a multiple of the metering interval, {terms.interval_ms} ms")
    if window.interval.length_ms > MAX_WINDOW_MS:
        yield _fault("window", f"{window.interval.length_ms} ms long", f"{MAX_WINDOW_MS} ms (ten years) at most")


def _profile_faults(terms: InstrumentTerms) -> Iterator[str]:
    match terms.profile:
        case PeakProfile():
            wrong = tuple(_peak_faults(terms.profile))
        case CustomProfile():
            wrong = tuple(_custom_faults(terms, terms.profile))
        case _:
            return
    yield from wrong
    if wrong or terms.window.interval.length_ms > MAX_WINDOW_MS:
        return  # what follows would only repeat it
    intervals = delivery_intervals(terms)
    if not intervals:
        yield "profile is empty: nothing of it falls into the window"
    for interval in intervals:
        if interval.start_ms % terms.interval_ms or interval.end_ms % terms.interval_ms:
            shown = f"[{interval.start_ms}, {interval.end_ms})"
            yield _fault("profile", f"on in {shown}", f"multiples of the metering interval, {terms.interval_ms} ms")
            return  # the first says it; a year may have hundreds


def _peak_faults(profile: PeakProfile) -> Iterator[str]:
    try:
        time_zone(profile.time_zone)
    except UnknownName:
        yield _fault("profile.time_zone", repr(profile.time_zone), "a name of the IANA time zone database")
    if not profile.days or len(set(profile.days)) != len(profile.days):
        yield _fault("profile.days", [str(day) for day in profile.days], "one day or more, each once")
    if profile.start_local == "24:00":
        yield _fault("profile.start_local", "24:00", "00:00 to 23:59")


def _custom_faults(terms: InstrumentTerms, profile: CustomProfile) -> Iterator[str]:
    window = terms.window
    before_ms = 0
    for i, step in enumerate(profile.steps):
        shown = f"[{step.start_ms}, {step.end_ms})"
        if step.start_ms < window.start_ms or step.end_ms > window.end_ms:
            yield _fault(f"profile.steps[{i}]", shown, f"inside the window [{window.start_ms}, {window.end_ms})")
        if step.start_ms < before_ms:
            yield _fault(f"profile.steps[{i}]", shown, f"a start at {before_ms}, the end of the step before, or later")
        before_ms = max(before_ms, step.end_ms)


def _swing_faults(terms: InstrumentTerms) -> Iterator[str]:
    swing = terms.swing
    if swing is None:
        if isinstance(terms.profile, SwingProfile):
            yield _fault("swing", "missing", "swing terms where profile is SWING")
        return
    if not isinstance(terms.profile, SwingProfile):
        yield _fault("swing", "given", f"none where profile is {terms.profile.kind}")
    if swing.max_rate_gpus > terms.lot.gpus:
        yield _fault("swing.max_rate_gpus", swing.max_rate_gpus, f"1..{terms.lot.gpus}, the lot's GPUs")
    most_gpu_ms = min(swing.max_rate_gpus, terms.lot.gpus) * terms.window.interval.length_ms
    if not 1 <= swing.total_gpu_ms <= most_gpu_ms:
        yield _fault("swing.total_gpu_ms", swing.total_gpu_ms, f"1..{most_gpu_ms}, the rate cap over the window")
    if swing.min_take_gpu_ms > swing.total_gpu_ms:
        yield _fault("swing.min_take_gpu_ms", swing.min_take_gpu_ms, f"0..{swing.total_gpu_ms}, the total")


def _firmness_faults(terms: InstrumentTerms) -> Iterator[str]:
    recall = terms.firmness
    if not isinstance(recall, Recallable):
        return
    window_ms = terms.window.interval.length_ms
    for field in ("notice_ms", "min_run_ms"):
        if getattr(recall, field) > window_ms:
            yield _fault(f"firmness.{field}", getattr(recall, field), f"0..{window_ms}, the window's length")
    most_gpu_ms = terms.lot.gpus * window_ms
    if not 1 <= recall.max_quantity_gpu_ms <= most_gpu_ms:
        was = recall.max_quantity_gpu_ms
        yield _fault("firmness.max_quantity_gpu_ms", was, f"1..{most_gpu_ms}, the lot over the window")


def _throughput_faults(terms: InstrumentTerms) -> Iterator[str]:
    throughput = terms.throughput
    names = [metric.name for metric in throughput.metrics]
    if not names or len(set(names)) != len(names):
        yield _fault("throughput.metrics", names, "one metric or more, each name once")
    if throughput.floor_ppm > ONE_PPM:
        yield _fault("throughput.floor_ppm", throughput.floor_ppm, f"0..{ONE_PPM}")
    if throughput.reject_below_ppm > throughput.floor_ppm:
        was = throughput.reject_below_ppm
        yield _fault("throughput.reject_below_ppm", was, f"0..{throughput.floor_ppm}, the floor")


def _service_faults(terms: InstrumentTerms) -> Iterator[str]:
    window_ms = terms.window.interval.length_ms
    if terms.availability_target_ppm > ONE_PPM:
        yield _fault("availability_target_ppm", terms.availability_target_ppm, f"0..{ONE_PPM}")
    if terms.bind_limit_s < 1:
        yield _fault("bind_limit_s", terms.bind_limit_s, "1 or more")
    if terms.drain_s * 1_000 >= window_ms:
        yield _fault("drain_s", terms.drain_s, f"less than the window, {window_ms} ms")
    if terms.maintenance.budget_ms > window_ms:
        yield _fault("maintenance.budget_ms", terms.maintenance.budget_ms, f"0..{window_ms}, the window's length")
    times = terms.settlement
    if times.initial_after_s > times.final_after_s:
        yield _fault("settlement.initial_after_s", times.initial_after_s, f"0..{times.final_after_s}, final_after_s")
    if isinstance(terms.unused_rule, PauseCredit) and terms.unused_rule.credit_ppm > ONE_PPM:
        yield _fault("unused_rule.credit_ppm", terms.unused_rule.credit_ppm, f"0..{ONE_PPM}")


def _money_faults(terms: InstrumentTerms) -> Iterator[str]:
    damages = terms.damages
    if damages.cap_micro is not None and damages.cap_ppm is not None:
        yield _fault("damages", "capped twice", "cap_micro or cap_ppm, not both")
    if damages.reference_price_micro_per_gpu_hour and 0 in {damages.cap_micro, damages.cap_ppm}:
        yield _fault("damages", "capped at 0", "a positive cap, or no reference price")


def _plain(value: object) -> object:
    """What `json.dumps` cannot write by itself but a caller may well give."""
    if isinstance(value, Model):
        return value.model_dump(mode="json")
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} {value!r} is not plain data")


def _symbol(text: bytes | str, otherwise: str) -> str:
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError):
        return otherwise
    symbol = plain.get("symbol") if isinstance(plain, dict) else None
    return symbol if isinstance(symbol, str) else otherwise


def _type_faults(error: ValidationError) -> Iterator[str]:
    for fault in error.errors(include_url=False, include_context=False):
        field = ".".join(str(part) for part in fault["loc"]) or "the listing"
        what = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "missing":
            yield f"{field} is missing"
        elif fault["type"] == "default_factory_not_called":
            continue  # a default that hangs on a field which has its own fault
        else:
            was = repr(fault["input"])
            shown = was if len(was) <= 100 else was[:100] + "..."
            yield f"{field} was {shown}: {what[0].lower()}{what[1:]}"
