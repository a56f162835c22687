"""Numbers of enumerations that this program does not know: a newer peer sent them; they are refused, never guessed."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import Message

from scheduler.core.errors import InvalidValue

Known = TypeVar("Known", bound=Message)


def refuse_unknown(message: Known) -> Known:
    """The message itself. Raises InvalidValue for the first number of an enumeration in it, at any depth, that is not
    known.
    """
    for spec, value in message.ListFields():
        values = value if spec.is_repeated else (value,)
        if spec.enum_type is not None:
            for number in values:
                if number not in spec.enum_type.values_by_number:
                    expected = f"one of {sorted(spec.enum_type.values_by_number)}: a newer peer sent it"
                    raise InvalidValue(spec.name, message.DESCRIPTOR.name, number, expected)
        elif spec.message_type is not None and not spec.message_type.GetOptions().map_entry:
            for each in values:
                refuse_unknown(each)
    return message
