"""The simulated executor: transitions by scenario, laws as properties, and what an attempt costs."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.causes import Cause
from scheduler.core.cluster import NodeSpec
from scheduler.core.errors import Conflict, InvalidValue, UnknownName
from scheduler.core.workloads import Piece
from scheduler.execution.protocol import (
    AttemptEnded,
    AttemptStarted,
    GpuHealth,
    Launch,
    NodeMissing,
    NodeSeen,
    Observation,
    ProbeReading,
    RunningAttempt,
)
from scheduler.execution.simulated import (
    EXIT_KILLED,
    EXIT_TERMINATED,
    GpuFault,
    NodeDown,
    NodeUp,
    SimulatedExecutor,
    Slowdown,
    Work,
)

NODES = tuple(NodeSpec(name=f"node-{i}", grade="H100SXM", gpus=8) for i in range(4))


class HandClock:
    """Virtual time, moved by hand."""

    def __init__(self) -> None:
        self.at_ms = 0

    def now_ms(self) -> int:
        """The instant."""
        return self.at_ms


class Cluster:
    """A simulated executor with its clock, past the first sight of its nodes."""

    def __init__(self, work: Mapping[str, Work], *faults: NodeDown | NodeUp | GpuFault | Slowdown) -> None:
        self.clock = HandClock()
        self.executor = SimulatedExecutor(NODES, self.clock.now_ms, work, faults)
        self.executor.observe()

    def until(self, at_ms: int) -> tuple[Observation, ...]:
        """Move the clock to an instant; what was observed since the last one."""
        self.clock.at_ms = at_ms
        return self.executor.observe()


def launch(gang: str = "gang-1", attempt: int = 1, *, nodes: tuple[int, ...] = (0,), gpus: int = 8) -> Launch:
    pieces = tuple(Piece(node=f"node-{n}", gpus=tuple(range(gpus))) for n in nodes)
    return Launch(gang, attempt, "acme", "train", ("true",), pieces)


def share(gang: str, milli: int, gpu: int = 0) -> Launch:
    pieces = (Piece(node="node-0", gpus=(gpu,)),)
    return Launch(gang, 1, "acme", "train", ("true",), pieces, gpu_milli=milli)


def test_shares_of_a_gpu_never_add_up_to_more_than_it() -> None:
    cluster = Cluster(dict.fromkeys("abcd", Work(work_ms=100)))
    cluster.executor.start(share("a", 300))
    cluster.executor.start(share("b", 700))
    cluster.executor.start(share("c", 600, gpu=1))
    with pytest.raises(Conflict, match="node-0:0 are not all free"):
        cluster.executor.start(share("d", 1))
    with pytest.raises(Conflict, match="are not all free"):
        cluster.executor.start(launch("d"))
    assert len(cluster.until(100)) == 6
    cluster.executor.start(launch("d"))
    assert [type(seen) for seen in cluster.until(100)] == [AttemptStarted]


def test_a_share_does_not_go_onto_a_gpu_that_is_anothers() -> None:
    cluster = Cluster({"a": Work(work_ms=100), "b": Work(work_ms=1)})
    cluster.executor.start(launch("a"))
    with pytest.raises(Conflict, match="node-0:0 are not all free"):
        cluster.executor.start(share("b", 1))


def test_nodes_are_seen_first() -> None:
    clock = HandClock()
    executor = SimulatedExecutor(NODES, clock.now_ms, {})
    assert executor.next_event_ms() == 0
    assert executor.observe() == tuple(NodeSeen(node, 0) for node in NODES)
    assert executor.next_event_ms() is None


def test_a_gang_starts_after_its_delay_and_ends_after_its_work() -> None:
    cluster = Cluster({"gang-1": Work(work_ms=1_000, start_ms=50, exit_code=3)})
    cluster.executor.start(launch())
    assert cluster.executor.next_event_ms() == 50
    assert cluster.until(49) == ()
    assert cluster.until(50) == (AttemptStarted("gang-1", 1, 50),)
    assert cluster.executor.running() == (RunningAttempt("gang-1", 1, 50),)
    assert cluster.executor.next_event_ms() == 1_050
    assert cluster.until(9_999) == (AttemptEnded("gang-1", 1, 1_050, 3),)
    assert cluster.executor.running() == ()
    assert cluster.executor.next_event_ms() is None


def test_starting_twice_changes_nothing_also_after_the_end() -> None:
    cluster = Cluster({"gang-1": Work(work_ms=10)})
    cluster.executor.start(launch())
    cluster.executor.start(launch())
    assert len(cluster.until(10)) == 2
    cluster.executor.start(launch())
    assert cluster.until(100) == ()


def test_a_gang_that_ignores_sigterm_takes_the_whole_grace() -> None:
    cluster = Cluster({"gang-1": Work(work_ms=10_000)})
    cluster.executor.start(launch())
    cluster.until(500)
    cluster.executor.stop("gang-1", 1, 300)
    assert cluster.until(5_000) == (AttemptEnded("gang-1", 1, 800, EXIT_KILLED),)


def test_a_gang_that_heeds_sigterm_ends_sooner() -> None:
    cluster = Cluster({"gang-1": Work(work_ms=10_000, stop_ms=20)})
    cluster.executor.start(launch())
    cluster.until(500)
    cluster.executor.stop("gang-1", 1, 300)
    assert cluster.until(5_000) == (AttemptEnded("gang-1", 1, 520, EXIT_TERMINATED),)


def test_a_second_stop_only_brings_the_end_nearer() -> None:
    cluster = Cluster({"gang-1": Work(work_ms=10_000)})
    cluster.executor.start(launch())
    cluster.until(0)
    cluster.executor.stop("gang-1", 1, 300)
    cluster.executor.stop("gang-1", 1, 900)
    cluster.executor.stop("gang-1", 1, 100)
    assert cluster.until(5_000) == (AttemptEnded("gang-1", 1, 100, EXIT_KILLED),)
    cluster.executor.stop("gang-1", 1, 0)
    assert cluster.until(6_000) == ()


def test_stopping_what_is_unknown_gives_one_end() -> None:
    cluster = Cluster({})
    cluster.executor.stop("gang-9", 4, 1_000)
    cluster.executor.stop("gang-9", 4, 1_000)
    assert cluster.until(10) == (AttemptEnded("gang-9", 4, 0, None, "was not running"),)


def test_stopping_before_the_start_means_it_never_runs() -> None:
    cluster = Cluster({"gang-1": Work(work_ms=10, start_ms=500, stop_ms=0)})
    cluster.executor.start(launch())
    cluster.executor.stop("gang-1", 1, 100)
    assert cluster.until(5_000) == (AttemptEnded("gang-1", 1, 0, EXIT_TERMINATED),)


def test_work_goes_on_from_the_last_checkpoint_after_a_restart() -> None:
    work = Work(work_ms=10_000, checkpoint_ms=1_000, restart_ms=200, stop_ms=0)
    cluster = Cluster({"gang-1": work})
    cluster.executor.start(launch())
    cluster.until(3_700)  # three checkpoints
    cluster.executor.stop("gang-1", 1, 0)
    cluster.until(4_000)
    cluster.executor.start(launch(attempt=2))
    cluster.until(4_100)  # still restarting
    cluster.executor.stop("gang-1", 2, 0)
    cluster.until(5_000)
    cluster.executor.start(launch(attempt=3))
    assert cluster.until(20_000)[-1] == AttemptEnded("gang-1", 3, 5_000 + 200 + 7_000, 0)


def test_without_checkpoints_all_work_is_lost() -> None:
    cluster = Cluster({"gang-1": Work(work_ms=1_000, restart_ms=10, stop_ms=0)})
    cluster.executor.start(launch())
    cluster.until(900)
    cluster.executor.stop("gang-1", 1, 0)
    cluster.executor.start(launch(attempt=2))
    assert cluster.until(9_000)[-1] == AttemptEnded("gang-1", 2, 900 + 10 + 1_000, 0)


def test_a_lost_node_takes_its_gangs_and_comes_back_empty() -> None:
    work = {f"gang-{i}": Work(work_ms=9_000) for i in range(3)}
    cluster = Cluster(work, NodeDown("node-1", 100, Cause.FABRIC), NodeDown("node-1", 150), NodeUp("node-1", 200))
    cluster.executor.start(launch("gang-0", nodes=(0, 1)))
    cluster.executor.start(launch("gang-1", nodes=(2,)))
    cluster.until(0)
    assert cluster.until(199) == (
        NodeMissing("node-1", 100, Cause.FABRIC),
        AttemptEnded("gang-0", 1, 100, None, "node lost"),
    )
    cluster.executor.start(launch("gang-2", nodes=(1,)))
    assert cluster.until(199) == (AttemptEnded("gang-2", 1, 199, None, "node node-1 is missing"),)
    assert cluster.until(200) == (NodeSeen(NODES[1], 200),)
    cluster.executor.start(launch("gang-0", 2, nodes=(0, 1)))
    assert cluster.until(200) == (AttemptStarted("gang-0", 2, 200),)
    assert [found.gang for found in cluster.executor.running()] == ["gang-0", "gang-1"]


def test_gpu_faults_and_slow_nodes_are_read() -> None:
    cluster = Cluster({}, GpuFault("node-0", (2, 3), 10, Cause.ECC), Slowdown("node-1", 20, 700_000))
    assert cluster.until(20) == (
        GpuHealth("node-0", (2, 3), 10, Cause.ECC),
        ProbeReading("node-1", None, 20, 700_000, "simulated-v1"),
    )
    cluster.executor.probe("node-1")
    cluster.executor.probe("node-2")
    assert [seen.ppm for seen in cluster.until(30) if isinstance(seen, ProbeReading)] == [700_000, 1_000_000]


def test_a_batch_comes_again_after_a_crash_until_the_next_is_taken() -> None:
    cluster = Cluster({"gang-1": Work(work_ms=10)})
    cluster.executor.start(launch())
    batch = cluster.until(10)
    cluster.executor.reopen()
    assert [found.gang for found in cluster.executor.running()] == ["gang-1"]
    assert cluster.until(10) == batch
    cluster.until(10)
    cluster.executor.reopen()
    assert cluster.until(10) == ()


def test_faults_of_the_caller_are_refused() -> None:
    cluster = Cluster({"gang-1": Work(work_ms=1_000), "gang-2": Work(work_ms=1_000)})
    cluster.executor.start(launch())
    with pytest.raises(Conflict, match="GPUs node-0:0,1,2,3,4,5,6,7 are not all free for attempt 1 of gang-2"):
        cluster.executor.start(launch("gang-2"))
    with pytest.raises(UnknownName, match="node was 'node-9', expected one of node-0, node-1"):
        cluster.executor.inject(NodeDown("node-9", 0))
    cluster.until(100)
    with pytest.raises(InvalidValue, match="now_ms of the simulated executor was 99"):
        cluster.executor.advance(99)


Step = tuple[str, int, int]
steps = st.lists(
    st.tuples(st.sampled_from(["start", "stop", "down", "up", "observe"]), st.integers(0, 3), st.integers(0, 400)),
    max_size=60,
)


@given(steps, st.integers(0, 3))
def test_every_attempt_ends_exactly_once_and_in_order(plan: list[Step], checkpoint: int) -> None:
    work = Work(work_ms=500, checkpoint_ms=checkpoint * 50, restart_ms=20, start_ms=5, stop_ms=40)
    cluster = Cluster({f"gang-{i}": work for i in range(4)})
    seen: list[Observation] = []
    attempts = dict.fromkeys(range(4), 0)
    for action, n, pause_ms in plan:
        match action:
            case "start":
                if f"gang-{n}" not in {found.gang for found in cluster.executor.running()}:
                    attempts[n] += 1
                    cluster.executor.start(launch(f"gang-{n}", attempts[n], nodes=(n,)))
            case "stop" if attempts[n]:
                cluster.executor.stop(f"gang-{n}", attempts[n], pause_ms)
            case "down":
                cluster.executor.inject(NodeDown(f"node-{n}", pause_ms))
            case "up":
                cluster.executor.inject(NodeUp(f"node-{n}", pause_ms))
            case _:
                seen += cluster.executor.observe()
        cluster.clock.at_ms += pause_ms
    seen += cluster.until(cluster.clock.at_ms + 10_000)
    ends = [(end.gang, end.attempt) for end in seen if isinstance(end, AttemptEnded)]
    assert sorted(ends) == [(f"gang-{n}", k) for n in range(4) for k in range(1, attempts[n] + 1)]
    assert [item.at_ms for item in seen] == sorted(item.at_ms for item in seen)
    assert cluster.executor.running() == ()
    assert not any(cluster.executor._busy.values())


@given(st.lists(st.integers(1, 700), max_size=12), st.integers(1, 200))
def test_work_is_conserved_over_any_evictions(runs_ms: list[int], checkpoint_ms: int) -> None:
    """However often it is evicted, a gang ends after its work plus what restarts and lost checkpoints cost, no less."""
    work = Work(work_ms=1_000, checkpoint_ms=checkpoint_ms, restart_ms=30, stop_ms=0)
    cluster = Cluster({"gang-1": work})
    kept_ms = attempt = 0
    for run_ms in runs_ms:
        attempt += 1
        lead_ms = 30 if attempt > 1 else 0
        cluster.executor.start(launch(attempt=attempt))
        if lead_ms + 1_000 - kept_ms <= run_ms:
            break
        cluster.until(cluster.clock.at_ms + run_ms)
        cluster.executor.stop("gang-1", attempt, 0)
        cluster.until(cluster.clock.at_ms)
        kept_ms += max(0, run_ms - lead_ms) // checkpoint_ms * checkpoint_ms
    else:
        attempt += 1
        cluster.executor.start(launch(attempt=attempt))
    started_ms = cluster.clock.at_ms
    lead_ms = 30 if attempt > 1 else 0
    assert cluster.until(started_ms + 5_000)[-1] == AttemptEnded(
        "gang-1", attempt, started_ms + lead_ms + 1_000 - kept_ms, 0
    )


def test_the_heap_does_not_keep_what_no_longer_counts() -> None:
    cluster = Cluster({f"gang-{i}": Work(work_ms=10**9, stop_ms=0) for i in range(50)})
    for i in range(50):
        cluster.executor.start(launch(f"gang-{i}"))
        cluster.until(i)
        cluster.executor.stop(f"gang-{i}", 1, 0)
        cluster.until(i)
    assert cluster.executor.next_event_ms() is None
    assert cluster.executor._heap == []
