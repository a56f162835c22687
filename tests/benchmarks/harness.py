"""What a benchmark is given, what it gives back, and how time and memory are measured.

A benchmark is a function `run(settings) -> Result`. It raises `Missing` where its input is not there: it is then listed
as skipped, with what is missing, and never reported as a figure.
"""

from __future__ import annotations

import gc
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

Figure = int | float | str | bool | None
Row = Mapping[str, Figure]


class Missing(Exception):
    """The input of a benchmark is not there; the message says which, and how to get it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to run: on which traces, quickly or fully, and where scratch files may go."""

    traces: Path | None
    quick: bool
    scratch: Path

    def traces_folder(self, name: str) -> Path:
        """A folder of published traces. Raises Missing."""
        if self.traces is None:
            raise Missing(f"no folder of traces given (--traces, TRACES=), which should hold {name}/")
        folder = self.traces / name
        if not folder.is_dir():
            raise Missing(f"{self.traces} holds no folder {name}/")
        return folder


@dataclass(frozen=True, slots=True)
class Result:
    """Rows for machines, one line for people. A baseline is a row like any other, named as such. Plots, as the bytes
    of a file by its ending (`svg`), are written beside the rows. Figures stand at the document's top level: those that
    goals are set for.
    """

    rows: Sequence[Row]
    line: str
    plots: Mapping[str, bytes] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)


Benchmark = Callable[[Settings], Result]


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of repeated runs. The median is what to quote; the least is what the machine can do undisturbed."""

    runs: tuple[float, ...]

    @property
    def median_s(self) -> float:
        """The middle of the runs, in seconds."""
        return statistics.median(self.runs)

    @property
    def least_s(self) -> float:
        """The fastest run, in seconds."""
        return min(self.runs)

    @property
    def most_s(self) -> float:
        """The slowest run, in seconds."""
        return max(self.runs)

    def row(self) -> dict[str, Figure]:
        """The three and the count of runs, as columns."""
        return {
            "median_s": round(self.median_s, 6),
            "least_s": round(self.least_s, 6),
            "most_s": round(self.most_s, 6),
            "runs": len(self.runs),
        }


def timed(work: Callable[[T], object], prepare: Callable[[], T], *, repeats: int, warm_ups: int = 1) -> Timing:
    """Run `work` on what `prepare` makes afresh each time, unmeasured, and time `work` alone.

    Garbage is collected before each run and not during it.
    """
    runs: list[float] = []
    for number in range(warm_ups + repeats):
        prepared = prepare()
        gc.collect()
        gc.disable()
        try:
            begun = time.perf_counter()
            work(prepared)
            seconds = time.perf_counter() - begun
        finally:
            gc.enable()
        if number >= warm_ups:
            runs.append(seconds)
    return Timing(tuple(runs))


def resident_mib(pid: int | None = None) -> int:
    """Memory that a process holds now, in MiB (Linux); this one unless told otherwise."""
    pages = int(Path(f"/proc/{pid or os.getpid()}/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() // 2**20


def cpu_s(pid: int | None = None) -> float:
    """Processor time that a process used so far, its own and the system's for it, in seconds (Linux); this one unless
    told otherwise.
    """
    stat = Path(f"/proc/{pid or os.getpid()}/stat").read_text(encoding="utf-8")
    after_name = stat.rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def peak_mib(*, children: bool = False) -> int:
    """The most memory that this process (or the largest of its ended children) ever held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)


def machine() -> dict[str, Figure]:
    """What the figures were measured on; nothing that names the machine."""
    return {
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu_model": cpu_model(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "load_before": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def cpu_model() -> str:
    """The processor's own name, or its architecture where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
