"""A mix: the kinds of ask that arrive, how often, and how long they stay. All that rehearsals know of the work.

Law: equal mixes have equal digests, in whatever order their kinds were counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from scheduler.core.errors import InvalidValue
from scheduler.core.models import canonical_bytes
from scheduler.core.placement.scores.pool import Ask, IntArray
from scheduler.core.quantities import apportion

MAX_WEIGHT = 1_000_000
"""Counts of a mix add up to this at most: products with them stay inside 64 bits."""


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """One kind of ask: how many of them were counted, and their mean stay."""

    ask: Ask
    count: int
    stay_ms: int = 0


@dataclass(frozen=True)
class Mix:
    """Kinds in order of their asks, each ask once. `mix_of` makes one."""

    kinds: tuple[Kind, ...]

    @cached_property
    def asks(self) -> IntArray:
        """(n_kinds, 5) int64: devices, milli, cpu_milli, memory_mib, models."""
        return ask_rows(kind.ask for kind in self.kinds)

    @cached_property
    def weights(self) -> IntArray:
        """(n_kinds) int64: the counts, scaled down where they add up to more than `MAX_WEIGHT`."""
        return _within_bounds([kind.count for kind in self.kinds])

    @property
    def count(self) -> int:
        """All asks counted."""
        return sum(kind.count for kind in self.kinds)

    @property
    def demand_milli(self) -> int:
        """Milli-GPU of all asks counted."""
        return sum(kind.count * kind.ask.total_milli for kind in self.kinds)

    @property
    def demand_milli_ms(self) -> int:
        """Milli-GPU times stay of all asks counted."""
        return sum(kind.count * kind.ask.total_milli * kind.stay_ms for kind in self.kinds)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the kinds, as hex."""
        rows = [[*_columns(kind.ask), kind.count, kind.stay_ms] for kind in self.kinds]
        return hashlib.sha256(canonical_bytes(rows)).hexdigest()

    def frequent(self, share_ppm: int) -> Mix:
        """The most frequent kinds that together cover this share of the asks; stays and memory are forgotten."""
        counts: dict[Ask, int] = {}
        for kind in self.kinds:
            shape = replace(kind.ask, memory_mib=0)
            counts[shape] = counts.get(shape, 0) + kind.count
        needed = self.count * share_ppm
        kept: list[Kind] = []
        for ask in sorted(counts, key=lambda ask: (-counts[ask], ask)):
            if sum(kind.count for kind in kept) * 1_000_000 >= needed:
                break
            kept.append(Kind(ask, counts[ask]))
        return Mix(tuple(sorted(kept)))


def mix_of(kinds: Iterable[Kind]) -> Mix:
    """The mix of kinds, in which an ask may come several times. Raises InvalidValue on a count under 1."""
    counts: dict[Ask, int] = {}
    stays: dict[Ask, int] = {}
    for kind in kinds:
        if kind.count < 1 or kind.stay_ms < 0:
            raise InvalidValue("count and stay_ms", "a kind", (kind.count, kind.stay_ms), "1 or more and 0 or more")
        counts[kind.ask] = counts.get(kind.ask, 0) + kind.count
        stays[kind.ask] = stays.get(kind.ask, 0) + kind.count * kind.stay_ms
    return Mix(tuple(Kind(ask, counts[ask], stays[ask] // counts[ask]) for ask in sorted(counts)))


def ask_rows(asks: Iterable[Ask]) -> IntArray:
    """(n, 5) int64: devices, milli, cpu_milli, memory_mib, models of each ask, as kernels read them."""
    return np.array([_columns(ask) for ask in asks], dtype=np.int64).reshape(-1, 5)


def prices(mix: Mix, gpus_of_model: Mapping[int, int]) -> IntArray:
    """What a GPU of each model is in demand with asks that may not go everywhere, in hundredths: (62) int64.

    Of a model: the sum over kinds that are restricted and may use it of (the kind's share of demand) × (all GPUs ÷
    GPUs of the models that it may use).
    """
    total = sum(gpus_of_model.values())
    price = np.zeros(62, dtype=np.int64)
    demand = mix.demand_milli
    for kind in mix.kinds:
        usable = [model for model in sorted(gpus_of_model) if kind.ask.models >> model & 1]
        gpus = sum(gpus_of_model[model] for model in usable)
        if kind.ask.devices == 0 or gpus in {0, total}:
            continue
        price[usable] += 100 * kind.count * kind.ask.total_milli * total * 1_000 // (demand * gpus)
    return price // 1_000


def _columns(ask: Ask) -> tuple[int, int, int, int, int]:
    return (ask.devices, ask.milli, ask.cpu_milli, ask.memory_mib, ask.models)


def _within_bounds(counts: list[int]) -> IntArray:
    scaled = apportion(MAX_WEIGHT, counts) if sum(counts) > MAX_WEIGHT else tuple(counts)
    return np.array(scaled, dtype=np.int64)
