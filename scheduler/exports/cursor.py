"""How far a webhook was told, in a file of its own: the next leaf, and the one before it, so that another log is
noticed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from scheduler.core.errors import Conflict, Damaged, Unauthorised, Unavailable
from scheduler.exports.files import writing


@dataclass(frozen=True, slots=True)
class Cursor:
    """Every leaf of `origin` below `next` was accepted; `last`: the hash of the last of them, empty where there is
    none.
    """

    origin: str
    next: int = 0
    last: str = ""

    def after(self, index: int, last: str) -> Cursor:
        """The cursor once the leaf `index` with that hash was accepted."""
        return Cursor(self.origin, index + 1, last)


def load(path: Path, origin: str) -> Cursor:
    """The cursor kept at `path`; the beginning where there is none. Raises Conflict where it is another log's, Damaged
    where it is none, Unauthorised and Unavailable as the file system says.
    """
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        found = Cursor(kept["origin"], kept["next"], kept["last"])
        sound = all(isinstance(each, str) for each in (found.origin, found.last)) and isinstance(found.next, int)
    except FileNotFoundError:
        return Cursor(origin)
    except PermissionError as error:
        raise Unauthorised(f"the cursor {path} may not be read by this user") from error
    except OSError as error:
        raise Unavailable(f"the cursor {path} could not be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{path} holds no cursor ({error!r}); remove it to send everything again") from error
    if not sound or found.next < 0:
        raise Damaged(f"{path} holds no cursor; remove it to send everything again")
    if found.origin != origin:
        raise Conflict(f"the cursor {path} is of the log {found.origin}, expected {origin}: name another file")
    return found


def save(path: Path, cursor: Cursor) -> None:
    """Keeps it durably, whole or not at all. Raises as `files.writing`."""
    with writing(path) as file:
        file.write(json.dumps({"origin": cursor.origin, "next": cursor.next, "last": cursor.last}).encode() + b"\n")
