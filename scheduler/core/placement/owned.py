"""Gangs inside their entitlement, by priority and age over all accounts: each of them gets its GPUs in this round.

Where: free GPUs of its own cells (tightest node), then unsold ones, then any free fit (it counts as owned wherever it
stands), then the least lost work of accounts over their count, anywhere, beside which others move where that is dear
(`moving`); as the last resort its own cells, where everything that can be preempted makes way. An account's use falls
when it is reclaimed from, so its lines are asked again: at the end no preemptible gang that waits is inside. An elastic
gang is inside where its least size is, and gets the most that its account's count holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from scheduler.core.placement.asking import Asking, InRuns, OneByOne
from scheduler.core.placement.books import Books
from scheduler.core.placement.elastic import most_free, most_inside, sized, tried_sizes
from scheduler.core.placement.firm import place_firm
from scheduler.core.placement.home import go_home
from scheduler.core.placement.joining import joined
from scheduler.core.placement.lines import Line, Lines
from scheduler.core.placement.orders import Kind
from scheduler.core.placement.roll import Listed
from scheduler.core.placement.room import free_fit, milder, room_from_accounts_over_count, room_from_others, take_room
from scheduler.core.placement.search import Tiers, tiers
from scheduler.core.placement.wants import Want, wants
from scheduler.core.quantities import floor_div
from scheduler.core.workloads import Gang, asked_shape

INSIDE = tiers(Kind.OWN, Kind.OWN_OR_UNSOLD, Kind.ANY)


@dataclass(frozen=True, slots=True)
class Due:
    """Who may have come inside since the last round: everybody of these accounts, and these lines of others."""

    accounts: set[str]
    lines: list[Line]


class Owned:
    """The first phase of a round."""

    def __init__(self, books: Books, lines: Lines, listed: Listed | None = None) -> None:
        """With a roll the first run is served by machine code where that will do."""
        self._books = books
        self._lines = lines
        self._listed = listed
        self._asking: Asking = OneByOne(books)
        self._awake: set[str] | None = None

    def run(self, due: Due | None = None) -> None:
        """Place every gang that is inside its entitlement; only those due may have come inside (None: all)."""
        if due is None and self._listed is not None:
            self._asking = InRuns(self._books, self._lines, self._listed, INSIDE)
        elif due is None:
            for account in self._lines.accounts():
                self._ask_all(account)
        else:
            self._awake = set()
            for account in sorted(due.accounts & self._books.account_index.keys()):
                self._wake(account)
            for line in due.lines:
                self._asking.ask(line)
        self._drain()

    def _wake(self, account: str) -> None:
        """Ask all lines of an account that so far was left as the last round left it."""
        if self._awake is not None:
            self._awake.add(account)
        self._ask_all(account)

    def _ask_all(self, account: str) -> None:
        """Ask the account's lines; most accounts are at their count, which one comparison shows."""
        books = self._books
        index = books.account_index[account]
        room = max((books.headroom(index, pool) for pool in range(books.n_pools)), default=0)
        if room > 0:
            for line in self._lines.of(account).values():
                if line.gpus <= room:
                    self._asking.ask(line)

    def _drain(self) -> None:
        while (line := self._asking.next()) is not None:
            gang = line.head()
            if gang is None or not self._placed(gang, line):
                continue
            line.take()
            self._settle_withdrawn()
            self._asking.ask(line)
            if self._awake is not None and line.account not in self._awake:
                self._wake(line.account)
            for again in self._asking.forgive(line.account):
                self._asking.ask(again)
            self._ask_lowered()

    def _settle_withdrawn(self) -> None:
        """Gangs of this round that had to make way: those inside are placed again at once, the others wait on."""
        books = self._books
        while books.withdrawn:
            placed, inside = books.withdrawn.pop()
            gang = replace(placed, shape=asked_shape(placed)) if placed.spec.is_elastic else placed
            line = self._lines.of(gang.spec.account)[gang.shape]
            if not inside or not self._placed(gang, line):
                line.give_back(gang)
            self._asking.changed(line)

    def _ask_lowered(self) -> None:
        books = self._books
        if not books.lowered:
            return
        names = sorted(books.names[account] for account in books.lowered)
        books.lowered.clear()
        for name in names:
            self._asking.forgive(name)
            self._wake(name)

    def _placed(self, gang: Gang, line: Line) -> bool:
        """Place the gang in the first pool in which it is inside. Whether there was one."""
        books = self._books
        account = books.account_index[line.account]
        if line.shape.is_share and joined(books, gang):
            return True
        for pool in books.pools_for(line.shape.grade):
            if books.headroom(account, pool) < line.gpus:
                continue
            if not line.shape.preemptible:
                if _place_firm(books, gang, account, pool):
                    return True
            elif self._place(gang, line, account, pool):
                return True
            else:
                self._asking.refuse(line)
        return False

    def _place(self, gang: Gang, line: Line, account: int, pool: int) -> bool:
        books = self._books
        if not line.shape.is_elastic:
            return books.repacks(account, pool, line.least) and _place(books, gang, line.wants, account, pool)
        most = most_inside(books, line.shape, account, pool)
        return most is not None and _place_elastic(books, gang, account, pool, most)


def _place_firm(books: Books, gang: Gang, account: int, pool: int) -> bool:
    if not gang.shape.is_elastic:
        return place_firm(books, gang, account, pool)
    most = floor_div(books.headroom(account, pool), gang.shape.gpus_per_worker)
    sizes = tried_sizes(gang.shape, min(gang.shape.workers, most))
    return any(place_firm(books, sized(gang, workers), account, pool) for workers in sizes)


def _place_elastic(books: Books, gang: Gang, account: int, pool: int, most: int) -> bool:
    """Place an elastic gang that is inside: with the most workers that its count holds on free GPUs, or on such as
    accounts over their count give back; else with as many as are free; at the least by every resort.
    """
    largest = sized(gang, most)
    gpus = free_fit(books, wants(largest.shape), Tiers(INSIDE, pool, account))
    if gpus is not None:
        books.place(largest, gpus, inside=True)
        return True
    room = room_from_accounts_over_count(books, wants(largest.shape)[-1], pool)
    if room is not None:
        take_room(books, largest, room)
        return True
    fitting = most_free(books, gang.shape, Tiers(INSIDE, pool, account), most)
    chosen = sized(gang, gang.shape.min_workers if fitting is None else fitting)
    return _place(books, chosen, wants(chosen.shape), account, pool)


def _place(books: Books, gang: Gang, wished: tuple[Want, ...], account: int, pool: int) -> bool:
    """Place a preemptible gang that is inside. Always succeeds: it was shown to fit its own cells."""
    gpus = free_fit(books, wished, Tiers(INSIDE, pool, account))
    if gpus is not None:
        books.place(gang, gpus, inside=True)
        return True
    want = wished[-1]
    room = room_from_accounts_over_count(books, want, pool)
    if room is None:
        room = room_from_others(books, want, account, pool)
    if room is not None:
        take_room(books, gang, milder(books, want, pool, room))
        return True
    return go_home(books, gang, account, pool)
