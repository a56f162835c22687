"""Small fleets and calendars, drawn, and what is true of any lawful coverage, worked out the slow and obvious way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from hypothesis import strategies as st

from scheduler.core.cluster import Fleet, Level, NodeSpec
from scheduler.core.holdings import Demand, Holding

SOLD_LEVELS = (Level.GPU, Level.NODE, Level.NVLINK_DOMAIN)


def fleet_of(blocks: int = 1, domains: int = 1, nodes: int = 2, gpus: int = 2, grade: str = "H100") -> Fleet:
    """Blocks of domains of nodes, all alike."""
    return Fleet.of(
        tuple(
            NodeSpec(name=f"n{b}-{d}-{n}", grade=grade, gpus=gpus, block=f"b{b}", domain=f"d{d}")
            for b in range(blocks)
            for d in range(domains)
            for n in range(nodes)
        )
    )


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    """Up to 8 nodes of two grades in mixed order, so that domains may straddle pools and numbers are not ranks."""
    nodes = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["H100", "H100", "A100"]),
                st.sampled_from([2, 2, 3]),
                st.integers(0, 1),
                st.integers(0, 1),
            ),
            min_size=1,
            max_size=8,
        )
    )
    return Fleet.of(
        tuple(
            NodeSpec(name=f"n{k}", grade=grade, gpus=gpus, block=f"b{block}", domain=f"d{domain}")
            for k, (grade, gpus, block, domain) in enumerate(nodes)
        )
    )


@st.composite
def calendars(
    draw: st.DrawFn, fleet: Fleet, levels: Sequence[Level] = SOLD_LEVELS, most: int = 8, first_ms: int = 0
) -> list[Demand]:
    """Demands of one position each, in a calendar of six instants from `first_ms` on."""
    rows = draw(
        st.lists(
            st.tuples(
                st.sampled_from(levels),
                st.integers(1, 3),
                st.integers(0, 4),
                st.integers(1, 3),
                st.integers(0, len(fleet.pools) - 1),
            ),
            max_size=most,
        )
    )
    return [
        Demand(f"p{k}", level, lots, first_ms + start, first_ms + start + length, pool)
        for k, (level, lots, start, length, pool) in enumerate(rows)
    ]


def faults(fleet: Fleet, holdings: Iterable[Holding]) -> list[str]:
    """GPUs held twice at some instant; instants are single milliseconds here."""
    taken: Counter[tuple[int, int]] = Counter()
    for holding in holdings:
        for gpu in fleet.gpus_of_cell(holding.level, holding.cell).tolist():
            for at_ms in range(holding.start_ms, holding.end_ms):
                taken[gpu, at_ms] += 1
    return [f"GPU {gpu} at {at_ms}" for (gpu, at_ms), count in taken.items() if count > 1]


def lots_placed(holdings: Iterable[Holding]) -> Counter[tuple[str, int, int, int]]:
    """Holdings by (position, level, start, end)."""
    return Counter((h.position, int(h.level), h.start_ms, h.end_ms) for h in holdings)


def cells_at(fleet: Fleet, holdings: Iterable[Holding], position: str, at_ms: int) -> int:
    """How many cells a position holds at an instant."""
    return sum(h.position == position and h.start_ms <= at_ms < h.end_ms for h in holdings)


def workers_of_single_gpus(
    fleet: Fleet, holdings: Sequence[Holding], at_ms: int, accounts: Mapping[str, int]
) -> dict[tuple[int, int], int]:
    """How many workers of each size fit what each account holds by GPU lots: by (account, size)."""
    lots = [h for h in holdings if h.level == Level.GPU and h.start_ms <= at_ms < h.end_ms]
    held_on = Counter((accounts[h.position], int(fleet.node_of_gpu[h.cell])) for h in lots)
    return {
        (account, size): sum(gpus // size for (whose, _), gpus in held_on.items() if whose == account)
        for account in set(accounts.values())
        for size in range(1, 4)
    }
