"""The leaves of a log as they come, in order: what is checked of each on the way, and of all of them at the end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

from scheduler.core.coverage.shortage import Certificate, ShortClaim, verify
from scheduler.core.devices import PledgeBook
from scheduler.core.errors import Damaged, Refused
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.intervals import Interval, StepFunction
from scheduler.core.metering.records import MeterRecord, PoolRecord, broken_identities
from scheduler.core.settlement import expected_intervals
from scheduler.exchange.audit.outages import Outages
from scheduler.exchange.audit.records import wrong_contracted, wrong_throughput
from scheduler.exchange.audit.report import Findings
from scheduler.exchange.audit.settling import SettlingChecks
from scheduler.exchange.checks import broken_pool, wrong_claim, wrong_interval
from scheduler.exchange.consents import ConsentLeaf, SubstituteConsent, unasked
from scheduler.exchange.leaves import (
    KeyChangeLeaf,
    PledgeLeaf,
    PoolLeaf,
    RecordLeaf,
    SettlingLeaf,
    ShortageLeaf,
    WithdrawalLeaf,
    decode,
)
from scheduler.exchange.outages import ForceMajeureLeaf, MaintenanceLeaf, WithheldLeaf
from scheduler.exchange.statements import Versions
from scheduler.ledger.keyring import KeyChange

_PoolInterval = tuple[str, int, int]
"""`site/grade`, start_ms, end_ms."""


class Log:
    """See the module. `terms`: of every instrument in the bundle, by id."""

    def __init__(self, terms: Mapping[str, InstrumentTerms], findings: Findings) -> None:
        self.by_position: dict[str, list[MeterRecord]] = defaultdict(list)
        """Every record that was told in full, in the order of the log."""
        self.versions = Versions()
        self.devices = PledgeBook()
        self.key_changes: list[KeyChange] = []
        """Those that both keys signed, in order."""
        self.pools: dict[_PoolInterval, tuple[str, PoolRecord]] = {}
        """The leaf that each certificate came in, and what it says."""
        self.terms = terms
        self._findings = findings
        self.settling = SettlingChecks(self.versions, terms, findings)
        self._contracted: Counter[tuple[str, str, int, int]] = Counter()
        self._shortages: list[tuple[str, Certificate]] = []
        self._claims: dict[str, tuple[str, ShortClaim]] = {}
        self._outages = Outages(terms, findings)
        self._agreed_ms: dict[str, dict[str, int]] = defaultdict(dict)
        """By position, since when its owner agrees to each grade."""
        self._pledged: dict[str, tuple[int, tuple[int, int]]] = {}
        """By pool: since when its pledges are all in, and what `PledgeBook.standing` says of them."""

    def _add_key_change(self, where: str, change: KeyChange) -> None:
        try:
            change.verify()
        except Refused as error:
            self._findings.fail("leaves", f"{where}: {error}")
            return
        self.key_changes.append(change)

    def add(self, index: int, leaf: bytes, leaf_hash: bytes) -> None:  # noqa: C901 - one line a kind of leaf
        """Checks one leaf."""
        findings = self._findings
        findings.examined["leaves"] += 1
        where = f"leaf {index}"
        try:
            decoded = decode(leaf)
        except Refused as error:
            findings.fail("leaves", f"{where}: {error}")
            return
        match decoded:
            case RecordLeaf():
                self._check_written(where, decoded.written_ms, decoded.record.end_ms)
                self._add_record(where, index, decoded, leaf_hash)
            case PoolLeaf():
                self._check_written(where, decoded.written_ms, decoded.pool.end_ms)
                self._add_pool(where, decoded.pool)
            case ShortageLeaf():
                self._add_shortage(where, decoded.certificate)
            case MaintenanceLeaf() | ForceMajeureLeaf() | WithheldLeaf():
                self._outages.declare(where, decoded)
            case ConsentLeaf():
                self._add_consent(where, decoded.said)
            case SettlingLeaf():
                self.settling.add(where, index, decoded)
            case KeyChangeLeaf():
                self._add_key_change(where, decoded.change)
            case PledgeLeaf():
                self._pledged.clear()
                self._note_device(where, self.devices.pledge(decoded.pledge, where))
            case WithdrawalLeaf():
                self._pledged.clear()
                self._note_device(where, self.devices.withdraw(decoded.withdrawal))

    def close(self) -> None:
        """What only all leaves together tell."""
        self.settling.close()
        self._check_delivered()
        self._check_backed()
        self._check_shortages()
        self._outages.close({name: self.latest(name) for name in sorted(self.by_position)})
        self._check_tiling()

    @property
    def shortages(self) -> tuple[Certificate, ...]:
        """Every shortage certificate, in the order of the log."""
        return tuple(certificate for _, certificate in self._shortages)

    def latest(self, position: str) -> list[MeterRecord]:
        """The last version of each of a position's records, in order of time."""
        return [held.record for _, held in sorted(self.versions.of[position].held.items())]

    # -- one leaf ------------------------------------------------------------------------------------------------------

    def _check_written(self, where: str, written_ms: int, end_ms: int) -> None:
        self._findings.examined["written"] += 1
        if written_ms < end_ms:
            self._findings.fail(
                "written", f"{where}: written_ms was {written_ms}, expected {end_ms} or later, the end of its interval"
            )

    def _add_record(self, where: str, index: int, leaf: RecordLeaf, leaf_hash: bytes) -> None:
        findings, record = self._findings, leaf.record
        which = f"{where}, {record.position} [{record.start_ms}, {record.end_ms}) version {record.version}"
        findings.examined["identities"] += 1
        for broken in broken_identities(record):
            findings.fail("identities", f"{which}: {broken}")
        findings.examined["intervals"] += 1
        terms = self.terms.get(record.instrument)
        if terms is None:
            findings.fail("intervals", f"{which}: the bundle holds no terms of {record.instrument}")
        else:
            self._hold_against(which, record, terms)
        known = self.by_position[record.position]
        if known and known[0].instrument != record.instrument:
            findings.fail("intervals", f"{which}: was of {record.instrument}, expected {known[0].instrument}")
        self.settling.add_record(which, index, leaf, leaf_hash)
        known.append(record)

    def _hold_against(self, which: str, record: MeterRecord, terms: InstrumentTerms) -> None:
        """What the instrument says of the record."""
        wrong = wrong_interval(record, terms)
        if wrong:
            self._findings.fail("intervals", f"{which}: {wrong}")
        self._note("contracted", which, wrong_contracted(record, terms, self._agreed_ms[record.position]))
        self._outages.hold_against(which, record, terms)
        self._note("throughput", which, wrong_throughput(record, terms))
        if record.version == 1:
            edges = (record.start_ms, record.end_ms)
            self._contracted[terms.grade.klass, terms.site, *edges] += record.contracted_gpu_ms

    def _add_pool(self, where: str, pool: PoolRecord) -> None:
        """The certificates of an interval follow its records: what came before them is what they speak of."""
        which = f"{where}, pool {pool.pool} [{pool.start_ms}, {pool.end_ms})"
        self._outages.closed(pool.end_ms)
        self._note("pools", which, broken_pool(pool))
        key = (pool.pool, pool.start_ms, pool.end_ms)
        before = self.pools.get(key)
        expected = 1 if before is None else before[1].version + 1
        if pool.version != expected:
            after = "" if before is None else f": a second certificate after {before[0]}"
            self._findings.fail("pools", f"{which}{after}: version was {pool.version}, expected {expected}")
        self.pools[key] = (where, pool)
        if pool.pledged_gpus is not None and pool.accredited_gpus is not None:
            self._note("accredited", which, self._wrong_accredited(pool, pool.pledged_gpus, pool.accredited_gpus))
        if before is not None:
            return  # that its records contract no more is looked at where they are first told of
        contracted = self._contracted[pool.grade, pool.site, pool.start_ms, pool.end_ms]
        if contracted > pool.sold_gpu_ms:
            was = f"sold_gpu_ms was {pool.sold_gpu_ms}, its records contract {contracted}"
            self._findings.fail("pools", f"{which}: {was}")

    def _wrong_accredited(self, pool: PoolRecord, pledged_gpus: int, accredited_gpus: int) -> str:
        """Whether it says of pledges what the log has before it, and honours no more than what the loss of the largest
        NVLink domain leaves of them. Where nothing is pledged, the log cannot tell.
        """
        kept = self._pledged.get(pool.pool)
        if kept is not None and pool.end_ms >= kept[0]:
            known = kept[1]
        else:
            known = self.devices.standing(pool.pool, pool.end_ms)
            newest_ms = max((spans[-1].pledge.from_ms for spans in self.devices.by_device.values()), default=0)
            if pool.end_ms >= newest_ms:  # the same for all later ones, until something is pledged or withdrawn
                self._pledged[pool.pool] = newest_ms, known
        pledged, largest = known
        if pledged_gpus != pledged:
            return f"pledged_gpus was {pledged_gpus}, expected {pledged}, as the log has it"
        if pledged and accredited_gpus > pledged - largest:
            expected = f"at most {pledged - largest}, the devices pledged less those of the largest domain"
            return f"accredited_gpus was {accredited_gpus}, expected {expected}"
        return ""

    def _add_consent(self, where: str, said: SubstituteConsent) -> None:
        """A consent of the position's owner; that it gave it the exchange has checked, who cosigns."""
        terms = self.terms.get(said.instrument)
        unknown = unasked(said.grades, terms) if terms is not None else ()
        wrong = f"a consent to {', '.join(unknown)}, for which {said.instrument} asks none" if unknown else ""
        self._note("consents", f"{where}, {said.position}", wrong)
        agreed = self._agreed_ms[said.position]
        for grade in said.grades:
            agreed[grade] = min(said.from_ms, agreed.get(grade, said.from_ms))

    def _add_shortage(self, where: str, certificate: Certificate) -> None:
        self._findings.examined["shortages"] += 1
        self._shortages.append((where, certificate))
        try:
            verify(certificate)
        except (Refused, Damaged) as error:
            self._findings.fail("shortages", f"{where}: {error}")
        for claim in certificate.claims:
            before, known = self._claims.setdefault(claim.position, (where, claim))
            if claim.acquired_ms != known.acquired_ms:
                was = f"acquired_ms of {claim.position} was {claim.acquired_ms}"
                self._findings.fail("shortages", f"{where}: {was}, expected {known.acquired_ms} as in {before}")

    def _note_device(self, where: str, wrong: str) -> None:
        self._note("devices", where, wrong)

    def _note(self, check: str, which: str, wrong: str) -> None:
        self._findings.examined[check] += 1
        if wrong:
            self._findings.fail(check, f"{which}: {wrong}")

    # -- all of them ---------------------------------------------------------------------------------------------------

    def _check_delivered(self) -> None:
        """At each site no more was delivered than stood behind all positions: a GPU-ms goes to one of them. By the last
        versions: records and certificates are corrected together.
        """
        delivered_to, covered_by = Counter[tuple[str, int, int]](), Counter[tuple[str, int, int]]()
        for position, told in self.by_position.items():
            terms = self.terms.get(told[0].instrument)
            if terms is None:
                continue
            for record in self.latest(position):
                edges = (terms.site, record.start_ms, record.end_ms)
                delivered_to[edges] += record.delivered_gpu_ms + record.derated_gpu_ms
        for _, pool in self.pools.values():
            covered_by[pool.site, pool.start_ms, pool.end_ms] += pool.covered_gpu_ms
        for site, start_ms, end_ms in sorted(delivered_to):
            delivered, covered = delivered_to[site, start_ms, end_ms], covered_by[site, start_ms, end_ms]
            if delivered > covered:
                self._findings.fail(
                    "pools",
                    f"site {site} [{start_ms}, {end_ms}): {delivered} GPU-ms were delivered, "
                    f"the pools' certificates have {covered} covered",
                )

    def _check_backed(self) -> None:
        """From the first pledge on, no pool has more GPUs than devices are pledged to it."""
        pledged = self.devices.gpus_by_pool()
        since_ms = min((each.steps[0][0] for each in pledged.values() if each.steps), default=None)
        if since_ms is None:
            return
        for (pool, start_ms, end_ms), (where, said) in sorted(self.pools.items(), key=lambda item: item[0]):
            if start_ms < since_ms:
                continue
            most = pledged.get(pool, StepFunction()).integral(Interval(start_ms, end_ms)) if start_ms < end_ms else 0
            wrong = ""
            if said.total_gpu_ms > most:
                wrong = f"total_gpu_ms was {said.total_gpu_ms}, expected at most {most}, as devices are pledged"
            self._note("devices", f"{where}, pool {pool} [{start_ms}, {end_ms})", wrong)

    def _check_shortages(self) -> None:
        """What shortages say of positions is what the terms of their instruments say."""
        for where, certificate in self._shortages:
            for claim in certificate.claims:
                recorded = self.by_position.get(claim.position)
                terms = self.terms.get(recorded[0].instrument) if recorded else None
                wrong = "" if terms is None else wrong_claim(certificate, claim, terms)
                if wrong:
                    self._findings.fail("shortages", f"{where}: {wrong}")

    def _check_tiling(self) -> None:
        """Each position has a record for every interval of delivery from its first to its last."""
        for position, recorded in sorted(self.by_position.items()):
            terms = self.terms.get(recorded[0].instrument)
            if terms is None:
                continue
            self._findings.examined["tiling"] += 1
            given = {each.start_ms for each in recorded}
            span = Interval(min(given), max(given) + terms.interval_ms)
            missing = next((each for each in expected_intervals(terms, span) if each.start_ms not in given), None)
            if missing is not None:
                self._findings.fail(
                    "tiling",
                    f"{position} has no record of [{missing.start_ms}, {missing.end_ms}), expected one for each "
                    f"interval of {terms.id} in [{span.start_ms}, {span.end_ms})",
                )
