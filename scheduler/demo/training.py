"""The job that the demonstration runs: a small training loop in NumPy that checkpoints, reports progress and heeds
SIGTERM.

`python -m scheduler.demo.training --steps N --checkpoint FILE` fits a linear model by gradient descent, one step every
`--pause-ms`. It goes on from its checkpoint where there is one; on SIGTERM it saves one and exits 0.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from scheduler.report import report

SAMPLES, FEATURES = 256, 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; the exit status."""
    asked = _parser().parse_args(arguments)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    rank = int(os.environ.get("RANK", "0"))
    path = Path(f"{asked.checkpoint}.{rank}") if asked.checkpoint else None
    generator = np.random.default_rng(rank)
    inputs = generator.normal(size=(SAMPLES, FEATURES))
    targets = inputs @ generator.normal(size=FEATURES)
    step, weights = _restored(path)
    where = f"{os.environ.get('TENOR_NODE', 'here')}:{os.environ.get('CUDA_VISIBLE_DEVICES', '')}"
    _say(f"rank {rank} of {os.environ.get('WORLD_SIZE', '1')} on {where}, from step {step}")
    while step < asked.steps and not stop.is_set():
        error = inputs @ weights - targets
        weights = weights - 0.01 * inputs.T @ error / SAMPLES
        step += 1
        if step % asked.report_every == 0:
            loss = float((error**2).mean())
            report(rank=rank, step=step, loss=loss)
            _say(f"rank {rank} step {step} loss {loss:.5f}")
            _save(path, step, weights)
        time.sleep(asked.pause_ms / 1_000)
    _save(path, step, weights)
    _say(f"rank {rank} {'stopped, saved' if stop.is_set() else 'done'} at step {step}")
    return 0


def _restored(path: Path | None) -> tuple[int, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    if path is None or not path.exists():
        return 0, np.zeros(FEATURES)
    saved = json.loads(path.read_text(encoding="utf-8"))
    return int(saved["step"]), np.array(saved["weights"])


def _save(path: Path | None, step: int, weights: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        building = path.with_name(path.name + ".new")
        building.write_text(json.dumps({"step": step, "weights": weights.tolist()}), encoding="utf-8")
        building.replace(path)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scheduler.demo.training", description="A small training loop.")
    parser.add_argument("--steps", type=_at_least(0), default=1_000)
    parser.add_argument("--pause-ms", type=_at_least(0), default=50)
    parser.add_argument("--report-every", type=_at_least(1), default=10)
    parser.add_argument("--checkpoint", default="", help="where to save; the rank is appended")
    return parser


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"was {text}, expected {least} or more")
        return int(text)

    return number


if __name__ == "__main__":
    sys.exit(main())
