"""What the scheduler and the planners' driver say to each other: a line of JSON, then as many bytes as it says.

The bytes are asks and answers (`deltas`), which the driver passes on unread. Both ends are one installation, so there
are no versions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from scheduler.core.models import Model

Kind = Literal["options", "ready", "ask", "answer", "failed"]


class Frame(Model):
    """One message. `ticket` says which ask an answer or a failure belongs to."""

    kind: Kind
    ticket: int = 0
    pool: str = ""
    text: str = Field(default="", description="Why it failed; where Ray is, in the options.")
    length: int = Field(default=0, ge=0)


def encode(frame: Frame, body: bytes = b"") -> bytes:
    """The frame's bytes with its body."""
    told = Frame(kind=frame.kind, ticket=frame.ticket, pool=frame.pool, text=frame.text, length=len(body))
    return told.model_dump_json().encode() + b"\n" + body


def read(readline: Callable[[], bytes], read_exactly: Callable[[int], bytes]) -> tuple[Frame, bytes] | None:
    """The next frame and its body; None at the end, also one in the middle of a frame. Raises ValueError on other."""
    line = readline()
    if not line.endswith(b"\n"):
        return None
    frame = Frame.model_validate_json(line)
    body = read_exactly(frame.length) if frame.length else b""
    return None if len(body) < frame.length else (frame, body)
