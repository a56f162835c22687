"""`why`: the reason, the numbers behind it, when it will start, what would change it; in plain sentences.

For a gang that waits: the last round's reason. For one that runs: where, on whose GPUs, and what could end it. For one
that was stopped before: by whom, and why. Pure and deterministic: the same state, plan and trail give the same text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scheduler.api import views
from scheduler.api.messages import Held, Number, Why
from scheduler.api.reasons import clause
from scheduler.api.trail import Attempt
from scheduler.api.wording import count, duration, gpus, instant, listed, ranges
from scheduler.core.placement.snapshot import Plan
from scheduler.core.state.gangs import NOBODY
from scheduler.core.state.state import State
from scheduler.core.workloads import ENDED, Basis, Gang, GangStatus, Reason, StopCause, Waiting

_TOLD_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Facts:
    """What an answer is made of. `paused`: why nothing is decided at present, empty while all is well."""

    state: State
    plan: Plan | None
    paused: str
    now_ms: int
    attempts: tuple[Attempt, ...] = ()


def why(facts: Facts, gang_id: str) -> Why:
    """The answer for one gang. Raises UnknownName."""
    gang = facts.state.gangs.get(gang_id)
    waiting = _waiting(facts, gang)
    held = _held(facts.state, gang)
    headline, sentences = _told(facts, gang, waiting, held)
    remedy = waiting.remedy if waiting is not None else ""
    return Why(
        job=gang.id,
        status=str(gang.status),
        headline=headline,
        sentences=(*sentences, *_past(facts, gang)),
        reason="" if waiting is None else str(waiting.reason),
        numbers=() if waiting is None else tuple(Number(name, value) for name, value in waiting.numbers),
        expected_start_ms=None if waiting is None else waiting.expected_start_ms,
        remedy=remedy,
        held=held,
    )


def _told(facts: Facts, gang: Gang, waiting: Waiting | None, held: tuple[Held, ...]) -> tuple[str, Sequence[str]]:
    match gang.status:
        case GangStatus.WAITING:
            return _of_waiting(facts, gang, waiting)
        case GangStatus.BINDING:
            return _of_binding(facts, gang, held)
        case GangStatus.RUNNING:
            return _of_running(facts, gang, held)
        case GangStatus.STOPPING:
            return _of_stopping(facts, gang)
        case GangStatus.SUCCEEDED | GangStatus.FAILED | GangStatus.CANCELLED:
            return _of_ended(facts, gang), ()


# -- waiting -----------------------------------------------------------------------------------------------------------


def _waiting(facts: Facts, gang: Gang) -> Waiting | None:
    """The refusal of the last round; a pause goes before it, since nothing else can help meanwhile."""
    if gang.status is GangStatus.WAITING and facts.paused:
        return Waiting(Reason.PAUSED, remedy="starts when planning resumes")
    return views.waiting_of(gang, facts.plan)


def _of_waiting(facts: Facts, gang: Gang, waiting: Waiting | None) -> tuple[str, list[str]]:
    now_ms = facts.now_ms
    waited = f"{_label(gang)} has waited for {duration(now_ms - gang.queued_ms)}"
    if waiting is None:
        return f"{waited}: no round has looked at it yet, the next one will.", [_asked(gang)]
    cause = f"nothing is decided at present: {facts.paused}"
    if waiting.reason is not Reason.PAUSED:
        cause = clause(facts.state, gang, waiting, now_ms)
    told = [_asked(gang), *_account(facts, gang, waiting), *_ahead(facts.state, gang)]
    if waiting.expected_start_ms is not None:
        told.append(
            f"Expected start: {instant(waiting.expected_start_ms, now_ms)}"
            f"{_in(waiting.expected_start_ms, now_ms)}, {_assuming(waiting.reason)}."
        )
    elif waiting.reason not in _NEVER:
        told.append("Expected start: not known; it depends on work whose end is not declared.")
    if waiting.remedy:
        told.append(f"What would change it: {waiting.remedy}.")
    return f"{waited}: {cause}.", told


_NEVER = frozenset({Reason.NO_SUCH_GRADE, Reason.LARGER_THAN_FLEET, Reason.PAUSED, Reason.OUTLASTS_WINDOW})
"""Reasons that time alone does not heal: an expected start would be a guess."""


def _assuming(reason: Reason) -> str:
    match reason:
        case Reason.BEFORE_WINDOW:
            return "when the account's window opens"
        case Reason.AWAITING_RECLAIM:
            return "when the last of the stopping jobs has used up its grace"
        case _:
            return "when enough of the account's own jobs have reached their declared run time"


def _asked(gang: Gang) -> str:
    spec = gang.spec
    shape = f"{count(spec.workers, 'worker')} of {gpus(spec.gpus_per_worker)}"
    kind = f" of grade {spec.grade}" if spec.grade else ""
    whole = f", {gpus(spec.gpus)} in all" if spec.workers > 1 else ""
    wish = ""
    if spec.topology is not None:
        level = spec.topology.name.lower().replace("_", " ")
        wish = f", {'' if spec.topology_required else 'preferably '}inside one {level}"
    return f"It asks for {shape}{kind}{whole}{wish}."


def _account(facts: Facts, gang: Gang, waiting: Waiting) -> list[str]:
    """What its account owns and uses, by the round's own numbers, and what it will own next."""
    known = dict(waiting.numbers)
    told = []
    if "entitled_gpus" in known:
        idle = known["entitled_gpus"] - known["used_gpus"]
        parts = [
            f"{gang.account} owns {gpus(known['entitled_gpus'])} that it could use now",
            f"its jobs use {known['used_gpus']}" + (f", so {idle} are left" if idle > 0 else ""),
        ]
        ill, lent = known.get("unusable_gpus", 0), known.get("lent_gpus", 0)
        parts += [f"{gpus(ill)} more {'is' if ill == 1 else 'are'} ill or drained"] if ill else []
        parts += [f"{lent} of its GPUs {'is' if lent == 1 else 'are'} lent to others"] if lent else []
        told.append(f"{'; '.join(parts)}.")
    change = _account_change(facts.state, gang.account, facts.now_ms)
    if change is not None:
        told.append(
            f"From {instant(change[0], facts.now_ms)}{_in(change[0], facts.now_ms)} on "
            f"{gang.account} is entitled to {gpus(change[1])} in all."
        )
    return told


def _account_change(state: State, account: str, now_ms: int) -> tuple[int, int] | None:
    """(instant, GPUs in all) of the next change of what the account's positions entitle to."""
    owned = [name for name, position in state.book.positions.items() if position.account == account]
    changes = [change for name in owned if (change := views.next_change(state, name, now_ms)) is not None]
    if not changes:
        return None
    at_ms = min(changes)[0]
    return at_ms, sum(views.entitled_gpus(state, name, at_ms) for name in owned)


def _ahead(state: State, gang: Gang) -> list[str]:
    shapes = state.gangs.queue.get(gang.account, {})
    before = sorted(
        (other for gangs in shapes.values() for other in gangs if other.order < gang.order), key=lambda each: each.order
    )
    if not before:
        return [f"No other waiting job of {gang.account} goes before it."]
    verb = "goes" if len(before) == 1 else "go"
    names = listed([other.id for other in before])
    return [f"{count(len(before), 'waiting job')} of {gang.account} {verb} before it: {names}."]


# -- placed ------------------------------------------------------------------------------------------------------------


def _of_binding(facts: Facts, gang: Gang, held: tuple[Held, ...]) -> tuple[str, list[str]]:
    state, now_ms = facts.state, facts.now_ms
    told = [_basis(gang, held)]
    if gang.bind_by_ms is not None:
        late = f"It is late since {instant(gang.bind_by_ms, now_ms)}: the GPUs it waits for are metered as late."
        due = f"It is late from {instant(gang.bind_by_ms, now_ms)}{_in(gang.bind_by_ms, now_ms)} on."
        told.append(late if gang.overdue else due)
    if not gang.waits_for:
        return f"{_label(gang)} is starting on {_where(gang)}.", told
    leavers = [state.gangs.get(name) for name in gang.waits_for]
    deadline_ms = max((each.stop_deadline_ms or now_ms for each in leavers), default=now_ms)
    names = listed([f"{each.id} of {each.account}" for each in leavers])
    verb = "has" if len(leavers) == 1 else "have"
    headline = f"{_label(gang)} gets {_where(gang)} as soon as {names} {verb} left"
    return f"{headline}, by {instant(deadline_ms, now_ms)}{_in(deadline_ms, now_ms)} at the latest.", told


def _of_running(facts: Facts, gang: Gang, held: tuple[Held, ...]) -> tuple[str, list[str]]:
    now_ms = facts.now_ms
    started_ms = now_ms if gang.started_ms is None else gang.started_ms
    headline = f"{_label(gang)} has run for {duration(now_ms - started_ms)} on {_where(gang)}."
    told = [_basis(gang, held)]
    lenders = sorted({each.account for each in held if each.basis == Basis.LENT})
    if gang.inside:
        told.append(f"It was placed inside {gang.account}'s entitlement: no other account's work can displace it.")
    elif lenders:
        told.append(
            f"{listed(lenders)} may take them back at any time: it would get SIGTERM, then "
            f"{duration(gang.spec.grace_ms)} of grace, and return to the queue."
        )
    else:
        told.append(
            f"It borrows: whoever becomes their owner may take them, with {duration(gang.spec.grace_ms)} of grace."
        )
    if gang.spec.max_runtime_ms is not None:
        end_ms = started_ms + gang.spec.max_runtime_ms
        told.append(
            f"It declared {duration(gang.spec.max_runtime_ms)}: it is stopped at {instant(end_ms, now_ms)}"
            f"{_in(end_ms, now_ms)} if it still runs."
        )
    return headline, told


def _of_stopping(facts: Facts, gang: Gang) -> tuple[str, list[str]]:
    now_ms = facts.now_ms
    asked = next((each for each in reversed(facts.attempts) if each.number == gang.attempt), None)
    cause = _stop_clause(facts.state, gang, gang.stop_cause, asked.for_gang if asked else None)
    told = [f"It holds {_where(gang)} until it has gone."]
    if gang.stop_deadline_ms is not None:
        told.append(
            f"It was sent SIGTERM; SIGKILL follows at {instant(gang.stop_deadline_ms, now_ms)}"
            f"{_in(gang.stop_deadline_ms, now_ms)}."
        )
    after = "ends then" if gang.stop_cause in (StopCause.CANCELLED, StopCause.RUNTIME_OVER) else "returns to the queue"
    told.append(f"It {after}.")
    return f"{_label(gang)} is being stopped: {cause}.", told


def _of_ended(facts: Facts, gang: Gang) -> str:
    when = "" if gang.ended_ms is None else f" at {instant(gang.ended_ms, facts.now_ms)}"
    ran = ""
    if gang.started_ms is not None and gang.ended_ms is not None:
        ran = f", after running for {duration(gang.ended_ms - gang.started_ms)}"
    match gang.status:
        case GangStatus.SUCCEEDED:
            return f"{_label(gang)} succeeded{when}{ran}."
        case GangStatus.CANCELLED:
            return f"{_label(gang)} was cancelled{when}{ran}."
        case _ if gang.stop_cause is StopCause.RUNTIME_OVER and gang.spec.max_runtime_ms is not None:
            declared = duration(gang.spec.max_runtime_ms)
            return f"{_label(gang)} failed{when}: it was stopped when its declared run time of {declared} was over."
        case _:
            code = "it could not be started" if gang.exit_code is None else f"it exited with {gang.exit_code}"
            times = f", its failure number {gang.failures}" if gang.failures > 1 else ""
            return f"{_label(gang)} failed{when}{ran}: {code}{times}."


# -- what happened before ----------------------------------------------------------------------------------------------


def _past(facts: Facts, gang: Gang) -> list[str]:
    over = [each for each in facts.attempts if each.is_over]
    if gang.status in ENDED and over and over[-1].number == gang.attempt:
        last = over.pop()
        over += [last] if last.stop_cause is not None or last.detail else []
    told = [_attempt(facts, gang, each) for each in over[-_TOLD_ATTEMPTS:]]
    if gang.evictions > 1:
        told.insert(0, f"Its GPUs were reclaimed {gang.evictions} times.")
    return told


def _attempt(facts: Facts, gang: Gang, attempt: Attempt) -> str:
    now_ms = facts.now_ms
    ended_ms = now_ms if attempt.ended_ms is None else attempt.ended_ms
    ran = "" if attempt.started_ms is None else f" after {duration(ended_ms - attempt.started_ms)}"
    where = f"Attempt {attempt.number} on {listed(attempt.nodes)}"
    detail = f" ({attempt.detail})" if attempt.detail else ""
    if attempt.stop_cause is not None:
        cause = _stop_clause(facts.state, gang, attempt.stop_cause, attempt.for_gang)
        asked_ms = ended_ms if attempt.stop_asked_ms is None else attempt.stop_asked_ms
        grace_ms = max(0, (attempt.deadline_ms or asked_ms) - asked_ms)
        return (
            f"{where} was stopped at {instant(asked_ms, now_ms)}{ran}: {cause}; "
            f"it had {duration(grace_ms)} of grace and used {duration(ended_ms - asked_ms)}{detail}."
        )
    if attempt.exit_code is None:
        return f"{where} was lost at {instant(ended_ms, now_ms)}{ran}{detail}."
    return f"{where} exited with {attempt.exit_code} at {instant(ended_ms, now_ms)}{ran}{detail}."


def _stop_clause(state: State, gang: Gang, cause: StopCause | None, for_gang: str | None) -> str:
    """Why the scheduler stopped an attempt, as a clause."""
    other = state.gangs.by_id.get(for_gang or "")
    to = "" if other is None else f" to {other.id} ({other.spec.name}) of {other.account}"
    match cause:
        case StopCause.RECLAIMED:
            return f"the GPUs that it had borrowed went back{to or ' to their owner'}"
        case StopCause.CONSOLIDATED:
            return f"its GPUs were needed for whole nodes and went{to or ' to a larger job'}"
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
}


# -- parts of sentences ------------------------------------------------------------------------------------------------


def _label(gang: Gang) -> str:
    return f"{gang.id} ({gang.spec.name}, {gang.account})"


def _in(at_ms: int, now_ms: int) -> str:
    return f", in {duration(at_ms - now_ms)}" if at_ms > now_ms else ""


def _where(gang: Gang) -> str:
    by_node: dict[str, list[int]] = {}
    for piece in gang.pieces:
        by_node.setdefault(piece.node, []).extend(piece.gpus)
    places = [f"{node}:{ranges(sorted(numbers))}" for node, numbers in by_node.items()]
    return f"{gpus(len(gang.gpu_numbers))} ({listed(places)})"


def _held(state: State, gang: Gang) -> tuple[Held, ...]:
    """The gang's GPUs by basis: its account's own, those of lenders, unsold ones."""
    if not gang.gpu_numbers:
        return ()
    accounts, own = tuple(state.accounts), state.accounts[gang.account]
    owners = Counter(state.calendar.owner_account[np.array(gang.gpu_numbers, dtype=np.int64)].tolist())
    held = [Held(str(Basis.OWNED), gang.account, owners.pop(own))] if own in owners else []
    unsold = owners.pop(NOBODY, 0)
    held += [Held(str(Basis.LENT), accounts[account], number) for account, number in sorted(owners.items())]
    return tuple(held + ([Held(str(Basis.UNSOLD), "", unsold)] if unsold else []))


def _basis(gang: Gang, held: tuple[Held, ...]) -> str:
    parts = []
    for each in held:
        verb = "is" if each.gpus == 1 else "are"
        match each.basis:
            case Basis.OWNED:
                parts.append(f"{gpus(each.gpus)} {verb} {gang.account}'s own")
            case Basis.LENT:
                parts.append(f"{gpus(each.gpus)} {verb} lent by {each.account}")
            case _:
                parts.append(f"{gpus(each.gpus)} {verb} unsold")
    return f"{listed(parts)}."
