"""Canonical bytes are one for each value, and what is not canonical or not asked for is refused."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from scheduler.core.models import Model, canonical_bytes, canonical_hash

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | text
plain = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4))
objects = st.dictionaries(text, plain, max_size=5)


class Lot(Model):
    """A small model with a nested one, to have something to encode."""

    gpus: int
    cells: tuple[str, ...] = ()
    inside: Lot | None = None


@given(objects)
def test_canonical_bytes_say_the_value_and_nothing_else(value: dict[str, Any]) -> None:
    assert json.loads(canonical_bytes(value)) == value


@given(objects, st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(value: dict[str, Any], order: Any) -> None:
    keys = list(value)
    order.shuffle(keys)
    assert canonical_bytes({key: value[key] for key in keys}) == canonical_bytes(value)


@given(objects, objects)
def test_other_values_have_other_bytes(one: dict[str, Any], other: dict[str, Any]) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (canonical_bytes(one) == canonical_bytes(other)) == same
    assert (canonical_hash(one) == canonical_hash(other)) == same


def test_canonical_bytes_have_no_spaces_and_keep_letters_as_they_are() -> None:
    assert canonical_bytes({"b": [1, "é"], "a": None, "c": True}) == '{"a":null,"b":[1,"é"],"c":true}'.encode()


def test_the_hash_is_sha_256_of_the_bytes_in_lower_case_hex() -> None:
    assert canonical_hash([]) == hashlib.sha256(b"[]").hexdigest()


@given(st.lists(st.integers(0, 3), max_size=3).map(tuple), st.floats())
def test_a_float_is_refused_however_deep(path: tuple[int, ...], number: float) -> None:
    value: Any = number
    for step in path:
        value = [value] if step % 2 else {"k": value}
    with pytest.raises(TypeError, match="integers and strings only"):
        canonical_bytes([value])


@given(st.integers(0, 10**6), st.lists(text, max_size=3).map(tuple))
def test_a_model_encodes_as_its_fields_and_comes_back(gpus: int, cells: tuple[str, ...]) -> None:
    lot = Lot(gpus=gpus, cells=cells, inside=Lot(gpus=1))
    assert canonical_bytes(lot) == canonical_bytes(json.loads(lot.model_dump_json()))
    assert Lot.model_validate_json(canonical_bytes(lot)) == lot


@pytest.mark.parametrize("wrong", [{"gpus": "8"}, {"gpus": 8.0}, {"gpus": True}, {"gpus": None}, {}])
def test_types_are_strict(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Lot.model_validate(wrong)


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Lot.model_validate({"gpus": 8, "gpu": 8})


def test_a_model_cannot_be_changed() -> None:
    lot = Lot(gpus=8)
    with pytest.raises(ValidationError, match="frozen"):
        lot.gpus = 9  # type: ignore[misc]  # that the type checker sees it too is the point
    assert lot == Lot(gpus=8)
    assert hash(lot) == hash(Lot(gpus=8))
