"""Others against one owner: a game in which they do whatever accounts, admins and machines can do, to make it wait.

`Game` plays moves on the production scheduler. Every move is a few small numbers, so that any list of numbers is a
game and a shorter list is a smaller one; what they name (an account, a gang, a position) is taken modulo what is there.
After every round the owner's waiting gangs are held against what it is owed (`owed`), and whoever was placed inside its
entitlement must run within its bind limit, since execution starts at once here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

from scheduler.core.causes import Cause
from scheduler.core.cluster import Level, NodeSpec
from scheduler.core.errors import Refused
from scheduler.core.events import BindOverdue, GangPlaced, GangStopAsked
from scheduler.core.positions import Position, PositionEventKind
from scheduler.core.workloads import ENDED, Gang, GangSpec, GangStatus
from scheduler.execution.simulated import GpuFault, NodeDown, NodeUp, Work
from scheduler.planners.planner import LocalPlanner
from scheduler.planners.pools_planner import PoolsPlanner
from tests.scenarios.stage import FIRMNESS, START_MS, Stage
from tests.simulation.owed import is_owed, out_of_turn, unaccounted

OWNER = "owner"
OTHERS = ("other", "third")
HOUR_MS = 3_600_000
LEVELS = (Level.NODE, Level.GPU, Level.NVLINK_DOMAIN, Level.FABRIC_BLOCK)
GRACES_MS = (0, 10_000, 600_000, 3_600_000)
RUNS_MS = (HOUR_MS // 2, 2 * HOUR_MS, 30 * HOUR_MS)
WINDOWS_MS = ((0, 100 * HOUR_MS), (0, HOUR_MS), (HOUR_MS, 100 * HOUR_MS), (HOUR_MS, 3 * HOUR_MS))


class Board(NamedTuple):
    """A fleet to play on, and the sizes that the owner's workers have. The last nodes may be spares."""

    nodes: int
    gpus: tuple[int, ...]
    """Of each node, over and over."""
    domain: int
    sizes: tuple[int, ...]
    spares: int = 0
    pools: tuple[tuple[str, str], ...] = (("H100", "local"),)
    """(grade, site) of each domain, over and over."""
    blocks: int = 2
    """Domains of a block."""
    apart: bool = False
    """Whether each pool is planned by itself."""

    def specs(self) -> list[NodeSpec]:
        """The fleet's nodes."""
        return [
            NodeSpec(
                name=f"node-{i}",
                grade=grade,
                site=site,
                gpus=self.gpus[i % len(self.gpus)],
                domain=f"domain-{i // self.domain}",
                block=f"block-{site}-{i // (self.blocks * self.domain)}",
            )
            for i in range(self.nodes)
            for grade, site in [self.pools[i // self.domain % len(self.pools)]]
        ]


TWO_GRADES = (("H100", "local"), ("A100", "local"))
TWO_SITES = (("H100", "east"), ("H100", "west"))
BOARDS = (
    Board(4, (4,), 2, (1, 2, 4)),
    Board(6, (2,), 2, (1, 2)),
    Board(3, (8,), 1, (1, 2, 4, 8)),
    Board(4, (2,), 4, (1, 2)),
    Board(5, (4,), 2, (1, 2, 4), spares=1),
    Board(8, (2,), 2, (1, 2), blocks=2),  # lots of blocks, domains, nodes and GPUs
    Board(6, (1, 2), 2, (1, 2), blocks=3),  # nodes of two sizes
    Board(4, (4, 4, 2, 2), 2, (1, 2, 4)),  # domains of two sizes
    Board(4, (4,), 1, (1, 2, 4), pools=TWO_GRADES),
    Board(4, (4,), 1, (1, 2, 4), pools=TWO_GRADES, apart=True),
    Board(8, (2,), 2, (1, 2), pools=TWO_SITES, blocks=1),
    Board(8, (2,), 2, (1, 2), pools=TWO_SITES, blocks=1, apart=True, spares=1),
)
BOUND = (None, Level.NVLINK_DOMAIN, Level.FABRIC_BLOCK)
"""What some of the owner's gangs must be inside: one level a game, since with two at once nothing is promised."""

Move = tuple[str, int, int, int]
"""(what, three numbers that say which, how much and how)."""


class Game:
    """See the module."""

    def __init__(self, board: Board, *, bound: Level | None = None) -> None:
        """`bound`: some of the owner's gangs must be inside one cell of that level."""
        self.board = board
        self.bound = bound
        self.nodes = board.specs()
        self.stage = Stage(nodes=self.nodes, planner=PoolsPlanner if board.apart else LocalPlanner)
        spares = tuple(f"node-{i}" for i in range(board.nodes - board.spares, board.nodes))
        self.stage.settings = replace(self.stage.settings, spares=spares)
        self.owed = 0
        """How often the owner was owed a gang and got it, which is what makes the game worth playing."""
        self.kinds: set[str] = set()
        """What kinds of gangs those were."""
        self.seen: list[str] = []
        self._names = 0
        self.stage.scheduler.listeners.append(self._hear)

    def play(self, move: Move) -> None:
        """One move, then rounds at this instant, each held against what is owed."""
        what, *numbers = move
        self.stage.now_ms += 1  # no fact comes at the instant of a placement, which the checker tells apart by that
        MOVES[what](self, *numbers)
        self._settle()

    def _settle(self) -> None:
        scheduler, stage = self.stage.scheduler, self.stage
        while True:
            before = len(stage.heard)
            scheduler.round()
            stage.laws.after_round(scheduler.state, stage.now_ms)
            assert stage.laws.found == [], stage.laws.found
            self.check()
            if len(stage.heard) == before:
                stage.heard.clear()
                return

    def check(self) -> None:
        """Nothing that the owner is owed waits; nothing is oversold in silence; a shortage hits the lowest class."""
        state = self.stage.scheduler.state
        for gang in state.gangs.waiting():
            if gang.account == OWNER:
                assert not is_owed(state, gang), f"{gang.spec.name} {gang.shape} is owed and waits"
        assert not (found := unaccounted(state, self.stage.now_ms)), found
        assert not (found := out_of_turn(state, self.stage.now_ms)), found

    def _hear(self, event: object) -> None:
        match event:
            case BindOverdue():
                raise AssertionError(f"{event.gang} was not bound within its limit")
            case GangPlaced():
                gang = self.stage.scheduler.state.gangs.get(event.gang)
                if gang.account == OWNER and event.inside:
                    self.owed += 1
                    self.kinds |= kinds_of(gang)
            case GangStopAsked():
                self.seen.append(event.cause)
            case _:
                pass

    # -- moves ---------------------------------------------------------------------------------------------------------

    def submit(self, account: str, spec: dict[str, Any], work_ms: int, stop_ms: int | None) -> None:
        """An account submits."""
        self._names += 1
        given = {"checkpoint_ms": 600_000, "restart_ms": 0, **spec}
        gang = GangSpec(account=account, name=f"gang-{self._names}", command=("run",), **given)
        self.stage.submit(gang, Work(work_ms, gang.checkpoint_ms, 0, 0, stop_ms))

    def owner_submits(self, size: int, workers: int, how: int) -> None:
        """The owner asks for sizes that divide each other, at times on one node, elastic, in parts of a GPU, in a hurry
        or to be left alone.
        """
        sizes = self.board.sizes
        spec: dict[str, Any] = {"gpus_per_worker": sizes[size % len(sizes)], "workers": (1, 1, 1, 2, 4)[workers % 5]}
        if how % 4 == 3:
            spec |= {"topology": Level.NODE, "topology_required": True}
        elif how % 4 == 2 and self.bound is not None:
            spec |= {"topology": self.bound, "topology_required": True}
        elif how % 4 == 1 and workers % 2:
            spec |= {"workers": 2 + size % 3, "min_workers": 1 + workers % 2}
        elif how % 4 == 1:
            spec |= {"workers": 1, "gpus_per_worker": 1, "gpu_milli": (300, 500, 700)[size % 3]}
        if how % 9 == 8:
            spec |= {"preemptible": False, "max_runtime_ms": RUNS_MS[how % 3]}
        spec |= {"grade": self._grade(workers + how), **self._hurry(size + how)}
        self.submit(OWNER, {**spec, "grace_ms": GRACES_MS[how % 2]}, HOUR_MS * (1 + how % 3), None)

    def _grade(self, which: int) -> str | None:
        """A grade, or any."""
        grades = (None, *sorted({grade for grade, _ in self.board.pools}))
        return grades[which % len(grades)]

    def _hurry(self, how: int) -> dict[str, Any]:
        """At times a deadline, near or far, or a time for which it wishes to be left alone."""
        at_ms = self.stage.now_ms + RUNS_MS[how % 3]
        return ({}, {}, {"deadline_ms": at_ms, "max_runtime_ms": HOUR_MS}, {"min_runtime_ms": HOUR_MS // 2})[how % 4]

    def others_submit(self, who: int, size: int, how: int) -> None:
        """Others ask for anything, preemptible or not, with any grace."""
        topology = (None, None, None, *LEVELS)[how % 6]
        workers = (1, 2, 1, 3, 1)[(size + how) % 5]
        spec: dict[str, Any] = {
            "gpus_per_worker": 1 + size % max(self.board.gpus),
            "workers": workers,
            "min_workers": 1 if (who + size) % 4 == 3 else workers,
            "grade": self._grade(who + how),
            "topology": topology,
            "topology_required": topology is not None and how % 5 > 1,
            "preemptible": how % 7 > 1,
            "max_runtime_ms": RUNS_MS[how % 3],
            "grace_ms": GRACES_MS[(how + who) % 4],
            "priority": how % 11,
        }
        if how % 13 == 12:
            spec |= {"gpus_per_worker": 1, "workers": 1, "min_workers": 1, "gpu_milli": 400}
        if spec["preemptible"]:
            spec |= {"max_runtime_ms": spec["max_runtime_ms"], **self._hurry(who + how)}
        self.submit(OTHERS[who % 2], spec, RUNS_MS[(how // 3) % 3], (None, 0, 5_000)[how % 3])

    def buy(self, account: str, level: int, lots: int, window: int) -> None:
        """Lots of a level, now or later, for good or for a while."""
        since_ms = self.stage.now_ms - START_MS
        start_ms, end_ms = WINDOWS_MS[window % len(WINDOWS_MS)]
        self._names += 1
        wished = {
            "position": f"p-{self._names}",
            "from_ms": since_ms + start_ms,
            "until_ms": since_ms + end_ms,
            "firmness": tuple(FIRMNESS)[window % len(FIRMNESS)],
            "like": self.nodes[(lots // 3) % len(self.nodes)],
            "handovers": lots % 5 == 4,
        }
        self.stage.buy(account, 1 + lots % 3, LEVELS[level % len(LEVELS)], wished)

    def cancel(self, which: int, mine: int, _: int) -> None:
        """Somebody's gang, of the owner or of others, is not wanted any more."""
        state = self.stage.scheduler.state
        gangs = [gang for gang in state.gangs.by_id.values() if gang.status not in ENDED]
        chosen = [gang for gang in gangs if (gang.account == OWNER) == (mine % 3 == 0)]
        if chosen:
            self.stage.scheduler.cancel(chosen[which % len(chosen)].id)

    def sell(self, which: int, lots: int, when: int) -> None:
        """Others sell on what they have, to each other or to the owner."""
        positions = self._positions(OTHERS)
        if not positions:
            return
        source = positions[which % len(positions)]
        buyers = [name for name in (*OTHERS, OWNER) if name != source.account]
        self._names += 1
        at_ms = self.stage.now_ms + (0, 0, HOUR_MS)[when % 3]
        held = max(1, min((lots % 2) + 1, source.lots_at(at_ms)))
        with suppress(Refused):  # the exchange does not sell what is not there
            self.stage.told(
                PositionEventKind.TRANSFER,
                f"p-{self._names}",
                buyers[(which + when) % 2],
                held,
                source.instrument,
                source=source.id,
                effective_ms=at_ms,
            )

    def expire(self, which: int, _: int, __: int) -> None:
        """A position of others is over."""
        positions = self._positions(OTHERS)
        if positions:
            position = positions[which % len(positions)]
            self.stage.told(PositionEventKind.EXPIRY, position.id, position.account, 0, position.instrument)

    def drain(self, node: int, how: int, _: int) -> None:
        """A node is to be emptied, or is not any more."""
        name = f"node-{node % self.board.nodes}"
        self.stage.scheduler.drain(name, None if how % 2 else self.stage.now_ms + (0, HOUR_MS)[how // 2 % 2])

    def fail(self, node: int, how: int, _: int) -> None:
        """A node goes, or comes back."""
        name = f"node-{node % self.board.nodes}"
        fault = NodeUp(name, self.stage.now_ms) if how % 3 else NodeDown(name, self.stage.now_ms)
        self.stage.break_down(fault)

    def ail(self, node: int, gpu: int, how: int) -> None:
        """A GPU falls ill, or a node's GPUs are well again."""
        name = f"node-{node % self.board.nodes}"
        here = self.nodes[node % self.board.nodes].gpus
        gpus = (gpu % here,) if how % 2 else tuple(range(here))
        self.stage.break_down(GpuFault(name, gpus, self.stage.now_ms, Cause.ECC if how % 2 else None))

    def wait(self, length: int, _: int, __: int) -> None:
        """Time passes, from event to event."""
        stage = self.stage
        until_ms = stage.now_ms + (1_000, 60_000, HOUR_MS, HOUR_MS // 2)[length % 4]
        while stage.now_ms < until_ms:
            stage.now_ms = min(until_ms, max(stage.now_ms + 1, stage.next_ms()))
            self._settle()

    def _positions(self, accounts: tuple[str, ...]) -> list[Position]:
        state = self.stage.scheduler.state
        now_ms = self.stage.now_ms
        held = [position for _, position in sorted(state.book.positions.items()) if position.account in accounts]
        return [position for position in held if position.lots_at(now_ms) > 0 or not _over(position, now_ms)]


def _over(position: Position, now_ms: int) -> bool:
    return all(lots == 0 for at_ms, lots in position.lots if at_ms >= now_ms) and position.lots_at(now_ms) == 0


MOVES: Mapping[str, Callable[..., None]] = {
    "own": Game.owner_submits,
    "ask": Game.others_submit,
    "gain": lambda game, level, lots, window: game.buy(OWNER, level, lots, window),
    "buy": lambda game, level, lots, window: game.buy(OTHERS[window % 2], level, lots, window // 2),
    "cancel": Game.cancel,
    "sell": Game.sell,
    "expire": Game.expire,
    "drain": Game.drain,
    "fail": Game.fail,
    "ail": Game.ail,
    "wait": Game.wait,
}


def kinds_of(gang: Gang) -> set[str]:
    """What is special about a gang."""
    spec = gang.spec
    named = {
        "elastic": spec.is_elastic and gang.shape.workers > spec.least_workers,
        "elastic, at its least": spec.is_elastic and gang.shape.workers == spec.least_workers,
        "share": spec.is_share,
        "inside a domain": spec.topology == Level.NVLINK_DOMAIN and gang.shape.workers > 1,
        "inside a block": spec.topology == Level.FABRIC_BLOCK and gang.shape.workers > 1,
        "not preemptible": not spec.preemptible,
        "in a hurry": gang.head_start_ms > 0,
    }
    return {name for name, is_so in named.items() if is_so}


def placed_inside(game: Game) -> int:
    """How many of the owner's gangs run or are about to."""
    gangs = game.stage.scheduler.state.gangs.placed.values()
    return sum(gang.account == OWNER and gang.status is not GangStatus.STOPPING for gang in gangs)
