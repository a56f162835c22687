"""`tenor up`: everything on one machine, composed of real processes.

The reference exchange (unless another one is named) and the Ray cluster are processes of their own and outlive a crash
of this one: a new `up` in the same home finds them, folds its journal, and goes on. A clean stop ends them all: gangs
get SIGTERM and their grace, then Ray, then the exchange, so that nothing is left running.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType

from scheduler.api.messages import ExchangeLink
from scheduler.api.server import ApiServer
from scheduler.api.servicer import ApiSources
from scheduler.clock import wall_clock_ms
from scheduler.config import UpSettings
from scheduler.core.errors import Unavailable
from scheduler.core.models import canonical_bytes
from scheduler.delivery import LogWriter, statement
from scheduler.exchange.publisher import Publisher
from scheduler.exchange.watcher import Watcher, WatchState
from scheduler.execution.local_ray import LocalRay
from scheduler.execution.processes import ProcessId, identity
from scheduler.execution.ray_gangs import RayExecutor
from scheduler.ledger.journal import Journal
from scheduler.ledger.keys import SignerKey
from scheduler.probing import IdleProbe
from scheduler.recovery import fold, reconcile, save_snapshot
from scheduler.service import Scheduler, ServiceSettings

Say = Callable[[str], None]
EPOCH_CURSOR = "publisher_epoch"
EXCHANGE_WAIT_S = 30.0
NOTE_EVERY_S = 1.0


@dataclass
class Embedded:
    """A running composition. Make one with `start`; `run` is its loop; `stop` ends all of it."""

    settings: UpSettings
    journal: Journal
    ray: LocalRay
    executor: RayExecutor
    scheduler: Scheduler
    watcher: Watcher
    publisher: Publisher
    api: ApiServer
    exchange_address: str
    own_exchange: ProcessId | None
    probe: IdleProbe
    stopping: threading.Event = field(default_factory=threading.Event)
    _snapshot_seq: int = 0
    _noted_s: float = 0.0

    @classmethod
    def start(cls, settings: UpSettings, say: Say) -> Embedded:
        """Bring everything up, or nothing. Raises what any part raises, having stopped the parts that ran."""
        with contextlib.ExitStack() as undo:
            home = settings.home
            home.mkdir(parents=True, exist_ok=True)
            journal = undo.enter_context(Journal.open(home / "journal.db"))
            signer = SignerKey.load_or_generate(home / "log.key", f"tenor.local/{settings.stream}")
            address, own = _exchange(settings, say)
            if own is not None:
                undo.callback(end_process, own)
            ray, ray_is_new = _ray(settings, say)
            if ray_is_new:  # gangs on one that outlived an earlier run are not to die of our failure
                undo.callback(ray.stop)
            executor = RayExecutor(
                ray.address, log_dir=home / "logs", state_dir=home / "execution", token_path=ray.token_path
            )
            undo.callback(executor.close)
            scheduler = _scheduler(settings, journal, executor, signer, say)
            epoch = int(journal.cursor(EPOCH_CURSOR) or b"0") + 1
            journal.commit((), cursors={EPOCH_CURSOR: str(epoch).encode()})
            publisher = Publisher(address, journal, settings.stream, signer, epoch).start()
            undo.callback(publisher.stop)
            watcher = Watcher(address, scheduler, cursor=scheduler.state.book.cursor).start()
            undo.callback(watcher.stop)
            api = _api(settings, journal, scheduler, watcher)
            api.start()
            undo.callback(api.stop)
            embedded = cls(
                settings=settings,
                journal=journal,
                ray=ray,
                executor=executor,
                scheduler=scheduler,
                watcher=watcher,
                publisher=publisher,
                api=api,
                exchange_address=address,
                own_exchange=own,
                probe=IdleProbe(executor, settings.probe_every_ms),
            )
            undo.pop_all()
        say(f"ready: API on {embedded.api.address}, exchange on {address}")
        return embedded

    def run(self) -> None:
        """Rounds until somebody says stop."""
        while not self.stopping.is_set():
            due_ms = self.scheduler.round()
            self.publisher.wake()
            self.probe.maybe(self.scheduler, wall_clock_ms())
            self._keep_notes()
            wait_ms = self.settings.round_every_ms
            if due_ms is not None:
                wait_ms = max(1, min(wait_ms, due_ms - wall_clock_ms()))
            self.scheduler.woken.wait(wait_ms / 1_000)

    def stop(self, say: Say) -> None:
        """Gangs out with their grace, everything told, then every process that is ours."""
        self.stopping.set()
        self.api.stop()
        say("stopping: gangs get their grace")
        self._stop_gangs()
        self.watcher.stop()
        self.publisher.wait_acknowledged(self.journal.log_size(self.settings.stream), timeout_s=5.0)
        self.publisher.stop()
        self.executor.close()
        save_snapshot(self.journal, self.scheduler)
        self.journal.close()
        self.ray.stop()
        if self.own_exchange is not None:
            end_process(self.own_exchange)
        say("stopped")

    def _stop_gangs(self) -> None:
        longest_ms = self.scheduler.shut_down()
        until = time.monotonic() + longest_ms / 1_000 + 5.0
        while self.scheduler.state.gangs.placed and time.monotonic() < until:
            self.scheduler.round()
            self.scheduler.woken.wait(0.05)

    def _keep_notes(self) -> None:
        if time.monotonic() - self._noted_s >= NOTE_EVERY_S:
            self._noted_s = time.monotonic()
            self.scheduler.note_observed()
        seq, _ = self.journal.head
        if seq - self._snapshot_seq >= self.settings.snapshot_every_events:
            self._snapshot_seq = seq
            save_snapshot(self.journal, self.scheduler)


def up(settings: UpSettings, say: Say, *, ready: Callable[[Embedded], None] = lambda _: None) -> int:
    """Start, run until SIGINT or SIGTERM, stop cleanly. The exit code."""
    stop_asked = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop_asked.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    embedded = Embedded.start(settings, say)
    embedded.stopping = stop_asked
    try:
        ready(embedded)
        embedded.run()
    finally:
        embedded.stop(say)
    return 0


def _exchange(settings: UpSettings, say: Say) -> tuple[str, ProcessId | None]:
    """The exchange's address, and its process where it is ours: one that outlived the last scheduler is used again."""
    if settings.exchange is not None:
        return settings.exchange, None
    home = settings.home
    record, address_file = home / "exchange.json", home / "exchange.address"
    if record.exists() and address_file.exists():
        known = ProcessId.model_validate_json(record.read_text(encoding="utf-8"))
        if known.alive:
            return address_file.read_text(encoding="utf-8").strip(), known
    say("starting the reference exchange")
    address_file.unlink(missing_ok=True)
    with (home / "exchange.log").open("ab") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "scheduler.exchange.reference", "--db", str(home / "exchange.db")),
                *("--listen", settings.exchange_listen, "--address-file", str(address_file)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + EXCHANGE_WAIT_S
    while not address_file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            last = (home / "exchange.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise Unavailable(f"the reference exchange did not start: {' '.join(last) or 'no answer in time'}")
        time.sleep(0.02)
    own = identity(process.pid)
    if own is None:
        raise Unavailable("the reference exchange ended as soon as it had started")
    record.write_text(own.model_dump_json(), encoding="utf-8")
    return address_file.read_text(encoding="utf-8").strip(), own


def _ray(settings: UpSettings, say: Say) -> tuple[LocalRay, bool]:
    """The local Ray cluster and whether it is new: one that outlived the last scheduler is used again."""
    state_dir = settings.home / "ray"
    running = LocalRay.attach(state_dir)
    if running is not None:
        say("found the Ray cluster of an earlier run")
        return running, False
    say(f"starting Ray: {settings.nodes} nodes of {settings.gpus_per_node} logical GPUs")
    return LocalRay.start(state_dir, settings.node_specs()), True


def _scheduler(settings: UpSettings, journal: Journal, executor: RayExecutor, signer: SignerKey, say: Say) -> Scheduler:
    """The scheduler with everything that its journal says, reconciled with what runs."""
    folded = fold(journal)
    if folded.events:
        say(f"folded {folded.events} events of the journal")
    service = ServiceSettings(
        close_lag_ms=settings.close_lag_ms, reading_ms=settings.reading_ms, spares=settings.spare_names()
    )
    log = LogWriter(settings.stream, signer)
    scheduler = Scheduler(journal, executor, log, wall_clock_ms, service, folded.state)
    if journal.log_size(settings.stream):
        log.checkpoint(journal)
    reconcile(scheduler, journal, executor, wall_clock_ms(), service)
    scheduler.round()
    return scheduler


def _api(settings: UpSettings, journal: Journal, scheduler: Scheduler, watcher: Watcher) -> ApiServer:
    def link() -> ExchangeLink:
        status = watcher.status()
        return ExchangeLink(connected=status.state is WatchState.WATCHING, detail=status.detail)

    sources = ApiSources(
        clock_ms=wall_clock_ms,
        stream=settings.stream,
        log_dir=settings.home / "logs",
        statement=lambda position: canonical_bytes(statement(journal, settings.stream, scheduler.state, position)),
        exchange=link,
    )
    return ApiServer(scheduler, journal, settings.listen, sources, address_file=settings.home / "api.address")


def end_process(process: ProcessId, grace_s: float = 5.0) -> None:
    """SIGTERM, then SIGKILL; only to the process that we know it to be."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + grace_s
        if identity(process.pid) == process:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)
        while identity(process.pid) == process and time.monotonic() < until:
            time.sleep(0.02)
