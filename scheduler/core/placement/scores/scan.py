"""The loops behind the scores: what a place costs, the cheapest place of a pool, and a whole stretch of arrivals.

Every cost is an integer, least is best; equal costs go to the lesser tie, then to the first node and its first device.
Rows are those of `pool` (nodes) and `kinds` (asks). Compiled or plain, the bytes are the same (`core/kernels`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from scheduler.core.kernels import kernel
from scheduler.core.placement.scores.pool import BoolArray, IntArray

FIRST_FIT, BEST_FIT, FGD, GRADIENT, VALUES = range(5)
"""Which rule a cost follows; `table` says what each is."""

NOWHERE = 2**62
"""The cost of a node on which the ask does not fit."""
PARTS = 1_024
"""Parts of the distance between two knots, and of a milli-GPU of value."""
KNOTS = (0, 4, 8, 12, 16, 24, 60)
"""CPU per free GPU (milli per milli) at which a device's value is known."""
STEP_MILLI = 10
"""Residuals of a device whose values are told apart."""
LEFT_PPK = 30
"""What a free GPU that stays on the node adds to the gradient, in thousandths of it."""


class Known(NamedTuple):
    """What a score knows. Arrays that its rule does not use are empty.

    rule:       one of the constants above
    shapes:     (n, 5) int64, the asks that are expected, as in `kinds.ask_rows`
    weights:    (n) int64, how often each
    weight:     their sum
    thresholds: (99) int64, the least weighted gradient that scores 1 .. 99
    values:     (101, 7) int64, milli-GPU of a device by residual and knot that will stay unallocated
    prices:     (62) int64, hundredths, by model
    """

    rule: int
    shapes: IntArray
    weights: IntArray
    weight: int
    thresholds: IntArray
    values: IntArray
    prices: IntArray


@kernel
def wasted(row: IntArray, cpu: int, memory: int, model: int, known: Known) -> int:
    """Idle milli-GPU of a node that the expected asks cannot use, times their weights (FGD, ATC'23, section 3)."""
    idle = 0
    for d in range(len(row)):
        idle += row[d]
    total = 0
    if idle == 0:
        return total
    small, fitting, counted = 0, 0, -1
    for m in range(len(known.weights)):
        devices, milli = known.shapes[m, 0], known.shapes[m, 1]
        lost = idle
        if (
            devices > 0
            and known.shapes[m, 2] <= cpu
            and known.shapes[m, 3] <= memory
            and (known.shapes[m, 4] >> model) & 1 == 1
        ):
            if milli != counted:  # shapes are in order, so equal sizes follow one another
                small, fitting, counted = 0, 0, milli
                for d in range(len(row)):
                    if row[d] >= milli:
                        fitting += 1
                    else:
                        small += row[d]
            if fitting >= devices:
                lost = small
        total += known.weights[m] * lost
    return total


@kernel
def knot_of(cpu: int, idle: int) -> tuple[int, int]:
    """Between which knots a node's CPU per free GPU lies: the lower one, and how many of `PARTS` beyond it."""
    ratio = cpu * PARTS // idle
    last = len(KNOTS) - 1
    if ratio >= KNOTS[last] * PARTS:
        return last - 1, PARTS
    b = 0
    while ratio >= KNOTS[b + 1] * PARTS:
        b += 1
    return b, (ratio - KNOTS[b] * PARTS) // (KNOTS[b + 1] - KNOTS[b])


@kernel
def lasting(row: IntArray, cpu: int, values: IntArray) -> int:
    """Milli-GPU of a node that will stay unallocated in the end, in `PARTS` each."""
    idle = 0
    for d in range(len(row)):
        idle += row[d]
    if idle == 0:
        return 0
    b, beyond = knot_of(cpu, idle)
    total = 0
    for d in range(len(row)):
        if row[d] > 0:
            r = row[d] // STEP_MILLI
            total += values[r, b] * (PARTS - beyond) + values[r, b + 1] * beyond
    return total


@kernel
def standing(row: IntArray, cpu: int, memory: int, model: int, known: Known) -> int:
    """What a node is worth now to the rule; its cost of an ask is how that changes."""
    if FGD <= known.rule <= GRADIENT:
        return wasted(row, cpu, memory, model, known)
    if known.rule == VALUES:
        return lasting(row, cpu, known.values)
    return 0


@kernel
def change_cost(change: int, idle: int, asked: int, price: int, known: Known) -> int:
    """The cost of a place: the node's standing changes by `change`, `idle` milli-GPU stay, `asked` have a `price`."""
    if known.rule == FGD:  # int(100 × sigmoid(gain ÷ 1000)), exactly: how many thresholds the gain reaches
        low, high = 0, 99
        while low < high:
            middle = (low + high + 1) // 2
            if -change >= known.thresholds[middle - 1]:
                low = middle
            else:
                high = middle - 1
        return -low
    if known.rule == GRADIENT:
        return change * 1_000 + LEFT_PPK * idle * known.weight
    if known.rule == VALUES:
        return change * 1_000 + PARTS * (2 * idle + price * asked)
    return 0


@kernel
def cheapest_on_node(
    row: IntArray, cpu: int, memory: int, model: int, allowed: int, ask: IntArray, before: int, known: Known
) -> tuple[int, int, int]:
    """Cost, tie and device of the best place on one node; `NOWHERE` where the ask does not fit.

    `row` is written to and restored. `allowed` are the bits of devices that may be used; several devices are the first
    allowed ones that are free enough, and the device is the first of them. No devices: -1, wherever any is allowed.
    """
    if not fits(row, cpu, memory, model, allowed, ask):
        return NOWHERE, 0, -1
    devices, milli = ask[0], ask[1]
    asked, idle = devices * milli, 0
    for d in range(len(row)):
        idle += row[d]
    price = known.prices[model] if known.rule == VALUES else 0
    best, best_tie, best_device = NOWHERE, 0, -1
    for d in range(max(1, len(row))):
        if devices > 0 and not first_of_its_size(row, allowed, devices, milli, d):
            continue
        after = before
        if known.rule >= FGD:
            taken = move(row, allowed, devices, milli, d)
            after = standing(row, cpu - ask[2], memory - ask[3], model, known)
            put_back(row, taken, milli)
        cost = change_cost(after - before, idle - asked, asked, price, known)
        tie = 0
        if BEST_FIT <= known.rule <= GRADIENT:
            tie = (idle - asked) * 1_024 + (row[d] - milli if devices == 1 else 0)
        if cost < best or (cost == best and tie < best_tie):
            best, best_tie, best_device = cost, tie, d
        if devices != 1:
            break
    return best, best_tie, best_device if devices > 0 else -1


@kernel
def fits(row: IntArray, cpu: int, memory: int, model: int, allowed: int, ask: IntArray) -> bool:
    """Whether a node can take an ask on its allowed devices; one without devices, where any is allowed."""
    if cpu < ask[2] or memory < ask[3] or allowed == 0:
        return False
    if ask[0] == 0:
        return True
    fitting = 0
    for d in range(len(row)):
        if row[d] >= ask[1] and (allowed >> d) & 1 == 1:
            fitting += 1
    return bool(fitting >= ask[0] and (ask[4] >> model) & 1 == 1)


@kernel
def first_of_its_size(row: IntArray, allowed: int, devices: int, milli: int, d: int) -> bool:
    """Whether a device can take an ask, and is the first of its residual where the ask wants one."""
    if row[d] < milli or (allowed >> d) & 1 == 0:
        return False
    if devices == 1:
        for e in range(d):
            if row[e] == row[d] and (allowed >> e) & 1 == 1:
                return False
    return True


@kernel
def move(row: IntArray, allowed: int, devices: int, milli: int, first: int) -> int:
    """Take `milli` of each of the first allowed devices from `first` on that have it; the bits of those taken."""
    taken, left = 0, devices
    for d in range(first, len(row)):
        if left > 0 and row[d] >= milli and (allowed >> d) & 1 == 1:
            row[d] -= milli
            taken |= 1 << d
            left -= 1
    return taken


@kernel
def put_back(row: IntArray, taken: int, milli: int) -> None:
    """Give back what `move` took."""
    for d in range(len(row)):
        if (taken >> d) & 1 == 1:
            row[d] += milli


@kernel
def cheapest(
    free: IntArray, cpu: IntArray, memory: IntArray, model: IntArray, allowed: IntArray, ask: IntArray, known: Known
) -> tuple[int, int]:
    """The node and first device of the cheapest place in a pool; node -1 where the ask fits nowhere.

    `allowed` is (n_nodes) int64, bits of devices. `free` is written to and restored.
    """
    best, best_tie, node, device = NOWHERE, 0, -1, -1
    for n in range(len(free)):
        if n > 0 and same_node(free, cpu, memory, model, allowed, n):
            continue  # costs what the node before it costs, which goes first
        if not fits(free[n], cpu[n], memory[n], model[n], allowed[n], ask):
            continue
        before = standing(free[n], cpu[n], memory[n], model[n], known)
        cost, tie, d = cheapest_on_node(free[n], cpu[n], memory[n], model[n], allowed[n], ask, before, known)
        if cost < best or (cost == best and tie < best_tie):
            best, best_tie, node, device = cost, tie, n, d
        if known.rule == FIRST_FIT:
            break
    return node, device


@kernel
def same_node(free: IntArray, cpu: IntArray, memory: IntArray, model: IntArray, allowed: IntArray, n: int) -> bool:
    """Whether a node is in every respect as the one before it, as most of an idle pool are."""
    if cpu[n] != cpu[n - 1] or memory[n] != memory[n - 1] or model[n] != model[n - 1] or allowed[n] != allowed[n - 1]:
        return False
    return first_difference(free[n], free[n - 1]) < 0


@kernel
def first_difference(left: IntArray, right: IntArray) -> int:
    """The first place at which two rows of one length differ, -1 where they are equal."""
    for d in range(len(left)):
        if left[d] != right[d]:
            return d
    return -1


class Costs(NamedTuple):
    """What is known of the cost of each kind on each node, while the node has not changed since; all int64.

    cost, tie, device: (n_kinds, n_nodes)
    seen, seen_bits:   (n_kinds, n_nodes), the node's version and its allowed devices then
    version, before:   (n_nodes), `before` its standing at `version`
    """

    cost: IntArray
    tie: IntArray
    device: IntArray
    seen: IntArray
    seen_bits: IntArray
    version: IntArray
    before: IntArray


@kernel
def pick(
    free: IntArray,
    cpu: IntArray,
    memory: IntArray,
    model: IntArray,
    allowed: IntArray,
    asks: IntArray,
    kind: int,
    costs: Costs,
    known: Known,
) -> int:
    """The node of the cheapest place of a kind; -1 where it fits nowhere. As `cheapest`, with costs kept."""
    best, best_tie, node = NOWHERE, 0, -1
    for n in range(len(free)):
        if costs.seen[kind, n] != costs.version[n] or costs.seen_bits[kind, n] != allowed[n]:
            costs.seen[kind, n], costs.seen_bits[kind, n] = costs.version[n], allowed[n]
            cost, tie, device = cheapest_on_node(
                free[n], cpu[n], memory[n], model[n], allowed[n], asks[kind], costs.before[n], known
            )
            costs.cost[kind, n], costs.tie[kind, n], costs.device[kind, n] = cost, tie, device
        if costs.cost[kind, n] < best or (costs.cost[kind, n] == best and costs.tie[kind, n] < best_tie):
            best, best_tie, node = costs.cost[kind, n], costs.tie[kind, n], n
            if known.rule == FIRST_FIT:
                break
    return node


@kernel
def play(
    free: IntArray,
    cpu: IntArray,
    memory: IntArray,
    model: IntArray,
    asks: IntArray,
    kinds: IntArray,
    events: IntArray,
    known: Known,
    costs: Costs,
    node_of: IntArray,
    devices_of: IntArray,
    notes: IntArray,
) -> int:
    """Let workers arrive and leave; where each goes is written to `node_of` (-1: refused) and `devices_of` (bits).

    kinds:  (n_workers) int64, the row of `asks` of each worker
    events: (n_events) int64, a worker's number: it arrives; -1 - number: it leaves, if it was placed
    notes:  (n, 5) int64, empty where nobody learns: node, device, row, column and weight of each free device of the
            node that an arrival touched. Gives how many were written.

    The pool is left as it is at the end. `costs` must be fresh (version 1, the rest 0).
    """
    written = 0
    allowed = np.full(len(free), -1, dtype=np.int64)
    for n in range(len(free)):
        costs.before[n] = standing(free[n], cpu[n], memory[n], model[n], known)
    for e in range(len(events)):
        arrives = events[e] >= 0
        worker = events[e] if arrives else -1 - events[e]
        kind = kinds[worker]
        milli = asks[kind, 1]
        if arrives:
            n = pick(free, cpu, memory, model, allowed, asks, kind, costs, known)
            node_of[worker] = n
            if n < 0:
                continue
            devices_of[worker] = move(free[n], -1, asks[kind, 0], milli, max(costs.device[kind, n], 0))
            cpu[n] -= asks[kind, 2]
            memory[n] -= asks[kind, 3]
        else:
            n = node_of[worker]
            if n < 0:
                continue
            put_back(free[n], devices_of[worker], milli)
            cpu[n] += asks[kind, 2]
            memory[n] += asks[kind, 3]
        costs.version[n] += 1
        costs.before[n] = standing(free[n], cpu[n], memory[n], model[n], known)
        if arrives and len(notes) > 0:
            written = note(free[n], cpu[n], n, notes, written)
    return written


@kernel
def note(row: IntArray, cpu: int, node: int, notes: IntArray, written: int) -> int:
    """Write down the free devices of a node, each at the two knots between which it stands; the rows written so far."""
    idle = 0
    for d in range(len(row)):
        idle += row[d]
    if idle == 0:
        return written
    b, beyond = knot_of(cpu, idle)
    for d in range(len(row)):
        if row[d] > 0:
            for side in range(2):
                weight = beyond if side == 1 else PARTS - beyond
                if weight > 0:
                    notes[written, 0], notes[written, 1] = node, d
                    notes[written, 2], notes[written, 3] = row[d] // STEP_MILLI, b + side
                    notes[written, 4] = weight
                    written += 1
    return written


def fresh_costs(n_kinds: int, n_nodes: int) -> Costs:
    """Costs of which nothing is known yet."""
    cost, tie, device, seen, seen_bits = (np.zeros((n_kinds, n_nodes), dtype=np.int64) for _ in range(5))
    version, before = np.ones(n_nodes, dtype=np.int64), np.zeros(n_nodes, dtype=np.int64)
    return Costs(cost, tie, device, seen, seen_bits, version, before)


def device_bits(allowed: BoolArray) -> IntArray:
    """(n_nodes) int64 of the bits of allowed devices, from (n_nodes, max_devices) bool."""
    bits = allowed.astype(np.int64) << np.arange(allowed.shape[1], dtype=np.int64)
    return np.asarray(bits.sum(axis=1), dtype=np.int64)
