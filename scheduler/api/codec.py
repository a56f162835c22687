"""From `messages` to the wire and back, field by field by name: one rule for all messages, none written by hand.

A value's field is the message's field of the same name; nested values are nested messages, tuples are repeated fields,
None is an absent optional field, and an enum's value is its name in lower case without the enum's prefix. What a peer
sends that this program does not know (an enum number) is refused, never guessed.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from scheduler.core.errors import InvalidValue

Value = TypeVar("Value")
Wire = TypeVar("Wire", bound=Message)


def to_wire(value: Any, kind: type[Wire]) -> Wire:
    """The value as a message of that kind. Raises InvalidValue where a field cannot hold what it is given."""
    message = kind()
    fill(message, value)
    return message


def fill(message: Message, value: Any) -> None:
    """Set every field of the message from the value's attribute of the same name."""
    for spec in _specs(message):
        _set(message, spec, getattr(value, spec.name))


def from_wire(message: Message, kind: type[Value]) -> Value:
    """The message as a value of that kind. Raises InvalidValue for an enum's number that is not known."""
    hints: dict[str, Any] = _hints(kind)  # type: ignore[arg-type]  # mypy: a class is hashable, a TypeVar's is not
    found = {spec.name: _get(message, spec, hints[spec.name]) for spec in _specs(message)}
    return kind(**found)


def number_of(enum: EnumDescriptor, name: str) -> int:
    """The number of an enum's value by its name as people write it; 0 for the empty one. Raises InvalidValue."""
    if not name:
        return 0
    known = enum.values_by_name.get(f"{_prefix(enum)}{name.upper()}")
    if known is None or known.number == 0:
        raise InvalidValue(enum.name, "a message", name, f"one of {', '.join(names_of(enum))}")
    return known.number


def name_of(enum: EnumDescriptor, number: int) -> str:
    """The name of an enum's value as people write it; empty for 0. Raises InvalidValue."""
    if number == 0:
        return ""
    known = enum.values_by_number.get(number)
    if known is None:
        raise InvalidValue(enum.name, "a message", number, f"0..{max(enum.values_by_number)}: a newer peer sent it")
    return known.name.removeprefix(_prefix(enum)).lower()


def names_of(enum: EnumDescriptor) -> list[str]:
    """All names of an enum as people write them, but for the unspecified one."""
    return [name_of(enum, each.number) for each in enum.values if each.number]


def _set(message: Message, spec: FieldDescriptor, value: Any) -> None:
    if value is None:
        return
    try:
        if _is_map(spec):
            getattr(message, spec.name).update(value)
        elif spec.is_repeated:
            _extend(getattr(message, spec.name), spec, value)
        elif spec.message_type is not None:
            getattr(message, spec.name).SetInParent()
            fill(getattr(message, spec.name), value)
        else:
            setattr(message, spec.name, _scalar(spec, value))
    except (TypeError, ValueError) as error:
        raise InvalidValue(spec.name, message.DESCRIPTOR.name, value, str(error)) from error


def _extend(repeated: Any, spec: FieldDescriptor, values: Iterable[Any]) -> None:
    if spec.message_type is None:
        repeated.extend(_scalar(spec, value) for value in values)
        return
    for value in values:
        fill(repeated.add(), value)


def _scalar(spec: FieldDescriptor, value: Any) -> Any:
    return value if spec.enum_type is None else number_of(spec.enum_type, str(value))


def _get(message: Message, spec: FieldDescriptor, hint: Any) -> Any:
    value = getattr(message, spec.name)
    if _is_map(spec):
        return dict(value)
    if spec.is_repeated:
        return tuple(_read(each, spec, get_args(hint)[0]) for each in value)
    if spec.has_presence and not message.HasField(spec.name):
        return None
    return _read(value, spec, hint)


def _read(value: Any, spec: FieldDescriptor, hint: Any) -> Any:
    if spec.message_type is not None:
        return from_wire(value, _plain(hint))
    return value if spec.enum_type is None else name_of(spec.enum_type, value)


def _specs(message: Message) -> list[FieldDescriptor]:
    return list(message.DESCRIPTOR.fields)  # type: ignore[arg-type]  # the stubs name the C implementation's class too


def _is_map(spec: FieldDescriptor) -> bool:
    return spec.message_type is not None and spec.message_type.GetOptions().map_entry


def _plain(hint: Any) -> Any:
    """The dataclass in a hint that may also be None."""
    if get_origin(hint) is types.UnionType:
        return next(each for each in get_args(hint) if is_dataclass(each))
    return hint


@cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind)}


@cache
def _prefix(enum: EnumDescriptor) -> str:
    """`JOB_STATUS_` of `JobStatus`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.name).upper() + "_"
