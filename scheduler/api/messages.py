"""What the API says, as plain frozen values: the same fields as the messages in `protos/scheduler/api/v1`.

Servers make them from the state (`views`), clients get them back, and the command line shows them; so neither clients
nor people meet protobuf. It needs nothing but the standard library, so that a client starts quickly. Instants and
lengths of time are ms, `_ppm` are millionths. Enums are their lower-case names without prefix (`running`,
`nvlink_domain`), empty where there is none; None where a value is absent. A test holds these fields against the
protos'.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ExchangeLink:
    """How the scheduler and its exchange stand."""

    connected: bool
    detail: str = ""
    last_heard_ms: int | None = None


@dataclass(frozen=True, slots=True)
class JobCount:
    """How many jobs are in a status."""

    status: str
    jobs: int


@dataclass(frozen=True, slots=True)
class Status:
    """Everything at a glance; what the counts mean is said in the proto."""

    now_ms: int
    version: str
    nodes: int
    nodes_ill: int
    nodes_draining: int
    gpus: int
    sold_gpus: int
    unsold_gpus: int
    used_gpus: int
    idle_gpus: int
    lent_gpus: int
    ill_gpus: int
    accounts: int
    positions: int
    positions_uncovered: int
    jobs: tuple[JobCount, ...]
    journal_seq: int
    exchange: ExchangeLink | None
    outbox_leaves: int
    log_leaves: int
    checkpoint_leaves: int | None
    paused: str
    alerts: tuple[str, ...] = ()
    planned_by: str = ""
    score: str = ""
    rehearsed: str = ""


@dataclass(frozen=True, slots=True)
class Position:
    """One position now: what it entitles to, what stands behind it, who uses that."""

    id: str
    account: str
    instrument: str
    grade: str
    site: str
    cell: str
    lots: int
    floor_ppm: int
    window_start_ms: int
    window_end_ms: int
    entitled_gpus: int
    next_change_ms: int | None
    next_entitled_gpus: int | None
    covered_gpus: int
    used_gpus: int
    lent_gpus: int
    idle_gpus: int
    ill_gpus: int
    uncovered_cause: str


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a team asks for; None: the scheduler's default. `env` is never given back."""

    account: str
    name: str
    command: tuple[str, ...]
    workers: int = 1
    gpus_per_worker: int = 1
    grade: str = ""
    topology: str = ""
    topology_required: bool = False
    priority: int = 0
    preemptible: bool | None = None
    max_runtime_ms: int | None = None
    grace_ms: int | None = None
    checkpoint_ms: int | None = None
    restart_ms: int | None = None
    max_failures: int | None = None
    env: dict[str, str] = field(default_factory=dict)
    working_dir: str = ""
    min_workers: int | None = None
    gpu_milli: int | None = None
    min_runtime_ms: int | None = None
    deadline_ms: int | None = None
    spread: str = ""
    spread_required: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """One worker's place: indices of GPUs on the node."""

    node: str
    gpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """A job at an instant."""

    id: str
    spec: JobSpec
    status: str
    submitted_ms: int
    queued_ms: int
    started_ms: int | None
    ended_ms: int | None
    exit_code: int | None
    attempt: int
    evictions: int
    failures: int
    inside: bool
    places: tuple[Place, ...]
    reason: str
    expected_start_ms: int | None
    stop_cause: str
    stop_deadline_ms: int | None

    @property
    def gpus(self) -> int:
        """All GPUs that it has, while it is placed; else all that it asks for."""
        return (len(self.places) or self.spec.workers) * self.spec.gpus_per_worker

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class JobsPage:
    """One page of jobs, newest first; an empty `next_page_token` says that it is the last."""

    now_ms: int
    jobs: tuple[Job, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class Number:
    """A number behind an answer."""

    name: str
    value: int


@dataclass(frozen=True, slots=True)
class Held:
    """GPUs that a job holds on one basis; `account` is the lender where they are lent, empty where it is not named."""

    basis: str
    account: str
    gpus: int


@dataclass(frozen=True, slots=True)
class Why:
    """Why a job waits, or where and on what basis it runs: one sentence, then the rest in order."""

    job: str
    status: str
    headline: str
    sentences: tuple[str, ...]
    reason: str
    numbers: tuple[Number, ...]
    expected_start_ms: int | None
    remedy: str
    held: tuple[Held, ...]


@dataclass(frozen=True, slots=True)
class LogChunk:
    """Whole lines of one worker's output."""

    attempt: int
    worker: int
    content: bytes


@dataclass(frozen=True, slots=True)
class CauseCount:
    """How many GPUs are ill for a cause."""

    cause: str
    gpus: int


@dataclass(frozen=True, slots=True)
class Owner:
    """GPUs that cover a position."""

    account: str
    position: str
    gpus: int


@dataclass(frozen=True, slots=True)
class Occupant:
    """GPUs that a job is on."""

    job: str
    account: str
    gpus: int


@dataclass(frozen=True, slots=True)
class Share:
    """What a job has of a GPU that jobs of its account share; `gpu` is its index on the node."""

    gpu: int
    job: str
    account: str
    milli: int


@dataclass(frozen=True, slots=True)
class Device:
    """A device as its driver tells of it; what it does not tell is empty, or 0. `gpu`: its number on the node."""

    gpu: int
    uuid: str
    name: str
    serial: str
    board: str
    vbios: str
    memory_mib: int


@dataclass(frozen=True, slots=True)
class Node:
    """One node: its GPUs by owner and by occupant, and their health."""

    name: str
    grade: str
    site: str
    block: str
    domain: str
    gpus: int
    owners: tuple[Owner, ...]
    unsold_gpus: int
    occupants: tuple[Occupant, ...]
    idle_gpus: int
    ill: tuple[CauseCount, ...]
    least_ppm: int
    drain_by_ms: int | None
    shares: tuple[Share, ...]
    maintenance_from_ms: int | None
    maintenance_until_ms: int | None
    devices_by: str = ""
    devices_detail: str = ""
    devices: tuple[Device, ...] = ()


@dataclass(frozen=True, slots=True)
class Stretch:
    """Cells that stand behind a position in `[start_ms, end_ms)`."""

    start_ms: int
    end_ms: int
    cell: str
    cells: tuple[str, ...]
    gpus: int


@dataclass(frozen=True, slots=True)
class CoveredPosition:
    """What stands behind one position over time."""

    position: str
    account: str
    instrument: str
    stretches: tuple[Stretch, ...]
    uncovered_cause: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """The calendar of promises in `[from_ms, to_ms)`."""

    from_ms: int
    to_ms: int
    positions: tuple[CoveredPosition, ...]


@dataclass(frozen=True, slots=True)
class Loss:
    """What was lost to a cause, by its name."""

    cause: str
    gpu_ms: int


@dataclass(frozen=True, slots=True)
class Dispute:
    """A record that is disputed. `losses`: all that was lost, as it is claimed; `corrected` 0: nothing is corrected."""

    id: str
    position: str
    start_ms: int
    end_ms: int
    version: int
    losses: tuple[Loss, ...]
    opened_ms: int
    answer_by_ms: int
    state: str
    reason: str
    corrected: int


@dataclass(frozen=True, slots=True)
class Accredited:
    """Sold against accredited, of one pool and level in `[start_ms, end_ms)`, in whole cells of the level."""

    start_ms: int
    end_ms: int
    cell: str
    cells: int
    healthy: int
    sold: int
    free: int
    lost: int
    accredited: int
    more: int


@dataclass(frozen=True, slots=True)
class Deliverable:
    """How many more lots of an instrument may be sold; what each number promises is said in the proto."""

    instrument: str
    grade: str
    site: str
    cell: str
    gpus_per_lot: int
    from_ms: int
    to_ms: int
    losses: int
    domain: str
    proven_lots: int
    planned_lots: int | None
    at_most_lots: int
    tightest_ms: int
    survives: bool
    uncovered_lots: int
    intervals: tuple[Accredited, ...]


@dataclass(frozen=True, slots=True)
class BackedPosition:
    """A position's cells over time, and the state of those in force now."""

    position: str
    account: str
    lots: int
    stretches: tuple[Stretch, ...]
    gpus: int
    ill: tuple[CauseCount, ...]
    least_ppm: int
    uncovered_cause: str


@dataclass(frozen=True, slots=True)
class Handover:
    """A position leaves cells and enters others, by plan."""

    position: str
    at_ms: int
    cell: str
    leaves: tuple[str, ...]
    enters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Backing:
    """What stands behind a position or all positions of an instrument, and what would stand in for it."""

    subject: str
    instrument: str
    grade: str
    site: str
    cell: str
    from_ms: int
    to_ms: int
    losses: int
    domain: str
    positions: tuple[BackedPosition, ...]
    spares: tuple[str, ...]
    unsold_cells: int
    margin: int
    survives: bool
    handovers: tuple[Handover, ...]
    intervals: tuple[Accredited, ...]

    @property
    def spare_cells(self) -> int:
        """How many spares would stand in."""
        return len(self.spares)


@dataclass(frozen=True, slots=True)
class JournalEvent:
    """One event of the journal in a line."""

    seq: int
    at_ms: int
    kind: str
    subject: str
    text: str
