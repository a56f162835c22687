"""Telling GPU lots of a node apart: which of its GPUs each gets, by start, as a kernel.

No more lots than GPUs ever run at once, so one is always free, unless a pinned holding that starts later is in the way.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from scheduler.core.kernels import kernel

IntArray = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

NEVER = -(2**62)
"""Before every instant."""


@kernel
def pinned_within(windows: tuple[IntArray, IntArray, IntArray], row: int, start_ms: int, end_ms: int) -> bool:
    """Whether a pinned holding takes the GPU in the window."""
    for at in range(windows[2][row], windows[2][row + 1]):
        if windows[0][at] < end_ms and windows[1][at] > start_ms:
            return True
    return False


@kernel
def likes(liked: tuple[IntArray, IntArray], demand: int, row: int) -> int:
    """1 where the demand would like the GPU."""
    for at in range(liked[1][demand], liked[1][demand + 1]):
        if liked[0][at] == row:
            return 1
    return 0


@kernel
def tell_apart(
    first_row: IntArray,
    usable: Mask,
    sequence: IntArray,
    lots: tuple[IntArray, IntArray, IntArray, IntArray],
    account_of: IntArray,
    liked: tuple[IntArray, IntArray],
    windows: tuple[IntArray, IntArray, IntArray],
    gpu: IntArray,
) -> None:
    """Fills `gpu` with each lot's row, or -1. `lots`: (node, start_ms, end_ms, demand); `sequence` is by node, then by
    start; `account_of` and `liked` are by demand, `windows` by row.
    """
    nodes, starts, ends, demands = lots
    free_from = np.full(first_row[-1], NEVER, dtype=np.int64)
    account_on = np.full(first_row[-1], -1, dtype=np.int64)
    for lot in sequence:
        start, end, demand = starts[lot], ends[lot], demands[lot]
        best, best_rank = -1, 0
        for row in range(first_row[nodes[lot]], first_row[nodes[lot] + 1]):
            if not usable[row] or free_from[row] > start:
                continue
            if pinned_within(windows, row, start, end):
                continue
            rank = 2 * likes(liked, demand, row)
            if free_from[row] == start and account_on[row] == account_of[demand]:
                rank += 1
            if best < 0 or rank > best_rank or (rank == best_rank and free_from[row] > free_from[best]):
                best, best_rank = row, rank
        gpu[lot] = best
        if best >= 0:
            free_from[best] = end
            account_on[best] = account_of[demand]
