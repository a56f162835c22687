"""Device probes, answered: a thread that asks the exchange for a call and lets the device compute where it is idle.

A busy device declines, and one that work is placed on meanwhile gives way at once: the worker is killed, whatever it
has computed is dropped, and the exchange is told so. What the exchange found goes into the journal and, by the same
event, into the log, also where it is not in our favour; a finding that a crash kept from there is told of again.

Which device is where is what NVML says of the nodes; of logical GPUs, a stand-in, what the inventory of pledged devices
says. It has its own pace and its own connection: losing it delays probes and nothing else.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping, Sequence

from scheduler.core.device_probes import Answer, Declined, DeviceProbe, Outcome, ProbeCall
from scheduler.core.devices import device_hash
from scheduler.core.errors import Conflict, UnknownName
from scheduler.core.events import DeviceProbed
from scheduler.core.probe_work import seed_of
from scheduler.core.state.state import State
from scheduler.exchange.dialling import Dialling, said_of
from scheduler.exchange.probe_client import ProbeClient
from scheduler.exchange.tls import Tls
from scheduler.execution.protocol import ProbeProgress, ProbeRunner, ProbeStep, ProbeTask
from scheduler.probing import idle_nodes
from scheduler.service import Scheduler

PAUSE_S = 5.0
LONGEST_PAUSE_S = 60.0
PREPARE_S = 90.0
COMPUTE_S = 90.0
_LOOK_S = 0.02
"""How soon a probe gives way to work that was placed."""


class ProbeAnswering(Dialling):
    """See the module. `inventory`: the device UUIDs of nodes, by GPU."""

    def __init__(
        self,
        address: str,
        scheduler: Scheduler,
        runner: ProbeRunner,
        stream: str,
        inventory: Mapping[str, Sequence[str]],
        clock_ms: Callable[[], int],
        *,
        tls: Tls | None = None,
        pause_s: float = PAUSE_S,
    ) -> None:
        super().__init__("probe-answering", first_pause_s=pause_s, longest_pause_s=LONGEST_PAUSE_S)
        self._address = address
        self._scheduler = scheduler
        self._runner = runner
        self._stream = stream
        self._inventory = inventory
        self._clock_ms = clock_ms
        self._tls = tls
        self._pause_s = pause_s
        self._turns = 0
        self.detail = ""
        """Why nothing was asked the last time; empty where it was."""
        self.node = ""
        """Whose device computes now; empty: none does."""

    def _progress(self) -> object:
        return self._turns

    def _dial(self) -> None:
        """Calls, one after the other, until it is stopped or something is wrong."""
        if self._tls is not None:
            self._tls.check()
        with ProbeClient(self._address, tls=self._tls) as client:
            while not self._stop.is_set():
                self.turn(client)
                self._turns += 1
                self.detail = ""
                self._stop.wait(self._pause_s)

    def _told(self, error: Exception) -> bool:
        self.detail = said_of(error)
        return True

    def turn(self, client: ProbeClient) -> None:
        """One question to the exchange, and what follows from it. Raises what the exchange raises."""
        call, unlogged = client.next(self._stream)
        for found in unlogged:
            self._learn(found)
        if call is not None:
            found_now = self._served(client, call)
            if found_now is not None:
                self._learn(found_now)

    def _served(self, client: ProbeClient, call: ProbeCall) -> DeviceProbe | None:
        """What the exchange found of a call; None where it tells that with the next question."""
        with self._scheduler.guard:
            place = place_of(call.device, self._scheduler.state, self._inventory)
        if place is None:
            return client.decline(self._stream, call.id, Declined.NOT_HERE)
        node, gpu = place
        if not self._is_idle(node):
            return client.decline(self._stream, call.id, Declined.BUSY)
        self.node = node
        self._runner.prepare_probe(ProbeTask(call.id, node, gpu, call.size, call.products))
        try:
            return self._computed(client, call)
        except (Conflict, UnknownName):  # the call is over: the exchange tells what it found
            return None
        finally:
            self._runner.abandon_probe(call.id)
            self.node = ""

    def _computed(self, client: ProbeClient, call: ProbeCall) -> DeviceProbe | None:
        refused = self._waited(call.id, ProbeStep.READY, PREPARE_S)
        if refused is None:
            nonce = client.reveal(self._stream, call.id)
            seed = seed_of(nonce, bytes.fromhex(call.device), call.size, call.products)
            self._runner.solve_probe(call.id, seed)
            refused = self._waited(call.id, ProbeStep.COMPUTED, COMPUTE_S)
        if refused is not None:
            return client.decline(self._stream, call.id, refused)
        answer = Answer.of(base64.b64decode(self._runner.probe_progress(call.id).table), call.size)
        rows = client.answer(self._stream, call.id, answer.root)
        return client.open_rows(self._stream, call.id, answer.opened(rows)) if rows else None

    def _waited(self, probe: str, step: ProbeStep, longest_s: float) -> Declined | None:
        """None once the probe has come to a step; else why it does not."""
        until_s = time.monotonic() + longest_s
        while True:
            told: ProbeProgress = self._runner.probe_progress(probe)
            if told.step is ProbeStep.FAILED or time.monotonic() > until_s:
                return Declined.FAILED
            if self._stop.is_set() or not self._is_idle(self.node):
                return Declined.GAVE_WAY
            if told.step is step:
                return None
            self._stop.wait(_LOOK_S)

    def _is_idle(self, node: str) -> bool:
        with self._scheduler.guard:
            return node in idle_nodes(self._scheduler.state)

    def _learn(self, found: DeviceProbe) -> None:
        with self._scheduler.guard:
            known = self._scheduler.state.health.probed.get(found.device)
            if known is None or known.called_ms < found.called_ms:  # of one device they come in this order
                self._scheduler.adopt((DeviceProbed(at_ms=self._clock_ms(), probe=found),), ())


def failed_probes(state: State) -> list[str]:
    """The devices whose last probe failed, as an alert says it."""
    return [
        f"{found.id} of device {found.device[:16]} was {found.outcome}: {found.reason}"
        for _, found in sorted(state.health.probed.items())
        if found.outcome not in (Outcome.PASSED, Outcome.DECLINED)
    ]


def place_of(device: str, state: State, inventory: Mapping[str, Sequence[str]]) -> tuple[str, int] | None:
    """The node and the number of the GPU that a device is; None where it is none of them. What NVML says goes before
    what the inventory says.
    """
    for node in state.fleet.nodes:
        seen = state.health.devices.get(node.name)
        uuids: Sequence[str] = inventory.get(node.name, ())
        if seen is not None and seen.source == "nvml":
            uuids = ["" if each is None else each.uuid for each in seen.devices]
        for gpu, uuid in enumerate(uuids):
            if uuid and device_hash(uuid) == device:
                return node.name, gpu
    return None
