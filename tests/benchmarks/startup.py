"""How long a person waits for the command line to answer: whole processes, from start to exit.

The baseline is the interpreter itself doing nothing, so that what is ours can be told from what is Python's.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from tests.benchmarks.harness import Figure, Missing, Result, Settings, peak_mib, timed


def run(settings: Settings) -> Result:
    """Median seconds of `python -c pass`, importing the core, and `tenor --help`; the peak memory of the largest."""
    command = Path(sys.executable).parent / "tenor"
    if find_spec("scheduler.cli") is None or not command.is_file():
        raise Missing("the command `tenor` is not installed; run `make setup`")
    repeats = 3 if settings.quick else 15
    programmes = {
        "python -c pass (baseline)": [sys.executable, "-c", "pass"],
        "import scheduler.core.models": [sys.executable, "-c", "import scheduler.core.models"],
        "tenor --help": [str(command), "--help"],
    }
    rows: list[dict[str, Figure]] = []
    for name, arguments in programmes.items():
        timing = timed(start_and_end, lambda arguments=arguments: arguments, repeats=repeats)  # type: ignore[misc]
        rows.append({"programme": name, **timing.row(), "peak_mib_so_far": peak_mib(children=True)})
    medians = [float(str(row["median_s"])) for row in rows]
    return Result(rows, f"tenor --help {medians[2]:.3f} s, of which Python itself {medians[0]:.3f} s")


def start_and_end(arguments: list[str]) -> None:
    """Run one process to its end; a failure is a fault of the benchmark, never a time."""
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
