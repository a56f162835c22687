"""Rehearsals of scores beside the loop: asked for when it suits, taken when they are done, never waited for.

Each is a process of its own (`rehearsal_driver`), which spreads the trials over Ray as tasks, or plays them itself
where there is no Ray, and says which it did. It is crash-only: a rehearsal that is lost is asked for again, the same
seed gives the same answer, and meanwhile the score in use stays. This process never imports Ray.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from scheduler.core.placement.scores.rehearsal import Chosen, Scene
from scheduler.execution.local_ray import import_path, ray_environment
from scheduler.execution.processes import end_child
from scheduler.planners.rehearsal_lines import Answer, chosen_of, request_of

CLOSE_WAIT_S = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class Rehearsed:
    """A rehearsal that is over: what was chosen for which scene, and where it was played."""

    scene: Scene
    chosen: Chosen
    where: str


@dataclass(frozen=True, slots=True)
class Lost:
    """A rehearsal that gave no answer, and why."""

    why: str


@dataclass(frozen=True, slots=True)
class _Running:
    scene: Scene
    process: subprocess.Popen[bytes]
    answer: IO[bytes]
    trouble: IO[bytes]


class Rehearsals:
    """One rehearsal at a time, on the Ray cluster at `address` (`host:port`), or on this machine where that is None.

    `token_path` guards the cluster as for the executor.
    """

    def __init__(self, address: str | None, *, token_path: Path | None = None) -> None:
        self._address = address
        self._environment = {**os.environ, **ray_environment(token_path), **import_path()}
        self._running: _Running | None = None

    @property
    def running(self) -> bool:
        """Whether one is under way, or over and not taken yet."""
        return self._running is not None

    def ask(self, scene: Scene, current: str) -> bool:
        """Begin a rehearsal, and return at once; False, and nothing begun, while another is not taken yet."""
        if self._running is not None:
            return False
        question, answer, trouble = (tempfile.TemporaryFile() for _ in range(3))  # noqa: SIM115 - open until it is taken
        question.write(request_of(scene, current, self._address).model_dump_json().encode())
        question.seek(0)
        with question:
            process = subprocess.Popen(
                [sys.executable, "-m", "scheduler.planners.rehearsal_driver"],
                stdin=question,
                stdout=answer,
                stderr=trouble,
                env=self._environment,
                start_new_session=True,
            )
        self._running = _Running(scene, process, answer, trouble)
        return True

    def take(self) -> Rehearsed | Lost | None:
        """What the rehearsal gave, once; None while it goes on, or where there is none. Never blocks."""
        running = self._running
        if running is None or running.process.poll() is None:
            return None
        self._running = None
        with running.answer as answer, running.trouble as trouble:
            answer.seek(0)
            trouble.seek(0)
            said, last = answer.read(), trouble.read().decode(errors="replace").strip().splitlines()
        if running.process.returncode != 0:
            why = last[-1] if last else "it said nothing"
            return Lost(f"the rehearsal's process ended with {running.process.returncode}: {why}")
        try:
            told = Answer.model_validate_json(said)
        except ValidationError as error:
            return Lost(f"the rehearsal's answer cannot be read: {error.errors()[0]['msg']}")
        return Rehearsed(running.scene, chosen_of(told), told.where)

    def close(self) -> None:
        """End a rehearsal that is under way."""
        running, self._running = self._running, None
        if running is None:
            return
        end_child(running.process, CLOSE_WAIT_S)
        running.answer.close()
        running.trouble.close()
