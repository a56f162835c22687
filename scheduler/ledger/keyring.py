"""The keys of one log over time: a new one takes the old one's place, and for a while both sign.

A *change* is a leaf of the log itself: which key, which one follows it, and until when the old one signs beside it;
both keys have signed the change, so whoever trusts the old one is led to the new one by the log alone. Laws: every
checkpoint over a change is signed by the new key; the old one signs too until the overlap is over and the exchange has
the change; what a key signed stays verifiable by it for ever. The private half of a key that is over may be destroyed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from scheduler.core.errors import Conflict, Damaged, InvalidValue, Unauthorised
from scheduler.ledger.journal import Journal
from scheduler.ledger.keys import SignerKey, VerifierKey

FIRST_FILE, NEXT_FILE = "log.key", "log.key.next"
_CURSOR = "log_keys"


class LogSigner(Protocol):
    """Who signs a log's checkpoints: one key, or a keyring."""

    @property
    def name(self) -> str:
        """The log's origin."""

    def signers(self, acknowledged: int) -> tuple[SignerKey, ...]:
        """Those that sign now. `acknowledged`: how many leaves the exchange has."""

    def opening(self, acknowledged: int) -> VerifierKey:
        """The newest key that an exchange with so many leaves knows."""

    @property
    def verifiers(self) -> tuple[VerifierKey, ...]:
        """All keys that ever signed this log, oldest first."""


@dataclass(frozen=True, slots=True)
class KeyChange:
    """`new` follows `old`, which signs beside it until `until_ms`; signed by both."""

    old: VerifierKey
    new: VerifierKey
    until_ms: int
    old_signature: bytes
    new_signature: bytes

    @classmethod
    def signed(cls, old: SignerKey, new: SignerKey, until_ms: int) -> KeyChange:
        """The change, signed. Raises Conflict for another log's key, or the same one again."""
        if old.name != new.name or old.verifier == new.verifier:
            raise Conflict(
                f"{new.verifier.encode()} cannot follow {old.verifier.encode()}, expected another of that name"
            )
        message = _message(old.verifier, new.verifier, until_ms)
        return cls(old.verifier, new.verifier, until_ms, old.sign_bytes(message), new.sign_bytes(message))

    def verify(self) -> None:
        """Raises Unauthorised where one of the two did not sign this, Conflict where they are not of one log."""
        message = _message(self.old, self.new, self.until_ms)
        if self.old.name != self.new.name or self.old == self.new:
            raise Conflict(f"{self.new.encode()} cannot follow {self.old.encode()}, expected another of that name")
        for key, signature in ((self.old, self.old_signature), (self.new, self.new_signature)):
            if not key.verify_bytes(message, signature):
                raise Unauthorised(f"the change to {self.new.encode()} is not signed by {key.encode()}")


def verifiers_of(folder: Path, journal: Journal, stream: str) -> tuple[VerifierKey, ...]:
    """All keys that ever signed the stream's log, oldest first, without taking up any; for who reads beside its owner.

    Raises as `SignerKey.load` where the journal names none and the first is not there either.
    """
    kept = journal.cursor(f"{_CURSOR}:{stream}")
    if kept is None:
        return (SignerKey.load(folder / FIRST_FILE).verifier,)
    return tuple(VerifierKey.parse(vkey) for vkey, _, _ in json.loads(kept))


def followed(trusted: Iterable[VerifierKey], changes: Iterable[KeyChange]) -> tuple[VerifierKey, ...]:
    """The keys that are trusted, and those that they lead to. `changes`: in the log's order, each verified."""
    keys = list(trusted)
    for change in changes:
        if change.old in keys and change.new not in keys:
            keys.append(change.new)
    return tuple(keys)


@dataclass(frozen=True, slots=True)
class Tenure:
    """One key's time. `leaf`: of the change that brought it, -1 for the first; `until_ms`: None while none follows."""

    verifier: VerifierKey
    leaf: int
    until_ms: int | None
    signer: SignerKey | None


class Keyring:
    """See the module; a `LogSigner`."""

    def __init__(self, tenures: Sequence[Tenure], clock_ms: Callable[[], int]) -> None:
        self.tenures = tuple(tenures)
        """Oldest first; replaced as a whole where a key follows, which any thread may be beside."""
        self._clock_ms = clock_ms

    @classmethod
    def load(cls, folder: Path, journal: Journal, stream: str, name: str, clock_ms: Callable[[], int]) -> Keyring:
        """The keys that the journal names, from their files; where it names none, the first, made where it is missing.

        Raises Conflict where the first is another log's, Damaged where the current one is missing, and as
        `SignerKey.load`.
        """
        kept = journal.cursor(f"{_CURSOR}:{stream}")
        if kept is None:
            key = SignerKey.load_or_generate(folder / FIRST_FILE, name)
            return cls((Tenure(key.verifier, -1, None, key),), clock_ms)
        tenures = tuple(_tenure(folder, number, *row) for number, row in enumerate(json.loads(kept)))
        if tenures[-1].signer is None:
            raise Damaged(f"{file_of(folder, tenures[-1].verifier)}, the key of the log {name}, is missing")
        return cls(tenures, clock_ms)

    @property
    def name(self) -> str:
        """The log's origin."""
        return self.tenures[-1].verifier.name

    @property
    def current(self) -> SignerKey:
        """The newest key."""
        signer = self.tenures[-1].signer
        if signer is None:
            raise Damaged(f"the private half of the log's key {self.tenures[-1].verifier.encode()} is missing")
        return signer

    @property
    def verifiers(self) -> tuple[VerifierKey, ...]:
        """All keys that ever signed this log, oldest first."""
        return tuple(tenure.verifier for tenure in self.tenures)

    def signers(self, acknowledged: int) -> tuple[SignerKey, ...]:
        """The newest key, and those before it that are not over yet."""
        now_ms, tenures = self._clock_ms(), self.tenures
        signing = []
        for tenure, following in pairwise(tenures):
            still = now_ms < (tenure.until_ms or 0) or acknowledged <= following.leaf
            if still and tenure.signer is not None:
                signing.append(tenure.signer)
        return (self.current, *reversed(signing))

    def opening(self, acknowledged: int) -> VerifierKey:
        """The newest key whose change the exchange has."""
        return next(each.verifier for each in reversed(self.tenures) if each.leaf < acknowledged or each.leaf < 0)

    def following(self, key: SignerKey, leaf: int, until_ms: int) -> tuple[Tenure, ...]:
        """The tenures once `key` follows the newest one, by the change at `leaf`."""
        *before, last = self.tenures
        over = Tenure(last.verifier, last.leaf, until_ms, last.signer)
        return (*before, over, Tenure(key.verifier, leaf, None, key))

    def cursor(self, stream: str) -> tuple[str, bytes]:
        """Name and content of the journal's cursor that keeps these keys; no private halves."""
        rows = [[each.verifier.encode(), each.leaf, each.until_ms] for each in self.tenures]
        return f"{_CURSOR}:{stream}", json.dumps(rows).encode()


def file_of(folder: Path, key: VerifierKey) -> Path:
    """Where the private half of a key that is not the first is kept."""
    return folder / f"log-{key.key_hash.hex()}.key"


def _tenure(folder: Path, number: int, vkey: str, leaf: int, until_ms: int | None) -> Tenure:
    verifier = VerifierKey.parse(vkey)
    path = folder / FIRST_FILE if number == 0 else file_of(folder, verifier)
    signer = SignerKey.load(path) if path.exists() else None
    if signer is not None and signer.verifier != verifier:
        raise Conflict(f"the signer key {path} is {signer.verifier.encode()}, expected {vkey}")
    return Tenure(verifier, leaf, until_ms, signer)


def _message(old: VerifierKey, new: VerifierKey, until_ms: int) -> bytes:
    if until_ms < 0:
        raise InvalidValue("until_ms", f"the change to {new.encode()}", until_ms, "an instant")
    return f"tenor.dev/key-change/v1\n{old.encode()}\n{new.encode()}\n{until_ms}\n".encode()
