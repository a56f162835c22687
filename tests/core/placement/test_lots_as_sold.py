"""Sharing safety over lots as sold: wherever an account's lots lie, the published rule finds room for what fits them.

`packable` tries everything, on lots each of which is alone in the world. That a swap, a trade or a failure moves an
account's lots is a new place for the same lots, so a rule that succeeds for every place is safe from all of them.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.cluster import Fleet, Level, NodeSpec
from scheduler.core.placement.inside import packs
from scheduler.core.placement.wants import Want
from tests.simulation.owed import Block, Ground, packable


class Estate(NamedTuple):
    """What an account owns: where it lies, and as it was sold."""

    fleet: Fleet
    room: tuple[int, ...]
    """GPUs of each node."""
    lots: Ground


@st.composite
def estates(draw: st.DrawFn) -> Estate:
    """Up to 32 GPUs of lots of whole domains, whole nodes and single GPUs, anywhere."""
    gpus, nodes, domains = draw(st.sampled_from(((2, 2, 4), (4, 2, 4), (8, 2, 2), (4, 4, 2), (8, 1, 4), (2, 4, 4))))
    fleet = Fleet.of(
        tuple(
            NodeSpec(name=f"n{i}", grade="H100", gpus=gpus, domain=f"d{i // nodes}", block=f"b{i // (2 * nodes)}")
            for i in range(nodes * domains)
        )
    )
    room: list[int] = []
    lots: list[Block] = []
    for _ in range(domains):
        if draw(st.booleans()):
            room += [gpus] * nodes
            lots.append(((gpus,) * nodes,))
            continue
        for _ in range(nodes):
            count = draw(st.sampled_from((0, gpus, gpus))) if draw(st.booleans()) else draw(st.integers(0, gpus))
            room.append(count)
            lots += [((gpus,),)] if count == gpus and draw(st.booleans()) else [((1,),)] * count
    return Estate(fleet, tuple(room), tuple(lots))


def some_wants(levels: tuple[Level | None, ...]) -> st.SearchStrategy[list[Want]]:
    """Gangs of 1, 2 or 4 equal parts of 1, 2, 4 or 8 GPUs; one part is bound to nothing but its node."""
    want = st.builds(
        Want, st.sampled_from((1, 2, 4)), st.sampled_from((1, 2, 4, 8)), st.sampled_from(levels), st.none()
    )
    return st.lists(want.map(lambda w: w._replace(level=w.level if w.parts > 1 else None)), max_size=12)


def that_may_fit(wants: list[Want], estate: Estate) -> tuple[Want, ...]:
    """As many of the wants, in order, as there are GPUs for: estates that are nearly full are the hard ones."""
    taken: list[Want] = []
    for want in wants:
        if sum(each.gpus for each in (*taken, want)) <= sum(estate.room) and want.size <= max(estate.room):
            taken.append(want)
    return tuple(taken)


@settings(max_examples=400)
@given(estates(), some_wants((None,)))
def test_sizes_that_divide_each_other_have_their_room_wherever_the_lots_lie(estate: Estate, asked: list[Want]) -> None:
    wants = that_may_fit(asked, estate)
    if packable(estate.lots, wants):
        assert packs(np.array(estate.room), Counter(wants), estate.fleet)


@settings(max_examples=400)
@given(estates(), some_wants((None, Level.NVLINK_DOMAIN)))
def test_gangs_bound_to_a_domain_have_their_room_wherever_the_lots_lie(estate: Estate, asked: list[Want]) -> None:
    wants = that_may_fit(asked, estate)
    if packable(estate.lots, wants):
        assert packs(np.array(estate.room), Counter(wants), estate.fleet)


def test_with_two_levels_at_once_the_rule_may_refuse_what_would_fit() -> None:
    """The limit that `inside` names: the gang of a domain goes to the first one, which the gang of a block needs."""
    specs = [NodeSpec(name=f"n{i}", grade="H", gpus=4, domain=f"d{i // 2}", block=f"b{i // 4}") for i in range(6)]
    wants = (Want(2, 2, Level.NVLINK_DOMAIN), Want(4, 2, Level.FABRIC_BLOCK))
    assert packable((((4, 4),), ((4,),)), wants)
    assert not packs(np.array([0, 0, 4, 4, 4, 0]), Counter(wants), Fleet.of(tuple(specs)))


def test_other_sizes_go_by_the_rule_alone() -> None:
    """6 + 3 + 3 and 4 + 4 + 4 fill two nodes of twelve; largest first puts 6 and 4 together and leaves a 3 over."""
    fleet = Fleet.of(tuple(NodeSpec(name=f"n{i}", grade="H100", gpus=12) for i in range(2)))
    wants = (*[Want(1, 6, None)], *[Want(1, 4, None)] * 3, *[Want(1, 3, None)] * 2)
    assert packable((((12,),), ((12,),)), wants)
    assert not packs(np.array([12, 12]), Counter(wants), fleet)


def test_trying_everything_knows_near_from_far() -> None:
    near, far = (((4, 4),),), (((4,),), ((4,),))
    bound = (Want(2, 4, Level.NVLINK_DOMAIN),)
    assert packable(near, bound)
    assert not packable(far, bound)
    assert packable(far, (Want(2, 4, None),))
    assert not packable((((1,),), ((1,),)), (Want(1, 2, None),))
