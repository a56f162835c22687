"""Where the traces lie: the argument, else `TENOR_TRACES`, else `../shared/traces` beside the checkout.

Nothing here reads a trace. A missing folder or file is refused with what is missing, where it was looked for, and
which public dataset has it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from scheduler.core.errors import Refused

VARIABLE = "TENOR_TRACES"

HELIOS_CALENDAR = "helios/venus_cluster_gpu_number.csv"
PHILLY_JOBS = "philly/jobs.csv"
OPENB_NODES = "openb/openb_node_list_gpu_node.csv"
OPENB_POD_LISTS = ("default", "cpu100", "gpushare40", "multigpu30", "gpuspec10")
OPENB_PUBLISHED = "openb/published_allocation.csv"
GAVEL_THROUGHPUTS = "gavel/simulation_throughputs.json"
GAVEL_TRACES = "gavel/msr_seed0"

DATASETS = {
    "helios": "HeliosData by S-Lab-System-Group (Hu et al., SC'21), the cluster Venus",
    "philly": "philly-traces by msr-fiddle (Jeon et al., ATC'19), as extracted by Sia (siasosp23/artifacts, SOSP'23)",
    "openb": "clusterdata by Alibaba, cluster-trace-gpu-v2023 (Weng et al., ATC'23)",
    "gavel": "gavel by stanford-futuredata (Narayanan et al., OSDI'20)",
    "calendars": "Tenor's own generated calendars (scheduler.traces.generate.write_folder writes small ones)",
}


class TracesMissing(Refused):
    """A trace folder or file is not where it was looked for. The message says how to get it."""

    code = "TRACES_MISSING"


@dataclass(frozen=True, slots=True)
class TraceFolder:
    """A folder of traces, laid out by dataset. Each path is checked when it is asked for, not before."""

    root: Path

    @property
    def helios_calendar(self) -> Path:
        """GPUs owned by tenant and day. Raises TracesMissing."""
        return self.require(HELIOS_CALENDAR)

    @property
    def philly_jobs(self) -> Path:
        """The jobs. Raises TracesMissing."""
        return self.require(PHILLY_JOBS)

    @property
    def openb_nodes(self) -> Path:
        """The nodes. Raises TracesMissing."""
        return self.require(OPENB_NODES)

    def openb_pods(self, name: str) -> Path:
        """One list of pods; `OPENB_POD_LISTS` names the published five. Raises TracesMissing."""
        return self.require(f"openb/openb_pod_list_{name}.csv")

    @property
    def openb_published(self) -> Path:
        """The allocation that the paper reports. Raises TracesMissing."""
        return self.require(OPENB_PUBLISHED)

    @property
    def gavel_throughputs(self) -> Path:
        """Measured rates. Raises TracesMissing."""
        return self.require(GAVEL_THROUGHPUTS)

    @property
    def gavel_traces(self) -> Path:
        """The folder of job traces, one file a tenant. Raises TracesMissing."""
        return self.require(GAVEL_TRACES)

    def calendar(self, name: str) -> Path:
        """One year of lots, as `1024_carved_90`. Raises TracesMissing."""
        return self.require(f"calendars/{name}.csv")

    def has(self, relative: str) -> bool:
        """Whether the folder holds that file or folder."""
        return (self.root / relative).exists()

    def require(self, relative: str) -> Path:
        """The path of a file or folder that exists. Raises TracesMissing."""
        path = self.root / relative
        if not path.exists():
            dataset = DATASETS.get(relative.split("/", 1)[0])
            source = f"; it is published as {dataset}" if dataset else ""
            raise TracesMissing(f"trace {relative} is missing, looked for in {self.root}{source}")
        return path


def find_traces(folder: Path | None = None) -> TraceFolder:
    """The folder of traces: the argument, else TENOR_TRACES, else `../shared/traces` beside the checkout.

    A folder that was named but is not there is refused rather than replaced by the next. Raises TracesMissing.
    """
    if folder is not None:
        return _existing(folder, "as given")
    named = os.environ.get(VARIABLE)
    if named:
        return _existing(Path(named), f"as {VARIABLE} says")
    beside = _beside_checkout()
    if beside is not None and beside.is_dir():
        return TraceFolder(beside)
    looked = f" and there is no {beside}" if beside is not None else ""
    raise TracesMissing(f"no folder of traces: none was given, {VARIABLE} is not set{looked}; {_how_to_get()}")


def _existing(folder: Path, why: str) -> TraceFolder:
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        raise TracesMissing(f"the folder of traces {folder}, {why}, {state}; {_how_to_get()}")
    return TraceFolder(folder)


def _beside_checkout() -> Path | None:
    checkout = Path(__file__).resolve().parents[2]
    return checkout.parent / "shared" / "traces" if (checkout / "pyproject.toml").is_file() else None


def _how_to_get() -> str:
    published = "; ".join(f"{name}/ from {source}" for name, source in DATASETS.items())
    return f"a folder of traces holds {published}"
