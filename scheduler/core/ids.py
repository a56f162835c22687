"""Names of things: typed strings, checked once where they come in.

A name is 1 to 253 characters of letters, digits, `.`, `_`, `-`, beginning and ending with a letter or digit, so that it
can be a label, a file name and a metric label alike. Nothing in the core makes a random name: new ones come from
counters in the state (`gang-17`) or from the exchange.
"""

from __future__ import annotations

import re
from typing import Annotated, NewType

from pydantic import StringConstraints

from scheduler.core.errors import InvalidValue

AccountId = NewType("AccountId", str)
PositionId = NewType("PositionId", str)
InstrumentId = NewType("InstrumentId", str)
"""`SYMBOL@VERSION`, as `instrument_id` makes it."""
GangId = NewType("GangId", str)
NodeName = NewType("NodeName", str)

NAME_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""For pydantic fields that hold a name."""

_NAME = re.compile(NAME_PATTERN)


def checked_name(what: str, value: str) -> str:
    """The value itself. Raises InvalidValue where it is not a name."""
    if not _NAME.fullmatch(value):
        raise InvalidValue(what, "a name", value, "1 to 253 letters, digits, '.', '_', '-', ends alphanumeric")
    return value


def instrument_id(symbol: str, version: int) -> InstrumentId:
    """`SYMBOL@VERSION`: what positions and records refer to, since a change of terms is a new version."""
    return InstrumentId(f"{checked_name('symbol', symbol)}@{version}")


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts `node-2` before `node-10`: digits compare as numbers, all else as text. Equal keys, equal names."""
    parts = (part for part in re.split(r"([0-9]+)", name) if part)
    compared = ((0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts)
    return (*compared, (-1, 0, name))  # the end: before whatever goes on, and apart from `01` where this is `1`
