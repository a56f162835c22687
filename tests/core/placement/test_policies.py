"""Policies order and score; whatever they say, no law breaks, and the plan depends on nothing but its arguments."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from random import Random
from typing import Any, get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.placement.plan import plan
from scheduler.core.placement.preference import Preference, preferences
from scheduler.core.placement.scores.kinds import Kind, mix_of
from scheduler.core.placement.scores.pool import WHOLE_MILLI, Ask
from scheduler.core.placement.scores.table import N_RESIDUALS, SCORES, score
from scheduler.core.placement.snapshot import Plan, Policy, Snapshot
from scheduler.core.workloads import GangSpec
from tests.core.placement.test_rounds import MANY, planned, specs, tables, worlds
from tests.core.placement.test_simulation import Run
from tests.core.placement.world import World
from tests.sources import ROOT

MIX = mix_of(
    (Kind(Ask(1, WHOLE_MILLI), 6, 60_000), Kind(Ask(2, WHOLE_MILLI), 3, 60_000), Kind(Ask(8, 1_000), 1, 9_000))
)
VALUES = np.tile(np.arange(N_RESIDUALS, dtype=np.int64)[:, None] * 5, (1, 7))
OF_THE_TABLE = {
    name: preferences(score(name, MIX, {0: 32, 1: 32}, VALUES if SCORES[name].learns else None), ("A100", "H100"), 8)
    for name in SCORES
}
EMPTIEST_FIRST = tuple((grade, ((8, 7, 6, 5, 4, 3, 2, 1, 0),) * 9) for grade in ("A100", "H100"))
"""As poor as a policy can be: it breaks up whole nodes as long as there are any."""

ABSURD = (0, 1, -1, 50_000, 1_000_000, -(10**6), 2**40, -(2**40), 2**63)


def absurd_policies() -> st.SearchStrategy[Policy]:
    """Every field of every value that its type allows, the senseless ones above all; partly used nodes in the order of
    every score of the table, of the poorest one, and of any at all.
    """
    drawn: dict[str, st.SearchStrategy[Any]] = {}
    hints = get_type_hints(Policy)
    for field in fields(Policy):
        if hints[field.name] is bool:
            drawn[field.name] = st.booleans()
        elif hints[field.name] is int:
            drawn[field.name] = st.sampled_from(ABSURD)
    drawn["preferences"] = st.one_of(
        st.sampled_from((*OF_THE_TABLE.values(), EMPTIEST_FIRST, ())),
        st.dictionaries(st.sampled_from(("H100", "A100")), tables).map(lambda by: tuple(sorted(by.items()))),
    )
    return st.builds(Policy, **drawn)


@settings(MANY, max_examples=80)
@given(worlds(), st.lists(st.lists(specs(), min_size=3, max_size=9), min_size=1, max_size=4), st.data())
def test_no_policy_breaks_a_law(world: World, waves: list[list[GangSpec]], data: st.DataObject) -> None:
    for asked in waves:
        for spec in asked:
            world.submit(spec)
        planned(world, data.draw(absurd_policies()))  # every law is checked there
        world.start()
        world.now_ms += data.draw(st.sampled_from((0, 60_000, 3_600_000)))


@pytest.mark.parametrize("preferred", [*OF_THE_TABLE.values(), EMPTIEST_FIRST], ids=[*OF_THE_TABLE, "emptiest first"])
def test_no_entry_of_the_table_breaks_a_law_over_long_runs(preferred: tuple[tuple[str, Preference], ...]) -> None:
    """The same news under each: whoever is owed its GPUs gets them in the same round, whatever the order of nodes."""
    for seed in range(3):
        run = Run(seed)
        run.policy = replace(run.policy, preferences=preferred)
        for _ in range(40):
            run.happen()
            run.round()  # every law is checked there


@settings(MANY, max_examples=50)
@given(worlds(), st.lists(specs(), min_size=5, max_size=20), absurd_policies(), st.integers(0, 2**32))
def test_a_plan_does_not_depend_on_the_order_in_which_facts_lie(
    world: World, asked: list[GangSpec], policy: Policy, seed: int
) -> None:
    for spec in asked:
        world.submit(spec)
    world.balance_gpu_ms = {"a": 5, "b": -3, "c": 5}
    first = world.snapshot()
    assert told(plan(shuffled(first, Random(seed)), policy)) == told(plan(first, policy))
    world.apply(plan(first, policy))
    for spec in asked:
        world.submit(spec)
    second = world.snapshot()
    assert told(plan(shuffled(second, Random(seed)), policy)) == told(plan(second, policy))


def told(made: Plan) -> tuple[str, list[str]]:
    """A plan as text; its reasons are a mapping, whose order says nothing."""
    return repr(made.actions), sorted(map(repr, made.waiting.items()))


def shuffled(snapshot: Snapshot, dice: Random) -> Snapshot:
    """The same facts in dictionaries of another order; only within a line of equal gangs the order means something."""

    def mixed(facts: dict[Any, Any]) -> dict[Any, Any]:
        keys = list(facts)
        dice.shuffle(keys)
        return {key: facts[key] for key in keys}

    return replace(
        snapshot,
        placed=mixed(dict(snapshot.placed)),
        queue=mixed({account: mixed(dict(shapes)) for account, shapes in snapshot.queue.items()}),
        balance_gpu_ms=mixed(dict(snapshot.balance_gpu_ms)),
        opens=mixed(dict(snapshot.opens)),
    )


RECORDED = """
from hashlib import sha256
from tests.core.placement.test_simulation import Run
from scheduler.core.placement.plan import plan
told = sha256()
for seed in range(4):
    run = Run(seed)
    for _ in range(60):
        made = plan(run.world.snapshot(), run.policy)
        told.update(repr(made).encode())
        run.world.apply(made)
        run.happen()
print(told.hexdigest())
"""


@pytest.mark.slow
def test_plans_are_the_same_byte_for_byte_whatever_the_hash_seed() -> None:
    told = {
        subprocess.run(
            [sys.executable, "-c", RECORDED],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "PATH": "", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4711")
    }
    assert len(told) == 1
    assert len(told.pop().strip()) == 64


@settings(MANY, max_examples=80)
@given(worlds(), st.lists(specs(), min_size=5, max_size=25), absurd_policies())
def test_with_unchanged_facts_a_further_round_does_nothing(world: World, asked: list[GangSpec], policy: Policy) -> None:
    for spec in asked:
        world.submit(spec)
    planned(world, replace(policy, consolidate=False))
    assert planned(world, replace(policy, consolidate=False)).actions == ()


@settings(MANY, max_examples=50)
@given(worlds(), st.lists(specs(), min_size=5, max_size=25), absurd_policies())
def test_consolidation_moves_for_one_gang_a_round_until_nothing_is_worth_it(
    world: World, asked: list[GangSpec], policy: Policy
) -> None:
    for spec in asked:
        world.submit(spec)
    for _ in range(len(asked) + 1):
        if not planned(world, replace(policy, consolidate=True)).actions:
            return
    raise AssertionError("a round for each gang, and still something moves")


def test_long_runs_rest_between_news() -> None:
    """After any news a second round finds nothing more to do."""
    for seed in range(60, 63):
        run = Run(seed)
        for _ in range(80):
            run.happen()
            run.round()
            assert run.round() == 0
