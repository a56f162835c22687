"""The table of scores: by name, what each rule needs to know, and that made from a mix and a pool.

first-fit        the first node, the first device
best-fit         where least stays free: on the node, then on the device
fgd              fragmentation gradient descent as published (Weng et al., ATC'23): the frequent kinds that cover 95 %
                 of the mix, the score in whole percent, ties by best fit
gradient         the same gradient exactly, over every kind of the mix, and a free GPU that stays costs a little
residual-values  what of each device will stay unallocated in the end, learnt by rehearsal (`rehearsal`)

An unknown name is an error. A rule is an integer that `scan` follows: to add one is a line there and a line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from scheduler.core.errors import InvalidValue, UnknownName
from scheduler.core.placement.scores import scan
from scheduler.core.placement.scores.kinds import Mix, ask_rows, prices
from scheduler.core.placement.scores.logarithms import ONE, ln
from scheduler.core.placement.scores.pool import WHOLE_MILLI, IntArray, PoolState
from scheduler.core.quantities import ceil_div

FREQUENT_PPM = 950_000
"""The share of the mix that FGD looks at (ATC'23, section 6)."""
N_RESIDUALS = WHOLE_MILLI // scan.STEP_MILLI + 1
NO_VALUES = np.zeros((N_RESIDUALS, len(scan.KNOTS)), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Rule:
    """A line of the table: the rule's number in `scan`, which share of the mix it looks at, whether it is rehearsed."""

    number: int
    share_ppm: int = 0
    learns: bool = False


SCORES: Mapping[str, Rule] = MappingProxyType(
    {
        "first-fit": Rule(scan.FIRST_FIT),
        "best-fit": Rule(scan.BEST_FIT),
        "fgd": Rule(scan.FGD, FREQUENT_PPM),
        "gradient": Rule(scan.GRADIENT, 1_000_000),
        "residual-values": Rule(scan.VALUES, learns=True),
    }
)

DEFAULT = "gradient"
"""Used until a rehearsal says otherwise."""


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """A score ready for use: its name in the table, and what it knows."""

    name: str
    known: scan.Known


def rule(name: str) -> Rule:
    """The line of a name. Raises UnknownName."""
    try:
        return SCORES[name]
    except KeyError:
        raise UnknownName("score", name, tuple(SCORES)) from None


def score(name: str, mix: Mix, gpus_of_model: Mapping[int, int], values: IntArray | None = None) -> Score:
    """The score of a name for a mix of asks on so many GPUs of each model.

    `values` is the learnt table, (101, 7) int64, for a score that learns. Raises UnknownName, InvalidValue without it.
    """
    line = rule(name)
    if line.learns and values is None:
        raise InvalidValue("values", name, None, "the table of a rehearsal")
    expected = Mix(()) if line.share_ppm == 0 else mix if line.share_ppm == 1_000_000 else mix.frequent(line.share_ppm)
    weights = expected.weights
    known = scan.Known(
        rule=line.number,
        shapes=ask_rows(kind.ask for kind in expected.kinds),
        weights=weights,
        weight=int(weights.sum()),
        thresholds=sigmoid_thresholds(int(weights.sum())),
        values=NO_VALUES if values is None else np.ascontiguousarray(values, dtype=np.int64),
        prices=prices(mix, gpus_of_model) if line.learns else np.zeros(62, dtype=np.int64),
    )
    if known.values.shape != NO_VALUES.shape:
        raise InvalidValue("values", name, known.values.shape, f"{NO_VALUES.shape}")
    return Score(name, known)


def gpus_of_model(pool: PoolState, devices: IntArray | None = None) -> dict[int, int]:
    """Devices of each model in a pool of empty nodes, or with `devices` (n_nodes) of each node given."""
    counts = (pool.free_milli > 0).sum(axis=1) if devices is None else devices
    return {int(model): int(counts[pool.model == model].sum()) for model in np.unique(pool.model)}


def sigmoid_thresholds(weight: int) -> IntArray:
    """(99) int64: the least integer g with int(100 × sigmoid(g ÷ weight ÷ 1000)) of 1 .. 99 or more.

    sigmoid(x) reaches s ÷ 100 at ln(s ÷ (100 − s)). Up to gains of 36 GPUs, where a float's sigmoid becomes 1.
    """
    return np.array([ceil_div(1_000 * weight * ln(s, 100 - s), ONE) for s in range(1, 100)], dtype=np.int64)
