"""A stream's log as a bundle: the journal's leaves under their last checkpoint, the terms, and the statements made.

The folder is that of `scheduler.ledger.bundle`, with `statements/<position>.json` beside it: the canonical bytes of
each statement as both sides have it, so that an auditor compares instead of believing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from scheduler.core.errors import Conflict, Damaged, InvalidValue, Unavailable
from scheduler.core.ids import checked_name
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.models import canonical_bytes
from scheduler.exchange.witnessing import cosigners_of, witnesses
from scheduler.ledger.bundle import Bundle, read_bundle, write_bundle
from scheduler.ledger.journal import Journal

STATEMENTS = "statements"

Tick = Callable[[int, int], None]
"""Called with how many leaves are done, of how many."""


def write(
    journal: Journal,
    stream: str,
    folder: Path,
    terms: Iterable[InstrumentTerms],
    statements: Mapping[str, bytes],
    vkeys: Sequence[str],
    *,
    onto: Bundle | None = None,
    tick: Tick = lambda _done, _of: None,
) -> int:
    """Writes the stream's log, as far as its last checkpoint, at `folder`; gives the number of leaves.

    `statements`: canonical bytes by position. `onto`: what `beginning` gave, to write only what came since. Raises
    InvalidValue where nothing was signed yet, and what `write_bundle` raises.
    """
    size, note = signed(journal, stream)
    cosigned_size, cosigned, _ = journal.cosigned(stream) or (0, b"", "")
    earlier = cosigned if cosigned_size < size else b""
    first = onto.whole if onto is not None else 0
    write_bundle(
        folder,
        _counted(journal, stream, first, size, tick),
        note,
        vkeys,
        {each.id: canonical_bytes(each) for each in terms},
        witnesses=cosigners_of(witnesses(journal, stream), note, earlier),
        cosigned_note=earlier,
        more={
            f"{STATEMENTS}/{checked_name('position', position)}.json": content
            for position, content in statements.items()
        },
        onto=onto,
    )
    return size


def signed(journal: Journal, stream: str) -> tuple[int, bytes]:
    """The size and the note of the stream's last checkpoint. Raises InvalidValue where nothing was signed yet."""
    kept = journal.checkpoint(stream)
    if kept is None:
        raise InvalidValue("checkpoint", f"stream {stream!r}", "missing", "a log that was signed once at least")
    return kept


def beginning(journal: Journal, stream: str, folder: Path, origin: str) -> Bundle | None:
    """The bundle at `folder`, where it is a beginning of this log; None where there is none, or one that lacks a file.

    Raises Conflict where it is another log's, or another history of this one: evidence is not written over.
    """
    try:
        known = read_bundle(folder)
    except (InvalidValue, Damaged):
        return None
    stated, (size, _) = known.stated, signed(journal, stream)
    if stated.origin != origin:
        raise Conflict(f"{folder} holds a bundle of {stated.origin}, expected one of {origin}: name another folder")
    if stated.size > size or journal.root(stream, stated.size) != stated.root:
        raise Conflict(
            f"{folder} holds {stated.size} leaves of another history of {origin} than the journal's {size}: "
            "keep it as evidence, and name another folder"
        )
    return known


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


def _counted(journal: Journal, stream: str, first: int, size: int, tick: Tick) -> Iterator[bytes]:
    for index, leaf in journal.leaves(stream, first, size - first):
        if index % 4_096 == 0:
            tick(index, size)
        yield leaf
