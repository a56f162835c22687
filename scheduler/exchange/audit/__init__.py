"""The audit: everything that bundles claim, checked offline, trusting nobody but arithmetic and the keys given.

Checks of one bundle, in this order, each with the first thing that is wrong: the folder is whole; the checkpoint is
signed; witnesses cosigned this history; terms are canonical; every leaf and tile is under its root; leaves say
something, and none before it can be known; records add up, are of their instrument and its intervals, contract whole
lots inside the profile, derate what was measured as slow, and come in versions without gaps; pools deliver no more than
stood behind them; no device is pledged twice, no pool has more GPUs than are pledged, and none is accredited
with more than is left of them after the loss of its largest domain; shortages follow the rule and
say of positions what their terms say; what is planned was announced in time and is within its budget, what is excused
was declared with evidence; records tile their delivery; statements are those that the records give, byte for
byte, and leave nothing out before they begin.

Of several: bundles of one log are one history, and no device is pledged in two logs.

    audited      one bundle, from its files to its report
    report       verdicts, and the first thing wrong in each check
    signatures   the log's own and its witnesses'
    log records  the leaves, one by one and together
    outages      causes that somebody had to declare
    probes       what the exchange had devices compute
    settled      the statements
    several      what no log shows alone

What a log alone cannot show: that a position was left out from its beginning. The exchange knows its positions; a
statement in the bundle says from when it counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scheduler.exchange.audit.audited import audited
from scheduler.exchange.audit.report import CHECKS, AuditReport, Check, Verdict, first_wrong
from scheduler.exchange.audit.several import ACROSS, compare
from scheduler.ledger.keys import VerifierKey

__all__ = ["ACROSS", "CHECKS", "AuditReport", "Check", "JointReport", "Verdict", "audit", "audit_all"]


@dataclass(frozen=True, slots=True)
class JointReport:
    """What the audit of several bundles found: of each, and between them."""

    reports: tuple[AuditReport, ...]
    across: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check was made and passed."""
        return all(report.ok for report in self.reports) and all(each.verdict is Verdict.OK for each in self.across)

    @property
    def first_wrong(self) -> Check | None:
        """The first check that failed: of the bundles in their order, then between them."""
        return first_wrong([*(check for report in self.reports for check in report.checks), *self.across])


def audit(folder: Path, trusted: Sequence[VerifierKey] = ()) -> AuditReport:
    """The audit of the bundle at `folder`. `trusted`: the only keys believed, of the log and of witnesses, by their
    kind; where none of a kind is given, those in the bundle. A witness that is named must have cosigned.

    Whatever is wrong with the bundle is in the report. Raises InvalidValue where there is no bundle.
    """
    return audited(folder, trusted).report


def audit_all(folders: Sequence[Path], trusted: Sequence[VerifierKey] = ()) -> JointReport:
    """The audit of several bundles, and of what they say together; as `audit`."""
    found = [audited(folder, trusted) for folder in folders]
    return JointReport(tuple(each.report for each in found), compare(found) if len(found) > 1 else ())
