"""What a cluster keeps of its witnesses: their cosignatures under a checkpoint that this log signed.

Law: nothing is kept that was not checked against this log's own leaves and key: an exchange cannot slip another history
into the evidence. Cosignatures of one checkpoint stand side by side, whoever brought them first.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence

from scheduler.core.errors import Conflict, InvalidValue
from scheduler.ledger.journal import Journal
from scheduler.ledger.keys import Kind, VerifierKey
from scheduler.ledger.notes import open_checkpoint, parse_note, with_cosignature

MOST_WITNESSES = 16
_CURSOR = "witness_keys"
_MERGING = threading.Lock()
"""Two witnesses of one checkpoint must not each replace the other's cosignature."""


def keep_cosigned(
    journal: Journal, stream: str, keys: Sequence[VerifierKey], note: bytes, vkey: str, *, called: bool = False
) -> bytes:
    """Keeps a cosigned checkpoint of the stream in the journal; gives it with every cosignature that is known. `keys`:
    the log's own; `vkey`: the witness's. `called`: the witness came by itself, and is not the exchange that this
    cluster delivers to: there is room for so many of those, and none of them may speak of what is over.

    Raises Unauthorised where either signature is missing or wrong, Conflict where the checkpoint is not over this log,
    is older than one that was cosigned, or finds no room, InvalidValue for what is no checkpoint or no witness's key.
    """
    witness = VerifierKey.parse(vkey)
    if witness.kind is not Kind.COSIGNATURE:
        raise InvalidValue("kind", f"the vkey of {witness.name}", witness.kind, f"{Kind.COSIGNATURE:d}, a witness's")
    checkpoint = open_checkpoint(note, keys, origin=keys[-1].name)
    held = journal.log_size(stream)
    if checkpoint.size > held:
        raise Conflict(f"the witness cosigned {checkpoint.size} leaves of stream {stream}, the log holds {held}")
    root = journal.root(stream, checkpoint.size)
    if checkpoint.root != root:
        was = f"{checkpoint.root.hex()} over {checkpoint.size} leaves of stream {stream}"
        raise Conflict(f"the witness cosigned the root {was}, expected {root.hex()}")
    with _MERGING:
        if called:
            _check_room(journal, stream, checkpoint.size, vkey)
        merged = with_cosignature(_kept(journal, stream, checkpoint.size) or note, note, witness)
        _know(journal, stream, vkey)
        journal.save_cosigned(stream, checkpoint.size, merged, vkey)
    return merged


def witnesses(journal: Journal, stream: str) -> tuple[str, ...]:
    """The verifier keys of all who ever cosigned the stream, in the order in which they came."""
    kept = journal.cursor(f"{_CURSOR}:{stream}")
    if kept is not None:
        return tuple(json.loads(kept))
    _, _, vkey = journal.cosigned(stream) or (0, b"", "")
    return (vkey,) if vkey else ()


def cosigners_of(vkeys: Iterable[str], *notes: bytes) -> tuple[str, ...]:
    """Those of the verifier keys that have a line in one of the notes; empty notes have none."""
    lines = {(each.name, each.key_hash) for note in notes if note for each in parse_note(note).signatures}
    keys = [(vkey, VerifierKey.parse(vkey)) for vkey in vkeys]
    return tuple(vkey for vkey, key in keys if (key.name, key.key_hash) in lines)


def _kept(journal: Journal, stream: str, size: int) -> bytes:
    """The checkpoint of that size as it is kept, with the cosignatures that it has; empty where it is not."""
    latest, cosigned = journal.checkpoint(stream), journal.cosigned(stream)
    if cosigned is not None and cosigned[0] == size:
        return cosigned[1]
    return latest[1] if latest is not None and latest[0] == size else b""


def _check_room(journal: Journal, stream: str, size: int, vkey: str) -> None:
    known, cosigned = witnesses(journal, stream), journal.cosigned(stream)
    if cosigned is not None and size < cosigned[0]:
        was = f"the cosigned checkpoint of stream {stream} had {size} leaves"
        raise Conflict(f"{was}, expected {cosigned[0]}, which is cosigned already, or more")
    if vkey not in known and len(known) >= MOST_WITNESSES:
        raise Conflict(f"stream {stream} has {len(known)} witnesses, expected at most {MOST_WITNESSES}")


def _know(journal: Journal, stream: str, vkey: str) -> None:
    known = witnesses(journal, stream)
    if vkey not in known:
        journal.commit((), cursors={f"{_CURSOR}:{stream}": json.dumps([*known, vkey]).encode()})
