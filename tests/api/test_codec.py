"""The API's values and the wire's messages have the same fields, and each survives the way there and back."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from enum import EnumMeta

import pytest
from google.protobuf.descriptor import EnumDescriptor

from scheduler.api import codec, messages
from scheduler.api.v1 import api_pb2 as wire
from scheduler.core.cluster import Level
from scheduler.core.errors import InvalidValue
from scheduler.core.workloads import Basis, GangStatus, Reason, StopCause

NAMES = {"JournalEvent": "Event", "LogChunk": "LogsResponse", "JobsPage": "ListJobsResponse"}
VALUES = [each for each in vars(messages).values() if is_dataclass(each) and isinstance(each, type)]

JOB = messages.Job(
    id="gang-1",
    spec=messages.JobSpec("acme", "train", ("a", "b"), topology="node", env={"K": "V"}, preemptible=False),
    status="running",
    submitted_ms=1,
    queued_ms=2,
    started_ms=0,
    ended_ms=None,
    exit_code=None,
    attempt=1,
    evictions=0,
    failures=0,
    inside=True,
    places=(messages.Place("node-1", (0, 1)), messages.Place("node-2", (7,))),
    reason="",
    expected_start_ms=None,
    stop_cause="",
    stop_deadline_ms=None,
)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: str(value.__name__))
def test_values_and_messages_have_the_same_fields(value: type) -> None:
    descriptor = wire.DESCRIPTOR.message_types_by_name[NAMES.get(value.__name__, value.__name__)]
    assert [each.name for each in fields(value)] == [each.name for each in descriptor.fields]


@pytest.mark.parametrize(
    ("enum", "core"),
    [
        (wire.JobStatus.DESCRIPTOR, GangStatus),
        (wire.Reason.DESCRIPTOR, Reason),
        (wire.StopCause.DESCRIPTOR, StopCause),
        (wire.Basis.DESCRIPTOR, Basis),
    ],
    ids=lambda each: str(getattr(each, "name", "")),
)
def test_the_wire_names_everything_that_the_core_can_say(enum: EnumDescriptor, core: EnumMeta) -> None:
    assert codec.names_of(enum) == [str(each) for each in core]  # type: ignore[var-annotated]


def test_the_wire_names_every_level() -> None:
    assert codec.names_of(wire.Cell.DESCRIPTOR) == [level.name.lower() for level in Level]


def test_a_job_survives_the_wire() -> None:
    sent = codec.to_wire(JOB, wire.Job).SerializeToString()
    assert codec.from_wire(wire.Job.FromString(sent), messages.Job) == JOB


def test_zero_is_not_absent() -> None:
    """The gang started at the first instant; it has not ended."""
    back = codec.from_wire(codec.to_wire(JOB, wire.Job), messages.Job)
    assert (back.started_ms, back.ended_ms) == (0, None)


def test_an_enum_of_a_newer_peer_is_refused() -> None:
    sent = codec.to_wire(JOB, wire.Job)
    sent.status = 99  # type: ignore[assignment]
    with pytest.raises(InvalidValue, match="JobStatus of a message was 99"):
        codec.from_wire(sent, messages.Job)


@pytest.mark.parametrize(
    ("field", "value"),
    [("workers", 2**63), ("workers", "two"), ("priority", 1.5), ("topology", "rack"), ("command", 7)],
)
def test_what_does_not_fit_a_field_is_refused_by_name(field: str, value: object) -> None:
    spec = messages.JobSpec(**{"account": "acme", "name": "n", "command": ("a",), field: value})  # type: ignore[arg-type]
    with pytest.raises(InvalidValue):
        codec.to_wire(spec, wire.JobSpec)
