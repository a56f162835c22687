"""What an audit found: for each check its verdict, how much it looked at, and the first thing that was wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from scheduler.ledger.bundle import Bundle


class Verdict(StrEnum):
    """How a check ended. NOT_REACHED: something before it was so wrong that it could not be made, or not wholly."""

    OK = "ok"
    FAILED = "failed"
    NOT_REACHED = "not_reached"


CHECKS = (
    "folder",
    "checkpoint",
    "witness",
    "terms",
    "tree",
    "leaves",
    "written",
    "identities",
    "intervals",
    "consents",
    "contracted",
    "throughput",
    "versions",
    "calendar",
    "finals",
    "disputes",
    "pools",
    "devices",
    "probes",
    "accredited",
    "shortages",
    "maintenance",
    "excused",
    "replacement",
    "recalls",
    "releases",
    "tiling",
    "statements",
)
"""Every check of one bundle, in order."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its verdict, how many things it looked at, and the first that was wrong."""

    name: str
    verdict: Verdict
    examined: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What the audit of one bundle found. `size` and `root`: what the checkpoint states."""

    folder: Path
    origin: str
    size: int
    root: str
    positions: int
    records: int
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check was made and passed."""
        return all(check.verdict is Verdict.OK for check in self.checks)

    @property
    def first_wrong(self) -> Check | None:
        """The first check that failed."""
        return first_wrong(self.checks)


def first_wrong(checks: Sequence[Check]) -> Check | None:
    """The first check that failed, if any."""
    return next((check for check in checks if check.verdict is Verdict.FAILED), None)


@dataclass(slots=True)
class Findings:
    """The first thing wrong in each check, while it is looked for."""

    first: dict[str, str] = field(default_factory=dict)
    examined: Counter[str] = field(default_factory=Counter)
    reached_all: bool = True

    def fail(self, check: str, detail: str) -> None:
        """Something is wrong; only the first of a check is kept."""
        self.first.setdefault(check, detail)

    def note(self, check: str, which: Callable[[], str], wrong: str) -> None:
        """Something was looked at. `wrong`: what is wrong with it, empty for nothing; `which` names it."""
        self.examined[check] += 1
        if wrong:
            self.fail(check, f"{which()}: {wrong}")

    def report(self, folder: Path, bundle: Bundle | None, positions: int = 0) -> AuditReport:
        """The report; `bundle` is None where the folder could not be read."""
        return AuditReport(
            folder=folder,
            origin=bundle.stated.origin if bundle else "",
            size=bundle.stated.size if bundle else 0,
            root=bundle.stated.root.hex() if bundle else "",
            positions=positions,
            records=self.examined["identities"],
            checks=tuple(self._check(name, whole=bundle is not None) for name in CHECKS),
        )

    def _check(self, name: str, *, whole: bool) -> Check:
        of_leaves = CHECKS.index(name) > CHECKS.index("tree")
        verdict = Verdict.OK
        if name in self.first:
            verdict = Verdict.FAILED
        elif not whole or (of_leaves and not self.reached_all):
            verdict = Verdict.NOT_REACHED
        return Check(name, verdict, self.examined[name], self.first.get(name, ""))
