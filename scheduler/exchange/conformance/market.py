"""What the suite trades and delivers: an instrument of its own where the server takes trades, else what was given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import grpc

from scheduler.core.causes import Cause
from scheduler.core.instruments import Damages, InstrumentTerms, standard_terms
from scheduler.core.intervals import Interval
from scheduler.core.metering.records import MeterRecord, RecordStatus
from scheduler.core.positions import Position, PositionEvent
from scheduler.core.quantities import ceil_div
from scheduler.core.state.contracted import contracted_gpus
from scheduler.exchange import convert
from scheduler.exchange.conformance.callers import Callers
from scheduler.exchange.conformance.outcome import Failed, Skipped
from scheduler.exchange.errors import call_of
from scheduler.exchange.leaves import encode_record
from scheduler.exchange.statements import delivery_period
from scheduler.exchange.v1 import positions_pb2, positions_pb2_grpc

Answer = TypeVar("Answer")

INTERVAL_S: Literal[10] = 10
WINDOW_MS = 3_600_000
INTERVALS = 3
"""So many intervals are delivered."""
LOTS_LISTED = 1_000
_LEAD_MS = 1_000


@dataclass(frozen=True, slots=True)
class Owned:
    """A position that may be delivered to, with its instrument's terms."""

    position: Position
    terms: InstrumentTerms

    def interval(self, index: int) -> Interval:
        """The metering interval with that number, from the position's first on. Raises Skipped past its end."""
        period = delivery_period(self.terms, self.position)
        if period is None or period.start_ms + (index + 1) * self.terms.interval_ms > period.end_ms:
            raise Skipped(f"{self.position.id} has fewer than {index + 1} metering intervals")
        start_ms = period.start_ms + index * self.terms.interval_ms
        return Interval(start_ms, start_ms + self.terms.interval_ms)


class Market:
    """What is traded at a target. Records have the next version of their interval, whoever asks for one."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers
        self._terms: InstrumentTerms | None = None
        self._given: Owned | None = None
        self._trades = 0
        self._versions: dict[tuple[str, int], int] = {}

    def terms(self) -> InstrumentTerms:
        """The instrument that is traded: the one that was named, else one of the suite's own. Raises Skipped."""
        if self._terms is None:
            named = self._callers.options.instrument
            self._terms = self._named(named) if named else self._listed()
        return self._terms

    def draft(self, symbol: str, **more: object) -> InstrumentTerms:
        """Terms of an instrument that may be listed: an hour from now on, metered every 10 s."""
        start_ms = self._callers.now_ms() // (INTERVAL_S * 1_000) * INTERVAL_S * 1_000
        return standard_terms(
            symbol=f"{symbol}.{self._callers.run.upper()}",
            start_ms=start_ms,
            end_ms=start_ms + WINDOW_MS,
            grade=self._callers.options.grade,
            site=self._callers.options.site,
            metering_interval_s=INTERVAL_S,
            damages=Damages(reference_price_micro_per_gpu_hour=3_000_000),
            **more,  # type: ignore[arg-type]
        )

    def list(self, terms: InstrumentTerms, lots_listed: int = LOTS_LISTED) -> positions_pb2.ListInstrumentResponse:
        """Lists an instrument. Raises Skipped where the server takes no listings, grpc.RpcError where it refuses."""
        return self.list_as(convert.instrument_to_wire(terms, lots_listed))

    def list_as(self, sent: object) -> positions_pb2.ListInstrumentResponse:
        """The same with a message that may be wrong."""
        request = positions_pb2.ListInstrumentRequest(instrument=sent)  # type: ignore[arg-type]
        return self._traded(lambda calls: calls.ListInstrument(request, timeout=self._callers.timeout_s))

    def buy(self, lots: int = 2, **more: object) -> PositionEvent:
        """A trade in the instrument, from the next interval on; fields of the request as given."""
        return convert.event_from_wire(self.trade(lots=lots, **more).event)

    def trade(self, **more: object) -> positions_pb2.TradeResponse:
        """The same as a message. Raises Skipped where the server takes no trades, grpc.RpcError where it refuses."""
        self._trades += 1
        request = positions_pb2.TradeRequest(
            request_id=f"conformance-{self._callers.run}-{self._trades}",
            account=self._callers.account,
            instrument=self.terms().id,
            lots=1,
            effective_ms=self._next_ms(),
        )
        request.MergeFrom(positions_pb2.TradeRequest(**more))  # type: ignore[arg-type]
        return self._traded(lambda calls: calls.Trade(request, timeout=self._callers.timeout_s))

    def transfer(self, source: str, account: str, lots: int, **more: object) -> positions_pb2.TradeResponse:
        """Lots of a position to an account. Raises as `trade`."""
        self._trades += 1
        request = positions_pb2.TransferRequest(
            request_id=f"conformance-{self._callers.run}-{self._trades}", source=source, account=account, lots=lots
        )
        request.MergeFrom(positions_pb2.TransferRequest(**more))  # type: ignore[arg-type]
        return self._traded(lambda calls: calls.Transfer(request, timeout=self._callers.timeout_s))

    def correct(self, position: str, lots: int) -> positions_pb2.TradeResponse:
        """So many lots from now on. Raises as `trade`."""
        self._trades += 1
        request = positions_pb2.CorrectRequest(
            request_id=f"conformance-{self._callers.run}-{self._trades}", position=position, lots=lots
        )
        return self._traded(lambda calls: calls.Correct(request, timeout=self._callers.timeout_s))

    @property
    def given(self) -> bool:
        """Whether there is but the one position that was given."""
        return self._given is not None

    def owned(self) -> Owned:
        """A position that nothing was delivered to yet, bought for whoever asks; where the server takes no trades, the
        one that was given, to all alike. Raises Skipped where there is none.
        """
        if self._given is not None:
            return self._given
        try:
            bought = self.buy()
        except Skipped as untraded:
            self._given = self._found(untraded)
            return self._given
        position = Position(
            id=bought.position,
            account=bought.account,
            instrument=bought.instrument,
            acquired_ms=bought.committed_ms,
            lots=((bought.effective_ms, bought.lots),),
        )
        return Owned(position, self.terms())

    def record(self, owned: Owned, index: int, **changes: object) -> MeterRecord:
        """The next version of the record of an interval, sound unless changed: a tenth of it lost with a node."""
        interval = owned.interval(index)
        key = (owned.position.id, interval.start_ms)
        version = self._versions[key] = self._versions.get(key, 0) + 1
        contracted = contracted_gpus(owned.terms, owned.position).integral(interval)
        lost = contracted // 10
        content: dict[str, object] = {
            "position": owned.position.id,
            "instrument": owned.terms.id,
            "start_ms": interval.start_ms,
            "end_ms": interval.end_ms,
            "version": version,
            "supersedes": version - 1 or None,
            "status": RecordStatus.CORRECTED if version > 1 else RecordStatus.INITIAL,
            "contracted_gpu_ms": contracted,
            "used_gpu_ms": contracted - lost,
            "out_forced_gpu_ms": lost,
            "losses": ((Cause.NODE_LOST, lost),) if lost else (),
            "par_gpu_ms": contracted - lost,
        }
        return MeterRecord.model_validate(content | changes)

    def leaf(self, owned: Owned, index: int, **changes: object) -> bytes:
        """The leaf of such a record."""
        record = self.record(owned, index, **changes)
        return encode_record(record, self._callers.written_ms(record.end_ms))

    def told(self, owned: Owned, index: int) -> bool:
        """Whether a record of an interval was made."""
        return bool(self._versions.get((owned.position.id, owned.interval(index).start_ms)))

    def unused(self, owned: Owned, index: int) -> None:
        """The last version that was made of an interval's record counts for nothing: it was rejected as malformed."""
        self._versions[owned.position.id, owned.interval(index).start_ms] -= 1

    def _next_ms(self) -> int:
        """The beginning of the next metering interval, inside the window."""
        terms = self.terms()
        now_ms = max(self._callers.now_ms() + _LEAD_MS, terms.window.start_ms)
        return ceil_div(now_ms, terms.interval_ms) * terms.interval_ms

    def _traded(self, call: Callable[[positions_pb2_grpc.TradingServiceStub], Answer]) -> Answer:
        try:
            return call(self._callers.venue().trading)
        except grpc.RpcError as failed:
            if (found := call_of(failed)) is not None and found.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise Skipped(
                    "the server has no TradingService; give --instrument and --account of a position"
                ) from None
            raise

    def _named(self, name: str) -> InstrumentTerms:
        listed = map(convert.instrument_from_wire, self._callers.instruments())
        known: dict[str, InstrumentTerms] = {each.id: each for each in listed}
        if name not in known:
            raise Failed(f"the instrument {name} is not listed")
        return known[name]

    def _listed(self) -> InstrumentTerms:
        terms = self.draft("CONFORMANCE")
        self.list(terms)
        return terms

    def _found(self, untraded: Skipped) -> Owned:
        options = self._callers.options
        if not (options.instrument and options.account):
            raise Skipped(f"{untraded}, or --instrument and --account of a position")
        terms = self.terms()
        for position in self._callers.snapshot().positions:
            if (position.instrument, position.account) == (options.instrument, options.account):
                return Owned(convert.position_from_wire(position), terms)
        raise Skipped(f"{options.account} owns no position in {options.instrument}")
