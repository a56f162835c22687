"""The tally: what a run came to, told by whoever plays it, the same for the production code and for baselines.

Useful is the work of a gang that was not lost again: of an attempt that was stopped, what it did up to its last
checkpoint, without what its restart cost. A gang is *owed* when at its submission its account's use plus its own is
within what the account's lots give, all that repacks into so many whole nodes, and, where it cannot be preempted, its
account's gangs of that kind fit its lots on each day until its declared end. One that does not run within the bind
limit is a shortfall.

*Short* at an instant is, by account, the less of what its overdue gangs ask and what its lots give beyond what its
gangs occupy. Lots are whole nodes of one pool, so any healthy node serves any lot, and what a scheduler that knows
everything must still miss is exactly what was sold beyond the healthy nodes: avoidable is what is short beyond that.

Figures count from the warm-up's end on; gangs still running at the end count as useful until then.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from scheduler.core.quantities import MS_PER_DAY, MS_PER_HOUR
from scheduler.traces.helios import GPUS_PER_NODE
from tests.benchmarks.harness import Figure
from tests.benchmarks.sharing.cases import BIND_LIMIT_MS, RESTART_MS, Case, gpus_owned


@dataclass(slots=True)
class Life:
    """What the tally knows of one gang."""

    kept_ms: int | None = None
    """Work in its last checkpoint; None: it never ran."""
    hurt_by_failure: bool = False
    """Whether it has to restart for a failure, not for the scheduler."""
    started_ms: int | None = None
    stopped_ms: int | None = None
    first_start_ms: int | None = None
    evicted_ms: tuple[int, ...] = ()


class Tally:
    """See the module. Call its methods in order of time; gangs are numbers of the case."""

    def __init__(self, case: Case) -> None:
        gangs = case.replay.gangs
        self.case = case
        self._account: list[int] = gangs.tenant.tolist()
        self._gpus: list[int] = gangs.gpus.tolist()
        self._each: list[int] = gangs.gpus_per_worker.tolist()
        self._work_ms: list[int] = gangs.duration_ms.tolist()
        self._declared_ms: list[int] = gangs.declared_ms.tolist()
        self._checkpoint_ms: list[int] = gangs.checkpoint_ms.tolist()
        self._submitted_ms: list[int] = gangs.submitted_ms.tolist()
        self._firm: list[bool] = (~gangs.preemptible).tolist()
        self._owned: list[list[int]] = gpus_owned(case).tolist()
        self._from_ms, self._end_ms = case.warm_up_ms, case.replay.end_ms
        n_accounts = len(case.replay.tenants)
        self._life: dict[int, Life] = {}
        # use of each account's count, of what cannot be preempted, and by size of worker
        self._use = [0] * n_accounts
        self._firm_use = [0] * n_accounts
        self._parts: list[dict[int, int]] = [defaultdict(int) for _ in range(n_accounts)]
        self._counted: set[int] = set()
        # owed in this very instant and not placed yet
        self._just_owed: dict[int, None] = {}
        self._just_owed_ms = -1
        # what is short
        self._running = [0] * n_accounts
        self._overdue = [0] * n_accounts
        self._short = [0] * n_accounts
        self._due: list[tuple[int, int]] = []
        self._waiting_owed: set[int] = set()
        self._healthy = case.replay.nodes
        self._now_ms = 0
        self.owed: set[int] = set()
        # sums
        self.useful_from_start_gpu_ms = 0
        self.useful_gpu_ms = self.occupied_gpu_ms = self.lost_gpu_ms = self.lost_to_failures_gpu_ms = 0
        self.short_gpu_ms = self.avoidable_gpu_ms = self.unavoidable_gpu_ms = 0
        self.preemptions = 0

    # -- what happens --------------------------------------------------------------------------------------------------

    def submitted(self, gang: int, at_ms: int) -> None:
        """A gang came; whether it is owed its GPUs is settled here."""
        self.passed(at_ms)
        self._life[gang] = Life()
        if at_ms != self._just_owed_ms:
            self._just_owed, self._just_owed_ms = {}, at_ms
        if self._is_owed(gang, at_ms):
            self._just_owed[gang] = None
            if at_ms >= self._from_ms:
                self.owed.add(gang)
                self._waiting_owed.add(gang)
                heappush(self._due, (at_ms + BIND_LIMIT_MS, gang))

    def placed(self, gang: int, at_ms: int) -> None:
        """It counts as its account's use from now on."""
        self.passed(at_ms)
        self._just_owed.pop(gang, None)
        self._count(gang, 1)

    def started(self, gang: int, at_ms: int) -> None:
        """It runs."""
        self.passed(at_ms)
        life, account = self._life[gang], self._account[gang]
        life.started_ms, life.stopped_ms = at_ms, None
        if life.first_start_ms is None:
            life.first_start_ms = at_ms
            if gang in self._waiting_owed:
                self._waiting_owed.discard(gang)
                if at_ms > self._submitted_ms[gang] + BIND_LIMIT_MS:
                    self._overdue[account] -= self._gpus[gang]
        self._running[account] += self._gpus[gang]
        self._shorten(account)

    def stop_asked(self, gang: int, at_ms: int, *, moved: bool) -> None:
        """The scheduler wants it to go; a moved one still counts as its account's use until it is gone."""
        self.passed(at_ms)
        life = self._life[gang]
        if life.started_ms is not None and life.stopped_ms is None:
            life.stopped_ms = at_ms
        if at_ms >= self._from_ms:
            self.preemptions += 1
        life.evicted_ms = (*life.evicted_ms, at_ms)
        if not moved:
            self._count(gang, -1)

    def ended(self, gang: int, at_ms: int, *, failed: bool = False) -> None:
        """Its attempt is over: done, gone as it was told, or (`failed`) lost with its node."""
        self.passed(at_ms)
        self._count(gang, -1)
        life = self._life[gang]
        if life.started_ms is None:
            return
        account = self._account[gang]
        self._running[account] -= self._gpus[gang]
        self._shorten(account)
        if failed and life.stopped_ms is None:
            life.stopped_ms = at_ms
        self._add_up(gang, life, at_ms, failed=failed)
        life.started_ms = None

    def health(self, nodes_healthy: int, at_ms: int) -> None:
        """So many nodes are there from now on."""
        self.passed(at_ms)
        self._healthy = nodes_healthy

    def finish(self) -> None:
        """The run is over."""
        self.passed(self._end_ms)
        for gang in sorted(self._life):
            life = self._life[gang]
            if life.started_ms is not None:
                self._add_up(gang, life, self._end_ms, failed=False, over=True)

    # -- owed ----------------------------------------------------------------------------------------------------------

    def _is_owed(self, gang: int, at_ms: int) -> bool:
        account, gpus = self._account[gang], self._gpus[gang]
        just = [other for other in self._just_owed if self._account[other] == account]
        use = self._use[account] + sum(self._gpus[other] for other in just)
        day = at_ms // MS_PER_DAY
        if use + gpus > self._owned[day][account]:
            return False
        if self._firm[gang]:
            firm = self._firm_use[account] + sum(self._gpus[other] for other in just if self._firm[other])
            last = min((at_ms + self._declared_ms[gang] - 1) // MS_PER_DAY, len(self._owned) - 1)
            if any(firm + gpus > self._owned[then][account] for then in range(day, last + 1)):
                return False
        parts = dict(self._parts[account])
        for other in (*just, gang):
            size = self._each[other]
            parts[size] = parts.get(size, 0) + self._gpus[other] // size
        return packs_nodes(self._owned[day][account] // GPUS_PER_NODE, parts)

    def _count(self, gang: int, sign: int) -> None:
        """Its account's use rises or falls with it, once each."""
        if (gang in self._counted) == (sign > 0):
            return
        account, gpus, size = self._account[gang], self._gpus[gang], self._each[gang]
        (self._counted.add if sign > 0 else self._counted.discard)(gang)
        self._use[account] += sign * gpus
        self._parts[account][size] += sign * (gpus // size)
        if self._firm[gang]:
            self._firm_use[account] += sign * gpus

    # -- short ---------------------------------------------------------------------------------------------------------

    def passed(self, at_ms: int) -> None:
        """Time goes on until `at_ms`: integrate what is short, edge by edge."""
        while self._now_ms < at_ms:
            edge_ms = min(at_ms, (self._now_ms // MS_PER_DAY + 1) * MS_PER_DAY)
            if self._due and self._due[0][0] < edge_ms:
                edge_ms = max(self._now_ms, self._due[0][0])
            self._integrate(edge_ms)
            self._now_ms = edge_ms
            while self._due and self._due[0][0] <= edge_ms:
                _, gang = heappop(self._due)
                if gang in self._waiting_owed:
                    self._overdue[self._account[gang]] += self._gpus[gang]
                    self._shorten(self._account[gang])
            if edge_ms % MS_PER_DAY == 0:
                for account, overdue in enumerate(self._overdue):
                    if overdue:
                        self._shorten(account)

    def _integrate(self, until_ms: int) -> None:
        length_ms = until_ms - max(self._now_ms, self._from_ms)
        if length_ms <= 0:
            return
        sold = sum(self._owned[self._now_ms // MS_PER_DAY]) // GPUS_PER_NODE
        missing = max(0, sold - self._healthy) * GPUS_PER_NODE
        short = sum(self._short)
        self.short_gpu_ms += short * length_ms
        self.avoidable_gpu_ms += max(0, short - missing) * length_ms
        self.unavoidable_gpu_ms += missing * length_ms

    def _shorten(self, account: int) -> None:
        day = min(self._now_ms // MS_PER_DAY, len(self._owned) - 1)
        left = max(0, self._owned[day][account] - self._running[account])
        self._short[account] = min(self._overdue[account], left)

    # -- useful --------------------------------------------------------------------------------------------------------

    def _add_up(self, gang: int, life: Life, end_ms: int, *, failed: bool, over: bool = False) -> None:
        """An attempt from its start to `end_ms`: its restart, its useful work, and what of it was lost."""
        start_ms = life.started_ms or 0
        until_ms = end_ms if life.stopped_ms is None else life.stopped_ms
        lead_ms = 0 if life.kept_ms is None else min(RESTART_MS, until_ms - start_ms)
        worked_ms = until_ms - start_ms - lead_ms
        saved_ms = worked_ms
        if life.stopped_ms is not None:
            every_ms = self._checkpoint_ms[gang]
            saved_ms = worked_ms - worked_ms % every_ms if every_ms else 0
        life.kept_ms = (life.kept_ms or 0) + saved_ms
        if life.stopped_ms is None and not over and life.kept_ms != self._work_ms[gang]:
            raise AssertionError(f"gang {gang} is done after {life.kept_ms} ms of work, expected {self._work_ms[gang]}")
        worked_from_ms = start_ms + lead_ms
        useful = self._clipped(worked_from_ms, worked_from_ms + saved_ms) * self._gpus[gang]
        occupied = self._clipped(start_ms, end_ms) * self._gpus[gang]
        lead = self._clipped(start_ms, worked_from_ms) * self._gpus[gang]
        lost = occupied - useful - lead
        self.useful_gpu_ms += useful
        self.useful_from_start_gpu_ms += max(0, min(saved_ms, self._end_ms - worked_from_ms)) * self._gpus[gang]
        self.occupied_gpu_ms += occupied
        self._lose(lead, failure=life.hurt_by_failure)
        self._lose(lost, failure=failed)
        life.hurt_by_failure = failed

    def _lose(self, gpu_ms: int, *, failure: bool) -> None:
        if failure:
            self.lost_to_failures_gpu_ms += gpu_ms
        else:
            self.lost_gpu_ms += gpu_ms

    def _clipped(self, from_ms: int, until_ms: int) -> int:
        return max(0, min(until_ms, self._end_ms) - max(from_ms, self._from_ms))

    # -- figures -------------------------------------------------------------------------------------------------------

    def waits_ms(self, *, owed: bool) -> list[int]:
        """Sorted waits from submission to the first start, of gangs submitted after the warm-up; to the end where it
        never came.
        """
        return sorted(
            (self._end_ms if life.first_start_ms is None else life.first_start_ms) - self._submitted_ms[gang]
            for gang, life in self._life.items()
            if self._submitted_ms[gang] >= self._from_ms and (gang in self.owed) == owed
        )

    def evictions_in_an_hour(self) -> list[int]:
        """By evicted gang: the most evictions within an hour."""
        return [most_in_an_hour(life.evicted_ms) for life in self._life.values() if life.evicted_ms]

    def row(self) -> dict[str, Figure]:
        """The figures of the run, but for what it takes another run to say."""
        waits, outsiders = self.waits_ms(owed=True), self.waits_ms(owed=False)
        hourly = self.evictions_in_an_hour()
        fleet_gpu_ms = self.case.replay.gpus * self.case.span_ms
        return {
            "useful_gpu_h": round(self.useful_gpu_ms / MS_PER_HOUR, 1),
            "useful_from_start_gpu_h": round(self.useful_from_start_gpu_ms / MS_PER_HOUR, 1),
            "lost_pct": percent(self.lost_gpu_ms, self.occupied_gpu_ms),
            "lost_to_failures_pct": percent(self.lost_to_failures_gpu_ms, self.occupied_gpu_ms),
            "owed": len(waits),
            "shortfalls": sum(wait_ms > BIND_LIMIT_MS for wait_ms in waits),
            "shortfall_gpu_h": round(self.short_gpu_ms / MS_PER_HOUR, 1),
            "avoidable_shortfall_gpu_ms": self.avoidable_gpu_ms,
            "wait_inside_mean_s": round(mean(waits) / 1_000, 1),
            "wait_inside_p99_s": round(percentile(waits, 99) / 1_000, 1),
            "wait_inside_max_s": round(max(waits, default=0) / 1_000, 1),
            "utilisation_pct": percent(self.occupied_gpu_ms, fleet_gpu_ms),
            "outsiders_wait_mean_s": round(mean(outsiders) / 1_000, 1),
            "preemptions": self.preemptions,
            "evictions_max_per_gang_hour": max(hourly, default=0),
            "gangs_evicted_thrice_in_an_hour": sum(most >= 3 for most in hourly),
        }


def packs_nodes(nodes: int, parts: dict[int, int]) -> bool:
    """Whether so many parts of each size fit into so many whole nodes, largest first, each into the first with room."""
    if all(GPUS_PER_NODE % size == 0 for size, number in parts.items() if number):
        return sum(size * number for size, number in parts.items()) <= nodes * GPUS_PER_NODE
    room = [GPUS_PER_NODE] * nodes
    for size in sorted(parts, reverse=True):
        for _ in range(parts[size]):
            node = next((node for node, left in enumerate(room) if left >= size), None)
            if node is None:
                return False
            room[node] -= size
    return True


def most_in_an_hour(instants_ms: Iterable[int]) -> int:
    """The most of these ascending instants inside one hour."""
    window: list[int] = []
    most = 0
    for at_ms in instants_ms:
        window = [earlier_ms for earlier_ms in window if earlier_ms > at_ms - MS_PER_HOUR] + [at_ms]
        most = max(most, len(window))
    return most


def mean(numbers: Sequence[float]) -> float:
    """The mean, 0 of none."""
    return sum(numbers) / len(numbers) if numbers else 0.0


def percentile(numbers: list[int], share_pct: int) -> int:
    """The nearest-rank percentile of sorted numbers, 0 of none."""
    return numbers[max(1, -(-len(numbers) * share_pct // 100)) - 1] if numbers else 0


def percent(part: int, whole: int) -> float:
    """Part of whole in percent, to a thousandth; 0 of nothing."""
    return round(100 * part / whole, 3) if whole else 0.0
