"""Who signed: the log its checkpoint, and its witnesses what they saw of it.

A witness's cosignature fixes what the log was at an instant. Where the latest checkpoint has none, the bundle holds the
latest that has (`cosigned`), and the first leaves of this log must be that tree: a log that was forked, cut or
rewritten after it was witnessed has another root there.
"""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.core.errors import TenorError, Unauthorised
from scheduler.core.merkle import CompactRange
from scheduler.exchange.audit.report import Findings
from scheduler.ledger.bundle import Bundle
from scheduler.ledger.keyring import KeyChange, followed
from scheduler.ledger.keys import Kind, VerifierKey
from scheduler.ledger.notes import Checkpoint, open_checkpoint, open_note, parse_note


def check_checkpoint(
    bundle: Bundle, trusted: Sequence[VerifierKey], changes: Sequence[KeyChange], findings: Findings
) -> None:
    """The checkpoint is signed by a key of the log that is trusted, or that one such leads to by the log's own changes;
    `trusted` empty: by one of the bundle's own.
    """
    findings.examined["checkpoint"] += 1
    try:
        keys = followed(_of_kind(trusted, Kind.NOTE) or bundle.keys(), changes)
        checkpoint = open_checkpoint(bundle.checkpoint, keys)
        origins = sorted({key.name for key in keys})
        if checkpoint.origin not in origins:
            findings.fail("checkpoint", f"origin was {checkpoint.origin}, expected one of {', '.join(origins)}")
    except TenorError as error:
        findings.fail("checkpoint", str(error))


class Witnessed:
    """The witnesses' part of a bundle: which tree they cosigned, held against the leaves as they come."""

    def __init__(self, bundle: Bundle, trusted: Sequence[VerifierKey], findings: Findings) -> None:
        """Checks the cosignatures. `trusted`: those witnesses must all have cosigned; none given: those that the bundle
        names.
        """
        self._findings = findings
        self._range = CompactRange()
        self.earlier: Checkpoint | None = None
        """The cosigned tree where it is not the whole log."""
        try:
            witnesses = _of_kind(trusted, Kind.COSIGNATURE) or bundle.witness_keys()
            self._open(bundle, witnesses)
        except TenorError as error:
            findings.fail("witness", str(error))

    def add(self, leaf_hash: bytes) -> None:
        """The next leaf hash of the log."""
        if self.earlier is not None and self._range.size < self.earlier.size:
            self._range = self._range.append(leaf_hash)

    def close(self) -> None:
        """All leaves were there."""
        earlier = self.earlier
        if earlier is not None and self._range.size == earlier.size and self._range.root() != earlier.root:
            self._findings.fail(
                "witness",
                f"the first {earlier.size} leaves have the root {self._range.root().hex()}, expected "
                f"{earlier.root.hex()}, which was witnessed",
            )

    def _open(self, bundle: Bundle, witnesses: Sequence[VerifierKey]) -> None:
        missing = _check_cosigned(bundle.checkpoint, witnesses, self._findings)
        if not missing:
            return
        if not bundle.cosigned:
            named = ", ".join(f"{key.name}+{key.key_hash.hex()}" for key in missing)
            signed = ", ".join(each.name for each in parse_note(bundle.checkpoint).signatures)
            raise Unauthorised(f"the checkpoint is signed by {signed}, expected a cosignature of {named}")
        _check_cosigned_earlier(bundle.cosigned, missing, self._findings)
        stated = Checkpoint.parse(parse_note(bundle.cosigned).text)
        if stated.origin != bundle.stated.origin:
            self._findings.fail(
                "witness", f"origin of the cosigned checkpoint was {stated.origin}, expected {bundle.stated.origin}"
            )
        elif stated.size > bundle.stated.size:
            self._findings.fail(
                "witness",
                f"the log shrank: its checkpoint has {bundle.stated.size} leaves, expected {stated.size} or more, "
                "which were witnessed",
            )
        else:
            self.earlier = stated


def _check_cosigned(note: bytes, witnesses: Sequence[VerifierKey], findings: Findings) -> list[VerifierKey]:
    """The witnesses that have not signed the note. Raises Unauthorised for one whose signature is wrong."""
    lines = {(each.name, each.key_hash) for each in parse_note(note).signatures}
    missing = []
    for key in witnesses:
        findings.examined["witness"] += 1
        if (key.name, key.key_hash) in lines:
            open_note(note, [key])
        else:
            missing.append(key)
    return missing


def _check_cosigned_earlier(note: bytes, witnesses: Sequence[VerifierKey], findings: Findings) -> None:
    findings.examined["witness"] += 1
    for key in witnesses:
        open_note(note, [key])


def _of_kind(keys: Sequence[VerifierKey], kind: Kind) -> tuple[VerifierKey, ...]:
    return tuple(key for key in keys if key.kind is kind)
