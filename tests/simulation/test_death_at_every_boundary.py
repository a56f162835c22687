"""The process dies at every boundary, one after the other: nothing is lost, nothing happens twice, every law holds.

One seeded run (trades, a late transfer, a split, gangs of three accounts, a node's loss and return, an ill GPU, a
drain) is played undisturbed, and then again for each boundary at which a process can die: before and after each commit
and each checkpoint, and around each call of execution. With an outage of no length the log must be the same, byte for
byte; with a real one it may differ by what nobody saw, and by what followed from that, but not in what was contracted.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from random import Random

import pytest

from scheduler.core.causes import Cause
from scheduler.core.cluster import Level
from scheduler.core.metering.records import MeterRecord, RecordStatus
from scheduler.core.positions import PositionEventKind
from scheduler.core.state.dump import dump
from scheduler.exchange.leaves import decode
from scheduler.execution.simulated import GpuFault, NodeDown, NodeUp, Slowdown, Work
from scheduler.service import ServiceSettings
from tests.simulation.site import START_MS, STEP_MS, STREAM, Fate, Site, gang, listing, nodes

ACCOUNTS = ("acme", "bolt", "core")
END_MS = 150_000
SAMPLE = 60
SHARES = 6
SEED = 20_260_101
GANGS = 36
GANG_MS = 4_000
FLEET_GPUS = 48


def played(path: Path | str, fate: Fate, outage_ms: int = 0) -> Site:
    """The run, to its end."""
    faults = (
        Slowdown("node-3", START_MS + 12_000, 800_000),
        GpuFault("node-1", (3,), START_MS + 31_000, Cause.ECC),
        GpuFault("node-1", (3,), START_MS + 52_000, None),
        NodeDown("node-2", START_MS + 64_500),
        NodeUp("node-2", START_MS + 97_000),
    )
    random = Random(SEED)
    works = [
        Work(random.randrange(8_000, 90_000), 10_000, 1_000, random.randrange(300), random.choice((500, 1_500, None)))
        for _ in range(GANGS)
    ]
    site = Site(
        nodes(6),
        path=path,
        work=lambda launch: works[int(launch.gang.split("-")[1]) - 1],
        faults=faults,
        fate=fate,
        outage_ms=outage_ms,
        settings=ServiceSettings(close_lag_ms=0, spares=("node-5",)),
    )
    site.round()
    site.listed(listing(), listing("H100.GPU", cell=Level.GPU, gpus=1, length_ms=100_000, metering_interval_s=60))
    site.trade("acme-1", "acme", 2)
    site.trade("bolt-1", "bolt", 2)
    site.trade("core-1", "core", 4, instrument="H100.GPU@1")
    for k in range(GANGS):
        at_ms = random.randrange(GANG_MS * k, GANG_MS * (k + 1))
        site.until(at_ms)
        account, size = random.choice(ACCOUNTS), random.choice((1, 2, 4, 8, 8))
        workers, runtime_ms = random.choice((1, 1, 2)), random.choice((None, None, 20_000))
        made = site.submit(gang(account, size, workers=workers, max_runtime_ms=runtime_ms), f"request-{k}")
        told(site, k, at_ms, made)
    site.until(END_MS)
    return site


def told(site: Site, k: int, at_ms: int, made: str) -> None:
    """What others say besides, after the k-th gang was submitted."""
    match k:
        case 8:
            site.transfer("acme-1", "bolt-2", "bolt", 1, at_ms=max(0, at_ms - 17_000))
        case 12:
            site.doing(lambda scheduler: scheduler.cancel(made))
        case 15:
            site.told(site.event(PositionEventKind.SPLIT, "bolt-3", "bolt", source="bolt-1", lots=1, at_ms=at_ms))
        case 20:
            site.doing(lambda scheduler: scheduler.drain("node-0", START_MS + 95_000))
        case 27:
            site.doing(lambda scheduler: scheduler.drain("node-0", None))
        case 30:
            site.told(site.event(PositionEventKind.EXPIRY, "bolt-3", "bolt", lots=0, at_ms=at_ms - 4_000))
        case _:
            pass


@cache
def undisturbed() -> tuple[Site, tuple[bytes, ...], int]:
    """The run in which nobody dies, its leaves, and the number of boundaries."""
    fate = Fate()
    site = played(":memory:", fate)
    return site, tuple(site.leaves()), fate.passed


def boundaries(share: int) -> list[int]:
    """A seeded sample in `SHARES` parts, and always the first and the last ones."""
    total = undisturbed()[2]
    return sorted({*range(1, 16), *Random(SEED).sample(range(1, total + 1), SAMPLE), total - 1, total})[share::SHARES]


def nothing_twice(site: Site) -> None:
    """Each version of each (position, interval) once, in order; each attempt started in one place and ended once."""
    versions: dict[tuple[str, int], list[int]] = {}
    for record in site.records():
        versions.setdefault((record.position, record.start_ms), []).append(record.version)
    assert [key for key, found in versions.items() if found != list(range(1, len(found) + 1))] == []
    ends = Counter(entry.body for entry in site.journal.read() if entry.kind == "gang_ended")
    assert not [body for body, count in ends.items() if count > 1]
    assert site.refolded() == dump(site.scheduler.state)
    head = site.journal.checkpoint(STREAM)
    assert head is not None
    assert head[0] == site.journal.log_size(STREAM)


def latest(site: Site) -> dict[tuple[str, int], MeterRecord]:
    """The last version of each record."""
    return {(record.position, record.start_ms): record for record in site.records()}


def contracted(records: dict[tuple[str, int], MeterRecord]) -> dict[tuple[str, int], int]:
    """What each record says was contracted, where something was."""
    return {key: record.contracted_gpu_ms for key, record in records.items() if record.contracted_gpu_ms}


def test_the_undisturbed_run_has_everything_in_it() -> None:
    site, leaves, total = undisturbed()
    nothing_twice(site)
    kinds = set(site.kinds())
    assert {"cells_swapped", "interval_corrected", "gang_stop_asked", "health_changed", "drain_ordered"} <= kinds
    assert any(record.status is RecordStatus.CORRECTED for record in site.records())
    assert total > 200
    assert len(leaves) > 60


def no_trace(path: Path | str, boundary: int) -> None:
    """Dies at a boundary, comes back at once: the log is that of the run in which nobody died."""
    calm, leaves, _ = undisturbed()
    fate = Fate(boundary)
    site = played(path, fate)
    where = f"{boundary}: {fate.where[boundary - 1]}"
    assert site.deaths == 1, where
    nothing_twice(site)
    assert site.leaves() == list(leaves), where
    ended = {name: each.status for name, each in calm.scheduler.state.gangs.by_id.items()}
    assert {name: each.status for name, each in site.scheduler.state.gangs.by_id.items()} == ended, where
    site.journal.close()


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
def test_a_death_without_an_outage_leaves_no_trace(share: int) -> None:
    for boundary in boundaries(share):
        no_trace(":memory:", boundary)


@pytest.mark.parametrize("boundary", [1, 40, 41, 333, 700])
def test_a_death_leaves_no_trace_in_a_file(boundary: int, tmp_path: Path) -> None:
    no_trace(tmp_path / "journal.db", boundary)


@pytest.mark.slow
@pytest.mark.parametrize("outage_ms", [3_000, 9_000, 40_000])
def test_a_death_with_an_outage_costs_what_nobody_saw(outage_ms: int) -> None:
    _, calm_leaves, total = undisturbed()
    for boundary in sorted(Random(SEED + outage_ms).sample(range(40, total), 12)):
        site = played(":memory:", Fate(boundary), outage_ms)
        site.round()  # an outage near the end reaches beyond it
        assert site.deaths == 1
        nothing_twice(site)
        before = [leaf for leaf in calm_leaves if decode(leaf).written_ms < site.died_ms]
        assert site.leaves()[: len(before)] == before
        found, expected = latest(site), latest(undisturbed()[0])
        # What closed beyond the end has nothing to be compared with.
        until_ms = max(record.end_ms for record in expected.values())
        same = {key: record for key, record in found.items() if record.end_ms <= until_ms}
        assert contracted(same) == contracted(expected)
        unknown_gpu_ms = sum(record.unknown_gpu_ms for record in found.values())
        estimated_gpu_ms = sum(record.estimated_gpu_ms for record in found.values())
        assert unknown_gpu_ms + estimated_gpu_ms <= FLEET_GPUS * (outage_ms + STEP_MS)
        if outage_ms > 3 * STEP_MS:
            assert unknown_gpu_ms > 0
            assert estimated_gpu_ms == 0
