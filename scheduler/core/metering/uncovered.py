"""Contracted against covered, instant by instant: what each contract promised, and what of it had no GPU behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from scheduler.core.causes import Cause
from scheduler.core.cluster import IntArray
from scheduler.core.errors import Conflict
from scheduler.core.intervals import Interval
from scheduler.core.metering.history import FieldHistory
from scheduler.core.metering.terms import Contract


@dataclass(frozen=True, slots=True)
class Coverage:
    """`contracted_gpu_ms` by contract, in their order; `uncovered`: (contract, cause, gpu_ms) of what had no GPU."""

    contracted_gpu_ms: tuple[int, ...]
    uncovered: tuple[tuple[int, Cause, int], ...]


def covered_and_contracted(
    owners: FieldHistory, interval: Interval, contracts: Sequence[Contract], contract_of_owner: IntArray
) -> Coverage:
    """Both sides of every contract. Raises Conflict where at some instant more GPUs cover one than it contracted."""
    width = interval.length_ms
    contracted: list[int] = []
    promised: list[tuple[int, int]] = []
    for row, contract in enumerate(contracts):
        before = whole = 0
        for piece, gpus in contract.contracted_gpus.pieces(interval):
            promised.append((row * width + piece.start_ms - interval.start_ms, gpus - before))
            whole += gpus * piece.length_ms
            before = gpus
        contracted.append(whole)
    if not contracts:
        return Coverage((), ())
    covered_keys, covered_steps = _covered_steps(owners, interval, contract_of_owner)
    promised_keys, promised_steps = np.array(promised, dtype=np.int64).T
    keys, where = np.unique(np.concatenate([promised_keys, covered_keys]), return_inverse=True)
    steps = np.zeros(len(keys), dtype=np.int64)
    np.add.at(steps, where, np.concatenate([promised_steps, -covered_steps]))
    running = np.cumsum(steps)
    firsts = np.flatnonzero(keys % width == 0)
    carried = np.concatenate([[0], running[firsts[1:] - 1]])
    missing = running - np.repeat(carried, np.diff(np.append(firsts, len(keys))))
    _refuse_excess(missing, keys, interval, contracts)
    ends = np.append(keys[1:], len(contracts) * width)
    ends = np.minimum(ends, (keys // width + 1) * width)
    found: dict[tuple[int, Cause], int] = {}
    for i in np.flatnonzero(missing).tolist():
        row, start = divmod(int(keys[i]), width)
        piece = Interval(interval.start_ms + start, interval.start_ms + int(ends[i]) - row * width)
        for cause, gpu_ms in _causes(contracts[row], piece, int(missing[i])):
            found[row, cause] = found.get((row, cause), 0) + gpu_ms
    uncovered = tuple((row, cause, gpu_ms) for (row, cause), gpu_ms in sorted(found.items()) if gpu_ms)
    return Coverage(tuple(contracted), uncovered)


def _covered_steps(owners: FieldHistory, interval: Interval, contract_of_owner: IntArray) -> tuple[IntArray, IntArray]:
    """(contract × width + offset_ms, GPUs more or fewer) of every change in what covers a contract, unsorted."""
    width = interval.length_ms
    initial = owners.at(interval.start_ms)
    instants, gpus, later = owners.between(interval.start_ms, interval.end_ms)
    by_gpu = np.argsort(gpus, kind="stable")
    gpus, later, offsets = gpus[by_gpu], later[by_gpu], instants[by_gpu] - interval.start_ms
    follows = np.concatenate([[False], gpus[1:] == gpus[:-1]])[: len(gpus)]
    before = np.where(follows, np.roll(later, 1), initial[gpus])
    first, lost, won = (contract_of_owner[positions + 1] for positions in (initial, before, later))
    keys = np.concatenate([first * width, lost * width + offsets, won * width + offsets])
    steps = np.concatenate([np.ones_like(first), -np.ones_like(lost), np.ones_like(won)])
    ours = np.concatenate([first, lost, won]) >= 0
    return keys[ours], steps[ours]


def _refuse_excess(missing: IntArray, keys: IntArray, interval: Interval, contracts: Sequence[Contract]) -> None:
    excess = np.flatnonzero(missing < 0)
    if not len(excess):
        return
    row, offset = divmod(int(keys[excess[0]]), interval.length_ms)
    at_ms, contract = interval.start_ms + offset, contracts[row]
    gpus = contract.contracted_gpus.at(at_ms)
    raise Conflict(
        f"{gpus - int(missing[excess[0]])} GPUs cover position {contract.position} at {at_ms}, "
        f"expected at most the {gpus} contracted"
    )


def _causes(contract: Contract, piece: Interval, missing: int) -> Iterator[tuple[Cause, int]]:
    """(cause, gpu_ms) of so many missing GPUs: what is withheld first, the rest for the cause of the time; of what is
    short by the rule what force majeure excuses.
    """
    rest = contract.uncovered_cause
    if isinstance(rest, Cause) and not contract.withheld_gpus and not contract.excused_gpus.steps:
        yield rest, missing * piece.length_ms
        return
    functions = [contract.excused_gpus, *(gpus for _, gpus in contract.withheld_gpus)]
    functions += [] if isinstance(rest, Cause) else [rest]
    cuts = {at_ms for function in functions for at_ms, _ in function.steps if piece.start_ms < at_ms < piece.end_ms}
    for start_ms, end_ms in pairwise(sorted({piece.start_ms, piece.end_ms, *cuts})):
        left = missing
        for cause, gpus in contract.withheld_gpus:
            withheld = min(left, gpus.at(start_ms))
            left -= withheld
            yield cause, withheld * (end_ms - start_ms)
        code = rest if isinstance(rest, Cause) else Cause(rest.at(start_ms) or Cause.OVERSOLD)
        excused = min(left, contract.excused_gpus.at(start_ms)) if code is Cause.SHORTAGE_RULE else 0
        if excused:
            yield Cause.FORCE_MAJEURE, excused * (end_ms - start_ms)
        yield code, (left - excused) * (end_ms - start_ms)
