"""The gRPC face of device probes: requests become calls, values become messages."""

from __future__ import annotations

from scheduler.exchange import probe_leaves
from scheduler.exchange.errors import answers
from scheduler.exchange.reference.probes import Probes
from scheduler.exchange.v1 import probes_pb2, probes_pb2_grpc


class Probing(probes_pb2_grpc.ProbeServiceServicer):
    """Calls out, answers in."""

    def __init__(self, probes: Probes) -> None:
        self._probes = probes

    @answers
    def NextProbe(  # noqa: N802 - the wire's name
        self, request: probes_pb2.NextProbeRequest
    ) -> probes_pb2.NextProbeResponse:
        """The stream's open call, and findings that its log has not yet."""
        call, unlogged = self._probes.next(request.stream)
        return probes_pb2.NextProbeResponse(
            call=None if call is None else probe_leaves.call_to_wire(call),
            unlogged=map(probe_leaves.probe_to_wire, unlogged),
        )

    @answers
    def RevealNonce(  # noqa: N802 - the wire's name
        self, request: probes_pb2.RevealNonceRequest
    ) -> probes_pb2.RevealNonceResponse:
        """The nonce, as the device's time begins."""
        return probes_pb2.RevealNonceResponse(nonce=self._probes.reveal(request.stream, request.probe))

    @answers
    def AnswerProbe(  # noqa: N802 - the wire's name
        self, request: probes_pb2.AnswerProbeRequest
    ) -> probes_pb2.AnswerProbeResponse:
        """The root of an answer, as the device's time ends."""
        rows = self._probes.answer(request.stream, request.probe, request.root)
        return probes_pb2.AnswerProbeResponse(rows=rows)

    @answers
    def OpenRows(  # noqa: N802 - the wire's name
        self, request: probes_pb2.OpenRowsRequest
    ) -> probes_pb2.OpenRowsResponse:
        """The rows that were asked for, and what is found."""
        rows = tuple(map(probe_leaves.row_from_wire, request.rows))
        found = self._probes.opened(request.stream, request.probe, rows)
        return probes_pb2.OpenRowsResponse(found=probe_leaves.probe_to_wire(found))

    @answers
    def DeclineProbe(  # noqa: N802 - the wire's name
        self, request: probes_pb2.DeclineProbeRequest
    ) -> probes_pb2.DeclineProbeResponse:
        """A device that is not to compute now."""
        found = self._probes.decline(request.stream, request.probe, probe_leaves.decline_from_wire(request.why))
        return probes_pb2.DeclineProbeResponse(found=probe_leaves.probe_to_wire(found))

    @answers
    def ListProbes(  # noqa: N802 - the wire's name
        self, request: probes_pb2.ListProbesRequest
    ) -> probes_pb2.ListProbesResponse:
        """A page of findings."""
        found = self._probes.after(request.after, request.stream)
        return probes_pb2.ListProbesResponse(
            probes=[
                probes_pb2.FoundProbe(
                    seq=each.seq,
                    stream=each.stream,
                    found=probe_leaves.probe_to_wire(each.probe),
                    logged=each.logged,
                )
                for each in found
            ]
        )
