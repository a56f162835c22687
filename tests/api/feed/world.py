"""A log on disk that grows when a test says so, behind a real feed on a port that the system chose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from scheduler.api.feed.log import epoch_of
from scheduler.api.feed.server import FeedServer, FeedSettings
from scheduler.api.feed.services import FeedSources
from scheduler.exchange.admission import Limits
from scheduler.exchange.tls import Tls
from scheduler.exchange.witnessing import keep_cosigned
from scheduler.ledger.journal import Journal
from scheduler.service import Scheduler
from tests.exchange.sender import leaf_of
from tests.exchange.world import SIGNER, STREAM, write_log

EPOCH = 7


class FedLog:
    """Leaves follow from their indices. `scheduler`: for what is not of the log."""

    def __init__(self, folder: Path, scheduler: Scheduler) -> None:
        self.path = folder / "log.db"
        self.journal = Journal.open(self.path, durable=False)
        self.epoch = epoch_of(self.journal, STREAM, EPOCH)
        self._scheduler = scheduler

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return self.journal.log_size(STREAM)

    @property
    def leaves(self) -> list[bytes]:
        """All of them."""
        return [leaf for _, leaf in self.journal.leaves(STREAM)]

    def grow(self, leaves: int) -> None:
        """So many more, under a new checkpoint."""
        write_log(self.journal, [leaf_of(index) for index in range(self.size, self.size + leaves)])

    def write(self, leaves: Sequence[bytes]) -> None:
        """Those, under a new checkpoint."""
        write_log(self.journal, list(leaves))

    @contextmanager
    def served(
        self,
        *,
        listen: str = "127.0.0.1:0",
        keep_leaves: int = 0,
        heartbeat_ms: int = 50,
        tls: Tls | None = None,
        limits: Limits | None = None,
        epoch: int = 0,
    ) -> Iterator[FeedServer]:
        """The feed, while the block lasts."""
        settings = FeedSettings(
            stream=STREAM,
            epoch=epoch or self.epoch,
            listen=listen,
            keep_leaves=keep_leaves,
            tls=tls,
            limits=limits or Limits(),
        )
        sources = FeedSources(
            clock_ms=lambda: 1,
            keys=lambda: ((SIGNER.verifier.encode(), -1),),
            cosign=lambda note, vkey: keep_cosigned(self.journal, STREAM, [SIGNER.verifier], note, vkey, called=True),
            heartbeat_ms=heartbeat_ms,
        )
        server = FeedServer(self._scheduler, self.path, settings, sources)
        server.start()
        try:
            yield server
        finally:
            server.stop(grace_s=0.2)
