"""What a job that is placed is told of planned handovers: when its account leaves the GPUs on which it stands."""

from __future__ import annotations

from scheduler.api.wording import duration, instant, level_name, listed
from scheduler.core.coverage.backing import Handover, handovers
from scheduler.core.quantities import INT64_MAX
from scheduler.core.state.state import State
from scheduler.core.workloads import Gang


def of_placed(state: State, gang: Gang, now_ms: int) -> list[str]:
    """The next handover of its account's positions that concerns the job's GPUs; nothing where there is none."""
    account, gpus = state.accounts[gang.account], set(gang.gpu_numbers)
    theirs = [held for held in state.calendar.holdings if state.account_of_position[held.position] == account]
    concerned = [each for each in handovers(theirs, now_ms, INT64_MAX) if gpus & _left(state, each)]
    if not concerned:
        return []
    first = min(concerned, key=lambda each: (each.at_ms, each.position))
    leaves, enters = (_cells(state, first, cells) for cells in (first.leaves, first.enters))
    when = f"{instant(first.at_ms, now_ms)} (in {duration(first.at_ms - now_ms)})"
    grace = duration(gang.spec.grace_ms)
    again = f"it would get {grace} of grace and start again inside {gang.account}'s entitlement"
    return [
        f"By a planned handover {gang.account} has {enters} instead of {leaves} from {when} on.",
        f"It may go on then, until the new owner asks for its GPUs: {again}.",
    ]


def _left(state: State, handover: Handover) -> set[int]:
    return {gpu for cell in handover.leaves for gpu in state.fleet.gpus_of_cell(handover.level, cell).tolist()}


def _cells(state: State, handover: Handover, cells: tuple[int, ...]) -> str:
    names = [state.fleet.cell_name(handover.level, cell) for cell in cells]
    return f"{level_name(handover.level)} {listed(names)}"
