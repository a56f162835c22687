"""`why`: the reason, the numbers behind it, when it will start, what would change it; in plain sentences.

For a gang that waits: the last round's reason. For one that runs: where, on whose GPUs, and what could end it. For one
that was stopped before: by whom, and why. Pure and deterministic: the same state, plan and trail give the same text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scheduler.api import choices, handovers, naming, views, wishes
from scheduler.api.messages import Held, Number, Why
from scheduler.api.reasons import clause
from scheduler.api.trail import Attempt
from scheduler.api.wording import asked_size, count, duration, gpu_hours, gpus, instant, level_name, listed, ranges
from scheduler.core.placement.snapshot import Plan
from scheduler.core.state.gangs import NOBODY
from scheduler.core.state.state import State
from scheduler.core.workloads import ENDED, Basis, Gang, GangStatus, Reason, StopCause, Waiting

_TOLD_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Facts:
    """What an answer is made of. `paused`: why nothing is decided at present, empty while all is well; `told_to`: the
    account that is told, which learns nothing of others' work; None: whoever may see all.
    """

    state: State
    plan: Plan | None
    paused: str
    now_ms: int
    attempts: tuple[Attempt, ...] = ()
    told_to: str | None = None


def why(facts: Facts, gang_id: str) -> Why:
    """The answer for one gang. Raises UnknownName."""
    gang = facts.state.gangs.get(gang_id)
    waiting = _waiting(facts, gang)
    expected_ms = None if waiting is None else _expected_ms(facts, gang, waiting)
    held = _held(facts, gang)
    headline, sentences = _told(facts, gang, waiting, held)
    remedy = waiting.remedy if waiting is not None else ""
    return Why(
        job=gang.id,
        status=str(gang.status),
        headline=headline,
        sentences=tuple(sentences),
        reason="" if waiting is None else str(waiting.reason),
        numbers=() if waiting is None else _numbers(facts.state, gang, waiting),
        expected_start_ms=expected_ms,
        remedy=remedy,
        held=held,
    )


def _told(facts: Facts, gang: Gang, waiting: Waiting | None, held: tuple[Held, ...]) -> tuple[str, Sequence[str]]:
    match gang.status:
        case GangStatus.WAITING:
            return _of_waiting(facts, gang, waiting)
        case GangStatus.BINDING:
            headline, told = _of_binding(facts, gang, held)
        case GangStatus.RUNNING:
            headline, told = _of_running(facts, gang, held)
        case GangStatus.STOPPING:
            headline, told = _of_stopping(facts, gang)
        case GangStatus.SUCCEEDED | GangStatus.FAILED | GangStatus.CANCELLED:
            headline, told = _of_ended(facts, gang), []
    told = [*told, *wishes.of_deadline(gang, facts.now_ms, None), *handovers.of_placed(facts.state, gang, facts.now_ms)]
    return headline, [*told, *_past(facts, gang)]


# -- waiting -----------------------------------------------------------------------------------------------------------


def _waiting(facts: Facts, gang: Gang) -> Waiting | None:
    """The refusal of the last round; a pause goes before it, since nothing else can help meanwhile."""
    if gang.status is GangStatus.WAITING and facts.paused:
        return Waiting(Reason.PAUSED, remedy="starts when planning resumes")
    return views.waiting_of(gang, facts.plan)


def _numbers(state: State, gang: Gang, waiting: Waiting) -> tuple[Number, ...]:
    """The round's own numbers, and what its account lent less what it borrowed, where that is not 0."""
    balance = state.balances.by_account.get(gang.account)
    told = waiting.numbers if balance is None else (*waiting.numbers, ("balance_gpu_ms", balance))
    return tuple(Number(name, value) for name, value in told)


def _of_waiting(facts: Facts, gang: Gang, waiting: Waiting | None) -> tuple[str, list[str]]:
    now_ms = facts.now_ms
    waited_ms = now_ms - gang.queued_ms
    waits = f"{_label(gang)} has waited for {duration(waited_ms)}" if waited_ms >= 1_000 else f"{_label(gang)} waits"
    if waiting is None:
        return f"{waits}: no round has looked at it yet, the next one will.", [_asked(gang), *_past(facts, gang)]
    cause = f"nothing is decided at present: {facts.paused}"
    if waiting.reason is not Reason.PAUSED:
        cause = clause(facts.state, gang, waiting, now_ms)
    told = [_asked(gang), *_account(facts, gang, waiting), *_ahead(facts.state, gang), *_past(facts, gang)]
    told += _expected(facts, gang, waiting)
    told += wishes.of_deadline(gang, now_ms, _expected_ms(facts, gang, waiting))
    if waiting.remedy.startswith("starts "):
        told.append(f"It {waiting.remedy}.")
    elif waiting.remedy:
        told.append(f"What would change it: {waiting.remedy}.")
    return f"{waits}: {cause}.", told


_NEVER = frozenset({Reason.NO_SUCH_GRADE, Reason.LARGER_THAN_FLEET, Reason.PAUSED, Reason.OUTLASTS_WINDOW})
"""Reasons that time alone does not heal: an expected start would be a guess."""


def _expected_ms(facts: Facts, gang: Gang, waiting: Waiting) -> int | None:
    """When it should start: as the round says, or when its account is entitled to enough for it."""
    if waiting.expected_start_ms is not None or waiting.reason in _NEVER:
        return waiting.expected_start_ms
    change = _account_change(facts.state, gang.account, facts.now_ms)
    if change is None or change[1] < dict(waiting.numbers).get("used_gpus", 0) + gang.shape.least_gpus:
        return None
    return None if waiting.reason is not Reason.OVER_ENTITLEMENT else change[0]


def _expected(facts: Facts, gang: Gang, waiting: Waiting) -> list[str]:
    """When it should start, and on what assumption; what is known of it where that is not."""
    now_ms = facts.now_ms
    at_ms = _expected_ms(facts, gang, waiting)
    if at_ms is not None:
        assumption = _assuming(waiting)
        return [f"Expected start: {instant(at_ms, now_ms)}{_in(at_ms, now_ms)}, {assumption}."]
    if waiting.reason in _NEVER:
        return []
    free_ms = _enough_free_ms(facts.state, gang, now_ms)
    if free_ms is None:
        return ["Expected start: not known; too many of the jobs that run do not say when they end."]
    if free_ms <= now_ms:
        return ["Expected start: not known; it depends on when others leave room for it."]
    asked, when = gpus(gang.shape.least_gpus), f"{instant(free_ms, now_ms)}{_in(free_ms, now_ms)}"
    return [
        f"Expected start: not known. By declared run times {asked} will be free at {when}, unless others take them."
    ]


def _enough_free_ms(state: State, gang: Gang, now_ms: int) -> int | None:
    """When as many usable GPUs of its grade as it asks for are free, should all placed jobs end as they declared."""
    grade = gang.spec.grade
    fits = np.array([grade is None or node.grade == grade for node in state.fleet.nodes], dtype=np.bool_)
    usable = state.health.usable & fits[state.fleet.node_of_gpu]
    free = int((usable & (state.gangs.occupant == NOBODY)).sum())
    ends = sorted(
        (end_ms, int(usable[np.array(other.gpu_numbers, dtype=np.int64)].sum()))
        for other in state.gangs.placed.values()
        if (end_ms := _declared_end_ms(other, now_ms)) is not None
    )
    for end_ms, freed in [(now_ms, 0), *ends]:
        free += freed
        if free >= gang.shape.least_gpus:
            return end_ms
    return None


def _declared_end_ms(gang: Gang, now_ms: int) -> int | None:
    if gang.status is GangStatus.STOPPING and gang.stop_deadline_ms is not None:
        return max(now_ms, gang.stop_deadline_ms)
    if gang.spec.max_runtime_ms is None:
        return None
    started_ms = now_ms if gang.started_ms is None else gang.started_ms
    return max(now_ms, started_ms + gang.spec.max_runtime_ms + gang.spec.grace_ms)


def _assuming(waiting: Waiting) -> str:
    """On what the expected start stands; without the round's own, on the account's next window."""
    starts_ms = dict(waiting.numbers).get("protected_start_ms")
    match waiting.reason:
        case _ if starts_ms is not None and starts_ms == waiting.expected_start_ms:
            return (
                "when enough running jobs have reached their declared run time; nothing that would delay it is started"
            )
        case Reason.BEFORE_WINDOW:
            return "when the account's window opens"
        case _ if waiting.expected_start_ms is None:
            return "when the account's window opens"
        case Reason.AWAITING_RECLAIM:
            return "when the last of the stopping jobs has used up its grace"
        case _:
            return "when enough of the account's own jobs have reached their declared run time"


def _asked(gang: Gang) -> str:
    spec = gang.spec
    kind = f" of grade {spec.grade}" if spec.grade else ""
    most = "at most" if spec.is_elastic else "in all"
    whole = f", {gpus(spec.gpus)} {most}" if spec.workers > 1 else ""
    wish = ""
    if spec.topology is not None:
        wish += f", {'' if spec.topology_required else 'preferably '}inside one {level_name(spec.topology)}"
    if spec.spread is not None:
        wish += f", {'' if spec.spread_required else 'preferably '}each worker in another {level_name(spec.spread)}"
    return f"It asks for {asked_size(spec)}{kind}{whole}{wish}."


def _account(facts: Facts, gang: Gang, waiting: Waiting) -> list[str]:
    """What its account owns and uses, by the round's own numbers, and when it will own more."""
    known = dict(waiting.numbers)
    parts = []
    if "entitled_gpus" in known and waiting.reason is not Reason.OVER_ENTITLEMENT:  # which says so itself
        entitled, used = known["entitled_gpus"], known["used_gpus"]
        parts.append(f"{gang.account} owns {gpus(entitled)} that it could use now, and its jobs use {used}")
    ill, lent = known.get("unusable_gpus", 0), known.get("lent_gpus", 0)
    if ill and waiting.reason is not Reason.UNHEALTHY_CELLS:
        parts.append(f"{ill} of {gang.account}'s GPUs {'is' if ill == 1 else 'are'} ill or drained")
    if lent:
        parts.append(f"{lent} of {gang.account}'s GPUs {'is' if lent == 1 else 'are'} lent to others")
    told = [f"{'; '.join(parts)}."] if parts else []
    told += _reciprocity(facts.state, gang, waiting)
    change = _account_change(facts.state, gang.account, facts.now_ms)
    if change is not None and change[1] > _account_gpus(facts.state, gang.account, facts.now_ms):
        told.append(
            f"From {instant(change[0], facts.now_ms)}{_in(change[0], facts.now_ms)} on "
            f"{gang.account} is entitled to {gpus(change[1])} in all."
        )
    return told


_BORROWS = frozenset(
    {
        Reason.OVER_ENTITLEMENT,
        Reason.BEFORE_WINDOW,
        Reason.HELD_BACK,
        Reason.BORROWING_RESTRICTED,
        Reason.AWAITING_RECLAIM,
    }
)
"""Reasons of gangs that wait to borrow, among whom it matters who lent."""


def _reciprocity(state: State, gang: Gang, waiting: Waiting) -> list[str]:
    balance = state.balances.by_account.get(gang.account, 0)
    if not balance or waiting.reason not in _BORROWS:
        return []
    did, than = ("lent", "borrowed") if balance > 0 else ("borrowed", "lent")
    more = f"{gang.account} has {did} {gpu_hours(abs(balance))} more than it {than} (what was a week ago counts half)"
    return [f"{more}; of borrowers that have waited equally long, who lent more goes first."]


def _account_gpus(state: State, account: str, at_ms: int) -> int:
    owned = [name for name, position in state.book.positions.items() if position.account == account]
    return sum(views.entitled_gpus(state, name, at_ms) for name in owned)


def _account_change(state: State, account: str, now_ms: int) -> tuple[int, int] | None:
    """(instant, GPUs in all) of the next change of what the account's positions entitle to."""
    owned = [name for name, position in state.book.positions.items() if position.account == account]
    changes = [change for name in owned if (change := views.next_change(state, name, now_ms)) is not None]
    if not changes:
        return None
    at_ms = min(changes)[0]
    return at_ms, _account_gpus(state, account, at_ms)


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
    told = [_basis(gang, held), *_start(facts, gang), *wishes.of_placed(state, gang, now_ms)]
    if gang.bind_by_ms is not None:
        late = f"Its bind is late since {instant(gang.bind_by_ms, now_ms)}: its own GPUs are metered as late."
        due = f"Its bind is late from {instant(gang.bind_by_ms, now_ms)}{_in(gang.bind_by_ms, now_ms)} on."
        told.append(late if gang.overdue else due)
    if not gang.waits_for:
        return f"{_label(gang)} is starting on {_where(gang)}.", told
    leavers = [state.gangs.get(name) for name in gang.waits_for]
    deadline_ms = max((each.stop_deadline_ms or now_ms for each in leavers), default=now_ms)
    named = naming.work(leavers, facts.told_to)
    names, verb = listed(named), "has" if len(named) == 1 else "have"
    headline = f"{_label(gang)} gets {_where(gang)} as soon as {names} {verb} left"
    return f"{headline}, by {instant(deadline_ms, now_ms)}{_in(deadline_ms, now_ms)} at the latest.", told


def _of_running(facts: Facts, gang: Gang, held: tuple[Held, ...]) -> tuple[str, list[str]]:
    now_ms = facts.now_ms
    started_ms = now_ms if gang.started_ms is None else gang.started_ms
    headline = f"{_label(gang)} has run for {duration(now_ms - started_ms)} on {_where(gang)}."
    told = [_basis(gang, held), *_start(facts, gang), *wishes.of_placed(facts.state, gang, now_ms)]
    lenders = naming.lenders(sorted({each.account for each in held if each.basis == Basis.LENT}))
    if gang.inside:
        told.append(
            f"It was placed inside {gang.account}'s entitlement: others' work displaces it only as a last resort."
        )
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


def _start(facts: Facts, gang: Gang) -> list[str]:
    return choices.of_start(facts.state, gang, facts.attempts[-1] if facts.attempts else None, facts.told_to)


def _of_stopping(facts: Facts, gang: Gang) -> tuple[str, list[str]]:
    now_ms = facts.now_ms
    asked = next((each for each in reversed(facts.attempts) if each.number == gang.attempt), None)
    cause = choices.of_stop(facts.state, gang, gang.stop_cause, asked.for_gang if asked else None, facts.told_to)
    told = ["It was chosen because that wastes the least work."] if gang.stop_cause is StopCause.RECLAIMED else []
    told += [f"It holds {_where(gang)} until it has gone."]
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
    until_ms = ended_ms if attempt.stop_asked_ms is None else attempt.stop_asked_ms
    ran = "" if attempt.started_ms is None else f" after {duration(max(0, until_ms - attempt.started_ms))}"
    where = f"Attempt {attempt.number} on {listed(attempt.nodes)}"
    detail = f" ({attempt.detail})" if attempt.detail else ""
    if attempt.stop_cause is not None:
        cause = choices.of_stop(facts.state, gang, attempt.stop_cause, attempt.for_gang, facts.told_to)
        grace_ms = max(0, (attempt.deadline_ms or until_ms) - until_ms)
        return (
            f"{where} was stopped at {instant(until_ms, now_ms)}{ran}: {cause}; "
            f"it had {duration(grace_ms)} of grace and used {duration(ended_ms - until_ms)}{detail}."
        )
    if attempt.exit_code is None:
        return f"{where} was lost at {instant(ended_ms, now_ms)}{ran}{detail}."
    return f"{where} exited with {attempt.exit_code} at {instant(ended_ms, now_ms)}{ran}{detail}."


# -- parts of sentences ------------------------------------------------------------------------------------------------


def _label(gang: Gang) -> str:
    return f"{gang.id} ({gang.spec.name}, {gang.account})"


def _in(at_ms: int, now_ms: int) -> str:
    return f" (in {duration(at_ms - now_ms)})" if at_ms > now_ms else ""


def _where(gang: Gang) -> str:
    by_node: dict[str, list[int]] = {}
    for piece in gang.pieces:
        by_node.setdefault(piece.node, []).extend(piece.gpus)
    places = [f"{node}:{ranges(sorted(numbers))}" for node, numbers in by_node.items()]
    if gang.shape.is_share:
        return f"{gang.shape.gpu_milli} milli of 1 GPU ({listed(places)})"
    return f"{gpus(len(gang.gpu_numbers))} ({listed(places)})"


def _held(facts: Facts, gang: Gang) -> tuple[Held, ...]:
    """The gang's GPUs by basis: its account's own, those of lenders, unsold ones."""
    if not gang.gpu_numbers:
        return ()
    state = facts.state
    accounts, own = tuple(state.accounts), state.accounts[gang.account]
    owners = Counter(state.calendar.owner_account[np.array(gang.gpu_numbers, dtype=np.int64)].tolist())
    held = [Held(str(Basis.OWNED), gang.account, owners.pop(own))] if own in owners else []
    unsold = owners.pop(NOBODY, 0)
    lent: Counter[str] = Counter()
    for account, number in sorted(owners.items()):
        lent[accounts[account] if naming.may_know(accounts[account], facts.told_to) else ""] += number
    held += [Held(str(Basis.LENT), account, number) for account, number in lent.items()]
    return tuple(held + ([Held(str(Basis.UNSOLD), "", unsold)] if unsold else []))


def _basis(gang: Gang, held: tuple[Held, ...]) -> str:
    parts = []
    for each in held:
        verb = "is" if each.gpus == 1 else "are"
        match each.basis:
            case Basis.OWNED:
                parts.append(f"{gpus(each.gpus)} {verb} {gang.account}'s own")
            case Basis.LENT:
                parts.append(f"{gpus(each.gpus)} {verb} lent by {each.account or naming.OTHERS}")
            case _:
                parts.append(f"{gpus(each.gpus)} {verb} unsold")
    return f"{listed(parts)}."
