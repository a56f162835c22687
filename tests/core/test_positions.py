"""The fold of position events: order, refusals that change nothing, and conservation at every instant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.errors import (
    Conflict,
    Equivocation,
    Fenced,
    InvalidValue,
    Oversold,
    Refused,
    SequenceGap,
    UnknownName,
)
from scheduler.core.positions import Cursor, Position, PositionBook, PositionEvent, PositionEventKind, fold

TRADE, TRANSFER, SPLIT, EXPIRY, CORRECTION, CONSENT = PositionEventKind
WORLD = range(45)
"""Every instant at which a drawn event may take effect, and some after."""


def at(seq: int, epoch: int = 1, stream: str = "north") -> Cursor:
    return Cursor(stream=stream, epoch=epoch, seq=seq)


def event(seq: int, kind: PositionEventKind = TRADE, **fields: Any) -> PositionEvent:
    """An event with sensible fields, those that matter given by the test."""
    plain = {
        "cursor": at(seq),
        "kind": kind,
        "position": f"p{seq}",
        "account": "acme",
        "instrument": "BASE@1",
        "lots": 0 if kind in {EXPIRY, CONSENT} else 5,
        "effective_ms": 10,
        "committed_ms": 100 + seq,
        "grades": ("A100SXM",) if kind is CONSENT else (),
    }
    return PositionEvent(**{**plain, **fields})


def held(book: PositionBook, position: str) -> list[int]:
    return [book.positions[position].lots_at(at_ms) for at_ms in WORLD]


def state_of(book: PositionBook) -> tuple[Cursor | None, tuple[Position, ...]]:
    return book.cursor, book.snapshot()


# -- what each kind does -----------------------------------------------------------------------------------------------


def test_a_trade_begins_a_position() -> None:
    book = fold([event(1)])
    assert book.positions["p1"] == Position(
        id="p1", account="acme", instrument="BASE@1", acquired_ms=101, lots=((10, 5),)
    )
    assert book.cursor == at(1)


def test_a_transfer_moves_lots_at_its_instant_and_the_buyer_acquires_then() -> None:
    book = fold([event(1), event(2, TRANSFER, source="p1", account="borealis", lots=2, effective_ms=20)])
    assert book.positions["p1"].lots == ((10, 5), (20, 3))
    assert book.positions["p2"].lots == ((20, 2),)
    assert (book.positions["p2"].account, book.positions["p2"].acquired_ms) == ("borealis", 102)


def test_a_split_keeps_account_and_age() -> None:
    book = fold([event(1), event(2, SPLIT, source="p1", lots=5, effective_ms=10)])
    assert book.positions["p1"].lots == ()
    assert (book.positions["p2"].lots, book.positions["p2"].acquired_ms) == (((10, 5),), 101)


def test_what_moves_ends_with_its_source() -> None:
    book = fold(
        [
            event(1),
            event(2, EXPIRY, position="p1", effective_ms=30),
            event(3, TRANSFER, source="p1", account="borealis", lots=2, effective_ms=20),
        ]
    )
    assert book.positions["p1"].lots == ((10, 5), (20, 3), (30, 0))
    assert book.positions["p3"].lots == ((20, 2), (30, 0))


def test_an_expiry_and_a_correction_overrule_what_was_known_of_later() -> None:
    events = [
        event(1),
        event(2, CORRECTION, position="p1", lots=7, effective_ms=20),
        event(3, EXPIRY, position="p1", effective_ms=15),
        event(4, CORRECTION, position="p1", lots=1, effective_ms=12),
    ]
    steps = [fold(events[:n]).positions["p1"].lots for n in (2, 3, 4)]
    assert steps == [((10, 5), (20, 7)), ((10, 5), (15, 0)), ((10, 5), (12, 1))]


def test_an_expiry_before_the_beginning_leaves_nothing() -> None:
    book = fold([event(1), event(2, EXPIRY, position="p1", effective_ms=10)])
    assert book.positions["p1"].lots == ()


def test_a_consent_holds_from_its_instant_on_for_its_owner_alone() -> None:
    book = fold(
        [
            event(1),
            event(2, CONSENT, position="p1", grades=("H200SXM", "A100SXM"), effective_ms=20),
            event(3, CONSENT, position="p1", effective_ms=25),
            event(4, CONSENT, position="p1", effective_ms=15),
            event(5, SPLIT, source="p1", lots=2, effective_ms=12),
            event(6, TRANSFER, source="p1", account="borealis", lots=1, effective_ms=30),
        ]
    )
    agreed = (("A100SXM", 15), ("H200SXM", 20))
    assert [book.positions[name].consents for name in ("p1", "p5", "p6")] == [agreed, agreed, ()]
    assert book.positions["p1"].lots == ((10, 5), (12, 3), (30, 2)), "it changes no lots"


def test_events_and_positions_without_consents_keep_the_bytes_that_they_had() -> None:
    assert "grades" not in event(1).model_dump_json()
    assert "consents" not in fold([event(1)]).positions["p1"].model_dump_json()
    agreed = fold([event(1), event(2, CONSENT, position="p1")]).positions["p1"]
    assert Position.model_validate_json(agreed.model_dump_json()) == agreed


# -- what is refused, and that it changes nothing ----------------------------------------------------------------------

HELD = (
    event(1),
    event(2, TRANSFER, source="p1", account="borealis", lots=3, effective_ms=20),
    event(3, EXPIRY, position="p1", effective_ms=40),
)
"""p1 of acme: 5 lots in [10, 20), 2 in [20, 40). p2 of borealis: 3 lots from 20 on, to the end of p1."""

REFUSALS: Sequence[tuple[str, PositionEvent, type[Refused], str]] = [
    ("another stream", event(4, cursor=at(4, stream="south")), Conflict, "was 'south', expected 'north'"),
    ("an older epoch", event(4, cursor=at(4, epoch=1)), Fenced, "was 1, expected 2"),
    ("a gap", event(5, cursor=at(5, epoch=2)), SequenceGap, "was 5, expected 4"),
    ("a new epoch that begins in its middle", event(2, cursor=at(2, epoch=3)), SequenceGap, "was 2, expected 1"),
    ("before the first", event(0, cursor=at(0, epoch=2)), InvalidValue, "seq of .* was 0"),
    ("other content under a known seq", event(1, lots=6, cursor=at(1, epoch=2)), Equivocation, "north/2/1"),
    ("an unknown instrument", event(4, instrument="PEAK@1"), UnknownName, "instrument .*PEAK@1"),
    ("a name that is taken", event(4, position="p1"), Conflict, "was 'p1', expected a new name"),
    ("a trade of nothing", event(4, lots=0), InvalidValue, "lots of the trade at .* was 0, expected 1"),
    ("a trade with a source", event(4, source="p1"), InvalidValue, "source .* was 'p1', expected none"),
    ("a transfer without a source", event(4, TRANSFER, account="b"), InvalidValue, "source .* expected a position"),
    ("a transfer to a taken name", event(4, TRANSFER, position="p2", source="p1", account="b"), Conflict, "taken"),
    ("a transfer from nowhere", event(4, TRANSFER, source="p9", account="b"), UnknownName, "source 'p9'"),
    ("a transfer of nothing", event(4, TRANSFER, source="p1", account="b", lots=0), InvalidValue, "was 0"),
    ("a transfer to oneself", event(4, TRANSFER, source="p1", lots=1), InvalidValue, "another account"),
    ("a split to another", event(4, SPLIT, source="p1", account="b", lots=1), InvalidValue, "acme, the source's"),
    (
        "a transfer that turns into another instrument",
        event(4, TRANSFER, source="p1", account="b", lots=1, instrument="OTHER@1"),
        InvalidValue,
        "BASE@1, the source's",
    ),
    ("more than is held", event(4, TRANSFER, source="p1", account="b", lots=6), Oversold, "was 6, p1 holds 5 at 10"),
    ("more than is held later", event(4, TRANSFER, source="p1", account="b", lots=3), Oversold, "p1 holds 2 at 20"),
    (
        "what is not yet held",
        event(4, SPLIT, source="p1", lots=1, effective_ms=9),
        Oversold,
        "was 1, p1 holds 0 at 9",
    ),
    ("what has ended", event(4, SPLIT, source="p1", lots=1, effective_ms=40), Oversold, "p1 has ended at 40"),
    ("an expiry of nothing known", event(4, EXPIRY, position="p9"), UnknownName, "position 'p9'"),
    ("an expiry that leaves lots", event(4, EXPIRY, position="p1", lots=1), InvalidValue, "was 1, expected 0"),
    ("an expiry of another's", event(4, EXPIRY, position="p2"), InvalidValue, "was 'acme', expected borealis"),
    ("a correction of nothing known", event(4, CORRECTION, position="p9"), UnknownName, "position 'p9'"),
    ("a correction with a source", event(4, CORRECTION, position="p1", source="p2"), InvalidValue, "expected none"),
    ("a consent to nothing", event(4, CONSENT, position="p1", grades=()), InvalidValue, "grades .* expected one or"),
    ("a consent with lots", event(4, CONSENT, position="p1", lots=1), InvalidValue, "lots .* was 1, expected 0"),
    ("a consent of another's", event(4, CONSENT, position="p2"), InvalidValue, "was 'acme', expected borealis"),
    ("grades of a trade", event(4, grades=("A100SXM",)), InvalidValue, "grades .* expected none"),
    (
        "a correction of another instrument",
        event(4, CORRECTION, position="p1", instrument="OTHER@1"),
        InvalidValue,
        "BASE@1, the position's",
    ),
]


@pytest.mark.parametrize(
    ("wrong", "error", "said"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS]
)
def test_refusals_say_why_and_change_nothing(wrong: PositionEvent, error: type[Refused], said: str) -> None:
    in_epoch_two = [PositionEvent(**{**dict(each), "cursor": at(each.cursor.seq, 2)}) for each in HELD]
    book = fold(in_epoch_two)
    if wrong.cursor == at(4):
        wrong = PositionEvent(**{**dict(wrong), "cursor": at(4, 2)}) if error is not Fenced else wrong
    before = state_of(book)
    with pytest.raises(error, match=said) as refused:
        book.apply(wrong, instruments={"BASE@1", "OTHER@1"})
    assert type(refused.value) is error
    assert state_of(book) == before
    assert book.apply(event(4, cursor=at(4, 2)), instruments={"BASE@1"}), "the right event still goes in"


def test_a_gap_names_what_was_expected_and_what_came() -> None:
    with pytest.raises(SequenceGap) as refused:
        fold([event(1), event(2), event(7)])
    assert (refused.value.expected, refused.value.got) == (3, 7)


def test_the_first_event_of_an_empty_book_has_seq_one() -> None:
    with pytest.raises(SequenceGap, match="was 2, expected 1"):
        PositionBook().apply(event(2))


def test_a_new_epoch_goes_on_from_one_and_fences_the_old() -> None:
    book = fold([event(1), event(2), event(1, cursor=at(1, 2), position="q1")])
    assert sorted(book.positions) == ["p1", "p2", "q1"]
    assert book.cursor == at(1, 2)
    with pytest.raises(Fenced):
        book.apply(event(3))


def test_a_repeat_is_ignored_and_says_so() -> None:
    book = fold([event(1), event(2)])
    before = state_of(book)
    assert [book.apply(event(seq)) for seq in (1, 2, 1)] == [False, False, False]
    assert state_of(book) == before


def test_a_repeat_of_what_a_snapshot_holds_cannot_be_compared_and_passes_as_one() -> None:
    book = PositionBook.of(at(2), fold([event(1), event(2)]).snapshot())
    assert not book.apply(event(1, lots=77))
    assert book.apply(event(3))


@pytest.mark.parametrize(
    ("positions", "error", "said"),
    [
        ((("p", ((10, 1),)), ("p", ((20, 1),))), Conflict, "'p' is twice"),
        ((("p", ((10, -1),)),), InvalidValue, "lots of p was"),
        ((("p", ((10, 1), (10, 2))),), InvalidValue, "steps"),
        ((("p", ((10, 0),)),), InvalidValue, "steps"),
    ],
)
def test_snapshots_that_contradict_themselves_are_refused(
    positions: tuple[tuple[str, tuple[tuple[int, int], ...]], ...], error: type[Refused], said: str
) -> None:
    loaded = [Position(id=name, account="a", instrument="B@1", acquired_ms=0, lots=lots) for name, lots in positions]
    with pytest.raises(error, match=said):
        PositionBook.of(at(2), loaded)


def test_readers_cannot_write_and_copies_go_their_own_way() -> None:
    book = fold([event(1)])
    with pytest.raises(TypeError):
        book.positions["p9"] = book.positions["p1"]  # type: ignore[index]  # that it is refused is the point
    later = fold([event(2)], start=book)
    assert sorted(book.positions) == ["p1"]
    assert sorted(later.positions) == ["p1", "p2"]


# -- laws --------------------------------------------------------------------------------------------------------------


@st.composite
def attempts(draw: st.DrawFn) -> list[dict[str, Any]]:
    """What an exchange might say, right or wrong; seq is given when it is tried."""
    names = [f"p{i}" for i in range(8)]
    begun = {"kind": TRADE, "source": None, "account": "acme", "instrument": "BASE@1", "lots": 6}
    first = [{**begun, "position": name, "effective_ms": i} for i, name in enumerate(names[:2])]
    return first + draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "kind": st.sampled_from([TRADE, TRANSFER, SPLIT, TRANSFER, SPLIT, EXPIRY, CORRECTION, CONSENT]),
                    "position": st.sampled_from(names),
                    "source": st.sampled_from(names),
                    "account": st.sampled_from(["acme", "borealis"]),
                    "instrument": st.sampled_from(["BASE@1", "BASE@1", "PEAK@1"]),
                    "lots": st.integers(0, 6),
                    "effective_ms": st.integers(0, 40),
                }
            ),
            max_size=40,
        )
    )


def said_in_order(tries: list[dict[str, Any]]) -> tuple[list[PositionEvent], PositionBook]:
    """The tries that a book accepts, numbered densely, and that book. The laws are checked at each."""
    book, accepted = PositionBook(), list[PositionEvent]()
    for fields in tries:
        kind = fields["kind"]
        sourced = kind in {TRANSFER, SPLIT}
        given_up: dict[str, Any] = {"source": fields["source"] if sourced else None}
        given_up |= {"lots": 0 if kind in {EXPIRY, CONSENT} else fields["lots"]}
        given_up["grades"] = ("A100SXM",) if kind is CONSENT else ()
        tried = event(len(accepted) + 1, **{**fields, **given_up})
        before, totals_before = state_of(book), totals(book)
        try:
            assert book.apply(tried)
        except Refused:
            assert state_of(book) == before
            continue
        accepted.append(tried)
        if sourced:
            assert totals(book) == totals_before
    return accepted, book


def totals(book: PositionBook) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for position in book.snapshot():
        lots = [position.lots_at(at_ms) for at_ms in WORLD]
        assert min(lots) >= 0
        sums = found.setdefault(position.instrument, [0] * len(WORLD))
        found[position.instrument] = [total + more for total, more in zip(sums, lots, strict=True)]
    return found


@given(attempts())
def test_transfers_and_splits_conserve_lots_at_every_instant(tries: list[dict[str, Any]]) -> None:
    accepted, book = said_in_order(tries)
    assert state_of(fold(accepted)) == state_of(book)


@given(attempts(), st.data())
def test_a_snapshot_and_what_came_after_is_the_fold_of_all(tries: list[dict[str, Any]], data: st.DataObject) -> None:
    accepted, book = said_in_order(tries)
    cut = data.draw(st.integers(0, len(accepted)))
    early = fold(accepted[:cut])
    loaded = PositionBook.of(early.cursor or at(0), early.snapshot())
    assert state_of(fold(accepted[cut:], start=loaded))[1] == book.snapshot()
    # Whoever is unsure how far it got may send some of it again.
    again = data.draw(st.integers(0, cut))
    assert fold(accepted[again:], start=loaded).snapshot() == book.snapshot()


@given(attempts(), st.data())
def test_only_the_source_and_the_named_position_change(tries: list[dict[str, Any]], data: st.DataObject) -> None:
    accepted, _ = said_in_order(tries)
    if not accepted:
        return
    n = data.draw(st.integers(1, len(accepted)))
    before, last = fold(accepted[: n - 1]), accepted[n - 1]
    after = fold([last], start=before)
    for name, position in after.positions.items():
        if name not in {last.position, last.source}:
            assert position is before.positions[name]
        else:
            assert held(after, name)[: last.effective_ms] == (
                held(before, name)[: last.effective_ms] if name in before.positions else [0] * last.effective_ms
            )
