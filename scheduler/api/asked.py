"""What callers ask, checked: from the wire's fields to the core's values, each refusal naming the field."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

from scheduler.api.messages import JobSpec
from scheduler.core.causes import Cause
from scheduler.core.cluster import Level
from scheduler.core.errors import InvalidValue
from scheduler.core.instruments import MAX_INSTANT_MS
from scheduler.core.workloads import GangSpec

LONGEST_REQUEST_ID = 256
MOST_JOBS_A_PAGE = 1_000
JOBS_A_PAGE = 100
MOST_LOSSES = 1_000
_NAMES = "1 to 253 letters, digits, '.', '_', '-', beginning and ending with a letter or digit"
_DEFAULTED = (
    "preemptible",
    "max_runtime_ms",
    "grace_ms",
    "checkpoint_ms",
    "restart_ms",
    "max_failures",
    "min_workers",
    "gpu_milli",
    "min_runtime_ms",
    "deadline_ms",
)


def gang_spec(spec: JobSpec) -> GangSpec:
    """The gang that a job's specification asks for. Raises InvalidValue naming the first field that is wrong."""
    given: dict[str, Any] = {
        "account": spec.account,
        "name": spec.name,
        "command": spec.command,
        "workers": spec.workers,
        "gpus_per_worker": spec.gpus_per_worker,
        "grade": spec.grade or None,
        "topology": Level[spec.topology.upper()] if spec.topology else None,
        "topology_required": spec.topology_required,
        "spread": Level[spec.spread.upper()] if spec.spread else None,
        "spread_required": spec.spread_required,
        "priority": spec.priority,
        "env": spec.env,
        "working_dir": spec.working_dir or None,
    }
    given |= {name: value for name in _DEFAULTED if (value := getattr(spec, name)) is not None}
    try:
        return GangSpec(**given)
    except ValidationError as error:
        raise _refused(error, spec) from error


def request_id(given: str) -> str:
    """The idempotency key. Raises InvalidValue where it is too long."""
    if len(given) > LONGEST_REQUEST_ID:
        raise InvalidValue("request_id", "a submission", f"{len(given)} long", f"at most {LONGEST_REQUEST_ID}")
    return given


def page_size(given: int) -> int:
    """How many jobs a page holds. Raises InvalidValue outside 0 (the default) to 1000."""
    if not 0 <= given <= MOST_JOBS_A_PAGE:
        raise InvalidValue("page_size", "a list of jobs", given, f"0..{MOST_JOBS_A_PAGE}")
    return given or JOBS_A_PAGE


def page_token(given: str) -> int | None:
    """The number below which the page's jobs are; None: the newest. Raises InvalidValue."""
    if not given:
        return None
    if not given.isdecimal() or len(given) > 18:
        raise InvalidValue("page_token", "a list of jobs", given, "the next_page_token of the page before")
    return int(given)


def at_least(what: str, which: str, given: int | None, least: int) -> int | None:
    """The number itself, or None where it is absent. Raises InvalidValue below `least`."""
    if given is not None and given < least:
        raise InvalidValue(what, which, given, f"{least} or more")
    return given


def instant(what: str, which: str, at_ms: int) -> int:
    """The instant itself. Raises InvalidValue where no calendar reaches."""
    if not 0 <= at_ms <= MAX_INSTANT_MS:
        raise InvalidValue(what, which, at_ms, f"0..{MAX_INSTANT_MS} ms since 1970")
    return at_ms


def digest(what: str, which: str, given: str) -> str:
    """The SHA-256 itself. Raises InvalidValue for anything but 64 lower-case hex digits."""
    if re.fullmatch(r"[0-9a-f]{64}", given) is None:
        raise InvalidValue(what, which, given[:80], "a SHA-256 as 64 lower-case hex digits")
    return given


def cause(which: str, given: str) -> Cause | None:
    """The cause of a lower-case name; None where it is empty. Raises InvalidValue."""
    if not given:
        return None
    found = Cause.__members__.get(given.upper()) if given.islower() else None
    if found is None:
        raise InvalidValue("cause", which, given[:80], "the lower-case name of a published cause, as ecc")
    return found


def losses(which: str, given: int) -> int:
    """How many failure domains may be lost. Raises InvalidValue outside 0 to 1000."""
    if not 0 <= given <= MOST_LOSSES:
        raise InvalidValue("losses", which, given, f"0..{MOST_LOSSES}")
    return given


def failure_domain(which: str, cell: str) -> Level | None:
    """The level of a failure domain; None where none is named. Raises InvalidValue for single GPUs."""
    if cell == "gpu":
        raise InvalidValue("level of failure domains", which, cell, "node, nvlink_domain, fabric_block or site")
    return Level[cell.upper()] if cell else None


def _refused(error: ValidationError, spec: JobSpec) -> InvalidValue:
    fault = error.errors()[0]
    what = str(fault["loc"][0]) if fault["loc"] else "specification"
    which = f"job {spec.name!r} of {spec.account!r}"
    if fault["type"] == "string_pattern_mismatch":
        return InvalidValue(what, which, fault["input"], _NAMES)
    if not fault["loc"]:
        reason = fault["msg"].removeprefix("Value error, ")
        field = reason.partition(" ")[0]  # whose rule it is stands first
        return InvalidValue(field, which, getattr(spec, field), reason)
    expected = fault["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return InvalidValue(what, which, fault["input"], expected[:1].lower() + expected[1:])
