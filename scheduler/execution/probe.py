"""The probe: measured throughput of a node by a matrix product, as ppm of the suite's reference.

The suite says which library ran: `matmul-torch-v1` and `matmul-cupy-v1` measure GPUs; `matmul-numpy-v1` is the stand-in
on nodes without: it proves the path from a measurement to a derated statement, not the hardware. Its reference is what
the first probed node of the cluster measured (calibration), since logical GPUs have no published speed. Readings are
reported as measured, also above the reference; only metering compares them with floors.

Shared machines are noisy: the best of many short runs counts. Sent to nodes by value, so only the standard library at
import.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

PPM = 1_000_000
RUNS = 12
SLOW_FILE = "TENOR_SLOW_FILE"


def measure(budget_s: float = 0.6, size: int = 256) -> tuple[str, float]:
    """(suite, floating-point operations a second) of this node: the best of RUNS runs, about `budget_s` in all."""
    suite, product, clock = _product(size)
    product()  # the first one pays for loading and warming up
    best = 0.0
    slow_ppm = _slow_ppm()
    for _ in range(RUNS):
        best = max(best, _run(product, clock, budget_s / RUNS, slow_ppm))
    return suite, best * 2 * size**3


def to_ppm(measured: float, reference: float) -> int:
    """The measurement in ppm of the reference, both in the same unit; rounded down."""
    return int(measured / reference * PPM)  # in this order a measurement is exactly PPM of itself


def _run(product: Callable[[], object], clock: Callable[[], float], budget_s: float, slow_ppm: int) -> float:
    """Products a second, by the clock, over one run of at least one product."""
    began = now = clock()
    count = 0
    while now - began < budget_s or count == 0:
        product()
        now = clock()
        count += 1
    took_s = now - began
    if slow_ppm < PPM:
        # The demonstration's slow node: it really idles, and the time that it idles counts.
        idle_s = took_s * (PPM - slow_ppm) / slow_ppm
        time.sleep(idle_s)
        took_s += idle_s
    return count / took_s


def _product(size: int) -> tuple[str, Callable[[], object], Callable[[], float]]:
    """The best library that is there: its suite, one product of two square matrices, finished when it returns, and the
    clock to measure it by. A GPU is measured by the wall's; the stand-in by its own processor time, since all logical
    nodes of a machine share its processors, and a neighbour's load is not this node's slowness.
    """
    try:
        import torch  # type: ignore[import-not-found,unused-ignore] # noqa: PLC0415 - optional

        if torch.cuda.is_available():
            left = torch.rand(size, size, device="cuda")
            return "matmul-torch-v1", lambda: (left @ left, torch.cuda.synchronize()), time.perf_counter
    except ImportError:
        pass
    try:
        import cupy  # noqa: PLC0415 - optional

        a = cupy.random.rand(size, size, dtype=cupy.float32)
        return "matmul-cupy-v1", lambda: (a @ a, cupy.cuda.Device().synchronize()), time.perf_counter
    except Exception:  # noqa: BLE001, S110 - cupy without a driver fails with its own errors: then there is no GPU
        pass
    import numpy as np  # noqa: PLC0415 - only where it runs

    matrix = np.ones((size, size), dtype=np.float32)
    return "matmul-numpy-v1", lambda: matrix @ matrix, time.process_time


def _slow_ppm() -> int:
    """What the demonstration slowed this node to; PPM where nobody did."""
    try:
        return int(Path(os.environ[SLOW_FILE]).read_text())
    except (KeyError, OSError, ValueError):
        return PPM
