"""Why a gang waits, as a clause for each reason of the closed list, with the round's own numbers."""

from __future__ import annotations

from scheduler.api.wording import asked_size, count, duration, gpus, instant
from scheduler.core.state.state import State
from scheduler.core.workloads import Gang, Reason, Waiting


def clause(state: State, gang: Gang, waiting: Waiting, now_ms: int) -> str:  # noqa: C901, PLR0911 - a line each
    """The reason, to follow a colon and to be followed by a full stop."""
    account, spec = gang.account, gang.spec
    known = dict(waiting.numbers)
    free = known.get("free_gpus", 0)
    match waiting.reason:
        case Reason.OVER_ENTITLEMENT:
            return _over(gang, known)
        case Reason.FRAGMENTED if known.get("entitled_gpus", 0) - known.get("used_gpus", 0) >= gang.shape.least_gpus:
            return f"{account} owns enough, but its cells cannot be rearranged around {_shape(gang)}"
        case Reason.FRAGMENTED:
            parts = count(known.get("asked_parts", 0), "part")
            fitting = f"they hold {known.get('free_parts', 0)} of the {parts} that it needs"
            return f"{gpus(free)} {_are(free)} free, but not in the shape of {_shape(gang)}: {fitting}"
        case Reason.AWAITING_RECLAIM:
            return f"its GPUs are being freed; {free} {_are(free)} free already, jobs that are stopping hold the rest"
        case Reason.BEFORE_WINDOW:
            opens = "" if waiting.expected_start_ms is None else f" at {instant(waiting.expected_start_ms, now_ms)}"
            return f"{account}'s window opens{opens}, and until then too little is free to borrow"
        case Reason.NO_SUCH_GRADE:
            grades = sorted({grade for grade, _ in state.fleet.pools})
            return f"no node has grade {spec.grade}; the fleet has {', '.join(grades) or 'no nodes'}"
        case Reason.LARGER_THAN_FLEET:
            most = f"; the largest pool has {gpus(known['fleet_gpus'])}" if "fleet_gpus" in known else ""
            return f"even the empty fleet could not hold {_shape(gang)}{most}"
        case Reason.OUTLASTS_WINDOW:
            declared = duration(spec.max_runtime_ms or 0)
            return f"it cannot be preempted and declares {declared}, and every GPU it may have changes hands before"
        case Reason.BORROWING_RESTRICTED:
            room = f"now {gpus(free)} {_are(free)} free"
            return f"it never checkpoints, and such work borrows only while the pool is roomy; {room}"
        case Reason.UNHEALTHY_CELLS:
            ill = known.get("unusable_gpus", 0)
            return f"{ill} of {account}'s GPUs {_are(ill)} ill or drained, and the rest is too few"
        case Reason.PAUSED:
            return "nothing is decided at present"
        case Reason.HELD_BACK:
            return _held_back(gang, known, now_ms)


def _over(gang: Gang, known: dict[str, int]) -> str:
    entitled, used, free = (known.get(name, 0) for name in ("entitled_gpus", "used_gpus", "free_gpus"))
    own = f"{gang.account} uses {used} of the {gpus(entitled)} that it owns now"
    if entitled == 0:
        own = f"{gang.account} owns no such GPUs now" + (f" and uses {used}" if used else "")
    asked = f"{gang.shape.least_gpus} to {gang.spec.gpus}" if gang.shape.is_elastic else str(gang.spec.gpus)
    if gang.shape.is_share:
        asked = f"{gang.shape.gpu_milli} milli of one"
    return f"{own}, and {free} {_are(free)} free to borrow; it asks for {asked}"


def _held_back(gang: Gang, known: dict[str, int], now_ms: int) -> str:
    declared = "declares no run time"
    if gang.spec.max_runtime_ms is not None:
        declared = f"declares {duration(gang.spec.max_runtime_ms)}"
    when = instant(known["protected_start_ms"], now_ms)
    other = f"a job of {gpus(known['protected_gpus'])} that has waited longer"
    return f"it would fit, but it {declared}, and {other} should start at {when} on what it would take"


def _shape(gang: Gang) -> str:
    return asked_size(gang.spec)


def _are(number: int) -> str:
    return "is" if number == 1 else "are"
