"""What the fleet shows: which GPUs are ill and why, which nodes drain, how fast each GPU was measured.

Folded from events only. `usable` is what placement may bind: healthy and not on a draining node.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import Fleet
from scheduler.core.device_probes import DeviceProbe
from scheduler.core.errors import UnknownName
from scheduler.core.events import (
    DeviceProbed,
    DevicesSeen,
    DrainOrdered,
    GpusMarked,
    HealthChanged,
    PerformanceMeasured,
)
from scheduler.core.quantities import ONE_PPM

HEALTHY = 0


class FleetHealth:
    """See the module. Public attributes are for reading; only the `on_…` methods write."""

    def __init__(self) -> None:
        self.cause: npt.NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        """(n_gpus): 0 healthy, else the `Cause`."""
        self.ppm: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        """(n_gpus): measured performance, in ppm of the suite's reference."""
        self.usable: npt.NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)
        self.draining: dict[str, int] = {}
        """Deadline by node."""
        self.marked: npt.NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        """(n_gpus): what operators say is wrong, else 0: what a GPU is ill by once it would be well."""
        self.since_ms: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        """(n_gpus): the instant at which each GPU's health was last told: what is older is an echo."""

        self.devices: dict[str, DevicesSeen] = {}
        """By node, what its driver last said of its GPUs; none of a node that was not asked yet."""
        self.probed: dict[str, DeviceProbe] = {}
        """By device, what the exchange found when it was last probed; without the rows that it opened."""

    def grow(self, n_gpus: int) -> None:
        """New GPUs are healthy and at the reference."""
        more = n_gpus - len(self.cause)
        self.cause = np.concatenate([self.cause, np.zeros(more, dtype=np.int32)])
        self.marked = np.concatenate([self.marked, np.zeros(more, dtype=np.int32)])
        self.since_ms = np.concatenate([self.since_ms, np.zeros(more, dtype=np.int64)])
        self.ppm = np.concatenate([self.ppm, np.full(more, ONE_PPM, dtype=np.int64)])
        self.usable = np.concatenate([self.usable, np.ones(more, dtype=np.bool_)])

    def on_health(self, event: HealthChanged, fleet: Fleet) -> npt.NDArray[np.int64]:
        """The GPUs whose health it is about."""
        gpus = gpus_named(fleet, event.node, event.gpus)
        self.cause[gpus] = HEALTHY if event.cause is None else int(event.cause)
        self.since_ms[gpus] = event.at_ms
        self.refresh(fleet)
        return gpus

    def on_said(self, event: GpusMarked | DevicesSeen | DeviceProbed, fleet: Fleet) -> None:
        """What operators say is wrong (that it makes GPUs ill is told by itself), who a driver says that they are, or
        what the exchange found.

        Raises UnknownName.
        """
        if isinstance(event, DevicesSeen):
            gpus_named(fleet, event.node, None)
            self.devices[event.node] = event
            return
        if isinstance(event, DeviceProbed):
            self.probed[event.probe.device] = event.probe.model_copy(update={"rows": ()})
            return
        self.marked[gpus_named(fleet, event.node, event.gpus)] = HEALTHY if event.cause is None else int(event.cause)

    def on_performance(self, event: PerformanceMeasured, fleet: Fleet) -> npt.NDArray[np.int64]:
        """The GPUs that were measured."""
        gpus = gpus_named(fleet, event.node, event.gpus)
        self.ppm[gpus] = event.ppm
        return gpus

    def on_drain(self, event: DrainOrdered, fleet: Fleet) -> None:
        """The node takes no new work, or does again."""
        gpus_named(fleet, event.node, None)
        if event.by_ms is None:
            self.draining.pop(event.node, None)
        else:
            self.draining[event.node] = event.by_ms
        self.refresh(fleet)

    def refresh(self, fleet: Fleet) -> None:
        """Derive `usable` anew."""
        self.usable = self.cause == HEALTHY
        for node in self.draining:
            self.usable[gpus_named(fleet, node, None)] = False


def gpus_named(fleet: Fleet, node: str, gpus: tuple[int, ...] | None) -> npt.NDArray[np.int64]:
    """The fleet's numbers of a node's GPUs; None: all of them. Raises UnknownName."""
    return np.array(numbers_named(fleet, node, gpus), dtype=np.int64)


def numbers_named(fleet: Fleet, node: str, gpus: tuple[int, ...] | None) -> Sequence[int]:
    """The same, as they are."""
    own = fleet.gpus_of_name.get(node)
    if own is None:
        raise UnknownName("node", node, tuple(fleet.gpus_of_name))
    if gpus is None:
        return own
    if gpus and not 0 <= min(gpus) <= max(gpus) < len(own):
        wrong = next(k for k in gpus if not 0 <= k < len(own))
        raise UnknownName("GPU", f"{node}:{wrong}", tuple(f"{node}:{k}" for k in range(len(own))))
    first = own.start
    return [first + k for k in gpus]
