"""Words that wish for something, as values: `priority=3` is the field of that name, whoever has it.

A wish names a field of what it is given to (a gang's specification, the policy, a listing's terms), with its unit left
out: `grace=10s` is `grace_ms`, `reckless_idle=5%` is `reckless_idle_ppm`. A field that is new there is a word that is
new here, with nothing to be written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from scheduler.core.cluster import Level
from tests.scenarios.text import length_ms

LEVELS = {
    "gpu": Level.GPU,
    "node": Level.NODE,
    "domain": Level.NVLINK_DOMAIN,
    "block": Level.FABRIC_BLOCK,
    "site": Level.SITE,
}

GANG_WORDS: Mapping[str, dict[str, Any]] = {
    "firm": {"preemptible": False},
    **{f"in={word}": {"topology": level, "topology_required": True} for word, level in LEVELS.items()},
    **{f"near={word}": {"topology": level} for word, level in LEVELS.items()},
}
"""Words of a gang that are not a field with its value. `in` must be, `near` is only preferred."""


def level_named(word: str) -> Level:
    """The level of `node` or `nodes`. Raises ValueError."""
    level = LEVELS.get(word.removesuffix("s"))
    if level is None:
        raise ValueError(f"{word!r} is no cell, expected one of {', '.join(LEVELS)}")
    return level


def wishes(
    words: Iterable[str], fields: Iterable[str], special: Mapping[str, dict[str, Any]] | None = None
) -> dict[str, Any]:
    """The fields that the words give values to. Raises ValueError on a word that means nothing there."""
    named = {field.removesuffix("_ms").removesuffix("_ppm"): field for field in fields}
    found: dict[str, Any] = {}
    for word in words:
        if special and word in special:
            found |= special[word]
            continue
        key, is_wish, value = word.partition("=")
        if not is_wish or key not in named:
            raise ValueError(f"{word!r} means nothing here, expected one of {', '.join([*named, *(special or ())])}")
        found[named[key]] = _value(named[key], value)
    return found


def _value(field: str, text: str) -> Any:
    if text in LEVELS:
        return LEVELS[text]
    if field.endswith("_ms"):
        return None if text == "none" else length_ms(text)
    if field.endswith("_ppm"):
        return int(text.removesuffix("%")) * 10_000
    if text in ("yes", "no"):
        return text == "yes"
    return int(text) if text.lstrip("-").isdigit() else text
