"""Several bundles at once: what no log shows alone.

Two bundles of one log must be one history: the shorter is the beginning of the longer. Bundles of different logs must
not pledge the same device at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from scheduler.core.devices import pledged_in_both
from scheduler.core.errors import TenorError
from scheduler.core.merkle import CompactRange, leaf_hash
from scheduler.exchange.audit.audited import Audited
from scheduler.exchange.audit.report import Check, Findings, Verdict
from scheduler.ledger.bundle import Bundle

ACROSS = ("histories", "pledged_once")
"""Every check of several bundles, in order."""


def compare(audited: Sequence[Audited]) -> tuple[Check, ...]:
    """What is wrong between bundles that were audited. Those whose folder could not be read are passed over."""
    findings = Findings()
    for left, right in combinations(audited, 2):
        if left.bundle is None or right.bundle is None or left.log is None or right.log is None:
            findings.reached_all = False
            continue
        names = f"{left.bundle.folder} and {right.bundle.folder}"
        if left.bundle.stated.origin == right.bundle.stated.origin:
            findings.examined["histories"] += 1
            wrong = _forked(left.bundle, right.bundle)
            if wrong:
                findings.fail("histories", f"{names}: {wrong}")
            continue
        findings.examined["pledged_once"] += len(left.log.devices.by_device.keys() | right.log.devices.by_device.keys())
        for ours, theirs in pledged_in_both(left.log.devices, right.log.devices):
            told = f"{ours.named} of {left.bundle.stated.origin}, and {theirs.named} of {right.bundle.stated.origin}"
            findings.fail("pledged_once", f"device {ours.pledge.device[:16]} is pledged twice: {told}")
    return tuple(_check(findings, name) for name in ACROSS)


def _check(findings: Findings, name: str) -> Check:
    verdict = Verdict.OK if findings.reached_all else Verdict.NOT_REACHED
    if name in findings.first:
        verdict = Verdict.FAILED
    return Check(name, verdict, findings.examined[name], findings.first.get(name, ""))


def _forked(left: Bundle, right: Bundle) -> str:
    """Why two bundles of one log are not one history, in words; empty where the shorter begins the longer."""
    shorter, longer = sorted((left, right), key=lambda bundle: bundle.stated.size)
    size, tree, index = shorter.stated.size, CompactRange(), 0
    try:
        for ours, theirs in zip(shorter.leaves(), longer.leaves(), strict=False):
            if ours != theirs:
                was, expected = leaf_hash(theirs).hex(), leaf_hash(ours).hex()
                return f"the log is forked: leaf {index} was {was} in {longer.folder}, expected {expected}"
            tree, index = tree.append(leaf_hash(ours)), index + 1
    except TenorError:
        return ""  # the bundle's own audit names it
    if tree.size == size and tree.root() != shorter.stated.root:
        return (
            f"the log is forked: {size} leaves have the root {tree.root().hex()}, expected {shorter.stated.root.hex()}"
        )
    return ""
