"""`tenor up`: everything on one machine, composed of real processes.

The reference exchange (unless another one is named) and the Ray cluster are processes of their own and outlive a crash
of this one: a new `up` in the same home finds them, folds its journal, and goes on. A clean stop ends them all: gangs
get SIGTERM and their grace, then Ray, then the exchange, so that nothing is left running.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from scheduler.answering import ProbeAnswering, failed_probes
from scheduler.api.address import checked_address
from scheduler.api.feed.server import FeedServer
from scheduler.api.messages import ExchangeLink
from scheduler.api.server import ApiServer
from scheduler.api.servicer import ApiSources
from scheduler.clock import wall_clock_ms
from scheduler.config import UpSettings
from scheduler.core.errors import InvalidValue, TenorError, Unauthorised, Unavailable
from scheduler.core.events import Event, NodeJoined
from scheduler.core.models import canonical_bytes
from scheduler.delivery import LogWriter, statement
from scheduler.exchange.admission import Limits
from scheduler.exchange.clock_check import ClockCheck
from scheduler.exchange.denied import Denied
from scheduler.exchange.dispute_listener import DisputeListener
from scheduler.exchange.publisher import Publisher, PublishState
from scheduler.exchange.tls import Tls, refuse_plaintext, stale
from scheduler.exchange.watcher import Watcher, WatchState
from scheduler.execution.local_ray import LocalRay
from scheduler.execution.ray_gangs import RayExecutor
from scheduler.feeding import feed_of
from scheduler.key_changes import KeyChanges
from scheduler.ledger.journal import Journal
from scheduler.ledger.keyring import Keyring
from scheduler.own_exchange import OwnExchange
from scheduler.planners.planner import LocalPlanner, Planner
from scheduler.planners.pools_planner import EVERY_FLEET, Extent, PoolsPlanner
from scheduler.planners.ray_workers import RayWorkers
from scheduler.planners.rehearsals import Rehearsals
from scheduler.pledging import Inventory, pledge, read_inventory
from scheduler.probing import IdleProbe
from scheduler.recovery import Folded, fold, healthy_nodes, last_seen_ms, reconcile, save_snapshot
from scheduler.rehearsing import Rehearsing
from scheduler.service import Scheduler, ServiceSettings
from scheduler.stop_signals import StopSignals
from scheduler.warming import Warming

Say = Callable[[str], None]
EPOCH_CURSOR = "publisher_epoch"
INTERRUPTED_EXIT_CODE = 130
NOTE_EVERY_S = 1.0


@dataclass
class Embedded:
    """A running composition. Make one with `start`; `run` is its loop; `stop` ends all of it."""

    settings: UpSettings
    say: Say
    journal: Journal
    ray: LocalRay
    executor: RayExecutor
    planner: Planner
    scheduler: Scheduler
    watcher: Watcher
    dispute_listener: DisputeListener
    answering: ProbeAnswering
    publisher: Publisher
    api: ApiServer
    feed: FeedServer | None
    exchange_address: str
    own_exchange: OwnExchange | None
    probe: IdleProbe
    rehearsing: Rehearsing
    warming: Warming
    key_changes: KeyChanges
    stopping: threading.Event = field(default_factory=threading.Event)
    _snapshot_seq: int = 0
    _noted_s: float = 0.0
    _said_paused: str = ""

    @classmethod
    def start(cls, settings: UpSettings, say: Say, stop: StopSignals | None = None) -> Embedded:
        """Bring everything up, or nothing. Raises what any part raises, having stopped the parts that it started;
        KeyboardInterrupt where `stop` was asked meanwhile.
        """
        stop = stop or StopSignals()
        with contextlib.ExitStack() as undo:
            home = settings.home
            home.mkdir(parents=True, exist_ok=True)
            journal = undo.enter_context(Journal.open(home / "journal.db"))
            _check_addresses(settings)
            warming = Warming(say)
            undo.callback(warming.close)
            signer = _signer(settings, journal)
            folded = _folded(journal, say)
            address, own = _exchange(settings, say)
            if own is not None and own.is_new:
                undo.callback(own.stop)
            ray, ray_is_new = _ray(settings, say, stop)
            if ray_is_new:  # gangs on one that outlived an earlier run are not to die of our failure
                undo.callback(ray.stop)
                stop.check()
            executor = _executor(settings, ray, folded, last_seen_ms(folded.state, journal))
            undo.callback(executor.close)
            planner = _planner(settings, ray)
            undo.callback(planner.close)
            scheduler = _scheduler(settings, journal, executor, signer, folded, planner)
            to_exchange = settings.exchange_tls()
            publisher = undo.enter_context(
                Publisher(address, journal, settings.stream, signer, _next_epoch(journal), tls=to_exchange)
            )
            heard, cursor = ClockCheck(scheduler.learn_clock, wall_clock_ms).heard, scheduler.state.book.cursor
            watching = Watcher(address, scheduler, cursor=cursor, tls=to_exchange, clock_heard=heard)
            watcher = undo.enter_context(watching)
            listener = undo.enter_context(_listener(settings, address, scheduler))
            answering = undo.enter_context(_answering(settings, address, scheduler, executor))
            rehearsing = _rehearsing(settings, ray)
            api = _api(settings, journal, scheduler, watcher, publisher, rehearsing)
            api.start()
            undo.callback(api.stop)
            feed = feed_of(settings, journal, scheduler, signer)
            if feed is not None:
                undo.callback(feed.stop)
                feed.start()
            embedded = cls(
                settings=settings,
                say=say,
                journal=journal,
                ray=ray,
                executor=executor,
                planner=planner,
                scheduler=scheduler,
                watcher=watcher,
                dispute_listener=listener,
                answering=answering,
                publisher=publisher,
                api=api,
                feed=feed,
                exchange_address=address,
                own_exchange=own,
                probe=IdleProbe(executor, settings.probe_every_ms, taken=lambda: answering.node),
                rehearsing=rehearsing,
                warming=warming,
                key_changes=KeyChanges(home, journal, settings.stream, signer, settings.key_overlap_ms),
                stopping=stop.asked,
            )
            undo.pop_all()
        fed = f", feed on {feed.address}" if feed is not None else ""
        say(f"ready: API on {embedded.api.address}, exchange on {address}{fed}")
        return embedded

    def run(self) -> None:
        """Rounds until somebody says stop."""
        while not self.stopping.is_set():
            due_ms = self.scheduler.round()
            self.publisher.wake()
            if self.feed is not None:
                self.feed.wake()
            self.probe.maybe(self.scheduler, wall_clock_ms())
            self.rehearsing.maybe(self.scheduler, wall_clock_ms())
            self.warming.maybe()
            self._keep_notes()
            wait_ms = self.settings.round_every_ms
            if due_ms is not None:
                wait_ms = max(1, min(wait_ms, due_ms - wall_clock_ms()))
            self.scheduler.woken.wait(wait_ms / 1_000)

    def stop(self) -> None:
        """Gangs out with their grace, everything told, then every process that is ours. A part that fails to stop does
        not keep the others: the first failure is raised once all was tried.
        """
        self.stopping.set()
        with contextlib.ExitStack() as last_first:
            if self.own_exchange is not None:
                last_first.callback(self.own_exchange.stop)
            last_first.callback(self.ray.stop)
            last_first.callback(self.journal.close)
            last_first.callback(self._keep_snapshot)
            last_first.callback(self.executor.close)
            last_first.callback(self.planner.close)
            last_first.callback(self.rehearsing.close)
            last_first.callback(self.warming.close)
            last_first.callback(self.publisher.stop)
            last_first.callback(self._send_the_rest)
            last_first.callback(self.watcher.stop)
            last_first.callback(self.dispute_listener.stop)
            last_first.callback(self._stop_gangs)
            last_first.callback(self.answering.stop)
            if self.feed is not None:
                last_first.callback(self.feed.stop)
            self.say("stopping: gangs get their grace")
            self.api.stop()
        self.say("stopped")

    def _stop_gangs(self) -> None:
        noted = True
        try:
            longest_ms = self.scheduler.shut_down()
        except Unavailable as error:  # to stop what cannot be noted is no more than a crash, which is recovered from
            self.say(f"gangs are stopped without a note of it: {error}")
            noted, longest_ms = False, self._stop_unnoted()
        until = time.monotonic() + longest_ms / 1_000 + 5.0
        while (noted and self.scheduler.state.gangs.placed) or self.executor.unfinished:
            if time.monotonic() > until:
                break
            self.scheduler.round()
            self.scheduler.woken.wait(0.05)

    def _stop_unnoted(self) -> int:
        longest_ms = 0
        for attempt in self.executor.running():
            grace_ms = self.scheduler.state.gangs.get(attempt.gang).spec.grace_ms
            self.executor.stop(attempt.gang, attempt.attempt, grace_ms)
            longest_ms = max(longest_ms, grace_ms)
        return longest_ms

    def _send_the_rest(self) -> None:
        self.publisher.wait_acknowledged(self.journal.log_size(self.settings.stream), timeout_s=5.0)

    def _keep_snapshot(self) -> None:
        try:
            save_snapshot(self.journal, self.scheduler)
        except Unavailable as error:  # it only makes the next start quicker
            self.say(f"no snapshot was kept: {error}")

    def _keep_notes(self) -> None:
        if time.monotonic() - self._noted_s < NOTE_EVERY_S:
            return
        self._noted_s = time.monotonic()
        if self.own_exchange is not None:
            self.own_exchange.revive(self.say)
        changed = self.key_changes.maybe(self.scheduler, wall_clock_ms())
        if changed:
            self.say(changed)
        try:
            self.scheduler.note_observed()
            seq, _ = self.journal.head
            if seq - self._snapshot_seq >= self.settings.snapshot_every_events:
                save_snapshot(self.journal, self.scheduler)
                self._snapshot_seq = seq
        except Unavailable as error:
            self._say_paused(str(error))
        else:
            self._say_paused(self.scheduler.paused)

    def _say_paused(self, why: str) -> None:
        was, self._said_paused = self._said_paused, why
        if why != was:  # the reason again at the end: on a full disk the first note may not have been kept
            self.say(f"paused: {why}" if why else f"going on, was paused: {was}")


def up(settings: UpSettings, say: Say, *, ready: Callable[[Embedded], None] = lambda _: None) -> int:
    """Start, run until SIGINT or SIGTERM, stop cleanly. The exit code: 130 where it was stopped while it started."""
    say = _never_failing(say)
    stop = StopSignals()
    stop.install()
    try:
        embedded = Embedded.start(settings, say, stop)
    except KeyboardInterrupt:
        say("stopped while starting")
        return INTERRUPTED_EXIT_CODE
    except OSError as error:
        raise _about_files(error, settings) from error
    try:
        ready(embedded)
        embedded.run()
    finally:
        embedded.stop()
    return 0


def _never_failing(say: Say) -> Say:
    """Nobody reads it, or the disk is full: no reason to stop."""

    def said(text: str) -> None:
        with contextlib.suppress(OSError):
            say(text)

    return said


def _about_files(error: OSError, settings: UpSettings) -> TenorError:
    """What the file system said of a start's own files."""
    said = f"{error.filename or settings.home} cannot be used: {error.strerror}"
    if isinstance(error, PermissionError):
        return Unauthorised(said)
    if isinstance(error, FileExistsError | NotADirectoryError):
        return InvalidValue("home", "tenor up", str(settings.home), "a folder, or a path where one can be made")
    return Unavailable(said)


def _check_addresses(settings: UpSettings) -> None:
    """What cannot be listened on or called is refused before anything is started, and so are certificates that are of
    no use, and a list of denied peers that is none; what takes the port later is still told.
    """
    for tls in (settings.api_tls(), settings.exchange_tls(), settings.feed_tls()):
        if tls is not None:
            tls.valid()
    Denied.of(settings.denied)
    if settings.exchange is not None:
        checked_address(settings.exchange, "the exchange")
        if settings.exchange_tls() is None:
            refuse_plaintext(settings.exchange, "the exchange would be called at")
    _check_listen(settings.listen, settings.api_tls(), "the API")
    if settings.feed:
        _check_listen(settings.feed, settings.feed_tls(), "the feed")


def _check_listen(listen: str, tls: Tls | None, of: str) -> None:
    host, port = checked_address(listen, of)
    if tls is None:
        refuse_plaintext(listen, f"{of} was to listen on")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        said = os.strerror(error.errno or 0)  # its own text names the address again
        raise Unavailable(f"{of} cannot listen on {listen}: {said}") from error


def _signer(settings: UpSettings, journal: Journal) -> Keyring:
    """The keys of the log."""
    return Keyring.load(settings.home, journal, settings.stream, f"tenor.local/{settings.stream}", wall_clock_ms)


def _next_epoch(journal: Journal) -> int:
    """The epoch of this run, durable: whoever publishes under an earlier one is fenced."""
    epoch = int(journal.cursor(EPOCH_CURSOR) or b"0") + 1
    journal.commit((), cursors={EPOCH_CURSOR: str(epoch).encode()})
    return epoch


def _listener(settings: UpSettings, address: str, scheduler: Scheduler) -> DisputeListener:
    """Hears disputes from the last one on that the log tells of."""
    settled, tls = scheduler.state.settled, settings.exchange_tls()
    return DisputeListener(address, scheduler, settings.stream, lambda: settled.heard_seq, tls=tls)


def _answering(settings: UpSettings, address: str, scheduler: Scheduler, executor: RayExecutor) -> ProbeAnswering:
    """Lets the exchange probe pledged devices."""
    return ProbeAnswering(
        address,
        scheduler,
        executor,
        settings.stream,
        _inventory(settings),
        wall_clock_ms,
        tls=settings.exchange_tls(),
    )


def _inventory(settings: UpSettings) -> Inventory:
    return {} if settings.devices is None else read_inventory(settings.devices)


def _folded(journal: Journal, say: Say) -> Folded:
    """What the journal says; before anything is started, so that a damaged one starts nothing."""
    folded = fold(journal)
    if folded.events:
        say(f"folded {folded.events} events of the journal")
    return folded


def _exchange(settings: UpSettings, say: Say) -> tuple[str, OwnExchange | None]:
    """The exchange's address, and its process where it is ours."""
    if settings.exchange is not None:
        return settings.exchange, None
    own = OwnExchange.run(settings.home, settings.exchange_listen, say)
    return own.address, own


def _ray(settings: UpSettings, say: Say, stop: StopSignals) -> tuple[LocalRay, bool]:
    """The local Ray cluster and whether it is new: one that outlived the last scheduler is used again."""
    state_dir = settings.home / "ray"
    running = LocalRay.attach(state_dir)
    if running is not None:
        say("found the Ray cluster of an earlier run")
        return running, False
    say(f"starting Ray: {settings.nodes} nodes of {settings.gpus_per_node} logical GPUs")
    with stop.interrupting():
        return LocalRay.start(state_dir, settings.node_specs()), True


def _executor(settings: UpSettings, ray: LocalRay, folded: Folded, seen_ms: int) -> RayExecutor:
    return RayExecutor(
        ray.address,
        log_dir=settings.home / "logs",
        state_dir=settings.home / "execution",
        token_path=ray.token_path,
        known=healthy_nodes(folded.state),
        seen_ms=seen_ms,
    )


def _planner(settings: UpSettings, ray: LocalRay) -> Planner:
    if settings.planners == "local":
        return LocalPlanner()

    def on_ray() -> RayWorkers:
        return RayWorkers(ray.address, state_dir=settings.home / "planners", token_path=ray.token_path)

    return PoolsPlanner(on_ray, EVERY_FLEET if settings.planners == "ray" else Extent())


def _rehearsing(settings: UpSettings, ray: LocalRay) -> Rehearsing:
    rehearsals = Rehearsals(ray.address, token_path=ray.token_path)
    return Rehearsing(rehearsals, settings.rehearse_every_ms, wall_clock_ms())


def _scheduler(
    settings: UpSettings,
    journal: Journal,
    executor: RayExecutor,
    signer: Keyring,
    folded: Folded,
    planner: Planner,
) -> Scheduler:
    """The scheduler with everything that its journal says, reconciled with what runs."""
    service = ServiceSettings(
        close_lag_ms=settings.close_lag_ms, reading_ms=settings.reading_ms, spares=settings.spare_names()
    )
    log = LogWriter(settings.stream, signer)
    scheduler = Scheduler(journal, executor, log, wall_clock_ms, service, folded.state, planner)
    joined_ms: dict[str, int] = {}
    scheduler.listeners.append(lambda event: _note_joined(joined_ms, event))
    if journal.log_size(settings.stream):
        log.checkpoint(journal)
    reconcile(scheduler, journal, executor, wall_clock_ms(), service, same_nodes=not executor.missing)
    scheduler.round()
    pledge(journal, log, _inventory(settings), scheduler.state.fleet, joined_ms, wall_clock_ms())
    return scheduler


def _note_joined(joined_ms: dict[str, int], event: Event) -> None:
    if isinstance(event, NodeJoined):
        joined_ms[event.node.name] = event.at_ms


def _api(
    settings: UpSettings,
    journal: Journal,
    scheduler: Scheduler,
    watcher: Watcher,
    publisher: Publisher,
    rehearsing: Rehearsing,
) -> ApiServer:
    def link() -> ExchangeLink:
        status = watcher.status()
        watching = status.state is WatchState.WATCHING
        return ExchangeLink(connected=watching, detail=status.detail, last_heard_ms=status.heard_ms or None)

    def alerts() -> tuple[str, ...]:
        frozen = watcher.status()
        refused = publisher.status()
        told = [f"positions are frozen: {frozen.detail}"] if frozen.state is WatchState.FROZEN else []
        told += [f"delivery is refused: {refused.detail}"] if refused.state is PublishState.REFUSED else []
        told += stale(settings.api_tls(), wall_clock_ms())
        told += failed_probes(scheduler.state)
        told += [f"leaf {leaf.index} is not settled: {leaf.reason}, {leaf.detail}" for leaf in refused.rejections]
        return tuple(told)

    sources = ApiSources(
        clock_ms=wall_clock_ms,
        stream=settings.stream,
        log_dir=settings.home / "logs",
        statement=lambda position, as_of: canonical_bytes(
            statement(journal, settings.stream, scheduler.state, position, as_of)
        ),
        exchange=link,
        alerts=alerts,
        rehearsed=lambda: rehearsing.last,
    )
    return ApiServer(
        scheduler,
        journal,
        settings.listen,
        sources,
        address_file=settings.home / "api.address",
        tls=settings.api_tls(),
        limits=Limits(settings.calls_per_s, 4 * settings.calls_per_s, settings.streams_per_peer),
        denied=Denied.of(settings.denied),
    )
