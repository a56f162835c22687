"""The delivery feed of a running scheduler: put together from its journal, its keys and its settings."""

from __future__ import annotations

from scheduler.api.address import FEED_FILE
from scheduler.api.feed.log import epoch_of
from scheduler.api.feed.server import FeedServer, FeedSettings
from scheduler.api.feed.services import FeedSources
from scheduler.clock import wall_clock_ms
from scheduler.config import UpSettings
from scheduler.exchange.admission import Limits
from scheduler.exchange.denied import Denied
from scheduler.exchange.witnessing import keep_cosigned
from scheduler.ledger.journal import Journal
from scheduler.ledger.keyring import Keyring
from scheduler.service import Scheduler


def feed_of(settings: UpSettings, journal: Journal, scheduler: Scheduler, signer: Keyring) -> FeedServer | None:
    """The feed, not started yet; None where the settings want none. Raises as `FeedServer`."""
    if not settings.feed:
        return None
    stream = settings.stream
    sources = FeedSources(
        clock_ms=wall_clock_ms,
        keys=lambda: tuple((tenure.verifier.encode(), tenure.leaf) for tenure in signer.tenures),
        cosign=lambda note, vkey: keep_cosigned(journal, stream, signer.verifiers, note, vkey, called=True),
    )
    served = FeedSettings(
        stream=stream,
        epoch=epoch_of(journal, stream, wall_clock_ms()),
        listen=settings.feed,
        address_file=settings.home / FEED_FILE,
        keep_leaves=settings.feed_keep_leaves,
        tls=settings.feed_tls(),
        limits=Limits(settings.calls_per_s, 4 * settings.calls_per_s, settings.streams_per_peer),
        denied=Denied.of(settings.denied),
    )
    return FeedServer(scheduler, settings.home / "journal.db", served, sources)
