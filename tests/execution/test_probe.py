"""The probe: rounding, the suite it names, and that a slowed node really measures less."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.execution import probe


def test_ppm_is_rounded_down_and_not_clamped() -> None:
    assert probe.to_ppm(2.0, 3.0) == 666_666
    assert probe.to_ppm(3.0, 2.0) == 1_500_000


@given(st.floats(min_value=1e3, max_value=1e18))
def test_a_reference_is_exactly_one_of_itself(measured: float) -> None:
    assert probe.to_ppm(measured, measured) == 1_000_000


def test_a_slowed_node_measures_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite, usual = probe.measure(budget_s=0.1, size=64)
    assert suite.startswith("matmul-")
    assert usual > 0
    slow = tmp_path / "node-0"
    monkeypatch.setenv(probe.SLOW_FILE, str(slow))
    slow.write_text("100000")
    assert probe.measure(budget_s=0.1, size=64)[1] < usual / 2
