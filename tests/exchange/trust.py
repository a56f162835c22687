"""Authorities and identities that tests make for themselves, on their own clock where they want some that are over."""

from __future__ import annotations

import time
from pathlib import Path

from scheduler.exchange import certs
from scheduler.exchange.peers import Peer
from scheduler.exchange.tls import Tls

DAY_MS = 86_400_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Trust:
    """One authority in one folder, and whom it signed; `of("cluster/east")` makes an identity where there is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = folder / certs.AUTHORITY

    def of(self, peer: str) -> Tls:
        """The peer with this authority."""
        path = self.path(peer)
        if not path.exists():
            certs.make(self.folder, [Peer.parse(peer)], now_ms=now_ms())
        return Tls(path, self.authority)

    def path(self, peer: str) -> Path:
        """Where the peer's identity is."""
        return self.folder / f"{peer.replace('/', '-')}.pem"

    def over(self, peer: str, days_ago: int = 10) -> Tls:
        """One whose certificate expired that many days ago, less one."""
        certs.make(self.folder, [Peer.parse(peer)], days=1, now_ms=now_ms() - days_ago * DAY_MS)
        return Tls(self.path(peer), self.authority)
