"""What a cluster keeps of its witness: the exchange's cosignature under a checkpoint that this log signed.

Law: nothing is kept that was not checked against this log's own leaves and key: an exchange cannot slip another history
into the evidence.
"""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.core.errors import Conflict
from scheduler.ledger.journal import Journal
from scheduler.ledger.keys import VerifierKey
from scheduler.ledger.notes import open_checkpoint, with_cosignature


def keep_cosigned(journal: Journal, stream: str, keys: Sequence[VerifierKey], note: bytes, vkey: str) -> None:
    """Keeps a cosigned checkpoint of the stream in the journal. `keys`: the log's own; `vkey`: the witness's.

    Raises Unauthorised where either signature is missing or wrong, Conflict where the checkpoint is not over this log,
    InvalidValue for what is no checkpoint or no witness's key.
    """
    witness = VerifierKey.parse(vkey)
    checkpoint = open_checkpoint(note, keys, origin=keys[-1].name)
    held = journal.log_size(stream)
    if checkpoint.size > held:
        raise Conflict(f"the witness cosigned {checkpoint.size} leaves of stream {stream}, the log holds {held}")
    root = journal.root(stream, checkpoint.size)
    if checkpoint.root != root:
        was = f"{checkpoint.root.hex()} over {checkpoint.size} leaves of stream {stream}"
        raise Conflict(f"the witness cosigned the root {was}, expected {root.hex()}")
    journal.save_cosigned(stream, checkpoint.size, with_cosignature(note, note, witness), vkey)
