"""Which benchmarks there are: name, the module that holds `run(settings) -> Result`, and what it measures."""

from __future__ import annotations

from types import MappingProxyType

BENCHMARKS = MappingProxyType(
    {
        "calendars": (
            "tests.benchmarks.calendars",
            "lots unplaced and handovers of every generated calendar; seconds for a plan and a trade",
        ),
        "churn": ("tests.benchmarks.churn", "a heterogeneous fleet while work comes and goes: unallocated by score"),
        "coverage": (
            "tests.benchmarks.coverage",
            "seconds for each kind of change of coverage: a trade, a node lost, a swap",
        ),
        "deliverable": (
            "tests.benchmarks.deliverable",
            "what more may be sold over a year, and sold against accredited, by fleet size",
        ),
        "delivery": (
            "tests.benchmarks.delivery",
            "records to the exchange and acknowledged, over gRPC, memory of both; proofs and an audit of a long log",
        ),
        "interval_close": ("tests.benchmarks.interval_close", "metering: records of one interval, by fleet size"),
        "journal": ("tests.benchmarks.journal", "events appended, read back and proved by the journal"),
        "lending": (
            "tests.benchmarks.lending",
            "lending and reclaim on real traces against a pool, accounts alone and count quotas",
        ),
        "openb": (
            "tests.benchmarks.openb",
            "a heterogeneous fleet while it fills, published protocol: unallocated by score",
        ),
        "planners": ("tests.benchmarks.planners", "a round over two pools: whole, by pools, and by two actors on Ray"),
        "replay": ("tests.benchmarks.replay", "traces through the production code, with and without checks"),
        "round": ("tests.benchmarks.round", "one placement round by fleet size: seconds, memory, placements a second"),
        "startup": ("tests.benchmarks.startup", "whole-process time of the command's help and of importing the core"),
        "up": ("tests.benchmarks.up", "`tenor up` until it answers, until it has stopped, and its memory"),
    }
)
