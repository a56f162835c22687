"""The one base of everything that crosses a boundary: strict, frozen pydantic models, and their canonical bytes.

Canonical bytes are JSON with sorted keys, no spaces, no floats, UTF-8. They are those of RFC 8785 (JCS) as long as
keys lie in the basic plane and integers within 2^53, beyond which JCS would round; ours stay exact. Hashes of terms
and of statements are over these bytes.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """What users write and what is stored: frozen, strict, no unknown fields."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @classmethod
    def unchecked(cls, fields: dict[str, Any]) -> Self:
        """The value with these fields, which the caller knows to be all of them and such as validation would give: for
        what comes by the million. The dictionary becomes the value's own.
        """
        made, put = cls.__new__(cls), object.__setattr__  # the class's own refuses: values are frozen
        put(made, "__dict__", fields)
        put(made, "__pydantic_fields_set__", _all_fields(cls))
        put(made, "__pydantic_extra__", None)
        put(made, "__pydantic_private__", None)
        return made


@cache
def _all_fields(model: type[Model]) -> set[str]:
    """One for all values of a model: each with its own would be twice as large."""
    return set(model.model_fields)


def canonical_bytes(value: Model | dict[str, Any] | list[Any]) -> bytes:
    """The canonical JSON bytes of a model or of plain data. Raises TypeError on a float."""
    plain = value.model_dump(mode="json") if isinstance(value, Model) else value
    _refuse_floats(plain)
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def canonical_hash(value: Model | dict[str, Any] | list[Any]) -> str:
    """Lower-case hex SHA-256 of the canonical bytes."""
    return hashlib.sha256(canonical_bytes(value)).hexdigest()


def _refuse_floats(plain: Any) -> None:
    if isinstance(plain, float):
        raise TypeError(f"canonical JSON holds integers and strings only, was {plain!r}")
    if isinstance(plain, dict):
        for item in plain.values():
            _refuse_floats(item)
    elif isinstance(plain, list | tuple):
        for item in plain:
            _refuse_floats(item)
