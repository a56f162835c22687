"""What teams do: `tenor submit`, `jobs`, `logs`, `why`, `cancel`."""

from __future__ import annotations

import sys
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scheduler.cli import parsing
from scheduler.cli.screen import (
    AddressOption,
    Output,
    OutputOption,
    say,
    some,
    write_json,
    write_lines,
    write_table,
)

if TYPE_CHECKING:
    from scheduler.api.client import Client
    from scheduler.api.messages import Job

FAILED_EXIT_CODE = 1
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Its name in the scheduler, as gang-7.")]

AccountOption = Annotated[
    str, typer.Option("--account", "-a", help="On whose positions it runs.", envvar="TENOR_ACCOUNT")
]
TopologyOption = Annotated[
    str, typer.Option("--topology", metavar="LEVEL[:required]", help="Inside one node, domain, block or site.")
]
SpreadOption = Annotated[
    str, typer.Option("--spread", metavar="LEVEL[:required]", help="Each worker in another node, domain or block.")
]
PriorityOption = Annotated[
    int, typer.Option("--priority", help="Among jobs inside their entitlement; higher goes first.")
]
MaxRuntimeOption = Annotated[
    int | None, typer.Option("--max-runtime", parser=parsing.duration_ms, metavar="2h", help="Stopped after it.")
]
MinRuntimeOption = Annotated[
    int | None,
    typer.Option(
        "--min-runtime", parser=parsing.duration_ms, metavar="20m", help="Rather stop others until it ran so long."
    ),
]
DeadlineOption = Annotated[
    int | None,
    typer.Option(
        "--deadline",
        parser=parsing.moment_ms,
        metavar="WHEN",
        help="Should be done by then; with --max-runtime it goes ahead in time.",
    ),
]
GpusOption = Annotated[
    Decimal | None,
    typer.Option(
        "--gpus",
        parser=parsing.gpu_count,
        metavar="N",
        help="In all; of one worker, unless told more. 0.25: a part of one GPU, shared with the account's jobs.",
    ),
]
WorkersOption = Annotated[
    parsing.Workers | None,
    typer.Option(
        "--workers",
        parser=parsing.worker_counts,
        metavar="N[..M]",
        help="Processes that start together; 2..4: with 2 where there is no room for 4.",
    ),
]
GraceOption = Annotated[
    int | None, typer.Option("--grace", parser=parsing.duration_ms, metavar="30s", help="From SIGTERM to SIGKILL.")
]
CheckpointOption = Annotated[
    int | None,
    typer.Option("--checkpoint-every", parser=parsing.duration_ms, metavar="10m", help="How often it saves."),
]


def submit(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND…", help="Run once for each worker.")],
    account: AccountOption,
    name: Annotated[str, typer.Option("--name", "-n", help="Default: the program's.")] = "",
    gpus: GpusOption = None,
    workers: WorkersOption = None,
    gpus_per_worker: Annotated[int | None, typer.Option("--gpus-per-worker", min=1, help="Inside one node.")] = None,
    grade: Annotated[str, typer.Option("--grade", help="Only GPUs of this grade.")] = "",
    topology: TopologyOption = "",
    spread: SpreadOption = "",
    priority: PriorityOption = 0,
    max_runtime: MaxRuntimeOption = None,
    min_runtime: MinRuntimeOption = None,
    deadline: DeadlineOption = None,
    grace: GraceOption = None,
    checkpoint_every: CheckpointOption = None,
    retries: Annotated[int | None, typer.Option("--retries", min=0, help="Own failures to restart after.")] = None,
    not_preemptible: Annotated[bool, typer.Option("--not-preemptible", help="Needs --max-runtime.")] = False,
    env: Annotated[list[str] | None, typer.Option("--env", "-e", metavar="K=V", help="A variable; repeatable.")] = None,
    working_dir: Annotated[str, typer.Option("--working-dir", help="Where the command runs; default: here.")] = "",
    request_id: Annotated[str, typer.Option("--request-id", help="The same id gives the same job again.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show its output, exit as it does.")] = False,
    output: OutputOption = Output.TABLE,
    address: AddressOption = None,
) -> None:
    """Submit a job; its name goes to stdout.

    As: tenor submit --account acme --gpus 8 -- torchrun train.py
    """
    from scheduler.api.client import Client

    size = parsing.size(gpus, workers, gpus_per_worker)
    level, required = parsing.topology(topology) if topology else ("", False)
    apart, apart_required = parsing.topology(spread, "--spread") if spread else ("", False)
    with Client(address) as tenor:
        job = tenor.submit(
            command,
            account=account,
            name=name,
            workers=size.workers,
            min_workers=size.min_workers,
            gpus_per_worker=size.gpus_per_worker,
            gpu_milli=size.gpu_milli,
            grade=grade,
            topology=level,
            topology_required=required,
            spread=apart,
            spread_required=apart_required,
            min_runtime_ms=min_runtime,
            deadline_ms=deadline,
            priority=priority,
            preemptible=not not_preemptible,
            max_runtime_ms=max_runtime,
            grace_ms=grace,
            checkpoint_ms=checkpoint_every,
            max_failures=retries,
            env=parsing.variables(env or ()),
            working_dir=working_dir or str(Path.cwd()),
            request_id=request_id,
        ).last
        if follow:
            say(f"{job.id} submitted; Ctrl-C leaves it running")
            job = _followed(tenor, job.id, to_stdout=output is Output.TABLE)
    if output is Output.JSON:
        write_json(job)
    elif not follow:
        write_lines([job.id])
        say(f"`tenor why {job.id}` says what becomes of it, `tenor logs -f {job.id}` shows its output")
    if follow:
        raise typer.Exit(_exit_code(job))


def jobs(
    account: Annotated[str, typer.Option("--account", "-a", help="Only this account's.")] = "",
    status: Annotated[list[str] | None, typer.Option("--status", "-s", help="Only in this status; repeatable.")] = None,
    name: Annotated[str, typer.Option("--name", "-n", help="Only of this name.")] = "",
    every: Annotated[bool, typer.Option("--all", help="Also those that have ended.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The newest so many.")] = 100,
    output: OutputOption = Output.TABLE,
    address: AddressOption = None,
) -> None:
    """Jobs, newest first."""
    from itertools import islice

    from scheduler.api.client import Client
    from scheduler.api.wording import duration

    live = ("waiting", "binding", "running", "stopping")
    wanted = tuple(status or (() if every else live))
    with Client(address) as tenor:
        found = list(islice(tenor.jobs(account, statuses=wanted, name=name, page_size=min(limit, 1_000)), limit))
        now_ms = tenor.status().now_ms if output is Output.TABLE else 0
    if output is Output.JSON:
        write_json({"jobs": found})
        return
    rows = [
        (
            job.id,
            job.spec.name,
            job.spec.account,
            job.status,
            _size(job),
            some(", ".join(dict.fromkeys(place.node for place in job.places))),
            duration(max(0, now_ms - job.submitted_ms)),
            _note(job),
        )
        for job in found
    ]
    write_table(
        ("job", "name", "account", "status", "gpus>", "where", "age", "note"),
        rows,
        empty="no jobs" + ("" if every or status else " that have not ended; --all shows the others"),
    )


def logs(
    job: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    worker: Annotated[int | None, typer.Option("--worker", "-w", min=0, help="Only this worker's.")] = None,
    attempt: Annotated[int | None, typer.Option("--attempt", min=1, help="Of this attempt; default: the last.")] = None,
    tail: Annotated[int | None, typer.Option("--tail", min=0, help="Only the last so many lines.")] = None,
    output: OutputOption = Output.TABLE,
    address: AddressOption = None,
) -> None:
    """A job's output, as its workers wrote it."""
    from scheduler.api.client import Client

    with Client(address) as tenor:
        chunks = tenor.logs(job, follow=follow, worker=worker, attempt=attempt, tail_lines=tail)
        if output is Output.JSON:
            lines = [
                {"attempt": chunk.attempt, "worker": chunk.worker, "text": text}
                for chunk in chunks
                for text in chunk.content.decode(errors="replace").splitlines()
            ]
            write_json({"job": job, "lines": lines})
            return
        shown = tenor.get_job(job)
        for chunk in chunks:
            _write_chunk(chunk.worker, chunk.content, named=shown.spec.workers > 1 and worker is None)


def why(job: JobArgument, output: OutputOption = Output.TABLE, address: AddressOption = None) -> None:
    """Why a job waits, or where it runs and on whose GPUs."""
    from scheduler.api.client import Client

    with Client(address) as tenor:
        answer = tenor.why(job)
    if output is Output.JSON:
        write_json(answer)
        return
    write_lines([answer.headline, *(f"  {sentence}" for sentence in answer.sentences)])


def cancel(
    names: Annotated[list[str], typer.Argument(metavar="JOB…", help="Their names in the scheduler.")],
    output: OutputOption = Output.TABLE,
    address: AddressOption = None,
) -> None:
    """End jobs, with their grace where they run."""
    from scheduler.api.client import Client

    with Client(address) as tenor:
        ended = [tenor.cancel(each) for each in names]
    if output is Output.JSON:
        write_json({"jobs": ended})
        return
    write_table(("job", "name", "status"), [(job.id, job.spec.name, job.status) for job in ended])


def _followed(tenor: Client, name: str, *, to_stdout: bool) -> Job:
    """The job once it has ended, its output shown meanwhile."""
    handle = tenor.job(name)
    for chunk in tenor.logs(name, follow=True):
        if to_stdout:
            _write_chunk(chunk.worker, chunk.content, named=handle.last.spec.workers > 1)
    job = handle.wait()
    say(f"{job.id} {job.status}" + ("" if job.exit_code is None else f", exit code {job.exit_code}"))
    return job


def _write_chunk(worker: int, content: bytes, *, named: bool) -> None:
    """Bytes as they were written; where several workers speak, each line says who."""
    if named:
        content = b"".join(b"[%d] " % worker + line for line in content.splitlines(keepends=True))
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def _exit_code(job: Job) -> int:
    """The job's own exit code, so that a script can go on by it; 1 where it failed without one."""
    if job.status == "succeeded":
        return 0
    return job.exit_code or FAILED_EXIT_CODE


def _size(job: Job) -> str:
    """GPUs that it has or asks for, of an elastic one while it waits the least too; a share's part of one."""
    spec = job.spec
    if spec.gpu_milli is not None:
        return f"0.{spec.gpu_milli:03}".rstrip("0")
    if spec.min_workers is None or job.places:
        return str(job.gpus)
    return f"{spec.min_workers * spec.gpus_per_worker}..{job.gpus}"


def _note(job: Job) -> str:
    if job.status == "waiting":
        return some(job.reason.replace("_", " "))
    if job.status in ("stopping", "cancelled"):
        return some(job.stop_cause.replace("_", " "))
    if job.status == "failed":
        return "could not start" if job.exit_code is None else f"exit code {job.exit_code}"
    if job.status in ("running", "binding"):
        return "inside its entitlement" if job.inside else "borrowed"
    return "-"
