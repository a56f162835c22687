"""Every refusal explains itself: one situation for each reason, with its numbers."""

from __future__ import annotations

import pytest

from scheduler.core.cluster import Level
from scheduler.core.placement.plan import plan
from scheduler.core.placement.snapshot import Opening, Policy
from scheduler.core.workloads import GangSpec, Reason, Waiting
from tests.core.placement.world import HOUR_MS, World, fleet_of, owners_of, spec_of


def reason_of(world: World, spec: GangSpec) -> Waiting:
    gang = world.submit(spec)
    return plan(world.snapshot(), Policy(consolidate=False)).waiting[gang.account, gang.shape]


def full_world() -> World:
    """Account a owns 8 of 16 GPUs, b the others, and both use them; node 1 has grade A100."""
    world = World(fleet_of([8, 8], ["H100", "A100"]), owners_of({"a": 8, "b": 8}))
    world.running(spec_of("a", 1, 8, max_runtime_ms=HOUR_MS), range(8))
    world.running(spec_of("b", 1, 5), range(8, 13))
    return world


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (spec_of("a", 1, 1, grade="B200"), Reason.NO_SUCH_GRADE),
        (spec_of("a", 1, 9), Reason.LARGER_THAN_FLEET),
        (spec_of("a", 3, 4), Reason.LARGER_THAN_FLEET),
        (spec_of("a", 2, 1, topology=Level.GPU, topology_required=True), Reason.LARGER_THAN_FLEET),
        (spec_of("a", 1, 8, grade="H100"), Reason.OVER_ENTITLEMENT),
        (spec_of("b", 1, 4, preemptible=False), Reason.OVER_ENTITLEMENT),
    ],
)
def test_reasons_of_a_full_fleet(spec: GangSpec, reason: Reason) -> None:
    assert reason_of(full_world(), spec).reason is reason


def test_over_entitlement_tells_numbers_and_when_own_work_ends() -> None:
    waiting = reason_of(full_world(), spec_of("a", 1, 4, grade="H100"))
    numbers = dict(waiting.numbers)
    assert (numbers["entitled_gpus"], numbers["used_gpus"], numbers["asked_gpus"], numbers["free_gpus"]) == (8, 8, 4, 0)
    assert waiting.expected_start_ms == 2 * HOUR_MS
    assert waiting.remedy


def test_before_window_tells_when_it_opens() -> None:
    world = full_world()
    world.opens["a"] = Opening(at_ms=5 * HOUR_MS, gpus=16)
    waiting = reason_of(world, spec_of("a", 1, 8, grade="H100"))
    assert (waiting.reason, waiting.expected_start_ms) == (Reason.BEFORE_WINDOW, 5 * HOUR_MS)


def test_fragmented_tells_how_much_is_free_and_in_how_many_parts() -> None:
    world = World(fleet_of([4, 4]), owners_of({"a": 8}))
    world.running(spec_of("a", 1, 2), range(2))
    world.running(spec_of("a", 1, 2), range(4, 6))
    waiting = reason_of(world, spec_of("b", 1, 4))
    numbers = dict(waiting.numbers)
    assert waiting.reason is Reason.FRAGMENTED
    assert (numbers["free_gpus"], numbers["free_parts"], numbers["asked_parts"]) == (4, 0, 1)


def test_unhealthy_cells_are_named_where_they_are_what_is_missing() -> None:
    world = World(fleet_of([8, 8]), owners_of({"a": 16}))
    world.running(spec_of("a", 1, 8), range(8))
    world.usable[8:] = False
    waiting = reason_of(world, spec_of("a", 1, 8))
    assert waiting.reason is Reason.UNHEALTHY_CELLS
    assert dict(waiting.numbers)["unusable_gpus"] == 8


def test_lent_gpus_are_counted() -> None:
    world = World(fleet_of([8]), owners_of({"a": 4, None: 4}))
    world.running(spec_of("b", 1, 8), range(8))
    assert dict(reason_of(world, spec_of("a", 1, 8)).numbers)["lent_gpus"] == 4


def test_an_answer_tells_of_its_round_however_late_it_is_asked() -> None:
    world = full_world()
    gang = world.submit(spec_of("a", 1, 4, grade="H100"))
    early, late = (plan(world.snapshot(), Policy()).waiting for _ in range(2))
    told = early[gang.account, gang.shape]
    world.end(0)
    world.usable[:] = False
    world.owner[:] = -1
    assert late[gang.account, gang.shape] == told
