"""How long an interval's close takes: from the fleet's history to one record a position and one certificate a pool.

Nine tenths of the nodes are sold as whole nodes; in the interval a fifth of the GPUs change something: occupants
mostly, causes and measurements too. The baseline walks the same changes node by node in plain Python and must count the
same. It has less to do: it is given them sorted by node, knows no late news, and makes neither records nor
certificates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scheduler.core.causes import Cause
from scheduler.core.cluster import Fleet, Level, NodeSpec
from scheduler.core.intervals import Interval, StepFunction
from scheduler.core.metering.meter import Meter
from scheduler.core.metering.records import broken_identities
from scheduler.core.metering.terms import Contract, MeteringTerms
from tests.benchmarks.harness import Figure, Result, Settings, peak_mib, timed

INTERVAL = Interval(300_000, 600_000)
SIZES = ((1_000, 50), (10_000, 200), (100_000, 2_000))
"""GPUs and positions."""
GPUS_PER_NODE = 8
ACCOUNTS = 100
TERMS = MeteringTerms(
    interval_ms=INTERVAL.length_ms,
    gpus_per_lot=GPUS_PER_NODE,
    cell=Level.NODE,
    grade="H100SXM",
    site="local",
    deliverables=(("H100SXM", 1_000_000),),
    floor_ppm=900_000,
    reject_below_ppm=500_000,
)


@dataclass(frozen=True, slots=True)
class Told:
    """A meter with its history, the contracts, and the same changes for the baseline."""

    fleet: Fleet
    meter: Meter
    contracts: tuple[Contract, ...]
    owner_of_node: Sequence[int]
    facts_of_node: Sequence[Sequence[tuple[int, str, int, int]]]
    """(instant, field, GPUs of the node from its first on, value) in order."""
    changes: int


def run(settings: Settings) -> Result:
    """Median seconds by fleet size, with a plain Python loop beside it."""
    rows: list[dict[str, Figure]] = []
    for n_gpus, n_positions in SIZES[: 2 if settings.quick else None]:
        told = history(n_gpus, n_positions)
        size: dict[str, Figure] = {"gpus": n_gpus, "positions": n_positions, "changes": told.changes}
        repeats = 3 if settings.quick else 9
        closing = timed(closed, lambda told=told: told, repeats=repeats)  # type: ignore[misc]
        plain = timed(looped, lambda told=told: told, repeats=3)  # type: ignore[misc]
        require_agreement(told)
        rows.append({"what": "close", **size, **closing.row(), "peak_mib_so_far": peak_mib()})
        rows.append({"what": "a loop in plain Python (baseline)", **size, **plain.row()})
    shown = [f"{row['gpus']:,} GPUs {row['median_s']:.3f} s" for row in rows if row["what"] == "close"]
    return Result(rows, f"interval close: {', '.join(shown)}")


def history(n_gpus: int, n_positions: int) -> Told:
    """The fleet's story up to the interval's end; the same each time."""
    chance = np.random.default_rng(n_gpus)
    nodes = n_gpus // GPUS_PER_NODE
    fleet = Fleet.of(
        tuple(NodeSpec(name=f"n{i}", grade=TERMS.grade, gpus=GPUS_PER_NODE, domain=f"d{i // 4}") for i in range(nodes))
    )
    meter = Meter()
    meter.grow(n_gpus)
    each = nodes * 9 // 10 // n_positions * GPUS_PER_NODE
    owner = np.full(n_gpus, -1)
    owner[: each * n_positions] = np.repeat(np.arange(n_positions), each)
    meter.set_owner(0, np.arange(n_gpus), owner)
    facts: list[list[tuple[int, str, int, int]]] = [[] for _ in range(nodes)]
    changes = 0
    for at_ms in range(INTERVAL.start_ms, INTERVAL.end_ms, INTERVAL.length_ms * 40 // n_gpus):
        node = int(chance.integers(0, nodes))
        gpus = np.arange(node * GPUS_PER_NODE, (node + 1) * GPUS_PER_NODE)
        match int(chance.integers(0, 20)):
            case 0:
                fact = (at_ms, "cause", 1, int(chance.choice([0, Cause.ECC, Cause.GPU_FAULT])))
                meter.set_cause(at_ms, gpus[:1], fact[3])
            case 1:
                fact = (at_ms, "ppm", GPUS_PER_NODE, int(chance.integers(700_000, 1_100_000)))
                meter.set_ppm(at_ms, gpus, fact[3], "matmul.v1")
            case _:
                fact = (at_ms, "occupant", GPUS_PER_NODE, int(chance.integers(-1, ACCOUNTS)))
                meter.set_occupant(at_ms, gpus, fact[3])
        facts[node].append(fact)
        changes += fact[2]
    always = StepFunction.of([(0, each)])
    contracts = tuple(Contract(i, f"p-{i:05}", "H100@1", TERMS, always, i % ACCOUNTS) for i in range(n_positions))
    return Told(fleet, meter, contracts, owner[::GPUS_PER_NODE].tolist(), facts, changes)


def closed(told: Told) -> None:
    """Close the interval; records that do not add up are a fault of the benchmark, never a time."""
    closing = told.meter.close(INTERVAL, told.contracts, told.fleet)
    if len(closing.records) != len(told.contracts) or broken_identities(closing.records[0]):
        raise RuntimeError("the interval did not close as it should")


def looped(told: Told) -> Counter[tuple[int, str | int, int]]:
    """GPU-ms by (position, used or unused or the cause of loss, ppm), one node after the other."""
    counted: Counter[tuple[int, str | int, int]] = Counter()
    for owner, facts in zip(told.owner_of_node, told.facts_of_node, strict=True):
        if owner < 0:
            continue
        account = told.contracts[owner].account
        now = {"cause": [0] * GPUS_PER_NODE, "ppm": [1_000_000] * GPUS_PER_NODE, "occupant": [-1] * GPUS_PER_NODE}
        since_ms = INTERVAL.start_ms
        for at_ms, field, gpus, value in [*facts, (INTERVAL.end_ms, "occupant", 0, 0)]:
            sick = min((cause for cause in now["cause"] if cause), default=0)
            for cause, ppm, occupant in zip(now["cause"], now["ppm"], now["occupant"], strict=True):
                healthy = "used" if occupant == account else "unused"
                counted[owner, cause or sick or healthy, ppm] += at_ms - since_ms
            now[field][:gpus] = [value] * gpus
            since_ms = at_ms
    return counted


def require_agreement(told: Told) -> None:
    """Both must count the same before either time means anything."""
    sick, healthy = Counter[int](), Counter[int]()
    for (owner, outcome, _), gpu_ms in looped(told).items():
        (healthy if isinstance(outcome, str) else sick)[owner] += gpu_ms
    records = told.meter.close(INTERVAL, told.contracts, told.fleet).records
    for contract, record in zip(told.contracts, records, strict=True):
        alive = record.used_gpu_ms + record.available_unused_gpu_ms + record.derated_gpu_ms
        if (alive, record.out_forced_gpu_ms) != (healthy[contract.index], sick[contract.index]):
            raise RuntimeError(f"the meter and the loop disagree on {contract.position}")
