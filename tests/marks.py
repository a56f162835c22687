"""Marks that several folders of tests share."""

from __future__ import annotations

import pytest

WHOLE_SYSTEM = pytest.mark.xdist_group("whole system")
"""Starts a whole system (a Ray cluster, a demonstration): all of these share one worker, two at once starve each
other.
"""
