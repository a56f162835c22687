"""What travels between coordinator and replica: whole, in order, with nothing that planning does not need."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.cluster import Fleet, IntArray, NodeSpec
from scheduler.core.errors import Damaged
from scheduler.core.placement.plan import plan
from scheduler.core.placement.pools import Division, Part
from scheduler.core.placement.snapshot import Action, Place, Policy, Stop
from scheduler.core.workloads import Gang, GangSpec
from scheduler.planners.arrays import Array
from scheduler.planners.deltas import (
    COLUMNS,
    NOWHERE,
    Answer,
    Ask,
    Delta,
    Mark,
    decode_answer,
    decode_delta,
    encode_answer,
    encode_ask,
    encode_delta,
    next_mark,
)
from scheduler.planners.replica import PoolReplica, ReplicaServer
from scheduler.planners.rows import GANG_LEFT_OUT, LISTS, NUMBERS, ONCE, SPEC_LEFT_OUT, SpecRow
from scheduler.planners.tracks import Mirror, Track, shares_by_pool
from scheduler.planners.verdicts import Verdicts
from tests.core.placement.world import World, spec_of
from tests.planners.crowds import Crowd


def same(left: Delta, right: Delta) -> bool:
    """Whether two deltas say the same."""
    told = [
        (d.pool, d.accounts, d.balances, d.gone, d.shares, d.gangs.specs, d.gangs.ids, *map(pairs, d.changes))
        for d in (left, right)
    ]
    arrays = zip(left.gangs.arrays, right.gangs.arrays, strict=True)
    return told[0] == told[1] and all(np.array_equal(one, other) for one, other in arrays)


def pairs(change: tuple[Array, Array]) -> list[list[int]]:
    """Entries and what is there now."""
    return [each.tolist() for each in change]


class Followed:
    """The pools of a crowd, each with its track and a mirror, as the crowd goes on."""

    def __init__(self, seed: int) -> None:
        self.crowd = Crowd(seed, pools=True)
        self.division = Division.of(self.crowd.world.fleet)
        self.tracks = [Track(part) for part in self.division.parts]
        self.mirrors: list[Mirror] = [track.mirror() for track in self.tracks]

    def deltas(self) -> list[Delta]:
        """What each mirror must be told now; only gangs that stand in a pool or name no other are looked at."""
        snapshot = self.crowd.world.snapshot()
        for track, shares in zip(self.tracks, shares_by_pool(snapshot, self.division), strict=True):
            track.look(snapshot, shares)
            for number in list(track.gangs):
                if number not in self.crowd.world.gangs:
                    track.drop(number)
        for gang in self.crowd.world.gangs.values():
            pools = self.division.pools_for(gang.shape.grade)
            home = self.division.pool_of(gang) if gang.gpu_numbers else pools[0] if len(pools) == 1 else None
            for pool, track in enumerate(self.tracks):
                if pool == home:
                    track.keep(gang)
                else:
                    track.drop(gang.number)
        return [mirror.delta(self.division.number_in_part) for mirror in self.mirrors]


def test_every_field_of_a_gang_is_carried_or_left_out_on_purpose() -> None:
    carried = {*ONCE, *NUMBERS, *LISTS}
    assert set(GangSpec.model_fields) - set(SpecRow._fields) == SPEC_LEFT_OUT
    assert {field.name for field in fields(Gang)} - carried == GANG_LEFT_OUT


def as_planning_sees(gang: Gang, number_in_part: IntArray) -> tuple[object, ...]:
    """The gang without what only execution needs, on GPUs of its part."""
    told = [getattr(gang, name) for name in (*ONCE, *NUMBERS, "shape", "evicted_ms") if name != "spec"]
    asked = [getattr(gang.spec, name) for name in SpecRow._fields]
    return (*told, *asked, number_in_part[list(gang.gpu_numbers)].tolist())


@pytest.mark.parametrize("seed", [1, 2, 3, 5])
def test_deltas_are_read_back_as_they_were_written_and_add_up_to_the_whole(seed: int) -> None:
    followed = Followed(seed)
    replicas = [PoolReplica() for _ in followed.tracks]
    for step in range(40):
        followed.crowd.world.balance_gpu_ms = {"a": step // 10, "b": -(step // 10)} if step >= 10 else {}
        for delta, replica in zip(followed.deltas(), replicas, strict=True):
            assert same(decode_delta(encode_delta(delta)), delta)
            replica.apply(decode_delta(encode_delta(delta)))
        assert all(delta.is_empty for delta in followed.deltas())
        followed.crowd.plans()
        followed.crowd.happen()
    for delta, replica in zip(followed.deltas(), replicas, strict=True):
        replica.apply(delta)
    for track, replica in zip(followed.tracks, replicas, strict=True):
        numbers, alike = followed.division.number_in_part, np.arange(followed.crowd.world.fleet.n_gpus)
        here = {number: as_planning_sees(gang, numbers) for number, gang in track.gangs.items()}
        assert {number: as_planning_sees(gang, alike) for number, gang in replica.gangs.items()} == here
        anew = PoolReplica()
        anew.apply(track.mirror().delta(followed.division.number_in_part))
        assert (replica.gangs, replica.placed, replica.queue) == (anew.gangs, anew.placed, anew.queue)
        assert replica.accounts == anew.accounts
        assert replica.balances == anew.balances == {"a": 3, "b": -3}
        assert all(np.array_equal(replica.columns[c.name], anew.columns[c.name]) for c in COLUMNS)
        assert replica.fleet.domain_of_node.tolist() == sorted(replica.fleet.domain_of_node.tolist())


def first_delta() -> bytes:
    return encode_delta(Followed(2).deltas()[0])


@given(st.integers(0, 10_000), st.sampled_from(("cut", "changed")))
def test_damaged_bytes_are_refused_or_say_something_else_but_never_the_same(at: int, how: str) -> None:
    whole = first_delta()
    at %= len(whole)
    other = whole[:at] if how == "cut" else whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    try:
        read = decode_delta(other)
    except Damaged:
        return
    assert not same(read, decode_delta(whole))


def said(answer: bytes) -> tuple[Mark, int | None]:
    """Where the replica stands, and how many actions it gave."""
    read = decode_answer(answer)
    return read.mark, None if read.verdicts is None else read.verdicts.told.shape[1]


def test_a_replica_elsewhere_than_the_asker_refuses_and_stays_as_it_is() -> None:
    followed = Followed(2)
    load = encode_delta(followed.deltas()[0])
    server = ReplicaServer()
    policy = Policy()
    at_load = next_mark(NOWHERE, load)
    ask = encode_ask(Ask(at_load, 5, policy), b"")
    assert said(server.serve(ask)) == (NOWHERE, None)
    assert said(server.serve(encode_ask(Ask(NOWHERE, 5, None), load))) == (at_load, 0)
    answer = server.serve(ask)
    assert said(answer) == (at_load, 0)
    assert server.serve(ask) == answer
    behind = encode_ask(Ask(next_mark(at_load, b"missed"), 5, policy), b"")
    assert said(server.serve(behind)) == (at_load, None)
    assert server.serve(ask) == answer
    assert decode_answer(server.serve(encode_ask(Ask(NOWHERE, 5, None), load))).mark == at_load


@pytest.mark.parametrize("seed", [5, 6])
def test_an_answer_says_each_action_as_it_was_decided(seed: int) -> None:
    followed = Followed(seed)
    replicas = [PoolReplica() for _ in followed.tracks]
    seen: set[type[Action]] = set()
    for _ in range(60):
        for pool, (delta, replica) in enumerate(zip(followed.deltas(), replicas, strict=True)):
            replica.apply(delta)
            snapshot = replica.snapshot(followed.crowd.world.now_ms)
            made = plan(snapshot, followed.crowd.policy)
            decided = made.actions
            verdicts = Verdicts.of(made, replica.numbers, replica.queue)
            body = encode_answer(Answer(Mark(1, "x"), verdicts))
            read = decode_answer(body)
            assert (read.mark, encode_answer(read)) == (Mark(1, "x"), body)
            assert read.verdicts is not None
            told = read.verdicts.actions(pool, followed.tracks[pool].gangs, followed.division)
            assert list(map(by_name, told)) == [by_name(each, followed.division.parts[pool]) for each in decided]
            seen |= {type(each) for each in decided}
        followed.crowd.plans()
        for _ in range(8):
            followed.crowd.happen()
    assert seen == {Place, Stop}


def by_name(action: Action, part: Part | None = None) -> tuple[object, ...]:
    """What an action says, on the fleet's GPUs where it is of a part."""
    if isinstance(action, Stop):
        return (action.gang.id, action.cause, action.for_gang)
    assert isinstance(action, Place)
    gpus = action.gpu_numbers if part is None else tuple(part.gpus[list(action.gpu_numbers)].tolist())
    hosts = [host for host, _ in action.hosts]
    return (action.gang.id, action.gang.shape, gpus, hosts, action.inside, action.waits_for)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'[[1,"x"],true]\n',
        b'[[1,"x"],true]\n[0,0,0,0,0]\n',
        b'[[1,"x"],true]\n[0,0,0,0,0,0]\n1',
        b'[[1,"x"],true]\n[0,0,1,0,0,0]\n' + bytes(8),
        b'[[1,"x"],true]\n[0,0,0,0,1,0]\n' + bytes(8),
        b'[[1,"x"],true]\n[4,0,0,0,0,0]\n' + bytes(32),
        b'[[1,"x"],true]\n[4,2,0,0,0,0]\n' + bytes(8) + b"\x63" + bytes(39),
        b'[[1,"x"],true]\n[-1,0,0,0,0,0]\n',
    ],
)
def test_what_is_no_answer_is_damaged(body: bytes) -> None:
    with pytest.raises(Damaged, match="an answer cannot be read"):
        decode_answer(body)


def test_a_delta_that_changes_an_unknown_gang_is_damaged() -> None:
    followed = Followed(1)
    while not any(track.gangs for track in followed.tracks):
        followed.crowd.happen()
        whole = followed.deltas()
    delta = next(delta for delta in whole if len(delta.gangs.number))
    table = replace(delta.gangs, ids=(), new=delta.gangs.new[:, :0])
    with pytest.raises(Damaged, match="gangs that its pool does not have"):
        PoolReplica().apply(replace(delta, gangs=table))


@pytest.mark.parametrize("body", [b"", b"{}\n", b"[1]\nx", b"null\n[0,0,0,0,0,0]\n"])
def test_what_is_no_ask_is_damaged(body: bytes) -> None:
    with pytest.raises(Damaged, match="cannot be read"):
        ReplicaServer().serve(body)


def test_a_shared_device_is_told_in_order_of_arrival_and_counts_once() -> None:
    fleet = Fleet.of(tuple(NodeSpec(name=f"n-{i}", grade=("A100", "H100")[i % 2], gpus=8) for i in range(4)))
    world = World(fleet, ["a"] * fleet.n_gpus)
    division = Division.of(fleet)
    shared = 24  # the first GPU of the second H100 node: number 8 of its part
    first, second = (world.running(spec_of("a", gpu_milli=milli), [shared]) for milli in (250, 500))
    track = Track(division.parts[1])
    mirror, replica = track.mirror(), PoolReplica()

    def told(shares: dict[int, dict[int, int]]) -> int:
        """The account's headroom, once the replica was told of these shares."""
        snapshot = replace(world.snapshot(), shares=shares)
        track.look(snapshot, shares_by_pool(snapshot, division)[1])
        replica.apply(decode_delta(encode_delta(mirror.delta(division.number_in_part))))
        return track.room().headroom["a"]

    track.keep(first)
    track.keep(second)
    assert told({shared: {second.number: 500, first.number: 250}}) == 15
    assert [(gpu, list(there.items())) for gpu, there in replica.shares.items()] == [
        (8, [(second.number, 500), (first.number, 250)])
    ]
    assert track.room().sharing == {"a"}
    track.drop(second.number)
    assert told({shared: {first.number: 250}}) == 15
    assert replica.shares == {8: {first.number: 250}}
    track.drop(first.number)
    assert told({}) == 16
    assert replica.shares == {}
