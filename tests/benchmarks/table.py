"""Which benchmarks there are: name, the module that holds `run(settings) -> Result`, and what it measures."""

from __future__ import annotations

from types import MappingProxyType

BENCHMARKS = MappingProxyType(
    {
        "coverage": (
            "tests.benchmarks.coverage",
            "lots unplaced on generated calendars; seconds for a plan and a change",
        ),
        "delivery": (
            "tests.benchmarks.delivery",
            "records from the journal to the exchange and acknowledged, over gRPC; memory of both",
        ),
        "interval_close": ("tests.benchmarks.interval_close", "metering: records of one interval, by fleet size"),
        "journal": ("tests.benchmarks.journal", "events appended, read back and proved by the journal"),
        "planners": ("tests.benchmarks.planners", "a round over two pools: whole, by pools, and by two actors on Ray"),
        "replay": ("tests.benchmarks.replay", "traces through the production code, with and without checks"),
        "startup": ("tests.benchmarks.startup", "whole-process time of the command's help and of importing the core"),
        "up": ("tests.benchmarks.up", "`tenor up` until it answers, until it has stopped, and its memory"),
    }
)
