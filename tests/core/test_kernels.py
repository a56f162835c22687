"""Kernels run the same as plain Python and compiled, and may call each other either way."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from scheduler.core import kernels
from scheduler.core.kernels import WORTH_COMPILING_STEPS, ingredients, kernel, worth_compiling


@kernel
def doubled(number: int) -> int:
    return number * 2


@kernel
def doubled_sum(numbers: npt.NDArray[np.int64]) -> int:
    total = 0
    for i in range(len(numbers)):
        total += doubled(numbers[i])
    return total


def test_a_kernel_gives_the_same_both_ways() -> None:
    pytest.importorskip("numba", reason="without numba there is only the plain way")
    numbers = np.arange(1_000, dtype=np.int64)
    assert doubled_sum(numbers) == doubled_sum.compiled(numbers) == 999_000
    assert doubled_sum.compiled is not doubled_sum.plain


def test_small_work_stays_plain_python() -> None:
    pytest.importorskip("numba", reason="without numba there is only the plain way")
    assert doubled_sum.at(10) is doubled_sum.plain
    assert doubled_sum.at(WORTH_COMPILING_STEPS) is doubled_sum.compiled


def test_without_a_compiler_there_is_only_plain_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "numba", None)
    alone = kernel(doubled.plain)
    assert alone.compiled is alone.plain
    assert not worth_compiling(1 << 60)


def test_while_machine_code_is_made_elsewhere_plain_python_serves_and_the_wish_is_noted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("numba", reason="without numba there is only the plain way")
    compiler = kernels.Compiler()
    monkeypatch.setattr(kernels, "COMPILER", compiler)
    compiler.ready = False
    assert (worth_compiling(WORTH_COMPILING_STEPS - 1), compiler.wanted) == (False, False)
    assert (doubled_sum.at(WORTH_COMPILING_STEPS), compiler.wanted) == (doubled_sum.plain, True)
    compiler.ready = True
    assert doubled_sum.at(WORTH_COMPILING_STEPS) is doubled_sum.compiled


STEP = 3


@kernel
def stepped(number: int) -> int:
    return doubled(number) + STEP


def test_what_a_kernel_is_made_of_tells_machine_code_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ingredients(stepped.plain)
    assert before == ingredients(stepped.plain)
    assert before != ingredients(doubled.plain)
    with monkeypatch.context() as other_number:
        other_number.setitem(stepped.plain.__globals__, "STEP", 4)
        assert ingredients(stepped.plain) != before
    with monkeypatch.context() as other_callee:
        other_callee.setitem(stepped.plain.__globals__, "doubled", kernel(lambda number: number * 5))
        assert ingredients(stepped.plain) != before


def test_the_stamp_is_kept_with_the_machine_code() -> None:
    pytest.importorskip("numba", reason="without numba there is no machine code")
    assert stepped.compiled(2) == 7
    assert ingredients(stepped.plain) in str(stepped.compiled._cache._cache_file._source_stamp)  # type: ignore[attr-defined]
