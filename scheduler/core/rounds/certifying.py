"""What certificates say beyond the meter: what is accredited, spare, pledged, and how fast owners were bound."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from scheduler.core.cluster import Level
from scheduler.core.coverage.accreditation import accredited
from scheduler.core.metering.closing import Closing
from scheduler.core.metering.records import BIND_EDGES_MS, PoolRecord
from scheduler.core.rounds.selling import sales_view
from scheduler.core.state.closings import Bind
from scheduler.core.state.state import State


class Standing(NamedTuple):
    """GPUs of one pool: what it honours after the loss of any NVLink domain, and those of spare nodes."""

    accredited_gpus: int
    spare_gpus: int


def standings(state: State, now_ms: int, spares: Sequence[str]) -> tuple[Standing, ...]:
    """One for each pool, in the fleet's order: as `tenor backing` has it at an instant, in single GPUs."""
    view = sales_view(state, now_ms, spares)
    rows = accredited(
        view.fleet, view.held, view.usable, now_ms, now_ms + 1, uncovered=view.uncovered, levels=(Level.GPU,)
    )
    pool_of_gpu = view.fleet.pool_of_node[view.fleet.node_of_gpu]
    by_pool = {row.pool: max(0, row.accredited) for row in rows}
    return tuple(
        Standing(by_pool.get(pool, 0), int(view.spare[pool_of_gpu == pool].sum()))
        for pool in range(len(view.fleet.pools))
    )


def certified(
    closing: Closing, standing: Sequence[Standing], pledged: Mapping[str, int], binds: Sequence[Bind]
) -> Closing:
    """A closed interval with certificates that say all. `pledged`: devices by pool (`site/grade`)."""
    pools = tuple(
        _with(record, standing[number], pledged.get(record.pool, 0), [bind for bind in binds if bind.pool == number])
        for number, record in enumerate(closing.pools)
    )
    return replace(closing, pools=pools)


def certified_again(closing: Closing, told: Mapping[str, PoolRecord], binds: Sequence[Bind]) -> tuple[PoolRecord, ...]:
    """The certificates of an interval closed again that say something new, as the versions after what was told, by pool
    (`site/grade`). What is accredited, spare and pledged stays as it was when the first was written.
    """
    found = []
    for number, record in enumerate(closing.pools):
        before = told.get(record.pool)
        if before is None:
            continue
        standing = Standing(before.accredited_gpus or 0, before.spare_gpus or 0)
        now = _with(record, standing, before.pledged_gpus or 0, [bind for bind in binds if bind.pool == number])
        kept = {name: getattr(before, name) for name in ("accredited_gpus", "spare_gpus", "pledged_gpus", "version")}
        now = PoolRecord.model_validate(dict(now) | kept)
        if now != before:
            found.append(PoolRecord.model_validate(dict(now) | {"version": before.version + 1}))
    return tuple(found)


def _with(record: PoolRecord, standing: Standing, pledged_gpus: int, binds: Sequence[Bind]) -> PoolRecord:
    counts = [0] * (len(BIND_EDGES_MS) + 1)
    took = [bind.took_ms for bind in binds if record.start_ms <= bind.at_ms < record.end_ms]
    for took_ms in took:
        counts[bisect_right(BIND_EDGES_MS, took_ms)] += 1
    more = {
        "accredited_gpus": standing.accredited_gpus,
        "spare_gpus": standing.spare_gpus,
        "pledged_gpus": pledged_gpus,
        "binds": tuple(counts) if took else (),
        "slowest_bind_ms": max(took, default=0),
    }
    return PoolRecord.model_validate(dict(record) | more)
