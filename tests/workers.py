"""Which worker of `make test` runs which tests: a file is run by one worker, the longest first.

A file's fixtures are then made once, and no long file begins when the others are done. What must not run beside its
like is one unit: whole systems starve each other, and machine code would be compiled by every worker. This is a
scheduler of pytest-xdist's own kind, since its marks for groups have no effect with the pytest that we use.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

WHOLE_SYSTEMS = (
    "tests/chaos/test_kills.py",
    "tests/chaos/test_certificates.py",
    "tests/chaos/test_misbehaving_exchange.py",
    "tests/chaos/test_planners.py",
    "tests/chaos/test_start_stop.py",
    "tests/execution/test_handover.py",
    "tests/execution/test_local_ray.py",
    "tests/execution/test_ray_gangs.py",
    "tests/planners/test_on_ray.py",
    "tests/planners/test_rehearsals.py",
    "tests/test_installation.py",
)
"""Start a whole system: a Ray cluster, a demonstration."""

MACHINE_CODE = (
    "tests/test_warming.py",
    "tests/core/placement/test_reclaim.py",
    "tests/core/placement/test_equal.py",
    "tests/core/coverage/test_search.py",
    "tests/core/placement/scores/test_board.py",
)
"""Ask for machine code whatever the size: the first compiles it, the others find it on disk."""

TOGETHER: dict[str, str] = {
    **dict.fromkeys(WHOLE_SYSTEMS, "whole systems"),
    **dict.fromkeys(MACHINE_CODE, "machine code"),
}

LONG = (
    "whole systems",
    "machine code",
    "tests/simulation/test_death_at_every_boundary.py",
    "tests/core/coverage/test_generated.py",
    "tests/cli/test_conformance.py",
    "tests/exchange/test_conformance.py",
    "tests/exchange/test_crashes.py",
    "tests/core/placement/test_rounds.py",
    "tests/simulation/test_adversary.py",
    "tests/chaos/test_delivery_kills.py",
    "tests/simulation/test_hysteresis.py",
    "tests/core/coverage/test_replace.py",
    "tests/core/placement/test_policies.py",
    "tests/cli/test_certs.py",
)
"""Units that take more than about eight seconds, the longest first; the others follow in the order of collection."""


def unit_of(nodeid: str) -> str:
    """What one worker runs as a whole, by a test's id."""
    path = nodeid.partition("::")[0]
    return TOGETHER.get(path, path)


def place_of(unit: str) -> int:
    """Where a unit stands in the order of beginning; equal ones keep theirs."""
    return LONG.index(unit) if unit in LONG else len(LONG)


class ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """See the module."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)
