"""The meter against its definition, counted by the millisecond; late news, snapshots, forgetting, refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.causes import Cause
from scheduler.core.cluster import Fleet, Level, NodeSpec
from scheduler.core.errors import Conflict, Damaged, InvalidValue
from scheduler.core.intervals import Interval, StepFunction
from scheduler.core.metering.declared import Declaration, DeclaredKind
from scheduler.core.metering.estimation import Sight
from scheduler.core.metering.meter import Meter
from scheduler.core.metering.records import broken_identities
from scheduler.core.metering.states import State
from scheduler.core.metering.terms import Contract, MeteringTerms
from tests.core.metering.by_the_millisecond import Told, pools_of, record_of

SPAN_MS = 36
FLEET = Fleet.of(
    (
        NodeSpec(name="a", grade="H100", gpus=2, domain="d0"),
        NodeSpec(name="b", grade="H100", gpus=2, domain="d0"),
        NodeSpec(name="c", grade="A100", gpus=2, domain="d1"),
    )
)
EVERY_GPU = FLEET.n_gpus

instants = st.integers(0, SPAN_MS + 3)
some_gpus = st.sets(st.integers(0, EVERY_GPU - 1), min_size=1, max_size=4).map(lambda gpus: tuple(sorted(gpus)))
causes = st.just(0) | st.sampled_from([Cause.ECC, Cause.NODE_LOST, Cause.DRAIN]) | st.sampled_from(list(Cause))
performances = st.tuples(
    st.sampled_from([0, 499_999, 500_000, 700_001, 899_999, 900_000, 1_000_000, 1_234_567]),
    st.sampled_from(["s1", "s2"]),
)
facts = st.one_of(
    st.tuples(st.just("owner"), instants, some_gpus, st.integers(-1, 3)),
    st.tuples(st.just("cause"), instants, some_gpus, causes),
    st.tuples(st.just("occupant"), instants, some_gpus, st.integers(-1, 2)),
    st.tuples(st.just("performance"), instants, some_gpus, performances),
    st.tuples(st.just("late"), instants, some_gpus, st.booleans()),
)
declarations = st.builds(
    lambda kind, nodes, from_ms, length_ms, notice_ms: Declaration(
        kind, tuple(sorted(nodes)), from_ms, from_ms + length_ms, from_ms - notice_ms
    ),
    st.sampled_from(list(DeclaredKind)),
    st.sets(st.sampled_from(["a", "b", "c", "not joined yet"]), min_size=1),
    instants,
    st.integers(1, SPAN_MS),
    st.sampled_from([-5, 0, 10]),
)
tellings = st.builds(
    Told,
    fleet=st.just(FLEET),
    joined_ms=st.tuples(*(st.sampled_from([0, 0, 7, 20]),) * 3).map(
        lambda joined: tuple(at_ms for at_ms in sorted(joined) for _ in range(2))
    ),
    facts=st.tuples(
        st.lists(st.integers(-1, 3), min_size=EVERY_GPU, max_size=EVERY_GPU), st.lists(facts, max_size=24)
    ).map(lambda drawn: [*(("owner", 0, (gpu,), owner) for gpu, owner in enumerate(drawn[0])), *drawn[1]]),
    sights=st.lists(st.tuples(instants, st.sampled_from(list(Sight))), max_size=3),
    declarations=st.lists(declarations, max_size=3).map(tuple),
)
terms = st.builds(
    MeteringTerms,
    interval_ms=st.just(SPAN_MS),
    cell=st.sampled_from([Level.GPU, Level.NODE, Level.NVLINK_DOMAIN]),
    grade=st.just("H100"),
    site=st.just("local"),
    deliverables=st.sampled_from([(), (("H100", 1_000_000),), (("H100", 1_000_000), ("A100", 333_333))]),
    floor_ppm=st.sampled_from([0, 900_000, 1_000_000]),
    reject_below_ppm=st.sampled_from([0, 500_000]),
    discount_slope_ppm=st.sampled_from([1_000_000, 1_500_001, 9_000_000]),
    total=st.booleans(),
    notice_ms=st.sampled_from([0, 10]),
    excused=st.booleans(),
    replace_within_ms=st.sampled_from([0, 0, 5, 13]),
    drain_from_ms=st.sampled_from([None, 9, 30]),
)
reasons = (
    st.just(Cause.SHORTAGE_RULE)
    | st.sampled_from(list(Cause))
    | st.lists(st.tuples(instants, st.sampled_from([0, *Cause])), max_size=3).map(
        lambda steps: StepFunction.of((at_ms, int(code)) for at_ms, code in steps)
    )
)
contracted = st.lists(st.tuples(instants, st.integers(EVERY_GPU, EVERY_GPU + 2)), max_size=2).map(
    lambda steps: StepFunction.of([(0, EVERY_GPU), *steps])
)
budgets = st.sampled_from([0, 7, 10_000])
withheld = st.lists(
    st.tuples(
        st.sampled_from([Cause.RECALL, Cause.BUYER_RELEASE]),
        st.lists(st.tuples(instants, st.integers(0, 3)), max_size=3).map(StepFunction.of),
    ),
    max_size=2,
).map(tuple)
excused = st.lists(st.tuples(instants, st.integers(0, 3)), max_size=3).map(StepFunction.of)
consents = st.sampled_from([(), (("A100", None),), (("A100", 0),), (("A100", 11),), (("A100", SPAN_MS + 9),)])
# Positions 0 to 2 have contracts; 3 owns GPUs too, but is not closed here.
contract_sets = st.tuples(
    terms,
    terms,
    terms,
    reasons,
    reasons,
    reasons,
    contracted,
    contracted,
    contracted,
    budgets,
    withheld,
    consents,
    excused,
).map(
    lambda drawn: tuple(
        Contract(
            index=i,
            position=f"p-{2 - i}",
            instrument="H100.TEST@1",
            terms=drawn[i],
            contracted_gpus=drawn[6 + i],
            account=i // 2,
            uncovered_cause=drawn[3 + i],
            planned_left_gpu_ms=drawn[9],
            withheld_gpus=drawn[10],
            consented_since_ms=drawn[11] if i else (),
            excused_gpus=drawn[12],
        )
        for i in range(3)
    )
)


def tell(meter: Meter, fact: tuple[str, int, tuple[int, ...], Any]) -> None:
    name, at_ms, gpus, value = fact
    numbers = np.array(gpus, dtype=np.int64)
    match name:
        case "performance":
            ppm, suite = value
            meter.set_ppm(at_ms, numbers, ppm, suite)
        case "late":
            meter.set_late(at_ms, numbers, late=bool(value))
        case _:
            getattr(meter, f"set_{name}")(at_ms, numbers, value)


def metered(told: Told) -> Meter:
    meter = Meter()
    for node, joined_ms in enumerate(told.joined_ms[::2]):
        meter.grow(2 * node + 2, joined_ms)
    for fact in told.facts:
        tell(meter, fact)
    for at_ms, sight in told.sights:
        meter.set_seen(at_ms, sight)
    return meter


@given(tellings, contract_sets, st.tuples(st.integers(0, 12), st.integers(13, SPAN_MS)))
def test_records_are_what_their_definition_counts_by_the_millisecond(
    told: Told, contracts: tuple[Contract, ...], ends: tuple[int, int]
) -> None:
    interval = Interval(*ends)
    closing = metered(told).close(interval, contracts, FLEET, declarations=told.declarations)
    expected = sorted(
        (record_of(told, contract, interval) for contract in contracts), key=lambda record: record.position
    )
    assert closing.records == tuple(expected)
    assert closing.pools == pools_of(told, contracts, interval)


@given(tellings, contract_sets)
def test_every_record_and_pool_adds_up(told: Told, contracts: tuple[Contract, ...]) -> None:
    closing = metered(told).close(Interval(0, SPAN_MS), contracts, FLEET, declarations=told.declarations)
    for record in closing.records:
        assert broken_identities(record) == ()
    for pool in closing.pools:
        unsold = pool.unsold_used_gpu_ms + pool.unsold_idle_gpu_ms + pool.unsold_unhealthy_gpu_ms
        assert pool.covered_gpu_ms + unsold + pool.unknown_gpu_ms == pool.total_gpu_ms


@given(tellings, contract_sets, st.sampled_from([1, 4, 9, 12]))
def test_short_intervals_add_up_to_the_long_one(told: Told, contracts: tuple[Contract, ...], length_ms: int) -> None:
    # The derate is rounded once an interval, a total is judged once an interval, and what is left of the maintenance
    # budget is each interval's own: all else adds up exactly.
    unbounded = [replace(contract, planned_left_gpu_ms=10_000) for contract in contracts]
    contracts = tuple(contract for contract in unbounded if not contract.terms.total)
    meter = metered(told)
    whole = meter.close(Interval(0, SPAN_MS), contracts, FLEET)
    parts = [
        meter.close(Interval(at_ms, at_ms + length_ms), contracts, FLEET) for at_ms in range(0, SPAN_MS, length_ms)
    ]
    capacity = (State.USED, State.AVAILABLE_UNUSED, State.DERATED)
    for i, record in enumerate(whole.records):
        split = [part.records[i] for part in parts]
        for state in set(State) - set(capacity):
            assert sum(part.gpu_ms(state) for part in split) == record.gpu_ms(state), state
        assert sum(part.gpu_ms(state) for part in split for state in capacity) == sum(map(record.gpu_ms, capacity))
        assert sum(part.contracted_gpu_ms for part in split) == record.contracted_gpu_ms
        assert sum(part.estimated_gpu_ms for part in split) == record.estimated_gpu_ms
        assert sum(part.derated_gpu_ms for part in split) >= record.derated_gpu_ms
    for i, pool in enumerate(whole.pools):
        assert sum(part.pools[i].total_gpu_ms for part in parts) == pool.total_gpu_ms
        assert sum(part.pools[i].covered_gpu_ms for part in parts) == pool.covered_gpu_ms


@given(tellings, contract_sets, st.lists(instants, max_size=4))
def test_reading_changes_nothing_and_a_snapshot_is_the_same_meter(
    told: Told, contracts: tuple[Contract, ...], read_ms: list[int]
) -> None:
    quiet, read = metered(told), Meter()
    for node, joined_ms in enumerate(told.joined_ms[::2]):
        read.grow(2 * node + 2, joined_ms)
    for i, fact in enumerate(told.facts):
        if i in read_ms:  # in the middle of the story: closed, dumped and loaded
            read.close(Interval(i, i + 5), contracts, FLEET)
            read = Meter.load(read.dump())
        tell(read, fact)
    for at_ms, sight in told.sights:
        read.set_seen(at_ms, sight)
    assert read.dump() == quiet.dump()
    assert read.close(Interval(0, SPAN_MS), contracts, FLEET) == quiet.close(Interval(0, SPAN_MS), contracts, FLEET)


@given(tellings, contract_sets, st.integers(0, 20), st.integers(EVERY_GPU, EVERY_GPU + 24))
def test_forgetting_changes_no_interval_that_can_still_be_closed(
    told: Told, contracts: tuple[Contract, ...], horizon_ms: int, when: int
) -> None:
    later = Interval(horizon_ms, SPAN_MS)
    whole, forgetful = metered(told), Meter()
    for node, joined_ms in enumerate(told.joined_ms[::2]):
        forgetful.grow(2 * node + 2, joined_ms)
    for i, fact in enumerate(told.facts):
        if i == when:
            forgetful.forget(horizon_ms)
        tell(forgetful, fact)
    for at_ms, sight in told.sights:
        forgetful.set_seen(at_ms, sight)
    assert forgetful.close(later, contracts, FLEET) == whole.close(later, contracts, FLEET)
    forgetful.forget(horizon_ms)
    assert forgetful.close(later, contracts, FLEET) == whole.close(later, contracts, FLEET)


@given(tellings, contract_sets, st.randoms(use_true_random=False))
def test_facts_of_different_instants_may_be_told_in_any_order(
    told: Told, contracts: tuple[Contract, ...], random: Random
) -> None:
    apart = {(name, at_ms): (name, at_ms, gpus, value) for name, at_ms, gpus, value in told.facts}
    orderly = Told(told.fleet, told.joined_ms, sorted(apart.values(), key=lambda fact: fact[1]))
    # What is told of before a GPU joined counts from its joining, so those facts keep their order among themselves.
    first = [fact for fact in orderly.facts if fact[1] <= max(told.joined_ms)]
    rest = [fact for fact in orderly.facts if fact[1] > max(told.joined_ms)]
    random.shuffle(rest)
    shuffled = Told(told.fleet, told.joined_ms, rest + first)
    interval = Interval(0, SPAN_MS)
    assert metered(shuffled).close(interval, contracts, FLEET) == metered(orderly).close(interval, contracts, FLEET)


# -- refusals ----------------------------------------------------------------------------------------------------------


def one_contract(gpus: int) -> Contract:
    return Contract(0, "p", "I@1", MeteringTerms(interval_ms=10), StepFunction.of([(0, gpus)]), account=0)


def small_meter() -> Meter:
    meter = Meter()
    meter.grow(EVERY_GPU)
    return meter


def test_covering_more_than_was_contracted_is_refused_with_the_instant() -> None:
    meter = small_meter()
    meter.set_owner(0, np.arange(2), 0)
    meter.set_owner(5, np.arange(2, 4), 0)
    meter.set_owner(6, np.arange(2, 4), -1)  # for one millisecond only: averages would hide it
    with pytest.raises(Conflict, match="4 GPUs cover position p at 5, expected at most the 3 contracted"):
        meter.close(Interval(0, 10), [one_contract(3)], FLEET)


def test_history_that_was_forgotten_cannot_be_closed() -> None:
    meter = small_meter()
    meter.forget(10)
    meter.close(Interval(10, 20), [one_contract(0)], FLEET)
    with pytest.raises(Conflict, match="history before 10 was forgotten"):
        meter.close(Interval(0, 20), [one_contract(0)], FLEET)


def test_what_the_meter_is_told_must_be_of_its_fleet() -> None:
    meter = small_meter()
    for gpus in ([EVERY_GPU], [-1]):
        with pytest.raises(InvalidValue, match="gpus"):
            meter.set_owner(0, np.array(gpus), 0)
    with pytest.raises(InvalidValue, match="ppm"):
        meter.set_ppm(0, np.array([0]), -1, "s")
    with pytest.raises(InvalidValue, match="cause"):
        meter.set_cause(0, np.array([0]), 7)
    with pytest.raises(InvalidValue, match="only grows"):
        meter.grow(1)
    with pytest.raises(InvalidValue, match="as the meter was told"):
        meter.close(Interval(0, 10), [], Fleet.of(FLEET.nodes[:1]))


@pytest.mark.parametrize(
    "damage",
    [
        lambda dumped: dumped[:-1],
        lambda dumped: dumped[:-8],
        lambda dumped: dumped + b"\0" * 8,
        lambda dumped: dumped.replace(b'"layout":2', b'"layout":3'),
        lambda dumped: dumped.replace(b"horizon_ms", b"horizon"),
        lambda _: b"",
        lambda _: b"[]\n",
    ],
)
def test_a_damaged_snapshot_is_refused(damage: Callable[[bytes], bytes]) -> None:
    dumped = small_meter().dump()
    with pytest.raises(Damaged):
        Meter.load(damage(dumped))
