"""All that the meter remembers: five step functions for each GPU, and one for the whole fleet (how it was seen).

Law: `load(dump())` has equal dumps, and equal histories have equal dumps, however often they were read in between.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from scheduler.core.cluster import IntArray
from scheduler.core.errors import Damaged
from scheduler.core.metering.estimation import Sight
from scheduler.core.metering.history import LONG_AGO_MS, FieldHistory
from scheduler.core.metering.runs import RunHistory
from scheduler.core.models import canonical_bytes
from scheduler.core.quantities import ONE_PPM

PPM_BITS = 30
"""Performance and its suite share one value: `suite number << PPM_BITS | ppm`."""

_LAYOUT = 2


class FleetHistory:
    """See the module."""

    def __init__(self) -> None:
        self.owner = FieldHistory(-1)
        """Position index; -1: unsold."""
        self.cause = RunHistory(0)
        """0: healthy, else the `Cause` of the GPU's own ill health."""
        self.occupant = FieldHistory(-1)
        """Account index of the gang that runs there; -1: none."""
        self.performance = FieldHistory(ONE_PPM)
        self.late = FieldHistory(0)
        """1: the owner's gang waits beyond the bind limit."""
        self.sight = FieldHistory(int(Sight.OBSERVED))
        """Of one "GPU": the fleet."""
        self.sight.grow(1)
        self.joined_ms: IntArray = np.zeros(0, dtype=np.int64)
        self.suites: list[str] = [""]
        """Names by suite number; 0: not measured yet."""
        self.horizon_ms = LONG_AGO_MS

    @property
    def n_gpus(self) -> int:
        """How many GPUs it knows."""
        return len(self.joined_ms)

    @property
    def of_gpus(self) -> tuple[FieldHistory, ...]:
        """The histories that have one function a GPU, in the order in which they are dumped and cut."""
        return self.owner, self.cause, self.occupant, self.performance, self.late

    def grow(self, n_gpus: int, at_ms: int) -> None:
        """Have so many GPUs in all; the new ones joined at `at_ms`."""
        joined = np.full(n_gpus - self.n_gpus, at_ms, dtype=np.int64)
        self.joined_ms = np.concatenate([self.joined_ms, joined])
        for history in self.of_gpus:
            history.grow(n_gpus)

    def suite_number(self, suite: str) -> int:
        """The number of a suite; a new one gets the next."""
        if suite not in self.suites:
            self.suites.append(suite)
        return self.suites.index(suite)

    def forget(self, before_ms: int) -> None:
        """Fold what was before an instant."""
        self.horizon_ms = max(self.horizon_ms, before_ms)
        for history in (*self.of_gpus, self.sight):
            history.forget(before_ms)

    def dump(self) -> bytes:
        """One line of JSON, then little-endian int64 arrays in the order of `_arrays`."""
        sizes = [[len(history.folded), history.rows.shape[1]] for history in (*self.of_gpus, self.sight)]
        head = {"layout": _LAYOUT, "suites": self.suites, "horizon_ms": self.horizon_ms, "sizes": sizes}
        return canonical_bytes(head) + b"\n" + b"".join(array.astype("<i8").tobytes() for array in self._arrays())

    def _arrays(self) -> Iterator[IntArray]:
        yield self.joined_ms
        yield self.cause.folded_run_ms
        for history in (*self.of_gpus, self.sight):
            yield history.folded
            yield history.folded_since_ms
            yield history.rows

    @classmethod
    def load(cls, dumped: bytes) -> FleetHistory:
        """What was dumped. Raises Damaged on other bytes."""
        head, _, body = dumped.partition(b"\n")
        try:
            plain = json.loads(head)
            if plain["layout"] != _LAYOUT:
                raise Damaged(f"a meter's snapshot has layout {plain['layout']}, expected {_LAYOUT}")
            loaded, numbers = cls(), np.frombuffer(body, dtype="<i8").astype(np.int64)
            loaded.suites, loaded.horizon_ms = [str(name) for name in plain["suites"]], int(plain["horizon_ms"])
            loaded._restore(numbers, [(int(n_gpus), int(n_rows)) for n_gpus, n_rows in plain["sizes"]])
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(f"a meter's snapshot of {len(dumped)} bytes cannot be read: {error}") from error
        return loaded

    def _restore(self, numbers: IntArray, sizes: list[tuple[int, int]]) -> None:
        expected = 2 * sizes[0][0] + sum(2 * n_gpus + 3 * n_rows for n_gpus, n_rows in sizes)
        if len(numbers) != expected:
            raise ValueError(f"it holds {len(numbers)} numbers, expected {expected}")
        self.joined_ms = numbers[: sizes[0][0]].copy()
        run_ms = numbers[sizes[0][0] : 2 * sizes[0][0]].copy()
        at = 2 * sizes[0][0]
        for history, (n_gpus, n_rows) in zip((*self.of_gpus, self.sight), sizes, strict=True):
            folded, since_ms = numbers[at : at + n_gpus], numbers[at + n_gpus : at + 2 * n_gpus]
            at += 2 * n_gpus
            history.restore(folded, since_ms, numbers[at : at + 3 * n_rows].reshape(3, n_rows))
            at += 3 * n_rows
        self.cause.folded_run_ms = run_ms
