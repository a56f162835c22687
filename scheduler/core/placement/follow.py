"""Books carried from one round into the next: what was touched is read anew, the rest stays as it is."""

from __future__ import annotations

import numpy as np

from scheduler.core.placement.books import Books
from scheduler.core.placement.snapshot import Snapshot, Touched
from scheduler.core.placement.trades import Parts, trade
from scheduler.core.workloads import MOVED, Gang, GangStatus


def follow(books: Books, snapshot: Snapshot, touched: Touched, parts: Parts) -> set[str]:
    """Make the books those of the snapshot; `parts`: what the owners of traded nodes own (`trades`). The accounts to
    which something happened.

    The last round's own decisions are read anew like everything touched: they may have been carried out or not.
    """
    numbers = touched.gangs | {gang.number for gang in books.gangs_of_round()}
    changed = [*touched.gpus]
    accounts: set[str] = set()
    books.begin_round(snapshot)
    if touched.traded:
        accounts |= {books.names[account] for account in trade(books, snapshot, touched.traded, parts)}
    for number in sorted(numbers):
        row, gang = books.row_of_number.get(number), snapshot.placed.get(number)
        if row is not None:
            accounts.add(books.rows[row].spec.account)
            if gang is not None and _is_the_same(books, row, gang):
                books.renew_row(row, gang)
                continue
            changed += books.gpus_of_row[row]
            books.drop_row(row)
        if gang is not None:
            accounts.add(gang.spec.account)
            changed += gang.gpu_numbers
            books.add_row(gang)
    return accounts | _set_anew(books, snapshot, sorted(set(changed)))


def _is_the_same(books: Books, row: int, gang: Gang) -> bool:
    """Whether the books say of the row's GPUs what the gang does."""
    if books.gpus_of_row[row] != gang.gpu_numbers:
        return False
    stopping = gang.status is GangStatus.STOPPING
    counts = not stopping or gang.stop_cause in MOVED
    return (row in books.stopped) == stopping and books.counts_of_row[row] == counts


def _set_anew(books: Books, snapshot: Snapshot, gpus: list[int]) -> set[str]:
    """Who holds and leaves these GPUs, and whether they are usable. The accounts that own any on their nodes."""
    if not gpus:
        return set()
    chosen = np.array(gpus, dtype=np.int64)
    was_firm = [row >= 0 and books.firm_of_row[row] for row in books.floor.holder[chosen].tolist()]
    now: list[tuple[int, int, int, int, int]] = []
    usable = snapshot.usable[chosen].tolist()
    there = zip(snapshot.occupant[chosen].tolist(), snapshot.claimant[chosen].tolist(), strict=True)
    for at, (occupant, claimant) in enumerate(there):
        leaves = occupant >= 0 and snapshot.placed[occupant].status is GangStatus.STOPPING
        holder = -1 if leaves else occupant
        if claimant >= 0 and snapshot.placed[claimant].status is not GangStatus.STOPPING:
            holder = claimant
        row = -1 if holder < 0 else books.row_of_number[holder]
        leaver = books.row_of_number[occupant] if leaves else -1
        now.append((int(usable[at]), row, leaver, int(was_firm[at]), int(row >= 0 and books.firm_of_row[row])))
    books.set_anew(chosen, np.array(now, dtype=np.int64))
    return books.owners_on(chosen)
