"""Why the scheduler chose so: where an attempt started, and why one was ended."""

from __future__ import annotations

from scheduler.api import naming
from scheduler.api.trail import Attempt
from scheduler.api.wording import level_name, listed
from scheduler.core.state.state import State
from scheduler.core.workloads import Gang, StopCause


def of_start(state: State, gang: Gang, attempt: Attempt | None, told_to: str | None = None) -> list[str]:
    """Why a placed gang stands where it does; nothing where its placement is not known. `told_to`: see `Facts`."""
    if attempt is None or attempt.number != gang.attempt:
        return []
    joined = _joined(state, gang)
    if joined:
        return [joined]
    kept = _kept(state, gang)
    if attempt.waits_for:
        whom = listed(naming.work([state.gangs.get(name) for name in attempt.waits_for], told_to))
        return [f"Why there: {whom} made way, and no other way to make room wasted less work{kept}."]
    order = "unsold GPUs come first, then others' idle ones"
    if attempt.inside:
        order = f"{gang.account}'s own GPUs come first, then unsold ones, then others' idle ones"
    return [f"Why there: {order}, on the fullest nodes that have room{kept}."]


def of_stop(state: State, gang: Gang, cause: StopCause | None, for_gang: str | None, told_to: str | None = None) -> str:
    """Why the scheduler stopped an attempt, as a clause. `told_to`: see `Facts`."""
    other = state.gangs.by_id.get(for_gang or "")
    known = other is not None and naming.may_know(other.account, told_to)
    whom = "" if other is None else f" for {naming.ANOTHERS_WORK}"
    if known and other is not None:
        whom = f" for {other.id} ({other.spec.name}) of {other.account}"
    match cause:
        case StopCause.RECLAIMED:
            return f"the GPUs that it borrowed were reclaimed{whom or ' for their owner'}"
        case StopCause.CONSOLIDATED if other is not None and other.inside:
            return f"the least work is lost where it makes room{whom}, and it keeps its turn"
        case StopCause.CONSOLIDATED:
            return f"its GPUs were needed as whole nodes{whom or ' for a larger job'}"
        case StopCause.RESIZED:
            return f"there was room for more of the {gang.spec.workers} workers that it asks for"
        case StopCause.WINDOW_ENDED:
            return f"the delivery window of {gang.account}'s position ended"
        case None:
            return "the scheduler asked it to"
        case _:
            return _STOP_CLAUSES[cause]


_STOP_CLAUSES = {
    StopCause.NODE_LOST: "a node that it was on was lost",
    StopCause.GPU_ILL: "a GPU that it was on fell ill",
    StopCause.DRAINED: "a node that it was on is being drained",
    StopCause.CANCELLED: "it was cancelled",
    StopCause.RUNTIME_OVER: "its declared run time was over",
    StopCause.SHUTDOWN: "the scheduler was shut down",
    StopCause.RECALLED: "lots that it ran on were recalled or released",
}


def _joined(state: State, gang: Gang) -> str:
    """That a share joined others, where it did."""
    there = state.gangs.shares.of(gang.gpu_numbers[0]) if gang.shape.is_share else ()
    before = [state.gangs.ids[number] for number in there[: there.index(gang.number)]] if gang.number in there else []
    if not before:
        return ""
    return f"Why there: it joined {listed(before)} on the fullest of {gang.account}'s shared GPUs that had room for it."


def _kept(state: State, gang: Gang) -> str:
    """Which of its wishes for topology were kept."""
    fleet, spec = state.fleet, gang.spec
    if len(gang.pieces) < 2:
        return ""
    nodes = [fleet.nodes[fleet.index_of_node[piece.node]] for piece in gang.pieces]
    paths = [(node.site, node.block, node.domain, node.name) for node in nodes]
    depth = {1: 4, 2: 3, 3: 2, 4: 1}
    kept = []
    if spec.topology is not None and spec.topology in depth and len({p[: depth[spec.topology]] for p in paths}) == 1:
        kept.append(f"inside one {level_name(spec.topology)}")
    if spec.spread is not None and len({p[: depth.get(spec.spread, 4)] for p in paths}) == len(paths):
        kept.append(f"each worker in another {level_name(spec.spread)}")
    return f", {' and '.join(kept)} as it wished" if kept else ""
