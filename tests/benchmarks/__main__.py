"""`python -m tests.benchmarks [--only NAME] [--traces FOLDER] [--quick] [--out FOLDER]`; what `make bench` runs.

Each benchmark writes OUT/NAME.json, its plots beside it, and prints its line on stdout; progress goes to stderr. Exits
1 where a benchmark failed, 2 where none has the name asked for; one whose input is missing is listed as skipped.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from tests.benchmarks.harness import Benchmark, Missing, Result, Settings, machine
from tests.benchmarks.table import BENCHMARKS
from tests.sources import ROOT

Table = Mapping[str, tuple[str, str]]


def main(arguments: Sequence[str] | None = None, table: Table = BENCHMARKS) -> int:
    """Run the benchmarks asked for; the exit status."""
    asked = parser(table).parse_args(arguments)
    if asked.only and asked.only not in table:
        print(f"benchmark was {asked.only!r}, expected one of {', '.join(table)}", file=sys.stderr)
        return 2
    if asked.traces and not asked.traces.is_dir():
        print(f"traces was {str(asked.traces)!r}, expected a folder", file=sys.stderr)
        return 2
    asked.out.mkdir(parents=True, exist_ok=True)
    outcomes = {name: outcome(name, table[name][0], asked) for name in ([asked.only] if asked.only else table)}
    for name, line in outcomes.items():
        print(f"{name}: {line or 'FAILED'}")
    return 1 if None in outcomes.values() else 0


def outcome(name: str, module: str, asked: argparse.Namespace) -> str | None:
    """The benchmark's line, or why it was skipped, or None where it failed; its file is written or removed."""
    path: Path = asked.out / f"{name}.json"
    path.unlink(missing_ok=True)
    print(f"running {name} ...", file=sys.stderr)
    described = machine()
    try:
        run: Benchmark = import_module(module).run
        with tempfile.TemporaryDirectory(prefix=f"tenor-bench-{name}-") as scratch:
            result = run(Settings(asked.traces, asked.quick, Path(scratch)))
    except Missing as missing:
        return f"skipped: {missing}"
    except Exception:  # noqa: BLE001 - one broken benchmark must not cost the others their figures
        traceback.print_exc()
        return None
    for ending, drawn in result.plots.items():
        path.with_suffix(f".{ending}").write_bytes(drawn)
    path.write_text(report(name, result, described, quick=asked.quick), encoding="utf-8")
    return result.line


def report(name: str, result: Result, described: Mapping[str, object], *, quick: bool) -> str:
    """The JSON document of one benchmark."""
    document = {
        "name": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": described,
        "quick": quick,
        "line": result.line,
        **result.figures,
        "rows": [dict(row) for row in result.rows],
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def parser(table: Table) -> argparse.ArgumentParser:
    """The arguments; the table of benchmarks is part of the help."""
    listed = "\n".join(f"  {name:<20} {what}" for name, (_, what) in table.items())
    made = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure, and write one JSON document a benchmark.",
        epilog=f"benchmarks:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--only", metavar="NAME", help="run one")
    made.add_argument("--traces", metavar="FOLDER", type=Path, help="published traces to measure on")
    made.add_argument("--quick", action="store_true", help="small inputs and few runs: to see that it works")
    made.add_argument(
        "--out", metavar="FOLDER", type=Path, default=ROOT / "build" / "bench", help="default: build/bench"
    )
    return made


if __name__ == "__main__":
    sys.exit(main())
