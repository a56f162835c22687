"""One pool's planner, wherever it is: an actor that is asked in bytes, and the replica here that stands in for it.

A post is *absent*, *loading* (everything was sent, nothing was heard yet) or *ready* at a mark. Whatever goes wrong
makes it absent: it is loaded anew, in the background, and planned here until the load is confirmed. Only an answer from
the mark that is expected counts. A load that fails is tried again later and later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from scheduler.core.cluster import IntArray
from scheduler.core.errors import Damaged
from scheduler.core.placement.snapshot import Policy
from scheduler.planners.deltas import (
    NOWHERE,
    Ask,
    Mark,
    decode_answer,
    encode_ask,
    encode_delta,
    next_mark,
)
from scheduler.planners.replica import PoolReplica
from scheduler.planners.tracks import Mirror, Track
from scheduler.planners.verdicts import Verdicts

RETRY_MS = 1_000
LONGEST_RETRY_MS = 60_000


@dataclass(frozen=True, slots=True)
class Failed:
    """A pool's actor gave no answer, and why."""

    detail: str


class Workers(Protocol):
    """Where pools' actors are reached: `ray_workers` on Ray. Called by one thread."""

    @property
    def where(self) -> str:
        """For people: what they run on."""

    def send(self, pool: str, body: bytes) -> int:
        """Ask a pool's actor, which is made where there is none. Returns at once: a ticket for the answer."""

    def wait(self, tickets: Sequence[int]) -> Sequence[int]:
        """Those of these that are answered, once any is; all of them after as long as an answer may take."""

    def take(self, ticket: int) -> bytes | Failed | None:
        """The answer, once; None: there is none yet."""

    def forget(self, ticket: int) -> None:
        """Nobody waits for this answer any more."""

    def close(self) -> None:
        """End the actors."""


class StandIn:
    """Plans a pool in this process, from a replica that is told what an actor would be told."""

    def __init__(self, track: Track) -> None:
        self._mirror = track.mirror()
        self._replica = PoolReplica()

    def plan(self, now_ms: int, policy: Policy, number_in_part: IntArray) -> Verdicts:
        """The pool's plan."""
        self._replica.apply(self._mirror.delta(number_in_part))
        return self._replica.plan(now_ms, policy)


class Post:
    """The actor of one pool as the coordinator knows it (see the module)."""

    def __init__(self, name: str, track: Track, workers: Workers) -> None:
        self.name = name
        self.absence = "its actor is being made"
        """Why it is planned here, where it is."""
        self._track = track
        self._workers = workers
        self._mirror: Mirror | None = None
        self._mark: Mark = NOWHERE
        self._loading: int | None = None
        self._retry_ms = 0
        self._pause_ms = RETRY_MS

    def ask(self, now_ms: int, policy: Policy, number_in_part: IntArray) -> int | None:
        """Ask the actor to plan: a ticket. None: it is not ready, and is seen to."""
        self._hear_of_load(now_ms)
        if self._mirror is None and now_ms >= self._retry_ms:
            self._load(now_ms, number_in_part)
        if self._mirror is None or self._loading is not None:
            return None
        delta = self._mirror.delta(number_in_part)
        encoded = b"" if delta.is_empty else encode_delta(delta)
        ticket = self._workers.send(self.name, encode_ask(Ask(self._mark, now_ms, policy), encoded))
        self._mark = next_mark(self._mark, encoded) if encoded else self._mark
        return ticket

    def answer(self, ticket: int, now_ms: int) -> Verdicts | None:
        """What the actor said to an ask; None: nothing that counts, and it is absent now."""
        reply = self._workers.take(ticket)
        if reply is None:
            self._workers.forget(ticket)
            self._lost(now_ms, "its actor did not answer in time")
            return None
        return self._verdicts(reply, now_ms)

    def release(self) -> None:
        """Nobody asks this post any more."""
        if self._loading is not None:
            self._workers.forget(self._loading)

    def _load(self, now_ms: int, number_in_part: IntArray) -> None:
        self._mirror = self._track.mirror()
        encoded = encode_delta(self._mirror.delta(number_in_part))
        self._loading = self._workers.send(self.name, encode_ask(Ask(NOWHERE, now_ms, None), encoded))
        self._mark = next_mark(NOWHERE, encoded)

    def _hear_of_load(self, now_ms: int) -> None:
        reply = None if self._loading is None else self._workers.take(self._loading)
        if reply is not None:
            self._loading = None
            if self._verdicts(reply, now_ms) is not None:
                self._pause_ms = RETRY_MS

    def _verdicts(self, reply: bytes | Failed, now_ms: int) -> Verdicts | None:
        why = ""
        try:
            answer = None if isinstance(reply, Failed) else decode_answer(reply)
        except Damaged as error:
            answer, why = None, str(error)
        if answer is not None and answer.mark == self._mark and answer.verdicts is not None:
            return answer.verdicts
        if answer is not None:
            why = f"its actor was at delta {answer.mark.deltas}, expected {self._mark.deltas}"
        self._lost(now_ms, reply.detail if isinstance(reply, Failed) else why)
        return None

    def _lost(self, now_ms: int, why: str) -> None:
        self.absence = why
        self._mirror = self._loading = None
        self._retry_ms = now_ms + self._pause_ms
        self._pause_ms = min(LONGEST_RETRY_MS, 2 * self._pause_ms)
