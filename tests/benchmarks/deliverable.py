"""How long it takes to say what more may be sold: a fleet sold for a year, by its size and the number of holdings.

The *bound* is what is proven over the whole year at once (one envelope, any loss of a domain); *accreditation* is a row
for each level of each month; the baseline is the count of free cells at the fullest instant, which promises nothing
once a domain is lost. Times are of answers from columns that are there already; `columns_s` is what making them takes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from scheduler.core.cluster import Fleet, Level, NodeSpec
from scheduler.core.coverage.accreditation import accredited
from scheduler.core.coverage.columns import Columns, columns_of
from scheduler.core.coverage.deliverable import deliverable, proven_cells
from scheduler.core.coverage.ownership import check
from scheduler.core.coverage.prospects import Offer, prospects
from scheduler.core.coverage.standing import standing
from scheduler.core.holdings import Demand, Holding
from scheduler.core.quantities import MS_PER_DAY
from tests.benchmarks.harness import Figure, Result, Settings, peak_mib, timed

GPUS = 8
NODES = 4
"""Of a domain."""
DOMAINS = 8
"""Of a block."""
MONTHS = 12
MONTH_MS = 30 * MS_PER_DAY
SOLD_OF_TEN = 9

Row = dict[str, Figure]


def run(settings: Settings) -> Result:
    """Median seconds of each question, by fleet."""
    rows: list[Row] = []
    for blocks in (4,) if settings.quick else (4, 40, 400):
        rows += questions(blocks, repeats=3 if settings.quick else 15)
    rows.append({"peak_mib": peak_mib()})
    largest = [row for row in rows if row.get("question") == "bound over a year"][-1]
    took_ms, cpu_ms = (float(str(largest[name])) * 1_000 for name in ("median_s", "cpu_median_s"))
    size = f"{largest['gpus']} GPUs with {largest['holdings']} holdings"
    line = f"bound over a year at {size}: {took_ms:.1f} ms, of the processor {cpu_ms:.1f} ms"
    return Result(rows, line)


def questions(blocks: int, repeats: int) -> list[Row]:
    """A row for each question about a fleet of so many blocks of 256 GPUs."""
    fleet = fleet_of(blocks)
    held = year(fleet)
    faults = check(fleet, held)
    if faults:
        raise AssertionError(f"the year is not lawful: {faults[0]}")
    usable = np.ones(fleet.n_gpus, dtype=np.bool_)
    end_ms = MONTHS * MONTH_MS
    offers = {
        level: Offer((Demand("offered", level, 1, 0, end_ms, 0),))
        for level in (Level.GPU, Level.NODE, Level.NVLINK_DOMAIN)
    }

    def bound(level: Level) -> int:
        return proven_cells(prospects(fleet, held, offers[level], 0, end_ms, usable), level, usable)

    def counted() -> int:
        return min(
            int(standing(fleet, 0, held, month * MONTH_MS, month * MONTH_MS + 1, usable).free[Level.NODE].sum())
            for month in range(MONTHS)
        )

    works: dict[str, tuple[str, Callable[[], int]]] = {
        "bound over a year": ("NODE", lambda: bound(Level.NODE)),
        "bound over a year ": ("GPU", lambda: bound(Level.GPU)),
        "bound over a year  ": ("NVLINK_DOMAIN", lambda: bound(Level.NVLINK_DOMAIN)),
        "both bounds": ("NODE", lambda: deliverable(fleet, held, offers[Level.NODE], 0, usable).proven),
        "accreditation of twelve months": (
            "all",
            lambda: len(accredited(fleet, held, usable, 0, end_ms)),
        ),
        "free cells at the fullest instant (baseline)": ("NODE", counted),
    }
    begun = time.perf_counter()
    columns_of(held.holdings)
    columns_s = round(time.perf_counter() - begun, 4)
    return [
        {
            "question": name.strip(),
            "level": level,
            "gpus": fleet.n_gpus,
            "holdings": len(held),
            "answer": work(),
            "columns_s": columns_s,
            "cpu_median_s": cpu_s(work, repeats),
            **timed(lambda _, work=work: work(), lambda: None, repeats=repeats).row(),  # type: ignore[misc]
        }
        for name, (level, work) in works.items()
    ]


def cpu_s(work: Callable[[], object], repeats: int) -> float:
    """The median of the processor time of so many runs: what is left of a time when others use the machine too."""
    taken: list[float] = []
    for _ in range(repeats):
        begun = time.process_time()
        work()
        taken.append(time.process_time() - begun)
    return round(statistics.median(taken), 6)


def fleet_of(blocks: int) -> Fleet:
    """Nodes of eight GPUs in domains of four in blocks of eight."""
    return Fleet.of(
        tuple(
            NodeSpec(name=f"n{b}-{d}-{n}", grade="H100SXM", gpus=GPUS, block=f"b{b}", domain=f"d{d}")
            for b in range(blocks)
            for d in range(DOMAINS)
            for n in range(NODES)
        )
    )


def year(fleet: Fleet) -> Columns:
    """Monthly lots on nine of ten domains: a third each of whole domains, whole nodes and single GPUs."""
    holdings: list[Holding] = []
    for domain in range(len(fleet.domains)):
        if domain % 10 >= SOLD_OF_TEN:
            continue
        level = (Level.NVLINK_DOMAIN, Level.NODE, Level.GPU)[domain % 3]
        nodes = range(domain * NODES, (domain + 1) * NODES)
        numbers = {
            Level.NVLINK_DOMAIN: (domain,),
            Level.NODE: nodes,
            Level.GPU: range(nodes.start * GPUS, nodes.stop * GPUS),
        }[level]
        months = 1 if level == Level.GPU else MONTHS
        length_ms = MONTHS * MONTH_MS // months
        holdings += [
            Holding(
                position=f"p{domain}-{month}",
                level=level,
                cell=cell,
                start_ms=month * length_ms,
                end_ms=(month + 1) * length_ms,
            )
            for month in range(months)
            for cell in numbers
        ]
    return columns_of(holdings)
