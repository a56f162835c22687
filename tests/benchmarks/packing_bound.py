"""How little of a fleet could stay unallocated: a linear programme over what each device may hold.

Devices of equal nodes are filled kind by kind (an arc from one residual to the next), CPU and memory are those of all
equal nodes together, and of each kind as many may be taken as arrive on the mean while the demand reaches the
capacity. `fitting`: nothing that fits is refused, so of two kinds of which one asks no more than the other in every
respect, no smaller part of it is taken. A policy that takes what fits cannot, on the mean, get below that bound.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator

import highspy
import numpy as np

from scheduler.core.placement.scores.pool import Ask
from tests.benchmarks.packing_inputs import PodList

STEP = 10


class Programme:
    """Columns (gain, coefficients by row) and the upper bounds of rows."""

    def __init__(self) -> None:
        self.rows: dict[Hashable, int] = {}
        self.gains: list[int] = []
        self.entries: list[dict[int, float]] = []

    def row(self, key: Hashable) -> int:
        """The number of a row."""
        return self.rows.setdefault(key, len(self.rows))

    def column(self, gain: int, entries: dict[Hashable, float]) -> None:
        """One more activity."""
        self.gains.append(gain)
        self.entries.append({self.row(key): value for key, value in entries.items()})

    def most(self, upper: dict[Hashable, float]) -> float:
        """The greatest gain with every row from below up to its bound (0 where none is given)."""
        solver = highspy.Highs()  # type: ignore[no-untyped-call]
        solver.setOptionValue("output_flag", False)  # noqa: FBT003 - its own way
        solver.setOptionValue("solver", "ipm")
        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = len(self.gains), len(self.rows)
        model.col_cost_ = -np.array(self.gains, dtype=np.float64)
        model.col_lower_ = np.zeros(len(self.gains))
        model.col_upper_ = np.full(len(self.gains), highspy.kHighsInf)
        model.row_lower_ = np.full(len(self.rows), -highspy.kHighsInf)
        model.row_upper_ = np.array([upper.get(key, 0.0) for key in self.rows])
        model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        model.a_matrix_.start_ = np.cumsum([0, *(len(entries) for entries in self.entries)])
        model.a_matrix_.index_ = np.array([row for entries in self.entries for row in entries])
        model.a_matrix_.value_ = np.array([value for entries in self.entries for value in entries.values()], np.float64)
        solver.passModel(model)
        solver.run()
        if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            raise AssertionError(f"the bound's programme ended {solver.getModelStatus()}")
        return -float(solver.getInfo().objective_function_value)


def bound_pct(pods: PodList, *, fitting: bool) -> float:
    """The least per cent of the GPUs unallocated when the demand has reached 100 %."""
    pool, mix = pods.pool, pods.mix
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for n in range(len(pool)):
        devices = int((pool.free_milli[n] > 0).sum())
        groups[int(pool.model[n]), devices, int(pool.cpu_milli[n]), int(pool.memory_mib[n])].append(n)
    arrive = [kind.count * pool.total_milli / mix.demand_milli for kind in mix.kinds]
    smaller = _smaller_pairs([kind.ask for kind in mix.kinds]) if fitting else []
    programme = Programme()
    upper: dict[Hashable, float] = {("kind", k): count for k, count in enumerate(arrive)}
    for group, nodes in groups.items():
        upper[group, "cpu"], upper[group, "memory"] = group[2] * len(nodes), group[3] * len(nodes)
        upper[group, 1_000] = group[1] * len(nodes)
    for k, kind in enumerate(mix.kinds):
        shared: dict[Hashable, float] = {("kind", k): 1.0}
        shared |= {
            ("pair", small, large): (-1 if k == small else 1) / arrive[k]
            for small, large in smaller
            if k in {small, large}
        }
        for group in groups:
            for entries in _places(kind.ask, group):
                programme.column(kind.ask.total_milli, shared | entries)
    return 100 * (1 - programme.most(upper) / pool.total_milli)


def _places(ask: Ask, group: tuple[int, ...]) -> Iterator[dict[Hashable, float]]:
    """Every way in which a worker may take devices of a group, with what it takes."""
    model, devices, cpu, memory = group
    if (ask.devices and not ask.models >> model & 1) or ask.devices > devices:
        return
    if ask.cpu_milli > cpu or ask.memory_mib > memory:
        return
    taken: dict[Hashable, float] = {(group, "cpu"): ask.cpu_milli, (group, "memory"): ask.memory_mib}
    if ask.devices == 0:
        yield taken
    elif ask.devices > 1 or ask.milli == 1_000:
        yield taken | {(group, 1_000): ask.devices}
    else:
        for left in range(0, 1_001 - ask.milli, STEP):
            yield taken | {(group, left + ask.milli): 1.0} | ({(group, left): -1.0} if left else {})


def _smaller_pairs(asks: list[Ask]) -> list[tuple[int, int]]:
    """Pairs (small, large) where whatever holds the large one holds the small one, without those that others imply."""
    above = [{j for j, large in enumerate(asks) if j != i and _within(small, large)} for i, small in enumerate(asks)]
    return [(i, j) for i in range(len(asks)) for j in sorted(above[i]) if not any(j in above[k] for k in above[i])]


def _within(small: Ask, large: Ask) -> bool:
    return (
        small.devices <= large.devices
        and small.milli <= large.milli
        and small.cpu_milli <= large.cpu_milli
        and small.memory_mib <= large.memory_mib
        and (small.devices == 0 or small.models & large.models == large.models)
    )
