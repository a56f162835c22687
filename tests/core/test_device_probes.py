"""What a device is to compute, and how a part of it is checked: every row alone as in the whole, and nobody else's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from scheduler.core.device_probes import (
    STAND_IN_SUITE,
    SUITE,
    Answer,
    DeviceProbe,
    Outcome,
    commitment_of,
    is_answer_for,
    shape_of,
    wrong_course,
    wrong_rows,
)
from scheduler.core.devices import BOARD_CLASSES
from scheduler.core.errors import InvalidValue
from scheduler.core.probe_work import factors, permutations, row_bytes, rows_of, seed_of
from scheduler.execution.nonce_worker import NonceWorker

NONCE, DEVICE, OTHER = bytes(32), "ab" * 32, "cd" * 32
SIZE, PRODUCTS = 16, 9


def computed(seed: bytes, size: int, products: int) -> bytes:
    worker = NonceWorker(None, size)
    assert worker.ready() in {"numpy", "torch", "cupy"}
    return worker.table(seed, products)


def found(device: str = DEVICE, **changes: Any) -> DeviceProbe:
    """A probe of DEVICE that passed, answered as `device` has to."""
    answer = Answer.of(computed(seed_of(NONCE, bytes.fromhex(device), SIZE, PRODUCTS), SIZE, PRODUCTS), SIZE)
    told = {"id": "probe-1", "device": DEVICE, "suite": STAND_IN_SUITE, "size": SIZE, "products": PRODUCTS}
    told |= {"commitment": commitment_of(NONCE), "called_ms": 10, "limit_ms": 100, "nonce": NONCE.hex()}
    told |= {"revealed_ms": 20, "root": answer.root.hex(), "answered_ms": 30, "rows": answer.opened([0, 3, 7, 15])}
    return DeviceProbe.model_validate(told | {"outcome": Outcome.PASSED} | changes)


@settings(max_examples=25)
@given(st.binary(min_size=1, max_size=40), st.sampled_from([2, 8, 32]), st.integers(1, 12), st.data())
def test_a_row_alone_is_that_of_the_whole_table(seed: bytes, size: int, products: int, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=5))
    whole = Answer.of(computed(seed, size, products), size)
    assert [row_bytes(row) for row in rows_of(seed, size, products, rows)] == [whole.rows[row] for row in rows]


def test_the_work_is_what_the_module_says_in_plain_integers() -> None:
    seed = b"seed"
    left, right = ([[int(v) for v in row] for row in each] for each in factors(seed, SIZE))
    table = [[0] * SIZE for _ in range(SIZE)]
    for stride, offset in permutations(seed, SIZE, PRODUCTS).tolist():
        assert stride % 2 == 1
        taken = [right[(j * stride + offset) % SIZE] for j in range(SIZE)]
        for r in range(SIZE):
            for c in range(SIZE):
                product = sum(left[r][j] * taken[j][c] for j in range(SIZE))
                mixed = (table[r][c] ^ product) * 2_533 % (1 << 16)
                table[r][c] = mixed ^ mixed >> 7
    plain = b"".join(value.to_bytes(2, "little") for row in table for value in row)
    assert computed(seed, SIZE, PRODUCTS) == plain


def test_what_a_device_answered_is_believed_and_nobody_elses_is() -> None:
    assert wrong_rows(found()) == ""
    assert wrong_rows(found(OTHER)) == "row 0 is not what this device computes from this nonce"
    assert is_answer_for(found(OTHER), OTHER)
    assert not is_answer_for(found(OTHER), DEVICE)
    other_nonce = bytes([1, *bytes(31)])
    assert "not what this device computes" in wrong_rows(found(nonce=other_nonce.hex()))


def test_rows_that_are_not_under_the_root_or_too_few_are_named() -> None:
    honest = found()
    assert wrong_rows(found(root="00" * 32)) == "row 0 is not under the root that was answered"
    assert wrong_rows(found(rows=honest.rows[:3])) == "3 rows were opened, expected 4 of 16"
    assert wrong_rows(found(rows=(*honest.rows[:3], honest.rows[2]))) == "3 rows were opened, expected 4 of 16"
    assert wrong_rows(found(rows=())) == "0 rows were opened, expected 4 of 16"
    moved = honest.rows[3].model_copy(update={"row": 16})
    assert wrong_rows(found(rows=(*honest.rows[:3], moved))) == "4 rows were opened, expected 4 of 16"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, ""),
        ({"commitment": "00" * 32}, "its nonce is not the one that was committed to"),
        ({"revealed_ms": 9}, "revealed_ms was 9, expected 10, its call, or later"),
        ({"nonce": ""}, "revealed_ms was 20, expected 10, its call, or later"),
        ({"answered_ms": 19}, "answered at 19, before its nonce was revealed"),
        ({"nonce": "", "revealed_ms": 0}, "answered at 30, before its nonce was revealed"),
        ({"nonce": "", "revealed_ms": 0, "outcome": Outcome.WRONG}, ""),
        ({"answered_ms": 121}, "it passed after 101 ms, expected an answer within 100"),
        ({"answered_ms": 121, "outcome": Outcome.LATE}, ""),
        ({"root": ""}, "it passed after 10 ms, expected an answer within 100"),
        ({"nonce": "", "revealed_ms": 0, "root": "", "answered_ms": 0, "outcome": Outcome.SILENT}, ""),
    ],
)
def test_how_a_finding_came_about_must_not_contradict_itself(changes: dict[str, Any], says: str) -> None:
    assert wrong_course(found(**changes)) == says


def test_real_boards_have_work_for_a_gpu_and_any_other_grade_a_stand_in_that_says_so() -> None:
    shapes = {name: shape_of(name) for name in BOARD_CLASSES}
    assert {each.suite for each in shapes.values()} == {SUITE}
    assert shapes["H200"].limit_ms < shapes["A100"].limit_ms < shapes["T4"].limit_ms
    assert shape_of("L40S") != shape_of("L4")
    assert shape_of("h100sxm") == shapes["H100"]
    assert shape_of("LOGICAL").suite == STAND_IN_SUITE


@pytest.mark.parametrize(("size", "products"), [(12, 1), (4_096, 4_096), (1, 1)])
def test_work_that_nobody_could_check_is_refused(size: int, products: int) -> None:
    with pytest.raises(ValidationError):
        found(size=size, products=products)


def test_a_table_of_another_size_is_no_answer() -> None:
    with pytest.raises(InvalidValue, match="table of an answer was '7 bytes', expected 8"):
        Answer.of(bytes(7), 2)
