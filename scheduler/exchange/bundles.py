"""A stream's log as a bundle: the journal's leaves under their last checkpoint, the terms, and the statements made.

The folder is that of `scheduler.ledger.bundle`, with `statements/<position>.json` beside it: the canonical bytes of
each statement as both sides have it, so that an auditor compares instead of believing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from scheduler.core.errors import Damaged, InvalidValue, Unavailable
from scheduler.core.ids import checked_name
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.models import canonical_bytes
from scheduler.exchange.witnessing import cosigners_of, witnesses
from scheduler.ledger.bundle import write_bundle
from scheduler.ledger.journal import Journal

STATEMENTS = "statements"


def write(
    journal: Journal,
    stream: str,
    folder: Path,
    terms: Iterable[InstrumentTerms],
    statements: Mapping[str, bytes],
    vkeys: Sequence[str],
) -> int:
    """Writes the stream's log, as far as its last checkpoint, at `folder`; gives the number of leaves.

    `statements`: canonical bytes by position. Raises InvalidValue where nothing was signed yet, and what `write_bundle`
    raises. A crash between the log and the statements leaves a bundle with some of them.
    """
    kept = journal.checkpoint(stream)
    if kept is None:
        raise InvalidValue("checkpoint", f"stream {stream!r}", "missing", "a log that was signed once at least")
    size, note = kept
    leaves = (leaf for _, leaf in journal.leaves(stream, 0, size))
    cosigned_size, cosigned, _ = journal.cosigned(stream) or (0, b"", "")
    earlier = cosigned if cosigned_size < size else b""
    write_bundle(
        folder,
        leaves,
        note,
        vkeys,
        {each.id: canonical_bytes(each) for each in terms},
        witnesses=cosigners_of(witnesses(journal, stream), note, earlier),
        cosigned_note=earlier,
    )
    try:
        (folder / STATEMENTS).mkdir(exist_ok=True)
        for position, content in sorted(statements.items()):
            (folder / STATEMENTS / f"{checked_name('position', position)}.json").write_bytes(content)
    except OSError as error:
        raise Unavailable(f"the statements in {folder} could not be written: {error.strerror}") from error
    return size


def read_statements(folder: Path) -> dict[str, bytes]:
    """The statements in a bundle, by position. Raises Damaged for a file that is none, Unavailable."""
    found = {}
    try:
        for path in sorted((folder / STATEMENTS).iterdir()) if (folder / STATEMENTS).is_dir() else ():
            if path.suffix != ".json" or not path.is_file():
                raise Damaged(f"{path} is not named <position>.json")
            found[path.stem] = path.read_bytes()
    except OSError as error:
        raise Unavailable(f"the statements in {folder} could not be read: {error.strerror}") from error
    return found
