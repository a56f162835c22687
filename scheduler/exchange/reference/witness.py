"""The exchange as a witness of the logs that it takes in: a C2SP `cosignature/v1` under each checkpoint it reached.

It cosigns nothing that it only was told: a checkpoint gets its cosignature once every leaf under it is here and the
root over them was computed again, in the transaction that makes them durable. So for one stream the cosigned sizes only
grow, each tree is a prefix of the next, and a seller with two histories cannot have both cosigned.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from scheduler.ledger.keys import SignerKey
from scheduler.ledger.notes import cosign, parse_note

NAME = "tenor.exchange"
_SUFFIX = ".witness.key"


class Witness:
    """A key and a clock. `clock_ms` gives milliseconds UTC."""

    def __init__(self, key: SignerKey, clock_ms: Callable[[], int]) -> None:
        self._key = key
        self._clock_ms = clock_ms
        self.verifier = key.witness
        self.vkey = self.verifier.encode()

    @classmethod
    def beside(cls, database: Path, stream: str, clock_ms: Callable[[], int]) -> Witness:
        """The witness of the exchange over that file, its key kept beside it, made where it is missing.

        Raises as `SignerKey.load_or_generate`.
        """
        path = database.with_name(database.name + _SUFFIX)
        return cls(SignerKey.load_or_generate(path, f"{NAME}/{stream}"), clock_ms)

    def signed(self, message: bytes) -> bytes:
        """Its signature over any bytes; what is signed begins with what it is, so that none of it is a cosignature."""
        return self._key.sign_bytes(message)

    def has_cosigned(self, note: bytes) -> bool:
        """Whether the note carries a line of this key."""
        mine = (self.verifier.name, self.verifier.key_hash)
        return any((each.name, each.key_hash) == mine for each in parse_note(note).signatures)

    def cosigned(self, note: bytes) -> bytes:
        """The checkpoint with the cosignature of now added. The caller has checked every leaf under it."""
        return cosign(note, self._key, self._clock_ms() // 1_000)
