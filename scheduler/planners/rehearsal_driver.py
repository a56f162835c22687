"""The process of one rehearsal: a request on stdin, an answer on stdout. It alone imports Ray for that.

On Ray the learning is one task and each trial another. Ray's nodes must hold this very package; where Ray is absent,
does not answer or fails in the middle, the rehearsal is played here, to the same answer, and says so.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from typing import Any

from scheduler.core.placement.scores import rehearsal
from scheduler.core.placement.scores.rehearsal import TRIALS, Chosen, Scene
from scheduler.core.placement.scores.table import SCORES
from scheduler.planners.rehearsal_lines import Answer, Request, answer_of, scene_of

NICENESS = 10
"""The loop goes before."""
CONNECT_WAIT_S = 5.0


def main() -> None:
    """Answer the request."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what Ray prints must not come into the answer
    os.nice(NICENESS)
    request = Request.model_validate_json(sys.stdin.buffer.read())
    with open(answers, "wb") as out:  # noqa: PTH123 - a descriptor, not a path
        out.write(answered(request).model_dump_json().encode())
    os._exit(0)  # Ray's own exit hooks have nothing to do


def answered(request: Request) -> Answer:
    """The answer to a request, on Ray where that works."""
    scene = scene_of(request)
    if request.address is None:
        why = "no Ray cluster was given"
    elif importlib.util.find_spec("ray") is None:
        why = f"Ray is not installed in {sys.prefix}"
    else:
        try:
            return answer_of(_on_ray(scene, request.current, request.address), f"as tasks on Ray at {request.address}")
        except Exception as error:  # noqa: BLE001 - whatever Ray raises, the rehearsal is still played
            why = f"Ray at {request.address} failed: {' '.join(str(error).split())[:300]}"
    return answer_of(rehearsal.rehearse(scene, request.current), f"in one process of this machine: {why}")


def _on_ray(scene: Scene, current: str, address: str) -> Chosen:
    import ray  # noqa: PLC0415 - where there is none, the rest of this module still works

    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_WAIT_S).close()
    ray.init(address=address, namespace="tenor-rehearsals", log_to_driver=False, configure_logging=False)
    options: dict[str, Any] = {"num_cpus": 0, "max_retries": 1, "scheduling_strategy": "SPREAD"}
    learn: Any = ray.remote(rehearsal.learn).options(**options)
    play: Any = ray.remote(rehearsal.trial).options(**options)
    there = ray.put(scene)
    values = learn.remote(there)
    asked = [[play.remote(there, name, values, number) for number in range(TRIALS)] for name in SCORES]
    figures = [rehearsal.figure(name, ray.get(trials)) for name, trials in zip(SCORES, asked, strict=True)]
    return rehearsal.decided(figures, ray.get(values), current)


if __name__ == "__main__":
    main()
