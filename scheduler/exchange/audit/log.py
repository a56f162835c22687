"""The leaves of a log as they come, in order: what is checked of each on the way, and of all of them at the end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple, Protocol

from scheduler.core.coverage.shortage import Certificate, ShortClaim, verify
from scheduler.core.devices import PledgeBook
from scheduler.core.errors import Damaged, Refused
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.intervals import Interval, StepFunction
from scheduler.core.metering.records import MeterRecord, PoolRecord, broken_identities
from scheduler.core.profiles import delivery_intervals
from scheduler.core.settlement import expected_starts, missing_starts
from scheduler.exchange.audit.again import Again
from scheduler.exchange.audit.course import Course
from scheduler.exchange.audit.outages import Outages
from scheduler.exchange.audit.probes import ProbeChecks
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
from scheduler.exchange.probe_leaves import ProbeLeaf
from scheduler.ledger.keyring import KeyChange
from scheduler.ledger.keys import VerifierKey

_PoolInterval = tuple[str, int, int]
"""`site/grade`, start_ms, end_ms."""
_NONE_AGREED: Mapping[str, int] = MappingProxyType({})


class Watcher(Protocol):
    """Whoever wants to see what an audit reads, as it reads it: nothing of it is kept."""

    def record(self, record: MeterRecord, before: MeterRecord | None, terms: InstrumentTerms | None) -> None:
        """A record in full, the one that it takes the place of, and the terms of its instrument."""


class Certified(NamedTuple):
    """The last certificate of a pool and interval: its leaf, and what the checks need of it."""

    leaf: int
    version: int
    total_gpu_ms: int
    covered_gpu_ms: int


class Log:
    """See the module. `leaves`: how many it has; `terms`: of every instrument in the bundle, by id; `periods`: of the
    statements in it, by position; `exchanges`: whose probes are believed.
    """

    def __init__(
        self,
        again: Again,
        leaves: int,
        terms: Mapping[str, InstrumentTerms],
        periods: Mapping[str, Interval],
        findings: Findings,
        exchanges: Collection[VerifierKey] = (),
        watcher: Watcher | None = None,
    ) -> None:
        self.again = again
        self.courses = _Courses(leaves, periods)
        """Of every position that a record, a promotion or a dispute names."""
        self.devices = PledgeBook()
        self._probes = ProbeChecks(self.devices, exchanges, findings)
        self.key_changes: list[KeyChange] = []
        """Those that both keys signed, in order."""
        self.terms = terms
        self._deliveries = {name: delivery_intervals(each) for name, each in terms.items()}
        self._findings = findings
        self._watcher = watcher
        self.settling = SettlingChecks(self.courses, terms, findings)
        self.certificates: dict[_PoolInterval, Certified] = {}
        """The last certificate of each pool and interval."""
        self._contracted: Counter[tuple[str, str, int, int]] = Counter()
        self._delivered: Counter[tuple[str, int, int]] = Counter()
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

    def add(self, index: int, leaf: bytes) -> None:  # noqa: C901 - one line a kind of leaf
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
                self._check_written(index, decoded.written_ms, decoded.record.end_ms)
                self._add_record(index, decoded)
            case PoolLeaf():
                self._check_written(index, decoded.written_ms, decoded.pool.end_ms)
                self._add_pool(index, decoded.pool)
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
            case ProbeLeaf():
                self._probes.add(where, decoded)
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
        self._outages.close(self.recorded)
        self._check_tiling()

    @property
    def shortages(self) -> tuple[Certificate, ...]:
        """Every shortage certificate, in the order of the log."""
        return tuple(certificate for _, certificate in self._shortages)

    @property
    def recorded(self) -> dict[str, Course]:
        """The positions that have records, in the order of their names."""
        return {position: course for position, course in sorted(self.courses.items()) if course.runs}

    # -- one leaf ------------------------------------------------------------------------------------------------------

    def _check_written(self, index: int, written_ms: int, end_ms: int) -> None:
        self._findings.examined["written"] += 1
        if written_ms < end_ms:
            wrong = f"written_ms was {written_ms}, expected {end_ms} or later, the end of its interval"
            self._findings.fail("written", f"leaf {index}: {wrong}")

    def _add_record(self, index: int, leaf: RecordLeaf) -> None:
        findings, record = self._findings, leaf.record
        which = partial(_which, index, record)
        course = self.courses[record.position]
        findings.examined["identities"] += 1
        broken = broken_identities(record)
        if broken:
            findings.fail("identities", f"{which()}: {broken[0]}")
        findings.examined["intervals"] += 1
        terms = self.terms.get(record.instrument)
        if terms is None:
            findings.fail("intervals", f"{which()}: the bundle holds no terms of {record.instrument}")
        held = terms is not None and self._hold_against(which, record, terms)
        sound = held and not broken
        if course.instrument != record.instrument:
            if course.instrument:
                sound = False
                wrong = f"was of {record.instrument}, expected {course.instrument}"
                findings.fail("intervals", f"{which()}: {wrong}")
            else:
                course.instrument = record.instrument
        course.faulty = course.faulty or not sound
        before = course.get(record.start_ms)
        self.settling.add_record(which, leaf, before)
        was = None
        if before is None:
            course.tell(index, record, None)
        elif record.version > before.version:
            was = self.again.record(before.leaf)
            course.tell(index, record, (before, was))
        if was is None and before is not None:
            return
        if terms is not None:
            edges = (terms.site, record.start_ms, record.end_ms)
            self._delivered[edges] += _delivered(record) - (0 if was is None else _delivered(was))
        if self._watcher is not None:
            self._watcher.record(record, was, terms)

    def _hold_against(self, which: Callable[[], str], record: MeterRecord, terms: InstrumentTerms) -> bool:
        """What the instrument says of the record; whether a statement takes it as it is."""
        wrong = wrong_interval(record, terms)
        wrongly_contracted = wrong_contracted(
            record, terms, self._deliveries[record.instrument], self._agreed_ms.get(record.position, _NONE_AGREED)
        )
        if wrong:
            self._findings.fail("intervals", f"{which()}: {wrong}")
        self._findings.note("contracted", which, wrongly_contracted)
        if record.start_ms < record.end_ms:
            self._outages.hold_against(which, record, terms)
        self._findings.note("throughput", which, wrong_throughput(record, terms))
        if record.version == 1:
            edges = (record.start_ms, record.end_ms)
            self._contracted[terms.grade.klass, terms.site, *edges] += record.contracted_gpu_ms
        return not wrong and not wrongly_contracted

    def _add_pool(self, index: int, pool: PoolRecord) -> None:
        """The certificates of an interval follow its records: what came before them is what they speak of."""
        which = f"leaf {index}, pool {pool.pool} [{pool.start_ms}, {pool.end_ms})"
        self._outages.closed(pool.end_ms)
        self._note("pools", which, broken_pool(pool))
        key = (pool.pool, pool.start_ms, pool.end_ms)
        before = self.certificates.get(key)
        expected = 1 if before is None else before.version + 1
        if pool.version != expected:
            after = "" if before is None else f": a second certificate after leaf {before.leaf}"
            self._findings.fail("pools", f"{which}{after}: version was {pool.version}, expected {expected}")
        self.certificates[key] = Certified(index, pool.version, pool.total_gpu_ms, pool.covered_gpu_ms)
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
        covered_by = Counter[tuple[str, int, int]]()
        for (pool, start_ms, end_ms), certified in self.certificates.items():
            covered_by[pool.rpartition("/")[0], start_ms, end_ms] += certified.covered_gpu_ms
        for site, start_ms, end_ms in sorted(self._delivered):
            delivered, covered = self._delivered[site, start_ms, end_ms], covered_by[site, start_ms, end_ms]
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
        for (pool, start_ms, end_ms), (index, _, total_gpu_ms, _) in sorted(self.certificates.items()):
            if start_ms < since_ms:
                continue
            most = pledged.get(pool, StepFunction()).integral(Interval(start_ms, end_ms)) if start_ms < end_ms else 0
            wrong = ""
            if total_gpu_ms > most:
                wrong = f"total_gpu_ms was {total_gpu_ms}, expected at most {most}, as devices are pledged"
            self._note("devices", f"leaf {index}, pool {pool} [{start_ms}, {end_ms})", wrong)

    def _check_shortages(self) -> None:
        """What shortages say of positions is what the terms of their instruments say."""
        for where, certificate in self._shortages:
            for claim in certificate.claims:
                course = self.courses.get(claim.position)
                terms = self.terms.get(course.instrument) if course is not None else None
                wrong = "" if terms is None else wrong_claim(certificate, claim, terms)
                if wrong:
                    self._findings.fail("shortages", f"{where}: {wrong}")

    def _check_tiling(self) -> None:
        """Each position has a record for every interval of delivery from its first to its last."""
        for position, course in self.recorded.items():
            terms = self.terms.get(course.instrument)
            if terms is None:
                continue
            self._findings.examined["tiling"] += 1
            span = course.span(terms)
            missing_ms = next(missing_starts(expected_starts(terms, span), course.starts), None)
            if missing_ms is not None:
                expected = f"one for each interval of {terms.id} in [{span.start_ms}, {span.end_ms})"
                missing = f"[{missing_ms}, {missing_ms + terms.interval_ms})"
                self._findings.fail("tiling", f"{position} has no record of {missing}, expected {expected}")


class _Courses(defaultdict[str, Course]):
    """A course for each position that is asked for."""

    def __init__(self, leaves: int, periods: Mapping[str, Interval]) -> None:
        super().__init__()
        self._leaves, self._periods = leaves, periods

    def __missing__(self, position: str) -> Course:
        made = self[position] = Course(self._leaves, self._periods.get(position))
        return made


def _delivered(record: MeterRecord) -> int:
    return record.delivered_gpu_ms + record.derated_gpu_ms


def _which(index: int, record: MeterRecord) -> str:
    return f"leaf {index}, {record.position} [{record.start_ms}, {record.end_ms}) version {record.version}"
