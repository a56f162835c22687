"""The command `tenor`: which verbs there are, and how it ends.

Modules of verbs import what they need when they are called, so that `tenor --help` needs nothing but Typer. Exit codes:
0 done; 1 a failure (or the job's own code, with `submit --follow`); 2 refused, the same input always will be; 3 an
outside system did not answer, try again; 4 stored or received bytes are not what they should be; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from scheduler.cli import (
    bundle,
    certs,
    delivery,
    demo,
    disclosure,
    exchange,
    export,
    feed,
    fleet,
    instrument,
    jobs,
    keys,
    overview,
    replay,
    selling,
    up,
)
from scheduler.cli.screen import AuthorityOption, IdentityOption, Output, OutputOption, write_json, write_lines

INTERRUPTED_EXIT_CODE = 130
CLOSED_PIPE_EXIT_CODE = 141
INTERNAL_EXIT_CODE = 70
DEBUG = "--debug"

VERBS = (
    ("Run", (up.up, demo.demo, replay.replay)),
    ("Teams", (overview.positions, jobs.submit, jobs.jobs, jobs.logs, jobs.why, jobs.cancel)),
    ("Admins", (overview.status, fleet.fleet, fleet.coverage, selling.deliverable, selling.backing)),
    ("Outages", (fleet.drain, fleet.mark, fleet.force_majeure)),
    ("Exchanges and auditors", (delivery.statement, bundle.bundle, delivery.audit, disclosure.disclosure)),
)


def version(output: OutputOption = Output.TABLE) -> None:
    """The version of what is installed."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        number = installed("tenor-scheduler")
    except PackageNotFoundError:
        number = "unknown"
    if output is Output.JSON:
        write_json({"version": number, "python": sys.version.split()[0]})
    else:
        write_lines([f"tenor {number}"])


def application() -> typer.Typer:
    """The command with all its verbs."""
    app = typer.Typer(
        name="tenor",
        help="Tenor schedules GPU workloads so that traded compute contracts are honoured, and proves the delivery.",
        epilog="`tenor VERB --help` says more. Exit codes: 0 done, 1 failed, 2 refused, 3 no answer, 4 damaged.",
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(_of_all_verbs)
    for panel, verbs in VERBS:
        for verb in verbs:
            app.command(rich_help_panel=panel)(verb)
    app.command()(version)
    app.add_typer(exchange.app, name="exchange")
    app.add_typer(feed.app, name="feed")
    app.add_typer(instrument.app, name="instrument")
    app.add_typer(export.app, name="export")
    app.add_typer(certs.app, name="certs")
    app.add_typer(keys.app, name="keys")
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. Errors are one line on stderr, with `--debug` their whole story."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    ours = given.index("--") if "--" in given else len(given)
    debug = DEBUG in given[:ours]
    given = [each for at, each in enumerate(given) if each != DEBUG or at >= ours] or ["--help"]
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # gRPC's own lines on handshakes: we say why, in one
    try:
        code = application()(given, standalone_mode=False, prog_name="tenor")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains as it flushes
        return CLOSED_PIPE_EXIT_CODE
    except SystemExit:  # how Typer ends where whoever read our output has left
        return CLOSED_PIPE_EXIT_CODE
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED_EXIT_CODE
    except Exception as error:  # the last door: whatever comes here is told, never shown as a traceback
        if debug:
            raise
        return _told(error)
    return code if isinstance(code, int) else 0


def _told(error: Exception) -> int:
    from scheduler.core.errors import TenorError

    if isinstance(error, TenorError):
        sys.stderr.write(f"tenor: {error}\n")
        return error.exit_code
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        hint = "" if context is None else f" (see `{context.command_path} --help`)"
        sys.stderr.write(f"tenor: {error.format_message()}{hint}\n")
        return error.exit_code
    sys.stderr.write(f"tenor: internal error: {type(error).__name__}: {error} (--debug shows where)\n")
    return INTERNAL_EXIT_CODE


def _of_all_verbs(
    debug: Annotated[bool, typer.Option(DEBUG, help="Show the whole story of an error.")] = False,
    identity: IdentityOption = None,
    authority: AuthorityOption = None,
) -> None:
    del debug  # taken out by `main`, so that it may stand anywhere before `--`
    for variable, given in (("TENOR_IDENTITY", identity), ("TENOR_AUTHORITY", authority)):
        if given is not None:  # where clients look
            os.environ[variable] = str(given)


if __name__ == "__main__":
    sys.exit(main())
