"""The journal's vocabulary: every kind comes back from its bytes, the old ones for ever, and all else is damage.

Instances are drawn from the models' own fields, so that a kind or a field that is added is tried at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import annotated_types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, StringConstraints
from pydantic.fields import FieldInfo

from scheduler.core.causes import Cause
from scheduler.core.cluster import Level
from scheduler.core.device_probes import DeviceProbe, Outcome, ProbedRow
from scheduler.core.errors import Damaged
from scheduler.core.events import VERSION, Event, EventModel, GangPlaced, decode, encode
from scheduler.core.holdings import Holding
from scheduler.core.instruments import InstrumentTerms, standard_terms
from scheduler.core.metering.disputes import Answer, Dispute, DisputeState
from scheduler.core.metering.records import RecordStatus
from scheduler.core.metering.versions import Promotion
from scheduler.core.workloads import GangSpec, Piece

KINDS: tuple[type[EventModel], ...] = get_args(get_args(Event)[0])
VERSION_1 = Path(__file__).with_name("events_of_version_1.txt")
"""A line of each kind as the first version that had it wrote it."""

names = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,6}[A-Za-z0-9])?", fullmatch=True)
HASH = "^[0-9a-f]{64}$"
hashes = st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}")
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.integers(-(2**40), 2**40)

CHECKED: dict[type[BaseModel], st.SearchStrategy[Any]] = {
    Answer: st.builds(
        lambda dispute, state, version: Answer(
            dispute=dispute, state=state, version=version if state is DisputeState.ACCEPTED else None
        ),
        names,
        st.sampled_from([state for state in DisputeState if state is not DisputeState.OPEN]),
        st.integers(1, 9),
    ),
    Dispute: st.builds(
        lambda position, start_ms, losses: Dispute(
            id="dispute-1",
            position=position,
            start_ms=start_ms,
            end_ms=start_ms + 10,
            version=1,
            leaf=7,
            losses=losses,
            opened_ms=start_ms + 20,
            answer_by_ms=start_ms + 30,
        ),
        names,
        st.integers(0, 2**40),
        st.sampled_from([(), ((Cause.ECC, 3),)]),
    ),
    Promotion: st.builds(
        lambda position, start_ms, status: Promotion(
            position=position, start_ms=start_ms, end_ms=start_ms + 10, status=status
        ),
        names,
        st.integers(0, 2**40),
        st.sampled_from([RecordStatus.INITIAL, RecordStatus.FINAL]),
    ),
    DeviceProbe: st.builds(
        lambda size, nonce, rows, outcome, reason: DeviceProbe(
            id="probe-1",
            device="ab" * 32,
            suite="nonce.v1",
            size=size,
            products=2,
            commitment="cd" * 32,
            called_ms=5,
            limit_ms=100,
            nonce=nonce,
            rows=rows,
            outcome=outcome,
            reason=reason,
        ),
        st.sampled_from([2, 64]),
        st.sampled_from(["", "ef" * 32]),
        st.deferred(lambda: st.lists(CHECKED[ProbedRow], max_size=2).map(tuple)),
        st.sampled_from(Outcome),
        texts,
    ),
    ProbedRow: st.builds(
        ProbedRow,
        row=st.integers(0, 9),
        values=st.sampled_from(["", "00ff", "0001fffe"]),
        proof=st.lists(hashes, max_size=2).map(tuple),
    ),
    Holding: st.builds(
        lambda position, level, cell, start_ms: Holding(
            position=position, level=level, cell=cell, start_ms=start_ms, end_ms=start_ms + 5
        ),
        names,
        st.sampled_from(Level),
        st.integers(0, 9),
        numbers,
    ),
    InstrumentTerms: st.builds(
        lambda symbol, gpus, version: standard_terms(
            symbol=symbol, start_ms=0, end_ms=600_000, gpus=gpus, version=version
        ),
        names,
        st.integers(1, 8),
        st.integers(1, 9),
    ),
    GangSpec: st.builds(
        GangSpec,
        account=names,
        name=names,
        command=st.lists(texts, min_size=1, max_size=3).map(tuple),
        grade=st.none() | names,
        topology=st.none() | st.sampled_from(Level),
        max_runtime_ms=st.none() | st.integers(1, 9),
        priority=st.integers(-9, 9),
        env=st.dictionaries(texts, texts, max_size=2),
        working_dir=st.none() | texts,
    ),
}
"""Models whose fields depend on each other."""


def bounds(metadata: list[Any]) -> dict[str, Any]:
    """The constraints of a field: ge, le, and least and greatest length."""
    found: dict[str, Any] = {}
    for each in metadata:
        match each:
            case FieldInfo():
                found |= bounds(each.metadata)
            case annotated_types.Ge(ge=least):
                found["min_value"] = least
            case annotated_types.Le(le=most):
                found["max_value"] = most
            case annotated_types.MinLen(min_length=least):
                found["min_size"] = least
            case StringConstraints(pattern=pattern) if pattern is not None:
                found["pattern"] = pattern
            case _:
                if getattr(each, "pattern", None):
                    found["pattern"] = each.pattern
    return found


def drawn(annotation: Any, limits: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values of a field's type within its limits."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return st.one_of(*(drawn(each, limits) for each in inner))
    if origin is Literal:
        return st.sampled_from(inner)
    if origin is tuple:
        if inner[-1] is not Ellipsis:
            return st.tuples(*(drawn(each, {}) for each in inner))
        return st.lists(drawn(inner[0], {}), min_size=limits.get("min_size", 0), max_size=3).map(tuple)
    if hasattr(annotation, "__metadata__"):
        return drawn(inner[0], bounds(list(annotation.__metadata__)))
    if issubclass(annotation, BaseModel):
        return instances(annotation)
    if isinstance(annotation, type) and is_dataclass(annotation):
        hints = get_type_hints(annotation, include_extras=True)
        return st.builds(annotation, *(drawn(hints[field.name], {}) for field in fields(annotation)))
    if issubclass(annotation, Enum):
        return st.sampled_from(annotation)
    plain: dict[type, Callable[[], st.SearchStrategy[Any]]] = {
        NoneType: st.none,
        bool: st.booleans,
        int: lambda: st.integers(limits.get("min_value", -(2**40)), limits.get("max_value", 2**40)),
        str: lambda: (
            hashes if limits.get("pattern") == HASH else names if "pattern" in limits or "min_size" in limits else texts
        ),
    }
    return plain[annotation]()


def instances(model: type[BaseModel]) -> st.SearchStrategy[Any]:
    """Instances of a model, every field drawn."""
    if model in CHECKED:
        return CHECKED[model]
    return st.builds(
        model, **{name: drawn(of.annotation, bounds(of.metadata)) for name, of in model.model_fields.items()}
    )


events: st.SearchStrategy[Event] = st.one_of(*(instances(kind) for kind in KINDS))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind.__name__))
@settings(max_examples=20)
@given(data=st.data())
def test_every_kind_comes_back_from_its_bytes(kind: type[EventModel], data: st.DataObject) -> None:
    event = data.draw(instances(kind))
    body = encode(event)
    back = decode(VERSION, body)
    assert (type(back), back, encode(back)) == (kind, event, body)


def test_every_kind_has_a_name_of_its_own() -> None:
    assert len({kind.model_fields["kind"].default for kind in KINDS}) == len(KINDS) == 35


def as_far_as(known: Any, told: Any) -> Any:
    """What was told, without the fields that came later."""
    if isinstance(known, dict) and isinstance(told, dict):
        return {name: as_far_as(value, told.get(name)) for name, value in known.items()}
    return told


def test_what_the_first_version_wrote_is_read_for_ever() -> None:
    lines = VERSION_1.read_text(encoding="utf-8").splitlines()
    decoded = [decode(1, line.encode()) for line in lines]
    assert [json.loads(line)["kind"] for line in lines] == [event.kind for event in decoded]
    assert {event.kind for event in decoded} == {kind.model_fields["kind"].default for kind in KINDS}
    for line, event in zip(lines, decoded, strict=True):
        assert as_far_as(json.loads(line), json.loads(encode(event))) == json.loads(line)


# -- damage


@settings(max_examples=30)
@given(events, st.integers(1, 10))
def test_what_a_newer_program_wrote_is_not_guessed_at(event: Event, newer: int) -> None:
    with pytest.raises(Damaged, match=f"schema version {VERSION + newer}, expected 1..{VERSION}"):
        decode(VERSION + newer, encode(event))


@settings(max_examples=50)
@given(events, st.data())
def test_bytes_cut_short_are_damage(event: Event, data: st.DataObject) -> None:
    body = encode(event)
    with pytest.raises(Damaged, match="an event cannot be read"):
        decode(VERSION, body[: data.draw(st.integers(0, len(body) - 1))])


@pytest.mark.parametrize(
    "piece",
    [
        {"node": "a b", "gpus": [0]},
        {"node": "n", "gpus": []},
        {"node": "n", "gpus": ["0"]},
        {"node": "n", "gpus": [0.0]},
        {"node": "n"},
        {"node": "n", "gpus": [0], "more": 1},
    ],
)
def test_a_piece_is_checked_where_it_is_read(piece: dict[str, Any]) -> None:
    placed = GangPlaced(at_ms=0, gang="g", attempt=1, pieces=(Piece("n", (0,)),), inside=False)
    told = json.loads(encode(placed))
    assert decode(VERSION, json.dumps(told).encode()) == placed
    with pytest.raises(Damaged, match="an event cannot be read"):
        decode(VERSION, json.dumps({**told, "pieces": [piece]}).encode())


@given(st.binary(max_size=40) | texts.map(str.encode))
def test_garbage_is_damage(body: bytes) -> None:
    with pytest.raises(Damaged):
        decode(VERSION, body)


@settings(max_examples=50)
@given(events, st.data())
def test_a_field_that_is_unknown_missing_or_of_another_type_is_damage(event: Event, data: st.DataObject) -> None:
    plain = json.loads(encode(event))
    name = data.draw(st.sampled_from(sorted(plain)))
    wrong: dict[str, Any] = data.draw(
        st.sampled_from([{"unknown": 1}, {"at_ms": -1}, {"at_ms": 1.5}, {"kind": "x"}, {name: {"a": 1}}])
    )
    with pytest.raises(Damaged):
        decode(VERSION, json.dumps({**plain, **wrong}).encode())
    del plain["kind"]
    with pytest.raises(Damaged):
        decode(VERSION, json.dumps(plain).encode())
