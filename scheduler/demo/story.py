"""What the demonstration plays, and what it must show for it.

Four nodes of eight logical GPUs, one of them a spare; acme and borealis buy a node each, cygnus four single GPUs. Then,
at seconds after delivery begins: idle capacity is lent, reclaimed by its owner with grace, half a position is sold, a
node dies and its gang goes on on the spare, another is slow and its delivery derated. At the end both sides' statements
must be the same bytes.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scheduler.api.client import Client, JobHandle
from scheduler.clock import wall_clock_ms
from scheduler.config import UpSettings, load_settings
from scheduler.core.cluster import Level
from scheduler.core.errors import Conflict, Refused, TenorError, Unavailable
from scheduler.core.instruments import STAND_IN_THROUGHPUT, Damages, InstrumentTerms, ThroughputTerms, standard_terms
from scheduler.core.quantities import ceil_div
from scheduler.demo.processes import Child
from scheduler.exchange.audit import AuditReport, audit
from scheduler.exchange.bundles import write as write_bundle
from scheduler.exchange.client import ExchangeClient
from scheduler.execution.local_ray import LocalRay, stop_leftovers
from scheduler.ledger.journal import Journal
from scheduler.ledger.keys import SignerKey

INTERVAL_MS = 10_000
DELIVERY_MS = 40_000
SLOW_PPM = 400_000
FLOOR_PPM = 700_000
REJECT_BELOW_PPM = 100_000
GRACE_MS = 3_000
TICK_S = 0.25
MARK = "DEMONSTRATION"
SETTLE_S = 20.0


@dataclass
class Demo:
    """The demonstration while it runs: what a view may look at."""

    settings: UpSettings
    client: Client
    exchange: ExchangeClient
    ray: LocalRay
    say: Callable[[str], None]
    home: Path
    start_ms: int = 0
    positions: dict[str, str] = field(default_factory=dict)
    jobs: dict[str, JobHandle] = field(default_factory=dict)

    def second(self) -> float:
        """Seconds since delivery began; negative before."""
        return (wall_clock_ms() - self.start_ms) / 1_000


@dataclass(frozen=True, slots=True)
class Shown:
    """What the demonstration came to."""

    seconds: float
    statements: tuple[dict[str, Any], ...]
    same_bytes: bool
    report: AuditReport
    bundle: Path


def play(home: Path, bundle: Path, say: Callable[[str], None], tick: Callable[[Demo], None]) -> Shown:
    """Play it all in `home` and leave the bundle. `tick` is called some times a second, for a live view.

    Raises Unavailable where a step did not come about in time; everything is stopped in any case.
    """
    began = time.monotonic()
    with ExitStack() as cleanup:
        demo = _start(home, say, cleanup)
        _buy(demo)
        for at_s, step in STEPS:
            _run_until(demo, at_s, tick)
            step(demo)
        _run_until(demo, DELIVERY_MS / 1_000 + 1.0, tick)
        statements, same = _settled(demo, tick)
        terms = demo.exchange.instruments()
        stream = demo.settings.stream
        say("stopping everything; then the bundle is written and audited offline")
    with Journal.open(home / "journal.db", create=False) as journal:
        vkey = SignerKey.load(home / "log.key").verifier.encode()
        write_bundle(journal, stream, bundle, terms, statements, [vkey])
    return Shown(
        seconds=time.monotonic() - began,
        statements=tuple(json.loads(content) for content in statements.values()),
        same_bytes=same,
        report=audit(bundle),
        bundle=bundle,
    )


def fresh_home(folder: Path) -> Path:
    """FOLDER/home, empty, as an absolute path, since jobs run elsewhere. Raises Conflict where it holds something else
    than an earlier demonstration, Refused where it cannot be made.
    """
    home = (folder / "home").absolute()
    if home.exists():
        if not (home / MARK).exists():
            raise Conflict(f"{home} exists and was not left by a demonstration: name another folder")
        stop_leftovers(home / "ray")
    try:
        if home.exists():
            shutil.rmtree(home)
        home.mkdir(parents=True)
        (home / MARK).write_text("made by tenor demo, and deleted by the next one\n", encoding="utf-8")
    except OSError as error:
        raise Refused(f"{error.filename or home} cannot be used: {error.strerror}; name another folder") from error
    return home


# -- the steps ---------------------------------------------------------------------------------------------------------


def _begin(demo: Demo) -> None:
    demo.say("cygnus runs a small job on what it owns; borealis fills its node")
    demo.jobs["cygnus-eval"] = _train(demo, "cygnus", "eval", steps=120, gpus=2)
    demo.jobs["borealis-train"] = _train(demo, "borealis", "train", steps=100_000, gpus=8)
    demo.say("borealis asks for two nodes more: it borrows the idle spare, and acme's idle node")
    demo.jobs["borealis-sweep-1"] = _train(demo, "borealis", "sweep-1", steps=100_000, gpus=8)
    demo.jobs["borealis-sweep-2"] = _train(demo, "borealis", "sweep-2", steps=100_000, gpus=8)


def _reclaim(demo: Demo) -> None:
    demo.say("acme wants its node: a borrower gets its grace, saves, and makes room")
    demo.jobs["acme-train"] = _train(demo, "acme", "train", steps=100_000, gpus=8)


def _sell(demo: Demo) -> None:
    sold = demo.exchange.transfer(demo.positions["cygnus"], "dorado", 2, effective_ms=wall_clock_ms() + 1_500)
    demo.positions["dorado"] = sold.position
    demo.say("cygnus sells half of its position to dorado, mid-delivery, effective in a second and a half")


def _fail(demo: Demo) -> None:
    job = demo.jobs["acme-train"].refresh()
    node = job.places[0].node if job.places else "node-0"
    demo.say(f"the raylet of {node} is killed: acme's position moves to the spare, its gang restarts there")
    demo.ray.kill_node(node)


def _slow(demo: Demo) -> None:
    demo.say("borealis calls its sweeps off: what it borrowed lies idle again")
    for name in ("borealis-sweep-1", "borealis-sweep-2"):
        demo.jobs[name].cancel()
    owned = (node.name for node in demo.client.fleet() if any(owner.account == "cygnus" for owner in node.owners))
    node = next(owned, "node-2")
    demo.say(f"{node} is slowed to {SLOW_PPM // 10_000} % of the reference: the probe sees it, delivery is derated")
    demo.ray.slow_node(node, SLOW_PPM)


STEPS: tuple[tuple[float, Callable[[Demo], None]], ...] = (
    (0.0, _begin),
    (6.0, _reclaim),
    (12.0, _sell),
    (19.0, _fail),
    (23.0, _slow),
)
"""(seconds after delivery begins, what happens then)."""


# -- beginning and end -------------------------------------------------------------------------------------------------


def _start(home: Path, say: Callable[[str], None], cleanup: ExitStack) -> Demo:
    """The processes: exchange, scheduler (which starts Ray's)."""
    home.mkdir(parents=True, exist_ok=True)
    say("starting the exchange, the scheduler and Ray, each its own process")
    address_file = home / "exchange.address"
    arguments = ["scheduler.exchange.reference", "--db", str(home / "exchange.db"), "--address-file", str(address_file)]
    exchange_process = Child.start("exchange", arguments, home)
    cleanup.callback(exchange_process.stop)
    address = exchange_process.wait_for(address_file)
    settings = load_settings(home=home, exchange=address, spares=1, probe_every_ms=2_000, reading_ms=5_000)
    options = {
        "TENOR_HOME": str(home),
        "TENOR_EXCHANGE": address,
        "TENOR_SPARES": str(settings.spares),
        "TENOR_PROBE_EVERY_MS": str(settings.probe_every_ms),
    }
    scheduler_process = Child.start("scheduler", ["scheduler.cli", "up"], home, **options)
    cleanup.callback(scheduler_process.stop)
    client = cleanup.enter_context(Client(scheduler_process.wait_for(home / "api.address")))
    ray = LocalRay.attach(home / "ray")
    if ray is None:
        raise Unavailable("the scheduler is up, but its Ray cluster is not")
    exchange = cleanup.enter_context(ExchangeClient(address))
    say(f"up: exchange on {address}, API on {(home / 'api.address').read_text().strip()}, four nodes on Ray")
    return Demo(settings, client, exchange, ray, say, home)


def _buy(demo: Demo) -> None:
    """List two instruments, and let three accounts buy."""
    demo.start_ms = ceil_div(wall_clock_ms() + 1_500, INTERVAL_MS) * INTERVAL_MS
    whole, single = _listing(demo, "8N", Level.NODE, 8), _listing(demo, "1G", Level.GPU, 1)
    demo.exchange.list_instrument(whole, lots_listed=3)
    demo.exchange.list_instrument(single, lots_listed=8)
    for account, terms, lots in (("acme", whole, 1), ("borealis", whole, 1), ("cygnus", single, 4)):
        demo.positions[account] = demo.exchange.trade(account, terms.id, lots).position
    demo.say("acme and borealis each buy a node, cygnus four single GPUs; delivery begins at the next 10 s mark")


def _listing(demo: Demo, lot: str, cell: Level, gpus: int) -> InstrumentTerms:
    return standard_terms(
        symbol=f"LOGICAL.{lot}.LOCAL.BASE.FIRM.DEMO",
        start_ms=demo.start_ms,
        end_ms=demo.start_ms + DELIVERY_MS,
        grade=demo.settings.grade,
        site=demo.settings.site,
        cell=cell,
        gpus=gpus,
        metering_interval_s=10,
        replace_within_s=0,  # so that what a failure costs is seen within a minute
        price_micro_per_gpu_hour=2_000_000,
        throughput=ThroughputTerms(
            suite=STAND_IN_THROUGHPUT.suite,
            metrics=STAND_IN_THROUGHPUT.metrics,
            floor_ppm=FLOOR_PPM,
            reject_below_ppm=REJECT_BELOW_PPM,
        ),
        damages=Damages(reference_price_micro_per_gpu_hour=3_000_000),
    )


def _train(demo: Demo, account: str, name: str, *, steps: int, gpus: int, workers: int = 1) -> JobHandle:
    checkpoint = demo.home / "checkpoints" / f"{account}-{name}"
    command = [sys.executable, "-m", "scheduler.demo.training", "--steps", str(steps), "--checkpoint", str(checkpoint)]
    return demo.client.submit(
        command,
        account=account,
        name=name,
        workers=workers,
        gpus_per_worker=gpus,
        grace_ms=GRACE_MS,
        checkpoint_ms=1_000,
        restart_ms=1_000,
        working_dir=str(demo.home),
        env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )


def _run_until(demo: Demo, second: float, tick: Callable[[Demo], None]) -> None:
    while demo.second() < second:
        tick(demo)
        time.sleep(min(TICK_S, max(0.0, second - demo.second())))


def _settled(demo: Demo, tick: Callable[[Demo], None]) -> tuple[dict[str, bytes], bool]:
    """The exchange's statements once it has every record, and whether the cluster's are the same bytes."""
    demo.say("delivery is over: the last interval closes, records go out until acknowledged, the exchange settles")
    until = time.monotonic() + SETTLE_S
    while True:
        try:
            theirs = {name: demo.exchange.statement(name)[0] for name in sorted(demo.positions.values())}
            complete = all(json.loads(content)["complete"] for content in theirs.values())
        except TenorError:
            complete = False
        if complete:
            ours = {name: demo.client.statement_bytes(name) for name in theirs}
            return theirs, ours == theirs
        if time.monotonic() > until:
            raise Unavailable("the exchange had not settled in time")
        tick(demo)
        time.sleep(TICK_S)
