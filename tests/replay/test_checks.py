"""The checker bites: a sound site shows nothing, and each way to break one is told, once, and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import pytest

from scheduler.core.causes import Cause
from scheduler.core.cluster import Level
from scheduler.core.errors import Damaged
from scheduler.core.holdings import Holding
from scheduler.core.metering.records import MeterRecord
from scheduler.core.state.state import State
from scheduler.core.workloads import Gang, GangStatus
from scheduler.execution.simulated import Work
from scheduler.replay.checks import SHOWN, LawChecker
from tests.simulation.site import START_MS, Site, gang, listing, nodes


def sound() -> Site:
    """Two accounts own a node each and run there; a third waits, there is no room for it."""
    site = Site(nodes(2), work=lambda _: Work(10**9))
    site.round()
    site.listed(listing())
    site.trade("acme-1", "acme")
    site.trade("bolt-1", "bolt")
    site.submit(gang("acme", 4, workers=2))
    site.submit(gang("bolt"))
    site.submit(gang("core"))
    site.until(1_000)
    assert [site.status(f"gang-{k}") for k in (1, 2, 3)] == ["running", "running", "waiting"]
    return site


def first(state: State) -> Gang:
    return state.gangs.get("gang-1")


def kept(state: State, changed: Gang) -> None:
    """The gang table with one gang other than the fold made it."""
    state.gangs.by_id[changed.id] = changed
    state.gangs.placed[changed.number] = changed


def loses_its_gpu(state: State) -> None:
    state.gangs.occupant[first(state).gpu_numbers[0]] = -1


def is_on_anothers_gpu(state: State) -> None:
    state.gangs.occupant[first(state).gpu_numbers[0]] = state.gangs.get("gang-2").number


def is_claimed_though_nobody_leaves(state: State) -> None:
    state.gangs.claimant[first(state).gpu_numbers[0]] = state.gangs.get("gang-2").number


def lacks_a_worker(state: State) -> None:
    kept(state, replace(first(state), gpu_numbers=first(state).gpu_numbers[:4]))


def spreads_a_worker(state: State) -> None:
    one, two = first(state), state.gangs.get("gang-2")
    mixed = (*one.gpu_numbers[:3], *two.gpu_numbers[:5])
    state.gangs.occupant[list(two.gpu_numbers)] = -1
    state.gangs.occupant[list(mixed)] = one.number
    state.gangs.occupant[list(one.gpu_numbers[3:])] = -1
    kept(state, replace(one, gpu_numbers=mixed))
    state.gangs.placed.pop(two.number)


def has_another_grade(state: State) -> None:
    kept(state, replace(first(state), shape=first(state).shape._replace(grade="A100")))


def is_over_two_cells(state: State) -> None:
    shape = first(state).shape._replace(topology=Level.GPU, topology_required=True)
    kept(state, replace(first(state), shape=shape))


def stays_on_anothers(state: State) -> None:
    kept(state, replace(first(state), shape=first(state).shape._replace(preemptible=False)))
    state.calendar.owner_account[first(state).gpu_numbers[0]] = state.accounts["bolt"]


def outlasts_its_window(state: State) -> None:
    shape = first(state).shape._replace(preemptible=False, runtime_ms=10**9)
    kept(state, replace(first(state), shape=shape, placed_ms=START_MS + 1_000))
    state.calendar.until_ms[:] = START_MS + 600_000


def waits_inside(state: State) -> None:
    state.calendar.owner_account[:] = state.accounts["core"]


def binds_to_ill_gpus(state: State) -> None:
    state.health.usable[list(first(state).gpu_numbers)] = False
    kept(state, replace(first(state), status=GangStatus.BINDING, placed_ms=START_MS + 1_000))


BROKEN: tuple[tuple[Callable[[State], None], str], ...] = (
    (loses_its_gpu, "was given GPU 0 and neither occupies nor claims it"),
    (is_on_anothers_gpu, "a GPU has an occupant or a claimant that was not given it"),
    (is_claimed_though_nobody_leaves, "and nobody is leaving it"),
    (lacks_a_worker, "has 4 GPUs, expected 8"),
    (spreads_a_worker, "a worker is spread over several nodes"),
    (has_another_grade, "asked for grade A100 and is on H100"),
    (is_over_two_cells, "must be inside one cell of level 0"),
    (stays_on_anothers, "cannot be preempted and is on GPU 0, which another account owns"),
    (outlasts_its_window, "outlasts the ownership of GPU 0"),
    (waits_inside, "of account core is inside its entitlement and waits"),
    (binds_to_ill_gpus, "was placed on GPU 0, which is not usable"),
)


def checked(state: State) -> LawChecker:
    laws = LawChecker()
    laws.after_round(state, START_MS + 1_000)
    return laws


def test_a_sound_state_shows_nothing() -> None:
    assert checked(sound().scheduler.state).found == []


@pytest.mark.parametrize(("breaks", "told"), BROKEN, ids=lambda each: getattr(each, "__name__", ""))
def test_a_gang_that_breaks_a_law_is_told(breaks: Callable[[State], None], told: str) -> None:
    state = sound().scheduler.state
    breaks(state)
    laws = checked(state)
    assert laws.count == len(laws.found) > 0
    assert any(told in fault for fault in laws.found), laws.found
    assert all(fault.startswith(f"{START_MS + 1_000}: ") for fault in laws.found)


def test_a_calendar_that_holds_a_gpu_twice_is_told_once_and_again_when_it_changes() -> None:
    state = sound().scheduler.state
    calm = state.calendar.holdings
    twice = Holding(position="acme-1", level=Level.GPU, cell=9, start_ms=START_MS, end_ms=START_MS + 9)
    state.calendar.holdings = (*calm, twice)
    laws = checked(state)
    assert laws.count == 1
    assert "share a GPU and an instant" in laws.found[0]
    laws.after_round(state, START_MS + 2_000)
    assert laws.count == 1
    state.calendar.holdings = (*calm, twice)
    laws.after_round(state, START_MS + 3_000)
    assert laws.count == 2
    beyond = Holding(position="acme-1", level=Level.NODE, cell=2, start_ms=START_MS, end_ms=START_MS + 9)
    state.calendar.holdings = (*calm, beyond)
    laws.after_round(state, START_MS + 4_000)
    assert "does not exist" in laws.found[-1]


# -- records


def record(start_ms: int = 0, end_ms: int = 10, position: str = "p", **given: object) -> MeterRecord:
    fields = {"contracted_gpu_ms": 80, "used_gpu_ms": 80, **given}
    return MeterRecord(position=position, instrument="I@1", start_ms=start_ms, end_ms=end_ms, **fields)  # type: ignore[arg-type]


def heard(*records: MeterRecord) -> list[str]:
    laws = LawChecker()
    for each in records:
        laws.on_records((each,), 99)
    return laws.found


def test_records_that_add_up_and_follow_each_other_show_nothing() -> None:
    gap, other = record(30, 40), record(0, 40, position="q")
    assert heard(record(), record(10, 20), gap, other) == []


@pytest.mark.parametrize(
    "wrong",
    [
        record(used_gpu_ms=79),
        record(used_gpu_ms=81),
        record(used_gpu_ms=72, out_forced_gpu_ms=8),
        record(used_gpu_ms=72, out_forced_gpu_ms=8, losses=((Cause.NODE_LOST, 7),)),
        record(losses=((Cause.NODE_LOST, 8),)),
        record(estimated_gpu_ms=81),
        record(version=2),
    ],
)
def test_a_record_that_does_not_add_up_is_told(wrong: MeterRecord) -> None:
    assert heard(wrong)


@pytest.mark.parametrize("late", [record(0, 10), record(5, 15), record(9, 10)])
def test_a_record_that_overlaps_the_one_before_is_told(late: MeterRecord) -> None:
    assert heard(record(), late) == [f"99: p: records overlap at {late.start_ms}, the last ended 10"]


# -- the end, and how much is shown


def test_a_fold_that_is_not_the_state_and_a_chain_that_does_not_hold_are_told() -> None:
    laws = LawChecker()
    laws.finish(b"state", lambda: b"state", 5)
    assert laws.found == []
    laws.finish(b"state", lambda: b"other", 5)
    laws.finish(b"state", broken, 6)
    assert laws.found == [
        "5: the fold of the journal is not the live state",
        "6: the journal cannot be read back: entry 7 is not what was written",
    ]


def broken() -> bytes:
    raise Damaged("entry 7 is not what was written")


def many() -> Iterator[MeterRecord]:
    for start_ms, end_ms in pairwise(range(SHOWN + 8)):
        yield record(start_ms, end_ms, used_gpu_ms=79)


def test_the_count_goes_on_where_what_is_shown_stops() -> None:
    laws = LawChecker()
    laws.on_records(tuple(many()), 99)
    assert (len(laws.found), laws.count) == (SHOWN, SHOWN + 7)
