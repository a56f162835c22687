"""`python -m scheduler.exchange.reference --db FILE`: the reference exchange as a process of its own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scheduler.core.errors import TenorError
from scheduler.exchange.admission import Limits
from scheduler.exchange.reference.faults.faults import faults_of
from scheduler.exchange.reference.server import ServerSettings, run
from scheduler.exchange.reference.services import Pace
from scheduler.exchange.reference.venue import VenueRules
from scheduler.exchange.tls import tls_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until it is told to stop; the exit status."""
    asked = _parser().parse_args(arguments)
    settings = ServerSettings(
        db=asked.db,
        listen=asked.listen,
        address_file=asked.address_file,
        rules=VenueRules(
            stream=asked.stream, keep_events=asked.keep_events, probe_every_ms=1_000 * asked.probe_every_s
        ),
        pace=Pace(heartbeat_ms=asked.heartbeat_ms),
        limits=Limits(asked.calls_per_s, 4 * asked.calls_per_s, asked.streams_per_peer),
        denied=asked.denied,
    )
    try:
        faults = faults_of(asked.fault, asked.fault_file, asked.fault_seed, controlled=asked.faults)
        settings = replace(settings, faults=faults, fault_control=asked.faults)
        return run(replace(settings, tls=tls_of(asked.identity, asked.authority)))
    except TenorError as error:
        sys.stderr.write(f"exchange: {error}\n")
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scheduler.exchange.reference", description="The reference exchange."
    )
    parser.add_argument("--db", type=Path, required=True, help="its SQLite file, made where it is missing")
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT", help="default: %(default)s")
    parser.add_argument("--address-file", type=Path, metavar="FILE", help="where to write the address that it got")
    parser.add_argument("--stream", default="exchange", help="the name of its stream of positions")
    parser.add_argument("--keep-events", type=int, default=100_000, metavar="N", help="how many it can replay")
    parser.add_argument("--heartbeat-ms", type=int, default=1_000, metavar="MS", help="default: %(default)s")
    parser.add_argument(
        "--probe-every-s", type=int, default=900, metavar="S", help="mean, of a stream's devices; 0: never; %(default)s"
    )
    identity = "its certificate and key, one PEM file or a folder with tls.crt and tls.key; with it, mutual TLS"
    parser.add_argument("--identity", type=Path, metavar="FILE", help=identity)
    parser.add_argument("--authority", type=Path, metavar="FILE", help="who signs the certificates of those that call")
    parser.add_argument("--calls-per-s", type=int, default=100, metavar="N", help="of each peer; default: %(default)s")
    parser.add_argument(
        "--streams-per-peer", type=int, default=8, metavar="N", help="open at once; default: %(default)s"
    )
    parser.add_argument("--denied", type=Path, metavar="FILE", help="peers that are refused, ROLE/NAME a line")
    parser.add_argument("--fault", action="append", default=[], metavar="FAULT", help="KIND:PLACE[:HOW OFTEN]")
    parser.add_argument("--fault-file", type=Path, metavar="FILE", help="a TOML file: faults = [...], seed = N")
    parser.add_argument("--fault-seed", type=int, metavar="N", help="which messages a share of them strikes")
    parser.add_argument("--faults", action="store_true", help="let faults be set while it runs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
