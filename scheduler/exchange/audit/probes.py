"""Device probes in a log: signed by an exchange, of a device that was pledged, answered after their own nonce, in time,
and with what that device computes.

Of a probe that passed, each opened row is computed again (about a second on a processor for a real board's). That the
rows were drawn at random, and the instants, are the exchange's word, which it signed.
"""

from __future__ import annotations

from collections.abc import Collection

from scheduler.core.device_probes import DeviceProbe, Outcome, wrong_course, wrong_rows
from scheduler.core.devices import PledgeBook
from scheduler.core.errors import InvalidValue
from scheduler.exchange.audit.report import Findings
from scheduler.exchange.probe_leaves import ProbeLeaf
from scheduler.ledger.keys import Kind, VerifierKey


class ProbeChecks:
    """Takes the probes of a log in its order. `exchanges`: the only keys believed; none: those that cosigned it, and
    where none did, whichever a finding names.
    """

    def __init__(self, devices: PledgeBook, exchanges: Collection[VerifierKey], findings: Findings) -> None:
        self._devices = devices
        self._exchanges = frozenset(exchanges)
        self._findings = findings
        self._used: dict[str, str] = {}
        """Which leaf had a probe's id, a nonce or a root before."""

    def add(self, where: str, leaf: ProbeLeaf) -> None:
        """Checks one."""
        probe = leaf.probe
        self._findings.examined["probes"] += 1
        wrong = (
            self._wrong_signature(probe)
            or wrong_course(probe)
            or self._not_pledged(probe)
            or self._used_before(where, probe)
            or (wrong_rows(probe) if probe.outcome is Outcome.PASSED else "")
        )
        if wrong:
            self._findings.fail("probes", f"{where}, {probe.id} of device {probe.device[:16]}: {wrong}")

    def _wrong_signature(self, probe: DeviceProbe) -> str:
        try:
            key = VerifierKey.parse(probe.exchange)
        except InvalidValue as error:
            return str(error)
        if key.kind is not Kind.COSIGNATURE or (self._exchanges and key not in self._exchanges):
            return f"signed by {key.name}, expected {' or '.join(sorted({each.name for each in self._exchanges}))}"
        if not key.verify_bytes(probe.signed_bytes, bytes.fromhex(probe.signature)):
            return f"its signature is not that of {key.name}"
        return ""

    def _not_pledged(self, probe: DeviceProbe) -> str:
        spans = self._devices.by_device.get(probe.device, ())
        held = any(
            s.pledge.from_ms <= probe.called_ms and (s.end_ms is None or probe.called_ms < s.end_ms) for s in spans
        )
        return "" if held else f"called at {probe.called_ms}, when this log did not pledge the device"

    def _used_before(self, where: str, probe: DeviceProbe) -> str:
        told = {"id": probe.id, "nonce": probe.nonce, "root": probe.root if probe.outcome is Outcome.PASSED else ""}
        for name, value in told.items():
            before = self._used.setdefault(f"{name} {value}", where) if value else where
            if before != where:
                return f"its {name} was used by {before} before"
        return ""
