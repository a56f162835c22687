"""The commands of a scenario: what each word does, and what it prints.

A line is an order (`round`, `after 10m`) or somebody who does something (`acme buys 2 nodes`, `node-1 fails`). An
unknown word fails the scenario; so does a wish that nobody can grant.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace

from scheduler.api.why import why
from scheduler.core.causes import Cause
from scheduler.core.cluster import NodeSpec
from scheduler.core.errors import Refused
from scheduler.core.events import Event, ScoreChosen, ScoredKind
from scheduler.core.instruments import (
    STAND_IN_THROUGHPUT,
    InstrumentTerms,
    Maintenance,
    Recallable,
    ReleaseUnused,
)
from scheduler.core.placement.snapshot import Policy
from scheduler.core.positions import PositionEventKind
from scheduler.core.rounds import outages
from scheduler.core.rounds.selling import Risk, may_be_sold, offer_of, sales_view
from scheduler.core.state.observed import grades_of
from scheduler.core.workloads import GangSpec
from scheduler.execution.simulated import GpuFault, NodeDown, NodeUp, Slowdown, Work
from tests.scenarios.stage import Stage
from tests.scenarios.telling import coverage, fleet_map, told, waiting
from tests.scenarios.text import length, length_ms
from tests.scenarios.wishes import GANG_WORDS, level_named, wishes

FOREVER_MS = 10**12
EVIDENCE = "0" * 64
_FLEET = re.compile(r"(\d+) nodes of (\d+) (\S+)(.*)")


def run(stage: Stage, line: str) -> list[str]:
    """Carry out one line; what it prints. Raises ValueError on a word that nobody knows."""
    words = line.split()
    if words[0] in ORDERS:
        return list(ORDERS[words[0]](stage, words[1:]))
    if len(words) > 1 and words[1] in DEEDS:
        return list(DEEDS[words[1]](stage, words[0], words[2:]))
    raise ValueError(f"{line!r} means nothing, expected one of {', '.join([*ORDERS, *DEEDS])}")


# -- orders ------------------------------------------------------------------------------------------------------------


def fleet(stage: Stage, words: list[str]) -> Iterator[str]:
    """`4 nodes of 8 H100 domain=2 block=4`: so many nodes share a domain, so many a block; numbers go on."""
    found = _FLEET.fullmatch(" ".join(words))
    if found is None:
        raise ValueError(f"{words} is no fleet, expected `4 nodes of 8 H100 domain=2 block=4`")
    count, gpus, grade, wished = found.groups()
    sizes = {"domain": 2, "block": 4} | wishes(wished.split(), ("domain", "block"))
    first = len(stage.nodes)
    for i in range(int(count)):
        domain, block = first + i // sizes["domain"], first + i // sizes["block"]
        stage.nodes.append(
            NodeSpec(
                name=f"node-{first + i}", grade=grade, gpus=int(gpus), domain=f"domain-{domain}", block=f"block-{block}"
            )
        )
    yield from ()


def spares(stage: Stage, words: list[str]) -> Iterator[str]:
    """`node-3`: nodes that are kept out of what is sold."""
    stage.settings = replace(stage.settings, spares=tuple(words))
    yield from ()


def policy(stage: Stage, words: list[str]) -> Iterator[str]:
    """`consolidate=no protect_after=1h`: values of the policy, from now on."""
    stage.set_policy(**wishes(words, (field.name for field in fields(Policy))))
    yield from ()


def play_round(stage: Stage, words: list[str]) -> Iterator[str]:
    """One instant: rounds until nothing more happens at it."""
    _none(words)
    stage.rounds()
    yield from _news(stage, timed=False)


def after(stage: Stage, words: list[str]) -> Iterator[str]:
    """`10m`: time passes, with rounds whenever something happens or falls due."""
    stage.pass_ms(length_ms(words[0]))
    yield from _news(stage, timed=True)


def show_map(stage: Stage, words: list[str]) -> Iterator[str]:
    """Owner and occupant of every GPU."""
    _none(words)
    return fleet_map(stage)


def show_lots(stage: Stage, words: list[str]) -> Iterator[str]:
    """What stands behind every position from now on."""
    _none(words)
    calendar = stage.scheduler.state.calendar
    for name in sorted(stage.scheduler.state.book.positions):
        yield f"{name}: {coverage(stage, calendar.of(name), stage.now_ms) or 'nothing'}"


def show_certificates(stage: Stage, words: list[str]) -> Iterator[str]:
    """What the last certificate of each pool says of its standing, and of binds in its interval."""
    _none(words)
    for pool in stage.certificates():
        sold = pool.sold_gpu_ms // (pool.end_ms - pool.start_ms)
        binds = f"{sum(pool.binds)} binds, the slowest in {length(pool.slowest_bind_ms)}" if pool.binds else "no binds"
        told = f"{sold} sold, {pool.accredited_gpus} accredited, {pool.spare_gpus} spare, {pool.pledged_gpus} pledged"
        yield f"{pool.pool} until {length(stage.since_start(pool.end_ms))}: {told}; {binds}"


def show_shortfalls(stage: Stage, words: list[str]) -> Iterator[str]:
    """GPU-seconds of each position that were contracted and not delivered, by cause, as the log has it now."""
    _none(words)
    lost: Counter[tuple[str, str]] = Counter()
    for record in stage.metered():
        for cause, gpu_ms in record.losses:
            lost[record.position, Cause(cause).name] += gpu_ms
    for (position, name), gpu_ms in sorted(lost.items()):
        yield f"{position}: {gpu_ms // 1_000} GPU-seconds, {name}"


def offer(stage: Stage, words: list[str]) -> Iterator[str]:
    """`acme-1 losses=2 domain=node`: how many more lots like those of a position may be sold from now on, with all that
    is sold still honoured after the loss of any so many failure domains.
    """
    state, name = stage.scheduler.state, words[0]
    wished = wishes(words[1:], ("losses", "domain"))
    view = sales_view(state, stage.now_ms, stage.settings.spares)
    terms = state.instruments[state.book.positions[name].instrument]
    found = may_be_sold(view, terms, offer_of(view, terms, risk=Risk(**wished)), plan=True)
    safe = "" if found.survives else "; what is sold would not survive"
    yield f"more like {name}: {found.proven} proven, {found.planned} planned, at most {found.at_most}{safe}"


def score(stage: Stage, words: list[str]) -> Iterator[str]:
    """`fgd`: from now on partly used nodes are filled by that score, as a rehearsal would have it."""
    (name,) = words
    stage.scheduler.choose_score(
        ScoreChosen(
            at_ms=stage.now_ms,
            score=name,
            seed=1,
            offered_ppm=1_000_000,
            mix="00" * 32,
            kinds=(ScoredKind(devices=1, milli=1_000, count=1, stay_ms=60_000),),
            grades=grades_of(stage.scheduler.state),
        )
    )
    yield from ()


def tell_why(stage: Stage, words: list[str]) -> Iterator[str]:
    """`train`: what its team is told when it asks why."""
    (name,) = words
    gang = stage.gang_ids[name]
    told = why(stage.facts(gang), gang)
    yield from (told.headline, *told.sentences)


def drain(stage: Stage, words: list[str]) -> Iterator[str]:
    """`node-1 by=10m` empties a node, `node-1 off` calls it off."""
    node, wish = words
    by_ms = None if wish == "off" else stage.now_ms + wishes([wish], ("by_ms",))["by_ms"]
    stage.scheduler.drain(node, by_ms)
    yield from ()


def maintain(stage: Stage, words: list[str]) -> Iterator[str]:
    """`node-1 at=2h for=1h`: announces maintenance of a node."""
    node, *rest = words
    wished = wishes(rest, ("at_ms", "for_ms"))
    from_ms = stage.now_ms + wished["at_ms"]
    until_ms = from_ms + wished["for_ms"]
    stage.scheduler.carry_out(lambda state, now_ms: outages.announce(state, node, from_ms, until_ms, now_ms))
    yield from ()


def recall(stage: Stage, words: list[str]) -> Iterator[str]:
    """`acme-1 lots=1 at=2h for=1h`: the seller takes lots back; says why it may not."""
    yield from _withheld(stage, words, outages.recall)


def release(stage: Stage, words: list[str]) -> Iterator[str]:
    """`acme-1 lots=1 at=2h for=1h`: the owner gives lots back; says why it may not."""
    yield from _withheld(stage, words, outages.release)


def _withheld(stage: Stage, words: list[str], order: Callable[..., Iterator[Event]]) -> Iterator[str]:
    name, *rest = words
    wished = wishes(rest, ("lots", "at_ms", "for_ms"))
    from_ms = stage.now_ms + wished.get("at_ms", 0)
    lots, until_ms, spares = wished["lots"], from_ms + wished["for_ms"], stage.settings.spares
    try:
        stage.scheduler.carry_out(lambda state, now_ms: order(state, name, lots, from_ms, until_ms, now_ms, spares))
    except Refused as error:
        yield str(error)


def excuse(stage: Stage, words: list[str]) -> Iterator[str]:
    """`node-1 node-2 ago=1h for=2h`: declares force majeure, from so long ago (0s) on; says what it corrects."""
    nodes = [word for word in words if "=" not in word]
    wished = wishes([word for word in words if "=" in word], ("ago_ms", "for_ms"))
    from_ms = stage.now_ms - wished.get("ago_ms", 0)
    until_ms = from_ms + wished["for_ms"]
    corrected = stage.scheduler.carry_out(
        lambda state, now_ms: outages.declare(state, nodes, from_ms, until_ms, EVIDENCE, now_ms)
    )
    yield f"{corrected} intervals corrected"


def execution(stage: Stage, words: list[str]) -> Iterator[str]:
    """`silent`: execution does not answer from now on; `answers`: it does again."""
    (word,) = words
    if word not in ("silent", "answers"):
        raise ValueError(f"{word!r} is nothing that execution does, expected silent or answers")
    stage.hear_of_execution(answers=word == "answers")
    yield from ()


def shut_down(stage: Stage, words: list[str]) -> Iterator[str]:
    """The scheduler is shut down: all that runs is told to stop, and nothing is placed any more."""
    _none(words)
    stage.shut_down()
    yield from ()


def start_again(stage: Stage, words: list[str]) -> Iterator[str]:
    """The scheduler is started again, on its journal."""
    _none(words)
    stage.start_again()
    yield from ()


def cancel(stage: Stage, words: list[str]) -> Iterator[str]:
    """`train`: the gang is not wanted any more."""
    for name in words:
        stage.scheduler.cancel(stage.gang_ids[name])
    yield from ()


# -- deeds -------------------------------------------------------------------------------------------------------------


def buys(stage: Stage, account: str, words: list[str]) -> Iterator[str]:
    """`2 nodes until=1d firmness=recallable as=spring`; without a name the account's n-th position is `acme-n`.

    `also=H200,B200:120%,A100?`: grades that may stand in, what they are worth, and whether the buyer must consent;
    `floor=95%`: of the reference.
    """
    held = sum(position.account == account for position in stage.scheduler.state.book.positions.values())
    own = (
        "from_ms",
        "until_ms",
        "firmness",
        "grade",
        "as",
        "notice_ms",
        "budget_ms",
        "runs_ms",
        "recalls",
        "also",
        "floor_ppm",
    )
    wished = wishes(words[2:], (*own, *InstrumentTerms.model_fields))
    if "budget_ms" in wished:
        notice_s = wished.pop("notice_ms", 0) // 1_000
        wished["maintenance"] = Maintenance(notice_s=notice_s, budget_ms=wished.pop("budget_ms"))
    if "recalls" in wished:
        wished["firmness"] = Recallable(
            notice_ms=wished.pop("notice_ms", 0),
            min_run_ms=wished.pop("runs_ms", 0),
            max_events=wished.pop("recalls"),
            max_quantity_gpu_ms=0,
        )
    if "floor_ppm" in wished:
        floor_ppm = wished.pop("floor_ppm")
        wished["throughput"] = STAND_IN_THROUGHPUT.model_copy(update={"floor_ppm": floor_ppm})
    if wished.get("unused_rule") == "release":
        wished["unused_rule"] = ReleaseUnused()
    wished["position"] = wished.pop("as", f"{account}-{held + 1}")
    stage.buy(account, int(words[0]), level_named(words[1]), wished)
    yield from ()


def sells(stage: Stage, account: str, words: list[str]) -> Iterator[str]:
    """`1 of acme-1 to bolt at=2h`: lots of a position change hands."""
    lots, _, source, _, buyer, *rest = words
    wished = wishes(rest, ("at_ms", "as"))
    positions = stage.scheduler.state.book.positions
    held = sum(position.account == buyer for position in positions.values())
    stage.told(
        PositionEventKind.TRANSFER,
        wished.get("as", f"{buyer}-{held + 1}"),
        buyer,
        int(lots),
        positions[source].instrument,
        source=source,
        effective_ms=stage.now_ms + wished.get("at_ms", 0),
    )
    yield from ()


def expires(stage: Stage, position: str, words: list[str]) -> Iterator[str]:
    """The position is over, now."""
    _none(words)
    held = stage.scheduler.state.book.positions[position]
    stage.told(PositionEventKind.EXPIRY, position, held.account, 0, held.instrument)
    yield from ()


def consents(stage: Stage, position: str, words: list[str]) -> Iterator[str]:
    """`acme-1 consents H200`: its owner agrees to these grades."""
    held = stage.scheduler.state.book.positions[position]
    stage.told(PositionEventKind.CONSENT, position, held.account, 0, held.instrument, grades=tuple(sorted(words)))
    yield from ()


def submits(stage: Stage, account: str, words: list[str]) -> Iterator[str]:
    """`train 2x8 near=domain works=1h`: a gang, its workers and wishes, and what it will do.

    Unless it says otherwise it checkpoints every ten minutes, works for ever, and uses its whole grace of ten seconds.
    """
    name, size, *rest = words
    workers, _, gpus = size.rpartition("x")
    own = ("works_ms", "stops_ms", "starts_ms", "exit_code")
    wished = wishes(rest, (*own, *GangSpec.model_fields), GANG_WORDS)
    work_ms, stop_ms = wished.pop("works_ms", FOREVER_MS), wished.pop("stops_ms", None)
    start_ms, exit_code = wished.pop("starts_ms", 0), wished.pop("exit_code", 0)
    if "deadline_ms" in wished:
        wished["deadline_ms"] += stage.now_ms  # an instant; scenarios count from now
    given = {"checkpoint_ms": 600_000, "grace_ms": 10_000, "restart_ms": 0, **wished}
    spec = GangSpec(
        account=account,
        name=name,
        command=("run",),
        workers=int(workers or 1),
        gpus_per_worker=int(gpus),
        **given,
    )
    work = Work(work_ms, spec.checkpoint_ms, spec.restart_ms, start_ms, stop_ms, exit_code)
    stage.submit(spec, work)
    yield from ()


def fails(stage: Stage, node: str, words: list[str]) -> Iterator[str]:
    """The node goes, with everything on it."""
    _none(words)
    stage.break_down(NodeDown(node, stage.now_ms))
    yield from ()


def returns(stage: Stage, node: str, words: list[str]) -> Iterator[str]:
    """The node is back, empty."""
    _none(words)
    stage.break_down(NodeUp(node, stage.now_ms))
    yield from ()


def ails(stage: Stage, gpu: str, words: list[str]) -> Iterator[str]:
    """`node-1:3 ails ECC`: a GPU falls ill."""
    node, _, number = gpu.partition(":")
    stage.break_down(GpuFault(node, (int(number),), stage.now_ms, Cause[words[0]]))
    yield from ()


def measures(stage: Stage, node: str, words: list[str]) -> Iterator[str]:
    """`node-1 measures 80%`, `node-1:3 measures 80%`: of the reference, from now on."""
    name, _, number = node.partition(":")
    (ppm,) = (int(word.removesuffix("%")) * 10_000 for word in words)
    stage.break_down(Slowdown(name, stage.now_ms, ppm, (int(number),) if number else None))
    yield from ()


def heals(stage: Stage, gpu: str, words: list[str]) -> Iterator[str]:
    """The GPU is well again."""
    _none(words)
    node, _, number = gpu.partition(":")
    stage.break_down(GpuFault(node, (int(number),), stage.now_ms, None))
    yield from ()


def marked(stage: Stage, node: str, words: list[str]) -> Iterator[str]:
    """`node-1:3 is_said THERMAL`, `node-1 is_said well`: an operator speaks of a GPU, or of all of a node's."""
    name, _, number = node.partition(":")
    gpus, cause = ((int(number),) if number else ()), None if words == ["well"] else Cause[words[0]]
    stage.scheduler.carry_out(lambda state, now_ms: outages.mark(state, name, gpus, cause, now_ms))
    yield from ()


ORDERS: Mapping[str, Callable[[Stage, list[str]], Iterator[str]]] = {
    "fleet": fleet,
    "spares": spares,
    "policy": policy,
    "round": play_round,
    "after": after,
    "map": show_map,
    "lots": show_lots,
    "shortfalls": show_shortfalls,
    "offer": offer,
    "score": score,
    "why": tell_why,
    "certificates": show_certificates,
    "drain": drain,
    "maintain": maintain,
    "excuse": excuse,
    "recall": recall,
    "release": release,
    "cancel": cancel,
    "execution": execution,
    "shut_down": shut_down,
    "start_again": start_again,
}
DEEDS: Mapping[str, Callable[[Stage, str, list[str]], Iterator[str]]] = {
    "buys": buys,
    "sells": sells,
    "expires": expires,
    "consents": consents,
    "submits": submits,
    "fails": fails,
    "returns": returns,
    "ails": ails,
    "heals": heals,
    "measures": measures,
    "is_said": marked,
}


def _news(stage: Stage, *, timed: bool) -> Iterator[str]:
    yield from told(stage, stage.heard, timed=timed)
    stage.heard.clear()
    yield from waiting(stage)


def _none(words: list[str]) -> None:
    if words:
        raise ValueError(f"{words} mean nothing here")
