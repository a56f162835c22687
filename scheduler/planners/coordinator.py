"""A round over several pools: gangs are offered, every pool is planned by itself, and the answers are one plan.

    1. look at what changed, pool by pool (`tracks`)
    2. offer the gangs that may use several pools to one of them (`scheduler.core.placement.offers`)
    3. ask each pool's actor; pools whose actor is not there are planned here meanwhile (`posts`)
    4. merge by pool, whoever answered and in whatever order

At the first plan of a round every pool is asked, afterwards those with news or offers, until nothing is left to offer.
Laws: with one pool the plan is that of `plan(snapshot)`; with several it keeps every law, and it does not depend on
which pools were planned where.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from scheduler.core.placement.afterwards import ReasonsAfter, kept
from scheduler.core.placement.lines import Key
from scheduler.core.placement.offers import Offers, Tried, offers, wandering_lines
from scheduler.core.placement.pools import Division, merged
from scheduler.core.placement.snapshot import Action, Backfill, Place, Plan, Policy, Snapshot
from scheduler.core.workloads import ENDED, Gang, GangStatus
from scheduler.planners.planner import HERE, Planned
from scheduler.planners.posts import Post, StandIn, Workers
from scheduler.planners.tracks import Track, shares_by_pool
from scheduler.planners.verdicts import Verdicts


class Coordinator:
    """See the module. Without workers all pools are planned in this process."""

    def __init__(self, workers: Workers | None = None) -> None:
        self._workers = workers
        self._division: Division | None = None
        self._tracks: list[Track] = []
        self._posts: dict[int, Post] = {}
        self._stand_ins: dict[int, StandIn] = {}
        self._home: dict[int, int] = {}
        """The pool that a gang stands in or waits for alone, by number."""
        self._offered: dict[int, int] = {}
        """The pool that a gang which may use several is offered to, by number."""
        self._tried = Tried()
        self._planned_at: dict[int, int] = {}
        """The version at which each pool was planned in this round."""
        self._protected: dict[int, Mapping[Key, int]] = {}
        """By pool: when gangs of this line, which must not be delayed, should start (`Backfill`)."""
        self._held: dict[int, dict[Key, tuple[int, int, int]]] = {}
        """By pool: whom each line stands back for: a gang of the line, GPUs, and when it should start."""

    def plan(
        self, snapshot: Snapshot, policy: Policy, touched: Mapping[int, Gang] | None = None, *, first: bool = True
    ) -> Planned:
        """One plan. `touched`: every gang that changed since the last one, as it is now; None: any may have. `first`:
        whether a round begins with it; else it goes on from the last one, whose actions are done.
        """
        division = self._look(snapshot, touched)
        if first:
            self._tried = Tried()
            for last in (self._planned_at, self._protected, self._held):
                last.clear()
        lines = wandering_lines(snapshot.queue, division)
        dealt = self._deal(lines, snapshot, division)
        pools = [
            pool
            for pool, track in enumerate(self._tracks)
            if pool in dealt or self._planned_at.get(pool) != track.version
        ]
        asked = self._ask(pools, snapshot.now_ms, policy, division)
        before = kept(snapshot)  # while they plan
        decided = self._decided(pools, asked, snapshot.now_ms, policy, division)
        for pool in pools:
            self._tracks[pool].planned(decided[pool])
            self._planned_at[pool] = self._tracks[pool].version
        actions = merged([decided[pool] for pool in pools])
        left = self._note_refused(lines, dealt, {a.gang.number for a in actions if isinstance(a, Place)})
        backfill = self._backfill()
        plan = Plan(actions, ReasonsAfter(before, policy, actions, backfill), backfill)
        return Planned(plan, self._said(), unfinished=left and bool(dealt or actions))

    # -- 1. look -------------------------------------------------------------------------------------------------------

    def _look(self, snapshot: Snapshot, touched: Mapping[int, Gang] | None) -> Division:
        if self._division is None or self._division.fleet is not snapshot.fleet:
            self._divide(snapshot)
            touched = None
        division = self._division
        assert division is not None  # noqa: S101 - for the type checker: it was just made
        for track, shares in zip(self._tracks, shares_by_pool(snapshot, division), strict=True):
            track.look(snapshot, shares)
        for gang in _all(snapshot) if touched is None else touched.values():
            self._settle(gang, division)
        if touched is None:
            there = {gang.number for gang in _all(snapshot)}
            for number in sorted((self._home.keys() | self._offered.keys()) - there):
                self._leave(number)
        return division

    def _divide(self, snapshot: Snapshot) -> None:
        """The fleet grew: pools that did not grow keep their replicas."""
        self._division = division = Division.of(snapshot.fleet)
        for pool, part in enumerate(division.parts):
            if pool < len(self._tracks) and len(self._tracks[pool].part.nodes) == len(part.nodes):
                continue
            self._stand_ins.pop(pool, None)
            for gone in (self._home, self._offered):
                for number in [number for number, where in gone.items() if where == pool]:
                    del gone[number]
            self._tracks[pool : pool + 1] = [Track(part)]
            if pool in self._posts:
                self._posts.pop(pool).release()
            if self._workers is not None:
                name = "@".join(division.fleet.pools[pool])
                self._posts[pool] = Post(name, self._tracks[pool], self._workers)

    def _settle(self, gang: Gang, division: Division) -> None:
        """The gang goes to the one pool that it concerns; one that may use several goes to none until it is offered."""
        if gang.status is GangStatus.WAITING:
            pools = division.pools_for(gang.shape.grade)
            home = pools[0] if len(pools) == 1 else None
        else:
            home = None if gang.status in ENDED else division.pool_of(gang)
        before = self._home.get(gang.number)
        if before is not None and before != home:
            self._tracks[before].drop(gang.number)
            del self._home[gang.number]
        offered = self._offered.get(gang.number)
        if offered is not None and (home is not None or gang.status is not GangStatus.WAITING):
            del self._offered[gang.number]
            if offered != home:
                self._tracks[offered].drop(gang.number, offered=True)
        if home is not None:
            self._home[gang.number] = home
            self._tracks[home].keep(gang)

    def _leave(self, number: int) -> None:
        for where in (self._home, self._offered):
            pool = where.pop(number, None)
            if pool is not None:
                self._tracks[pool].drop(number)

    # -- 2. offer ------------------------------------------------------------------------------------------------------

    def _deal(self, lines: Mapping[Key, Sequence[Gang]], snapshot: Snapshot, division: Division) -> Offers:
        if not lines and not self._offered:
            return {}
        rooms = [track.room() for track in self._tracks]
        versions = [track.version for track in self._tracks]
        dealt = offers(lines, snapshot.queue, division, rooms, versions, self._tried)
        new = {gang.number: pool for pool, gangs in dealt.items() for gang in gangs}
        for number, pool in list(self._offered.items()):
            if new.get(number) != pool:
                self._tracks[pool].drop(number, offered=True)
        for pool, gangs in sorted(dealt.items()):
            for gang in gangs:
                self._tracks[pool].keep(gang, offered=True)
        self._offered = new
        return dealt

    def _note_refused(self, lines: Mapping[Key, Sequence[Gang]], dealt: Offers, placed: set[int]) -> bool:
        """Which pools refused which lines; whether any gang that may use several pools still waits."""
        for pool, gangs in dealt.items():
            for gang in gangs:
                if gang.number not in placed:
                    self._tried.refused[(gang.account, gang.shape), pool] = self._tracks[pool].version
        return any(gang.number not in placed for gangs in lines.values() for gang in gangs)

    # -- 3. ask --------------------------------------------------------------------------------------------------------

    def _ask(self, pools: Iterable[int], now_ms: int, policy: Policy, division: Division) -> dict[int, int]:
        """The pools whose actors are asked, by ticket."""
        numbers = division.number_in_part
        return {
            ticket: pool
            for pool in pools
            if (post := self._posts.get(pool)) is not None and (ticket := post.ask(now_ms, policy, numbers)) is not None
        }

    def _decided(
        self, pools: Iterable[int], asked: dict[int, int], now_ms: int, policy: Policy, division: Division
    ) -> dict[int, list[Action]]:
        """What each pool's plan decided. Answers are taken in as they come, while other pools are still planned."""
        away = set(asked.values())
        here = {pool: self._plan_here(pool, now_ms, policy, division) for pool in pools if pool not in away}
        decided = {pool: self._noted(pool, verdicts, division) for pool, verdicts in here.items()}
        while asked and self._workers is not None:
            for ticket in self._workers.wait(list(asked)):
                pool = asked.pop(ticket)
                verdicts = self._posts[pool].answer(ticket, now_ms)
                if verdicts is None:
                    verdicts = self._plan_here(pool, now_ms, policy, division)
                else:
                    self._stand_ins.pop(pool, None)
                decided[pool] = self._noted(pool, verdicts, division)
        return decided

    def _noted(self, pool: int, verdicts: Verdicts, division: Division) -> list[Action]:
        """The actions, once it is noted who waits for whom."""
        self._note_backfill(pool, verdicts)
        return verdicts.actions(pool, self._tracks[pool].gangs, division)

    def _plan_here(self, pool: int, now_ms: int, policy: Policy, division: Division) -> Verdicts:
        if pool not in self._stand_ins:
            self._stand_ins[pool] = StandIn(self._tracks[pool])
        return self._stand_ins[pool].plan(now_ms, policy, division.number_in_part)

    def _said(self) -> str:
        """Who plans which pools, for people."""
        if self._workers is None:
            return HERE
        away = [post for pool, post in sorted(self._posts.items()) if pool not in self._stand_ins]
        here = [
            f"{post.name} ({post.absence})" for pool, post in sorted(self._posts.items()) if pool in self._stand_ins
        ]
        said = f"{len(away)} of {len(self._posts)} pools {self._workers.where}"
        return said if not here else f"{said}, {HERE}: {'; '.join(here)}"

    # -- 4. merge ------------------------------------------------------------------------------------------------------

    def _note_backfill(self, pool: int, verdicts: Verdicts) -> None:
        """Who waits for whom in the pool now. A line that it was offered earlier in this round, and is not any more,
        still waits for what it was told then.
        """
        gangs = self._tracks[pool].gangs
        self._protected[pool] = {_line(gangs[number]): start_ms for number, start_ms in verdicts.protected.tolist()}
        gone = {line: told for line, told in self._held.get(pool, {}).items() if told[0] not in gangs}
        held = {_line(gangs[number]): (number, gpus, start_ms) for number, gpus, start_ms in verdicts.held.tolist()}
        self._held[pool] = gone | held

    def _backfill(self) -> Backfill:
        """Over all pools: of several instants the earliest, of several gangs that of the first pool."""
        starts_ms: dict[Key, int] = {}
        held: dict[Key, tuple[int, int]] = {}
        for _, protected in sorted(self._protected.items()):
            for line, start_ms in protected.items():
                starts_ms[line] = min(start_ms, starts_ms.get(line, start_ms))
        for _, lines in sorted(self._held.items()):
            for line, (_, gpus, start_ms) in lines.items():
                held.setdefault(line, (gpus, start_ms))
        return Backfill(starts_ms, held)


def _line(gang: Gang) -> Key:
    return gang.account, gang.shape


def _all(snapshot: Snapshot) -> Iterable[Gang]:
    yield from snapshot.placed.values()
    for shapes in snapshot.queue.values():
        for gangs in shapes.values():
            yield from gangs
