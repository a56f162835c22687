"""What of the log is settled, as far as it may still change: which records are final, which wait for facts or for an
answer to a dispute, and where the log tells of it.

Settling goes by ranges of intervals, so that it costs a position and not a record; exceptions (disputed records, and
those that were first told of after their time) are kept one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from scheduler.core.errors import Conflict, UnknownName
from scheduler.core.events import (
    DisputeAnswered,
    DisputeHeard,
    IntervalClosed,
    IntervalCorrected,
    RecordsPromoted,
)
from scheduler.core.metering.disputes import Answer, Dispute
from scheduler.core.metering.versions import Promotion, Stage
from scheduler.core.state.closings import ClosedInterval

ANSWERED_KEPT = 1_000
"""So many disputes that are answered are remembered, the last ones."""


class PromotedRange(NamedTuple):
    """A promotion, and the leaf that says it."""

    promotion: Promotion
    leaf: int


class HeardDispute(NamedTuple):
    """A dispute that the log tells of, and its answer."""

    dispute: Dispute
    answer: Answer | None = None


class Settled:
    """See the module."""

    def __init__(self) -> None:
        self.final_until: dict[str, int] = {}
        """Until when a position's records are final, but for `left`."""
        self.left: dict[str, tuple[int, ...]] = {}
        """The starts of intervals before that whose records are not."""
        self.provisional: dict[str, tuple[int, ...]] = {}
        """By instrument, the starts of intervals whose records are provisional."""
        self.promoted: dict[str, tuple[PromotedRange, ...]] = {}
        """By position, in the order of the log."""
        self.corrected: tuple[ClosedInterval, ...] = ()
        """Leaves that tell of an interval again."""
        self.disputes: dict[str, HeardDispute] = {}
        self.heard_seq = 0
        """The place of the last dispute that was heard, in the exchange's order."""

    # -- reading -------------------------------------------------------------------------------------------------------

    @property
    def open(self) -> dict[str, Dispute]:
        """Disputes that are not answered, by id."""
        return {name: heard.dispute for name, heard in self.disputes.items() if heard.answer is None}

    def disputed(self) -> dict[str, frozenset[int]]:
        """The starts of disputed intervals, by position."""
        found: dict[str, frozenset[int]] = {}
        for dispute in self.open.values():
            found[dispute.position] = found.get(dispute.position, frozenset()) | {dispute.start_ms}
        return found

    def promotions(self, position: str, start_ms: int, end_ms: int) -> list[PromotedRange]:
        """The promotions of an interval's record, in the order of the log."""
        return [
            each
            for each in self.promoted.get(position, ())
            if each.promotion.start_ms <= start_ms and end_ms <= each.promotion.end_ms
        ]

    # -- the fold ------------------------------------------------------------------------------------------------------

    def on_closed(self, event: IntervalClosed) -> None:
        """Records were told of for the first time."""
        start_ms = event.end_ms - event.interval_ms
        for instrument in event.provisional:
            self.provisional[instrument] = (*self.provisional.get(instrument, ()), start_ms)

    def on_corrected(self, event: IntervalCorrected) -> None:
        """Records were told of again, or for the first time after their interval was closed."""
        start_ms = event.end_ms - event.interval_ms
        self.corrected = (
            *self.corrected,
            ClosedInterval.of(event),
        )
        for position in event.first:
            if event.end_ms <= self.final_until.get(position, 0):
                self.left[position] = tuple(sorted({*self.left.get(position, ()), start_ms}))
        self._settle((instrument, start_ms) for instrument in event.settled)

    def on_promoted(self, event: RecordsPromoted) -> None:
        """Records are of a later status."""
        for leaf, promotion in enumerate(event.promotions, event.first_leaf):
            position = promotion.position
            self.promoted[position] = (*self.promoted.get(position, ()), PromotedRange(promotion, leaf))
            if promotion.stage is Stage.FINAL:
                still = [start for start in self.left.get(position, ()) if not _inside(start, promotion)]
                self._leave(position, still)
        for position, until_ms, left in event.final_until:
            self.final_until[position] = until_ms
            self._leave(position, {*self.left.get(position, ()), *left})
        self._settle(event.settled)

    def on_heard(self, event: DisputeHeard) -> None:
        """Raises Conflict for one that is known, or heard out of order."""
        if event.dispute.id in self.disputes or event.seq <= self.heard_seq:
            raise Conflict(
                f"dispute {event.dispute.id} at {event.seq} was heard, and all until {self.heard_seq} were already"
            )
        self.disputes[event.dispute.id] = HeardDispute(event.dispute)
        self.heard_seq = event.seq

    def on_answered(self, event: DisputeAnswered) -> None:
        """Raises UnknownName, Conflict for one that is answered."""
        heard = self.disputes.get(event.answer.dispute)
        if heard is None:
            raise UnknownName("dispute", event.answer.dispute, self.disputes)
        if heard.answer is not None:
            raise Conflict(f"dispute {event.answer.dispute} is {heard.answer.state} already")
        self.disputes[event.answer.dispute] = heard._replace(answer=event.answer)
        answered = [name for name, each in self.disputes.items() if each.answer is not None]
        for name in answered[:-ANSWERED_KEPT]:
            del self.disputes[name]

    def forget(self, settled_until_ms: Mapping[str, int]) -> None:
        """Drop what no late fact and no dispute can change any more: by position, what ends by then. A position that is
        not named has nothing left that may change.
        """
        disputed = {(each.position, each.start_ms) for each in self.open.values()}
        oldest_ms = min([*settled_until_ms.values(), *(start_ms for _, start_ms in disputed)], default=None)
        kept = {
            name: tuple(
                each
                for each in promoted
                if each.promotion.end_ms > settled_until_ms.get(name, each.promotion.end_ms)
                or any(position == name and _inside(start, each.promotion) for position, start in disputed)
            )
            for name, promoted in self.promoted.items()
        }
        self.promoted = {name: promoted for name, promoted in kept.items() if promoted}
        self.corrected = () if oldest_ms is None else tuple(each for each in self.corrected if each.end_ms > oldest_ms)

    def _leave(self, position: str, starts: Iterable[int]) -> None:
        left = tuple(sorted(starts))
        if left:
            self.left[position] = left
        else:
            self.left.pop(position, None)

    def _settle(self, settled: Iterable[tuple[str, int]]) -> None:
        for instrument, start_ms in settled:
            rest = tuple(start for start in self.provisional.get(instrument, ()) if start != start_ms)
            if rest:
                self.provisional[instrument] = rest
            else:
                self.provisional.pop(instrument, None)

    # -- snapshots -----------------------------------------------------------------------------------------------------

    def dump(self) -> dict[str, Any] | None:
        """As plain data; None where nothing is settled yet, so that older snapshots keep their bytes."""
        plain: dict[str, Any] = {
            "final_until": sorted(self.final_until.items()),
            "left": sorted((position, list(starts)) for position, starts in self.left.items()),
            "provisional": sorted((instrument, list(starts)) for instrument, starts in self.provisional.items()),
            "promoted": [
                [each.promotion.model_dump(mode="json"), each.leaf]
                for _, promoted in sorted(self.promoted.items())
                for each in promoted
            ],
            "corrected": [list(each) for each in self.corrected],
            "disputes": [
                [heard.dispute.model_dump(mode="json"), heard.answer and heard.answer.model_dump(mode="json")]
                for heard in self.disputes.values()
            ],
        }
        return plain | {"heard_seq": self.heard_seq} if any(plain.values()) or self.heard_seq else None

    @classmethod
    def load(cls, plain: dict[str, Any]) -> Settled:
        """What was dumped."""
        loaded = cls()
        loaded.final_until = dict(plain["final_until"])
        loaded.left = {position: tuple(starts) for position, starts in plain["left"]}
        loaded.provisional = {instrument: tuple(starts) for instrument, starts in plain["provisional"]}
        for each, leaf in plain["promoted"]:
            promotion = Promotion.model_validate(each, strict=False)
            known = loaded.promoted.get(promotion.position, ())
            loaded.promoted[promotion.position] = (*known, PromotedRange(promotion, leaf))
        loaded.corrected = tuple(ClosedInterval(*each) for each in plain["corrected"])
        for dispute, answer in plain["disputes"]:
            told = Dispute.model_validate(dispute, strict=False)
            answered = None if answer is None else Answer.model_validate(answer, strict=False)
            loaded.disputes[told.id] = HeardDispute(told, answered)
        loaded.heard_seq = plain["heard_seq"]
        return loaded


def _inside(start_ms: int, promotion: Promotion) -> bool:
    return promotion.start_ms <= start_ms < promotion.end_ms
