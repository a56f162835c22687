"""What a cluster says to the exchange of device probes, and what anybody who may asks of them. Raises as
`ExchangeClient`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.core.device_probes import Declined, DeviceProbe, ProbeCall, ProbedRow
from scheduler.exchange import probe_leaves
from scheduler.exchange.connection import Connection
from scheduler.exchange.tls import Tls
from scheduler.exchange.v1 import probes_pb2, probes_pb2_grpc


@dataclass(frozen=True, slots=True)
class ListedProbe:
    """A finding at its place among all; `logged`: whether the stream's log has it."""

    seq: int
    stream: str
    found: DeviceProbe
    logged: bool


class ProbeClient(Connection):
    """Calls to one exchange at `HOST:PORT`, with TLS where `tls` is given. A context manager: closes its channel."""

    def __init__(self, address: str, *, timeout_s: float = 30.0, tls: Tls | None = None) -> None:
        super().__init__(address, timeout_s=timeout_s, tls=tls, of="the exchange")
        self._probes = probes_pb2_grpc.ProbeServiceStub(self._channel)

    def next(self, stream: str) -> tuple[ProbeCall | None, tuple[DeviceProbe, ...]]:
        """The open call, if any, and findings that the stream's log has not yet."""
        request = probes_pb2.NextProbeRequest(stream=stream)
        answer = self._asked(lambda: self._probes.NextProbe(request, timeout=self._timeout_s))
        call = probe_leaves.call_from_wire(answer.call) if answer.HasField("call") else None
        return call, tuple(map(probe_leaves.probe_from_wire, answer.unlogged))

    def reveal(self, stream: str, probe: str) -> bytes:
        """The nonce: the device's time begins."""
        request = probes_pb2.RevealNonceRequest(stream=stream, probe=probe)
        nonce: bytes = self._asked(lambda: self._probes.RevealNonce(request, timeout=self._timeout_s)).nonce
        return nonce

    def answer(self, stream: str, probe: str, root: bytes) -> tuple[int, ...]:
        """The root of the answer; the rows to open, none where the probe is over with it."""
        request = probes_pb2.AnswerProbeRequest(stream=stream, probe=probe, root=root)
        return tuple(self._asked(lambda: self._probes.AnswerProbe(request, timeout=self._timeout_s)).rows)

    def open_rows(self, stream: str, probe: str, rows: Sequence[ProbedRow]) -> DeviceProbe:
        """The rows, and what was found."""
        request = probes_pb2.OpenRowsRequest(stream=stream, probe=probe, rows=map(probe_leaves.row_to_wire, rows))
        answer = self._asked(lambda: self._probes.OpenRows(request, timeout=self._timeout_s))
        return probe_leaves.probe_from_wire(answer.found)

    def decline(self, stream: str, probe: str, why: Declined) -> DeviceProbe:
        """The device is not to compute now; what was found."""
        request = probes_pb2.DeclineProbeRequest(stream=stream, probe=probe, why=probe_leaves.decline_to_wire(why))
        answer = self._asked(lambda: self._probes.DeclineProbe(request, timeout=self._timeout_s))
        return probe_leaves.probe_from_wire(answer.found)

    def listed(self, after: int = 0, *, stream: str = "") -> tuple[ListedProbe, ...]:
        """A page of findings after a place."""
        request = probes_pb2.ListProbesRequest(after=after, stream=stream)
        answer = self._asked(lambda: self._probes.ListProbes(request, timeout=self._timeout_s))
        return tuple(
            ListedProbe(each.seq, each.stream, probe_leaves.probe_from_wire(each.found), each.logged)
            for each in answer.probes
        )
