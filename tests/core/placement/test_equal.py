"""The same plans as by scanning, byte for byte: actions in order, reasons with their numbers; plain and compiled."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core import kernels
from scheduler.core.cluster import Fleet, NodeSpec
from scheduler.core.placement.books import Books
from scheduler.core.placement.lines import Lines
from scheduler.core.placement.orders import Kind
from scheduler.core.placement.plan import decided, plan
from scheduler.core.placement.search import Tiers, tiers
from scheduler.core.placement.snapshot import Plan, Policy, Snapshot, Stop
from scheduler.core.placement.wants import Want
from scheduler.core.workloads import GangSpec
from tests.benchmarks.crowd import crowd_of
from tests.core.placement.naive import NaiveBooks, naive_plan
from tests.core.placement.test_rounds import HAPPENINGS, MANY, happen, policies, specs, worlds
from tests.core.placement.test_simulation import Run
from tests.core.placement.world import World


def told(made: Plan) -> list[str]:
    """Everything that a plan says."""
    return [*map(repr, made.actions), *(f"{line}: {made.waiting[line]}" for line in made.waiting)]


def in_runs(snapshot: Snapshot, policy: Policy) -> Plan:
    """The plan, with turns served in runs however few there are."""
    books = Books(snapshot, policy)
    books.in_runs = True
    return decided(books, Lines(snapshot.queue))


def assert_equal(snapshot: Snapshot, policy: Policy) -> Plan:
    """Planned turn by turn, in runs and by scanning."""
    made = plan(snapshot, policy)
    expected = told(naive_plan(snapshot, policy))
    assert told(made) == expected
    assert told(in_runs(snapshot, policy)) == expected
    return made


@MANY
@given(worlds(), st.lists(specs(), min_size=8, max_size=16), policies, st.data())
def test_rounds_equal_those_by_scanning(
    world: World, asked: list[GangSpec], policy: Policy, data: st.DataObject
) -> None:
    for spec in asked:
        world.submit(spec)
    world.apply(assert_equal(world.snapshot(), policy))
    for happening in data.draw(st.lists(st.sampled_from(HAPPENINGS), min_size=10, max_size=30)):
        happen(world, happening, data)
        world.apply(assert_equal(world.snapshot(), policy))


@pytest.mark.parametrize("seed", range(60, 72))
def test_long_runs_equal_those_by_scanning(seed: int) -> None:
    run = Run(seed)
    for _ in range(12):
        run.world.submit(run.spec())
    policy = Policy(reckless_idle_ppm=run.policy.reckless_idle_ppm, consolidate=seed % 2 == 0)
    for _ in range(80):
        run.world.apply(assert_equal(run.world.snapshot(), policy))
        run.happen()


@pytest.mark.parametrize("seed", range(20, 26))
def test_what_gangs_wish_is_planned_as_by_scanning(seed: int) -> None:
    run = Run(seed, wishful=True)
    for _ in range(12):
        run.world.submit(run.spec())
    for _ in range(80):
        run.world.apply(assert_equal(run.world.snapshot(), run.policy))
        run.happen()


@pytest.mark.parametrize("seed", range(3))
def test_a_crowd_is_planned_as_by_scanning(seed: int) -> None:
    assert assert_equal(crowd_of(1_200, seed).snapshot, Policy()).actions


@pytest.mark.parametrize("seed", range(4))
def test_a_crowd_that_must_reclaim_is_planned_as_by_scanning(seed: int) -> None:
    made = assert_equal(crowd_of(1_000, seed, crowded=True).snapshot, Policy())
    assert sum(isinstance(action, Stop) for action in made.actions) > 10


def test_machine_code_plans_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba", reason="without numba there is only the plain way")
    snapshot = crowd_of(4_000).snapshot
    monkeypatch.setattr(kernels, "WORTH_COMPILING_STEPS", 1 << 60)
    plain = told(plan(snapshot))
    monkeypatch.setattr(kernels, "WORTH_COMPILING_STEPS", 0)
    assert told(plan(snapshot)) == plain


# ---- one question at a time ----

levels = st.sampled_from(((None, None), (None, 1), (None, 2), (None, 3), (2, None), (2, 1), (3, None), (3, 1), (3, 2)))
wanted = st.builds(lambda parts, size, both: Want(parts, size, *both), st.integers(1, 12), st.integers(1, 9), levels)
sequences = (
    *({kind} for kind in Kind),
    {Kind.OWN, Kind.OWN_OR_UNSOLD, Kind.ANY},
    {Kind.UNSOLD, Kind.UNSOLD_OR_LASTING, Kind.ANY},
)
asked_tiers = st.tuples(
    st.sampled_from([frozenset(kinds) for kinds in sequences]), st.integers(0, 40), st.sampled_from((0, 1, 5, 40))
)


@MANY
@given(st.integers(0, 1_000), st.lists(st.tuples(wanted, asked_tiers), min_size=1, max_size=40))
def test_every_search_equals_scanning(
    seed: int, questions: list[tuple[Want, tuple[frozenset[Kind], int, int]]]
) -> None:
    """On a fleet of more nodes than one branch of a tree, holding what was found, with unequal nodes and two pools."""
    snapshot = uneven(seed)
    fast, naive = Books(snapshot, Policy()), NaiveBooks(snapshot, Policy())
    for want, (kinds, account, days) in questions:
        pool, owner = account % len(snapshot.fleet.pools), account % len(snapshot.accounts)
        where = Tiers(tiers(*kinds), pool, owner, snapshot.now_ms + days * 86_400_000)
        assert fast.has_room(want, where) == naive.has_room(want, where)
        found, scanned = fast.fit(want, where), naive.fit(want, where)
        assert (None if found is None else found.tolist()) == (None if scanned is None else scanned.tolist())
        if found is not None:
            for books in (fast, naive):
                books._hold(books.floor, found, 0, 0)  # the floor alone, whatever the gang


def uneven(seed: int) -> Snapshot:
    """A crowd of 300 nodes, some of 4 or 12 GPUs fewer in use, in two pools."""
    crowd = crowd_of(2_400, seed % 7).snapshot
    fleet = Fleet.of(
        tuple(
            NodeSpec(
                name=node.name,
                grade=("H100", "A100")[(i + seed) % 5 == 0],
                gpus=8,
                block=node.block,
                domain=node.domain,
            )
            for i, node in enumerate(crowd.fleet.nodes)
        )
    )
    usable = crowd.usable.copy()
    usable[np.arange(seed % 11, len(usable), 11)] = False
    return Snapshot(
        now_ms=crowd.now_ms,
        fleet=fleet,
        accounts=crowd.accounts,
        usable=usable,
        owner=crowd.owner,
        until_ms=crowd.until_ms,
        occupant=crowd.occupant,
        claimant=crowd.claimant,
        placed=crowd.placed,
        queue=crowd.queue,
    )
