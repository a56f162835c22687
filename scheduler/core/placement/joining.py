"""Shares join devices that their account shares already: before anything else, and again when there are new ones.

Law: after the round no share waits that could join a device of its account.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from scheduler.core.placement.books import Books
from scheduler.core.placement.floor import NOBODY
from scheduler.core.placement.lines import Line, Lines
from scheduler.core.workloads import Gang


class Joins:
    """The waiting shares, account by account in the published order."""

    def __init__(self, books: Books, lines: Lines) -> None:
        self._books = books
        by_account: dict[str, list[Line]] = {}
        for shape in [shape for shape in lines.shapes() if shape.is_share]:
            for account, line in lines.by_shape()[shape].items():
                by_account.setdefault(account, []).append(line)
        self._lines = [by_account[account] for account in sorted(by_account)]

    def run(self) -> None:
        """Let every share join that can."""
        for lines in self._lines:
            heads = [(head.order, at) for at, line in enumerate(lines) if (head := line.head()) is not None]
            heapify(heads)
            while heads:
                self._serve(heads, lines)

    def _serve(self, heads: list[tuple[tuple[int, int, int], int]], lines: list[Line]) -> None:
        _, at = heappop(heads)
        line = lines[at]
        head = line.head()
        if head is not None and joined(self._books, head):
            line.take()
            following = line.head()
            if following is not None:
                heappush(heads, (following.order, at))


def joined(books: Books, gang: Gang) -> bool:
    """Put the share onto the fullest device of its account that has room for it. Whether there was one."""
    account, shape = books.account_index[gang.spec.account], gang.shape
    pools = books.pools_for(shape.grade)
    end_ms = books.now_ms + shape.runtime_ms
    for row, gpu in books.devices.with_room(books, account, shape.gpu_milli, firm=not shape.preemptible):
        if books.pool_of_row[row] in pools and (shape.preemptible or _lasts(books, account, gpu, end_ms)):
            books.devices.join(books, row, gang)
            return True
    return False


def _lasts(books: Books, account: int, gpu: int, end_ms: int) -> bool:
    """Whether the GPU is the account's own or nobody's, and stays so until then."""
    return int(books.floor.owner[gpu]) in (NOBODY, account) and int(books.floor.until_ms[gpu]) >= end_ms
