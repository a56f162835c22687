"""What becomes of a gang's own wishes, in sentences: its size, its share, its minimum run time, its deadline."""

from __future__ import annotations

from scheduler.api.wording import count, duration, instant, listed
from scheduler.core.state.state import State
from scheduler.core.workloads import ENDED, Gang, GangStatus, ran_for_ms


def of_placed(state: State, gang: Gang, now_ms: int) -> list[str]:
    """How many of its workers run, with whom it shares, until when it wishes to be left alone."""
    told = []
    if gang.spec.is_elastic:
        told.append(f"It runs with {len(gang.pieces)} of the {count(gang.spec.workers, 'worker')} that it asks for.")
    if gang.shape.is_share:
        told.append(_shared(state, gang))
    left_ms = gang.spec.min_runtime_ms - ran_for_ms(gang, now_ms)
    if gang.spec.min_runtime_ms and left_ms > 0:
        told.append(
            f"It wishes to run for {duration(gang.spec.min_runtime_ms)} at least: for another {duration(left_ms)} "
            f"others are stopped rather than it, where that is enough."
        )
    return told


def of_deadline(gang: Gang, now_ms: int, expected_ms: int | None) -> list[str]:
    """Whether it will be done in time. `expected_ms`: when it should start, where it waits and that is known."""
    deadline_ms = gang.spec.deadline_ms
    if deadline_ms is None:
        return []
    when = instant(deadline_ms, now_ms)
    if gang.status in ENDED:
        late_ms = (gang.ended_ms or 0) - deadline_ms
        return [f"It ended {duration(late_ms)} after its deadline, {when}."] if late_ms > 0 else []
    if now_ms > deadline_ms:
        return [f"Its deadline, {when}, was missed {duration(now_ms - deadline_ms)} ago; that alone stops nothing."]
    if gang.status is GangStatus.RUNNING:
        return [_running(gang, now_ms, deadline_ms)]
    return [_not_running(gang, now_ms, expected_ms, when)]


def _running(gang: Gang, now_ms: int, deadline_ms: int) -> str:
    when = f"its deadline, {instant(deadline_ms, now_ms)}"
    if gang.spec.max_runtime_ms is None:
        return f"{when[:1].upper()}{when[1:]}, is in {duration(deadline_ms - now_ms)}; it declared no run time."
    end_ms = (gang.started_ms or now_ms) + gang.spec.max_runtime_ms
    if end_ms > deadline_ms:
        return f"It may miss {when}: by its declared run time it ends {duration(end_ms - deadline_ms)} after it."
    return f"It keeps {when}: by its declared run time it ends {duration(deadline_ms - end_ms)} before it."


def _not_running(gang: Gang, now_ms: int, expected_ms: int | None, when: str) -> str:
    latest_ms = gang.spec.latest_start_ms
    if latest_ms is None:
        return f"Its deadline is {when}; as it declares no run time, nobody knows when it must start."
    start = instant(latest_ms, now_ms)
    if latest_ms < now_ms:
        return f"It will miss its deadline, {when}, if it runs as long as declared: it had to start by {start}."
    if expected_ms is not None and expected_ms > latest_ms:
        late = duration(expected_ms - latest_ms)
        return f"It is expected to miss its deadline, {when}: it must start by {start}, {late} before it should."
    ahead_ms = gang.head_start_ms
    ahead = f"; it goes ahead as if it had been submitted {duration(ahead_ms)} earlier" if ahead_ms else ""
    return f"To keep its deadline, {when}, it must start by {start} (in {duration(latest_ms - now_ms)}){ahead}."


def _shared(state: State, gang: Gang) -> str:
    gpu = gang.gpu_numbers[0]
    others = [state.gangs.ids[number] for number in state.gangs.shares.of(gpu) if number != gang.number]
    left = f"{state.gangs.shares.room_milli(gpu)} milli of it are free"
    if not others:
        return f"It has the GPU to itself so far; {left} for {gang.account}'s other jobs."
    return f"It shares the GPU with {listed(others)}; {left}."
